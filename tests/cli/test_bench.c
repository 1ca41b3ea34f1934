/* tenon bench on the bundled model and on sequential ones: what it prints and writes, not how fast anything is. */
#include "program.h"

#include <math.h>

#include "format/json.h"

static cJSON *read_result(const char *name) {
    char path[TN_PATH_MAX];
    cJSON *json;
    assert_int_equal(tn_path_join(path, folder, name), TN_OK);
    assert_int_equal(tn_json_read(path, 1 << 20, &json), TN_OK);
    return json;
}

static double number(const cJSON *object, const char *key) {
    double value = NAN;
    assert_int_equal(tn_json_get_double(object, key, "the result", &value), TN_OK);
    if (!isfinite(value))
        fail_msg("%s is missing", key);
    return value;
}

static void has_text(const cJSON *object, const char *key, const char *want) {
    const char *value = NULL;
    assert_int_equal(tn_json_get_string(object, key, "the result", &value), TN_OK);
    assert_non_null(value);
    assert_string_equal(value, want);
}

static void is_near(double got, double want) {
    if (!(fabs(got - want) <= 1e-9 * fabs(want)))
        fail_msg("%.17g, not %.17g", got, want);
}

typedef struct {
    const char *weights, *work;
    int tokens; /* or samples */
} expected_row;

/* The rows in order, and that their figures agree with each other. */
static void check_rows(const cJSON *json, const expected_row *rows, int count) {
    bool samples = strcmp(cJSON_GetStringValue(tn_json_get(json, "family")), "sequential") == 0;
    const cJSON *limits = tn_json_get(json, "limits"), *list = tn_json_get(json, "rows");
    double sgemm = number(limits, "sgemm_flops_per_second"), reading = number(limits, "read_bytes_per_second");
    assert_true(sgemm > 0 && reading > 0);
    assert_true(number(limits, "sgemm_mix_flops_per_second") > 0 && number(limits, "sgemm_mix_flops_per_second") <= sgemm);
    assert_int_equal(cJSON_GetArraySize(list), count);
    for (int i = 0; i < count; i++) {
        const cJSON *row = cJSON_GetArrayItem(list, i);
        double seconds = number(row, "seconds"), best = number(row, "best_seconds"), flops = number(row, "flops");
        has_text(row, "weights", rows[i].weights);
        has_text(row, "work", rows[i].work);
        assert_int_equal((int)number(row, samples ? "samples" : "tokens"), rows[i].tokens);
        assert_true(best > 0 && best <= seconds);
        is_near(number(row, samples ? "samples_per_second" : "tokens_per_second"), rows[i].tokens / seconds);
        if (strcmp(rows[i].work, "decode") == 0)
            is_near(number(row, "share"), number(row, "bytes") / best / reading);
        else if (flops > 0)
            is_near(number(row, "share"), flops / best / sgemm);
        else
            assert_null(tn_json_get(row, "share"));
    }
}

static const cJSON *row_of(const cJSON *json, const char *weights, const char *work) {
    const cJSON *row;
    cJSON_ArrayForEach(row, tn_json_get(json, "rows")) {
        if (strcmp(cJSON_GetStringValue(tn_json_get(row, "weights")), weights) == 0 &&
            strcmp(cJSON_GetStringValue(tn_json_get(row, "work")), work) == 0)
            return row;
    }
    fail_msg("no row %s %s", weights, work);
    return NULL;
}

/* Of a run of one round and few tokens: reading between them cannot have been faster than the best reading. */
static void decode_is_measured_against_reading(const cJSON *json, const char *weights) {
    const cJSON *row = row_of(json, weights, "decode");
    double bandwidth = number(row, "bytes") / number(row, "seconds") / number(row, "median_share");
    double best = number(tn_json_get(json, "limits"), "read_bytes_per_second");
    assert_true(bandwidth > 0.01 * best && bandwidth <= 1.000001 * best);
}

static void everything_is_measured(void **state) {
    (void)state;
    static const expected_row rows[] = {
        {"base", "forward", 32},     {"base", "prompt", 24},       {"base", "decode", 1},     {"adapter", "forward", 32},
        {"adapter", "backward", 32}, {"adapter", "optimiser", 32}, {"adapter", "step", 32},   {"adapter", "prompt", 24},
        {"adapter", "decode", 1},    {"merged", "forward", 32},    {"merged", "prompt", 24},  {"merged", "decode", 1},
        {"full", "forward", 32},     {"full", "backward", 32},     {"full", "optimiser", 32}, {"full", "step", 32},
    };
    exits(0, "$TENON_PROGRAM bench --model $BASE --batch-size 2 --max-length 16 --prompt 24 --tokens 3 --rounds 2 "
             "--checkpointing off --json all.json");
    printed("weights  work ");
    printed("machine    ");
    printed("\nbase     forward ");
    printed("\nfull     step ");
    cJSON *json = read_result("all.json");
    check_rows(json, rows, sizeof rows / sizeof *rows);
    has_text(json, "family", "llama");
    has_text(json, "dtype", "BF16");
    /* what a token reads: bf16 weights but for f32 norms; an adapter's factors; more once two projections became f32 */
    const double layer = (192 * (6 + 3 + 3 + 6) * 32 + 3 * 192 * 512) * 2 + 2 * 192 * 4,
                 cache = 4 * 2 * 3 * 32 * 4 * (24 + 2);
    const double base = 4 * layer + 1536 * 192 * 2 + 192 * 2 + 192 * 4 + cache;
    const double factors = 4 * 8 * ((192 + 192) + (192 + 96)) * 4, widened = 4 * (192 * 192 + 192 * 96) * 2;
    is_near(number(row_of(json, "base", "decode"), "bytes"), base);
    is_near(number(row_of(json, "adapter", "decode"), "bytes"), base + factors);
    assert_true(number(row_of(json, "merged", "decode"), "bytes") >= base + widened);
    /* a step is its two passes */
    is_near(number(row_of(json, "adapter", "step"), "flops"),
            number(row_of(json, "adapter", "forward"), "flops") + number(row_of(json, "adapter", "backward"), "flops"));
    assert_true(number(row_of(json, "full", "step"), "flops") > number(row_of(json, "adapter", "step"), "flops"));
    cJSON_Delete(json);
}

static void recomputation_is_shown_but_not_credited(void **state) {
    (void)state;
    static const expected_row rows[] = {
        {"base", "forward", 16},
        {"base", "prompt", 8},
        {"base", "decode", 1},
        {"adapter", "forward", 16},
        {"adapter", "recomputation", 16},
        {"adapter", "backward", 16},
        {"adapter", "optimiser", 16},
        {"adapter", "step", 16},
        {"adapter", "prompt", 8},
        {"adapter", "decode", 1},
        {"merged", "forward", 16},
        {"merged", "prompt", 8},
        {"merged", "decode", 1},
    };
    exits(0, "$TENON_PROGRAM bench --model $BASE --batch-size 1 --max-length 16 --prompt 8 --tokens 1 --rounds 1 --no-full "
             "--json off.json --checkpointing off");
    exits(0, "$TENON_PROGRAM bench --model $BASE --batch-size 1 --max-length 16 --prompt 8 --tokens 1 --rounds 1 --no-full "
             "--json on.json --checkpointing on --profile");
    printed("activations recomputed");
    printed("\nprofile ");
    printed("\nrecomputation ");
    printed("\n  linear ");
    printed("\nwhole ");
    cJSON *off = read_result("off.json"), *on = read_result("on.json");
    check_rows(on, rows, sizeof rows / sizeof *rows);
    is_near(number(row_of(on, "adapter", "step"), "flops"), number(row_of(off, "adapter", "step"), "flops"));
    decode_is_measured_against_reading(on, "base");
    decode_is_measured_against_reading(on, "adapter");
    cJSON_Delete(off);
    cJSON_Delete(on);
}

static void folder_without_weights_gets_random_ones(void **state) {
    (void)state;
    exits(0, "mkdir bare && cp $BASE/config.json bare/ && $TENON_PROGRAM bench --model bare --batch-size 1 --max-length 8 "
             "--labelled 0.25 --prompt 4 --tokens 1 --rounds 1 --no-full --target-modules all-linear --json bare.json");
    cJSON *json = read_result("bare.json");
    has_text(json, "dtype", "F32");
    cJSON_Delete(json);
}

static const cJSON *memory_of(const cJSON *json, const char *weights, int index) {
    const cJSON *one = cJSON_GetArrayItem(tn_json_get(json, "memory"), index);
    assert_non_null(one);
    has_text(one, "weights", weights);
    return one;
}

/* Values, gradients and two moments of each trained number, f32, in a store whose tensors begin at multiples of 64 bytes. */
static void check_memory(const cJSON *json, const char *weights, int index, int trained, int store) {
    const cJSON *memory = memory_of(json, weights, index);
    assert_int_equal((int)number(memory, "trained"), trained);
    assert_true(number(memory, "parameter_bytes") >= 4 * trained && number(memory, "parameter_bytes") <= store);
    is_near(number(memory, "gradient_bytes"), number(memory, "parameter_bytes"));
    is_near(number(memory, "optimizer_bytes"), 2 * number(memory, "parameter_bytes"));
    assert_true(number(memory, "activation_bytes") > 0);
}

static const expected_row sequential_rows[] = {
    {"base", "inference", 6}, {"adapter", "forward", 6},   {"adapter", "backward", 6}, {"adapter", "optimiser", 6},
    {"adapter", "step", 6},   {"adapter", "inference", 6}, {"merged", "inference", 6}, {"full", "forward", 6},
    {"full", "backward", 6},  {"full", "optimiser", 6},    {"full", "step", 6},
};
enum { SEQUENTIAL_ROWS = sizeof sequential_rows / sizeof *sequential_rows };

static void a_dense_model_is_measured_in_samples(void **state) {
    (void)state;
    exits(0,
          "mkdir mlp && cp $MLP/config.json mlp/ && $TENON_PROGRAM bench --model mlp --batch-size 6 --rounds 2 --passes 3 "
          "--steps 2 --rank 2 --profile --json mlp.json");
    printed("batches of 6 samples");
    printed("samples/s");
    printed("\nadapter  inference ");
    printed("\nfull ");
    printed("beside the base, which takes 2.42 kB");
    cJSON *json = read_result("mlp.json");
    check_rows(json, sequential_rows, SEQUENTIAL_ROWS);
    has_text(json, "family", "sequential");
    /* 20-16-12-5: the adapter, of rank 2, sits on the two first layers */
    const double base = 2 * 6 * (20 * 16 + 16 * 12 + 12 * 5), branch = 2 * 6 * 2 * (20 + 16 + 16 + 12);
    is_near(number(row_of(json, "base", "inference"), "flops"), base);
    is_near(number(row_of(json, "merged", "inference"), "flops"), base);
    is_near(number(row_of(json, "adapter", "inference"), "flops"), base + branch);
    is_near(number(row_of(json, "full", "forward"), "flops"), base);
    is_near(number(row_of(json, "adapter", "step"), "flops"),
            number(row_of(json, "adapter", "forward"), "flops") + number(row_of(json, "adapter", "backward"), "flops"));
    is_near(number(json, "base_bytes"), 4 * (20 * 16 + 16 + 16 * 12 + 12 + 12 * 5 + 5));
    check_memory(json, "adapter", 0, 2 * (20 + 16 + 16 + 12), 4 * 128 + 4 * 64);
    check_memory(json, "full", 1, 605, 4 * 605 + 6 * 64);
    cJSON_Delete(json);
}

static void a_convolutional_model_is_measured(void **state) {
    (void)state;
    exits(0,
          "mkdir cnn && cat > cnn/config.json <<'END'\n"
          "{\"model_type\": \"sequential\", \"task\": \"regression\", \"input_shape\": [2, 6, 5], \"layers\": [{\"type\": "
          "\"conv2d\", \"out_channels\": 4, \"kernel_size\": 3, \"groups\": 2}, {\"type\": \"batch_norm\"}, {\"type\": "
          "\"relu\"}, {\"type\": \"flatten\"}, {\"type\": \"linear\", \"out_features\": 3}]}\n"
          "END\n"
          "$TENON_PROGRAM bench --model cnn --batch-size 6 --rounds 1 --rank 2 --json cnn.json");
    cJSON *json = read_result("cnn.json");
    check_rows(json, sequential_rows, SEQUENTIAL_ROWS);
    is_near(number(row_of(json, "base", "inference"), "flops"), 2 * 6 * (4 * 3 * 4 * 9 + 48 * 3));
    cJSON_Delete(json);
    exits(1, "$TENON_PROGRAM bench --model cnn --batch-size 1 --rounds 1");
    exits(2, "$TENON_PROGRAM bench --model cnn --passes 1001");
    printed("from 0 to 1000");
}

static void nonsense_is_explained(void **state) {
    (void)state;
    exits(1, "$TENON_PROGRAM bench --model $BASE --prompt 511 --tokens 2");
    printed("prompt_tokens is 511; it must be from 1 to 510");
    exits(1, "$TENON_PROGRAM bench --model $BASE --max-length 513");
    printed("length is 513");
    exits(2, "$TENON_PROGRAM bench --model $BASE --labelled 0");
    exits(2, "$TENON_PROGRAM bench --model $BASE --rounds 0");
    exits(1, "$TENON_PROGRAM bench --model nowhere");
    printed("nowhere");
    exits(1, "$TENON_PROGRAM bench --model $BASE --target-modules none_such");
    printed("none_such");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_measured),
        cmocka_unit_test(recomputation_is_shown_but_not_credited),
        cmocka_unit_test(folder_without_weights_gets_random_ones),
        cmocka_unit_test(a_dense_model_is_measured_in_samples),
        cmocka_unit_test(a_convolutional_model_is_measured),
        cmocka_unit_test(nonsense_is_explained),
    };
    setenv("MLP", TENON_SOURCE_ROOT "/tests/golden/mlp_lora_small/base", 1);
    setenv("BASE", TENON_SOURCE_ROOT "/assets/base-model", 1);
    return cmocka_run_group_tests_name("cli_bench", tests, make_folder, remove_folder);
}
