/* tenon quantize, and the options that quantise a model as it is loaded, over a golden base and the bundled model. */
#include "program.h"

#include <math.h>

#define LORA TENON_SOURCE_ROOT "/tests/golden/lora_basic/"
#define MODEL TENON_SOURCE_ROOT "/assets/base-model"
#define TEST_DATA TENON_SOURCE_ROOT "/assets/sql/test.jsonl"

static double number_after(const char *words) {
    printed(words);
    return strtod(strstr(text(), words) + strlen(words), NULL);
}

static void checkpoint_and_report_are_written(void **state) {
    (void)state;
    exits(0,
          "$TENON_PROGRAM quantize --model " MODEL " --type nf4 --double-quant --out nf4 --data " TEST_DATA " --limit 20");
    printed("model.layers.0.self_attn.q_proj");
    printed("quantised 28 weights of ");
    assert_true(number_after(" elements, ") < 4.14);
    assert_true(number_after("logits on a probe: largest difference ") > 0);
    double after = number_after(" before, "), before = number_after("test.jsonl: ");
    assert_true(before > 1 && after > 1 && after < 1.1 * before && after > 0.9 * before);
    printed("  nf4/config.json  ");
    printed("  nf4/model.safetensors  ");
    printed("  nf4/tokenizer.json  ");
    exits(0, "$TENON_PROGRAM inspect nf4 --verify");
    printed("nf4\n      weights            28");
    printed("bits per weight    4.1");
    exits(0, "$TENON_PROGRAM generate --model nf4 --prompt 'table' --max-tokens 5");
}

static void gguf_files_are_written_and_read(void **state) {
    (void)state;
    exits(0, "$TENON_PROGRAM quantize --model " MODEL " --type q8_0 --format gguf --out gguf");
    printed("  gguf/model.gguf  ");
    exits(0, "$TENON_PROGRAM inspect gguf");
    printed("q8_0");
    exits(0, "$TENON_PROGRAM eval --model " MODEL " --quantize q8_0 --data " TEST_DATA " --limit 10 --json");
    double loaded = number_after("\"loss\":");
    exits(0, "$TENON_PROGRAM eval --model gguf/model.gguf --data " TEST_DATA " --limit 10 --json");
    assert_true(loaded > 0 && fabs(number_after("\"loss\":") - loaded) < 1e-4 * loaded);
    exits(1, "$TENON_PROGRAM quantize --model " MODEL " --type nf4 --format gguf --out gguf-nf4");
    printed("nf4");
}

/* The loss of an evaluation does not tell a written base from one that is quantised as it is loaded. */
static void loading_quantises_like_writing(void **state) {
    (void)state;
    exits(0, "$TENON_PROGRAM quantize --model " MODEL
             " --type int4 --quant-range mse --quant-mix down_proj=int8_row --out mixed");
    exits(0, "$TENON_PROGRAM eval --model mixed --data " TEST_DATA " --limit 10 --json");
    double written = number_after("\"loss\":");
    exits(0, "$TENON_PROGRAM eval --model " MODEL
             " --quantize int4 --quant-range mse --quant-mix down_proj=int8_row --data " TEST_DATA " --limit 10 --json");
    assert_true(written > 0 && number_after("\"loss\":") == written);
}

static void an_adapter_is_trained_and_merged_on_a_quantised_base(void **state) {
    (void)state;
    exits(0, "$TENON_PROGRAM train --model " MODEL " --quantize nf4 --optimizer adamw8bit --data " TEST_DATA
             " --steps 3 --batch-size 4 --max-length 64 --target-modules all-linear --lr 1e-2 --out adapter");
    printed("quantised 28 weights, 4.5");
    printed("finished   step 3");
    exits(0, "$TENON_PROGRAM merge --model " MODEL " --quantize nf4 --adapter adapter --dtype f32 --out merged");
    assert_true(number_after("merged against unmerged: ") < 1e-3);
    exits(0, "$TENON_PROGRAM merge --model " MODEL " --quantize nf4 --adapter adapter --requantize --out again");
    assert_true(number_after("merged against unmerged: ") > 1e-3);
    printed("largest rounding of a stored weight: ");
    printed("merging without --requantize loses none of it");
    exits(1, "$TENON_PROGRAM merge --model " MODEL " --adapter adapter --requantize --out again");
    printed("the base is not quantised");
    exits(1, "$TENON_PROGRAM merge --model " MODEL " --quantize nf4 --adapter adapter --requantize --dtype f32 --out again");
    printed("does not go with --dtype f32");
}

static void resuming_on_another_quantisation_is_refused(void **state) {
    (void)state;
#define RUN                                                                                                                 \
    "$TENON_PROGRAM train --model " MODEL " --data " TEST_DATA                                                              \
    " --batch-size 2 --max-length 48 --steps 2 --save-every 1 --out resumed "
    exits(0, RUN "--quantize nf4");
    exits(1, RUN "--quantize fp4 --resume");
    printed("base was");
    exits(0, RUN "--quantize nf4 --resume");
}

static void memory_is_planned(void **state) {
    (void)state;
    exits(0, "$TENON_PROGRAM plan --model " MODEL " --quantize nf4 --double-quant --data " TEST_DATA
             " --target-modules all-linear");
    printed("  qlora, double quant  ");
    printed("  qdora  ");
    double base = number_after("MB: base ");
    assert_true(base > 1.3 && base < 1.5);
    exits(0, "$TENON_PROGRAM methods --rows 4096 --cols 4096 --rank 8");
    printed("  qlora, double quant           65536       8.65");
}

static void wrong_use_is_explained(void **state) {
    (void)state;
    exits(1, "$TENON_PROGRAM quantize --model " MODEL " --type nf3 --out x");
    printed("did you mean 'nf4'?");
    exits(1, "$TENON_PROGRAM eval --model " MODEL " --quant-block 32 --data " TEST_DATA);
    printed("without --quantize have no effect");
    exits(1, "$TENON_PROGRAM quantize --model " LORA "base --type q4_0 --out x");
    printed("whole blocks of 32");
    exits(2, "$TENON_PROGRAM quantize --model " MODEL " --quant-block 9999 --out x");
    exits(1, "$TENON_PROGRAM quantize --model " MODEL " --out " MODEL);
    printed("is the model's own folder");
    exits(1, "$TENON_PROGRAM train --model " MODEL " --quantize nf4 --method full --data " TEST_DATA " --out x");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoint_and_report_are_written),
        cmocka_unit_test(gguf_files_are_written_and_read),
        cmocka_unit_test(loading_quantises_like_writing),
        cmocka_unit_test(an_adapter_is_trained_and_merged_on_a_quantised_base),
        cmocka_unit_test(resuming_on_another_quantisation_is_refused),
        cmocka_unit_test(memory_is_planned),
        cmocka_unit_test(wrong_use_is_explained),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
