/* Training passes of whole models: planned memory, recomputation, and independence of how samples are packed. */
#include "support/support.h"

#define QWEN2_TIED                                                                                                          \
    "{\"model_type\": \"qwen2\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "                      \
    "\"num_hidden_layers\": 3, "                                                                                            \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"initializer_range\": 0.2, \"use_sliding_window\": true, "    \
    "\"sliding_window\": 4, \"max_window_layers\": 1, \"tie_word_embeddings\": true}"
#define QWEN3                                                                                                               \
    "{\"model_type\": \"qwen3\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "                      \
    "\"num_hidden_layers\": 2, "                                                                                            \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 1, \"head_dim\": 10, \"initializer_range\": 0.2}"

enum { SAMPLES = 4, MOST_TOKENS = 64, VOCABULARY = 37 };
static const int64_t lengths[SAMPLES] = {9, 3, 14, 6};

/* Every token but the first of a sample is a label. */
typedef struct {
    int32_t ids[MOST_TOKENS], positions[MOST_TOKENS], rows[MOST_TOKENS], labels[MOST_TOKENS];
    int64_t starts[SAMPLES + 1];
    tn_span spans[SAMPLES];
    tn_pass pass;
} packed;

/* Samples [first, first + count) one after another. */
static void pack(packed *p, int first, int count) {
    int64_t tokens = 0, labelled = 0;
    for (int s = 0; s < count; s++) {
        tn_rng rng = tn_rng_start(51, (uint64_t)(first + s));
        int64_t length = lengths[first + s];
        p->starts[s] = tokens;
        p->spans[s] = (tn_span){tokens, length, tokens, length};
        for (int64_t t = 0; t < length; t++, tokens++) {
            p->ids[tokens] = (int32_t)tn_rng_below(&rng, 37);
            p->positions[tokens] = (int32_t)t;
            if (t > 0) {
                p->rows[labelled] = (int32_t)tokens - 1;
                p->labels[labelled++] = p->ids[tokens];
            }
        }
    }
    p->starts[count] = tokens;
    p->pass = (tn_pass){
        .tokens = {.ids = p->ids, .positions = p->positions, .count = tokens, .spans = p->spans, .span_count = count},
        .label_rows = p->rows,
        .label_ids = p->labels,
        .labelled = labelled};
}

typedef struct {
    const char *name, *config, *targets, *bias, *save, *tokens, *init;
    double dropout;
    bool tie;
} setup;

static const setup setups[] = {
    {.name = "attention", .config = SMALL_LLAMA, .targets = "q_proj,v_proj", .dropout = 0.3},
    {.name = "all linear", .config = SMALL_LLAMA, .targets = "all-linear", .init = "pissa"},
    {.name = "embedding and head", .config = SMALL_LLAMA, .targets = "embed_tokens,lm_head,down_proj", .dropout = 0.1},
    {.name = "biases", .config = QWEN2_TIED, .targets = "q_proj,o_proj", .bias = "all"},
    {.name = "tied head saved", .config = QWEN2_TIED, .targets = "q_proj", .save = "embed_tokens", .tie = true},
    {.name = "norms saved", .config = QWEN3, .targets = "k_proj", .save = "model.norm,q_norm,input_layernorm"},
    {.name = "token rows", .config = QWEN2_TIED, .targets = "gate_proj", .tokens = "3,7-9"},
    {.name = "query norms", .config = QWEN3, .targets = "q_proj,k_proj,up_proj"},
    {.name = "every weight", .config = QWEN3},
    {.name = "transposed", .config = SMALL_GPT2, .targets = "c_attn,c_proj", .dropout = 0.3},
    {.name = "all transposed", .config = SMALL_GPT2, .targets = "all-linear", .init = "pissa"},
    {.name = "positions", .config = SMALL_GPT2, .targets = "wte,wpe,c_fc", .bias = "all"},
    {.name = "transposed saved", .config = SMALL_GPT2, .targets = "c_attn", .save = "mlp.c_proj,c_fc,ln_1,wpe"},
    {.name = "every weight, transposed", .config = SMALL_GPT2},
};
enum { SETUP_COUNT = sizeof setups / sizeof *setups };

static tn_model *open_model(const setup *s) {
    tn_model *model = create_model(s->config, 5);
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.rank = 3;
    options.method = s->targets ? "lora" : "full";
    options.target_modules = s->targets;
    options.dropout = s->dropout;
    options.bias = s->bias;
    options.modules_to_save = s->save;
    options.token_indices = s->tokens;
    options.ensure_weight_tying = s->tie;
    options.init = s->init;
    assert_ok(tn_model_add_adapter(model, &options, 6));
    if (s->targets)
        randomise_adapter(model->adapter, 7, 0.2f);
    assert_ok(tn_decoder_prepare(model->decoder, MOST_TOKENS));
    return model;
}

/* One pass with gradients of the sum of losses on a tape of exactly `reserve` bytes. */
static tn_status step(tn_model *model, packed *p, int64_t reserve, tn_checkpointing checkpointing, double *loss,
                      tn_pass_cost *cost) {
    float losses[MOST_TOKENS];
    tn_tape tape;
    *loss = 0;
    TN_TRY(tn_tape_init(&tape, model->kernels, reserve));
    tn_forward forward = {.tape = &tape, .training = true, .dropout_seed = 99};
    tape.recording = true;
    tn_pass_loss(model, &forward, &p->pass, checkpointing, 1, losses, NULL);
    tn_status status = tn_tape_status(&tape);
    for (int64_t i = 0; status == TN_OK && i < p->pass.labelled; i++)
        *loss += losses[i];
    if (cost)
        *cost = (tn_pass_cost){tape.heap.peak, tape.flops};
    tn_tape_free(&tape);
    return status;
}

static float *take_gradients(tn_adapter *adapter) {
    size_t bytes = (size_t)adapter->params.total * sizeof(float);
    float *kept = malloc(bytes);
    assert_non_null(kept);
    memcpy(kept, adapter->params.grads, bytes);
    memset(adapter->params.grads, 0, bytes);
    return kept;
}

static double largest_of(const float *x, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)x[i]));
    return largest;
}

static void planned_memory_is_exactly_what_a_step_takes(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = open_model(&setups[i]);
        packed p;
        pack(&p, 0, SAMPLES);
        for (int checkpointing = 0; checkpointing <= TN_CHECKPOINTING_ON; checkpointing++) {
            tn_pass_cost planned, real = {0};
            double loss;
            assert_ok(tn_pass_rehearse(model, p.starts, SAMPLES, p.pass.labelled, true, (tn_checkpointing)checkpointing,
                                       &planned));
            assert_ok(step(model, &p, planned.heap_bytes, (tn_checkpointing)checkpointing, &loss, &real));
            assert_int_equal(real.heap_bytes, planned.heap_bytes);
            assert_true(real.flops == planned.flops && real.flops > 0);
            assert_fails(step(model, &p, planned.heap_bytes - TN_HEAP_ALIGN, (tn_checkpointing)checkpointing, &loss, NULL),
                         TN_ERROR_MEMORY, "more than the memory planned");
        }
        tn_model_free(model);
    }
}

static void recomputing_blocks_changes_no_bit(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = open_model(&setups[i]);
        packed p;
        double plain_loss, loss;
        pack(&p, 0, SAMPLES);
        assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_OFF, &plain_loss, NULL));
        float *plain = take_gradients(model->adapter);
        assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_ON, &loss, NULL));
        float *again = take_gradients(model->adapter);
        assert_true(largest_of(plain, model->adapter->params.total) > 0 && loss == plain_loss);
        assert_memory_equal(plain, again, (size_t)model->adapter->params.total * sizeof(float));
        free(plain);
        free(again);
        tn_model_free(model);
    }
}

/* Without dropout, whose masks count rows. */
static void packing_changes_gradients_by_rounding_alone(void **state) {
    static const int splits[][3] = {{1, 4, 4}, {2, 4, 4}, {1, 2, 3}};
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        setup s = setups[i];
        s.dropout = 0;
        tn_model *model = open_model(&s);
        packed p;
        double whole_loss;
        pack(&p, 0, SAMPLES);
        assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_OFF, &whole_loss, NULL));
        float *whole = take_gradients(model->adapter);
        for (int split = 0; split < 3; split++) {
            double sum = 0, loss;
            for (int first = 0, part = 0; first < SAMPLES; part++) {
                int end = part < 3 ? splits[split][part] : SAMPLES;
                pack(&p, first, end - first);
                assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_OFF, &loss, NULL));
                sum += loss;
                first = end;
            }
            float *parts = take_gradients(model->adapter);
            int64_t count = model->adapter->params.total;
            assert_true(fabs(sum - whole_loss) <= 1e-5 * fabs(whole_loss));
            assert_true(largest_difference(parts, whole, count) <= 1e-5 * largest_of(whole, count));
            free(parts);
        }
        free(whole);
        tn_model_free(model);
    }
}

/* The loss of a whole model moves as its gradient says, in one random direction of all trained tensors: d/de loss(p + e v) =
 * <g, v>. The loss of about 100 carries rounding of 1e-5, over 2 e with e = 1/512 about 3e-3; |g| is above 10, and <g, v>
 * about |v_i| |g|. */
static void gradient_is_the_slope_of_the_loss(void **state) {
    const double e = 1.0 / 512;
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = open_model(&setups[i]);
        tn_params *params = &model->adapter->params;
        size_t bytes = (size_t)params->total * sizeof(float);
        float *direction = calloc((size_t)params->total, sizeof(float)), *start = malloc(bytes);
        double loss[2], slope = 0, square = 0;
        packed p;
        assert_true(direction && start);
        memcpy(start, params->values, bytes);
        for (int64_t k = 0; k < params->count; k++)
            tn_fill_normal(direction + params->entries[k].offset, (size_t)params->entries[k].count, 8, (uint64_t)k, 0, 0.1f);
        pack(&p, 0, SAMPLES);
        assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_OFF, &loss[0], NULL));
        float *gradient = take_gradients(model->adapter);
        for (int64_t k = 0; k < params->total; k++) {
            slope += (double)gradient[k] * direction[k];
            square += (double)gradient[k] * gradient[k];
        }
        for (int side = 0; side < 2; side++) {
            for (int64_t k = 0; k < params->total; k++)
                params->values[k] = start[k] + (float)(side ? -e : e) * direction[k];
            assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_OFF, &loss[side], NULL));
        }
        double measured = (loss[0] - loss[1]) / (2 * e);
        if (!(fabs(measured - slope) <= 1e-3 * sqrt(square)))
            fail_msg("%s: the loss moves by %g, its gradient says %g", setups[i].name, measured, slope);
        assert_true(square > 0);
        free(gradient);
        free(direction);
        free(start);
        tn_model_free(model);
    }
}

static void too_little_memory_fails_at_every_size(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = open_model(&setups[i]);
        packed p;
        tn_pass_cost cost;
        double loss;
        pack(&p, 0, 2);
        for (int checkpointing = 0; checkpointing <= TN_CHECKPOINTING_ON; checkpointing++) {
            assert_ok(tn_pass_rehearse(model, p.starts, 2, p.pass.labelled, true, (tn_checkpointing)checkpointing, &cost));
            for (int64_t part = 1; part < 40; part++)
                assert_fails(step(model, &p, cost.heap_bytes * part / 40, (tn_checkpointing)checkpointing, &loss, NULL),
                             TN_ERROR_MEMORY, "more than the memory planned");
        }
        tn_model_free(model);
    }
}

/* Kept in 8 bits, activations are off by up to 1/254 of the largest of 64: gradients by no more than a few percent of the
 * whole, the loss not at all. */
static void eight_bits_change_gradients_slightly(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = open_model(&setups[i]);
        packed p;
        double plain_loss, loss, square = 0, off = 0;
        int64_t count = model->adapter->params.total;
        pack(&p, 0, SAMPLES);
        assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_OFF, &plain_loss, NULL));
        float *plain = take_gradients(model->adapter);
        assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_8BIT, &loss, NULL));
        float *rounded = take_gradients(model->adapter);
        for (int64_t k = 0; k < count; k++) {
            square += (double)plain[k] * plain[k];
            off += pow((double)plain[k] - rounded[k], 2);
        }
        assert_true(loss == plain_loss && off > 0);
        if (off > 0.02 * 0.02 * square)
            fail_msg("%s: gradients are off by %g", setups[i].name, sqrt(off / square));
        free(plain);
        free(rounded);
        tn_model_free(model);
    }
}

static tn_status keep_logits(void *cookie, int64_t first_row, int64_t rows, const float *logits) {
    memcpy((float *)cookie + first_row * VOCABULARY, logits, (size_t)(rows * VOCABULARY) * sizeof *logits);
    return TN_OK;
}

/* Asked for some rows, the last block leaves the others out; those that remain are as before but for rounding. */
static void logits_of_some_rows_are_those_of_all(void **state) {
    static float all[MOST_TOKENS * VOCABULARY], some[MOST_TOKENS * VOCABULARY];
    static const int32_t rows[] = {31, 0, 8, 8, 20};
    enum { ROWS = sizeof rows / sizeof *rows };
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = open_model(&setups[i]);
        tn_tape tape;
        packed p;
        pack(&p, 0, SAMPLES);
        assert_int_equal(p.pass.tokens.count, 32);
        assert_ok(tn_tape_init(&tape, model->kernels, 16 << 20));
        assert_ok(tn_pass_logits(model, &tape, &p.pass.tokens, NULL, 32, keep_logits, all));
        double flops = tape.flops;
        tn_tape_reset(&tape);
        assert_ok(tn_pass_logits(model, &tape, &p.pass.tokens, rows, ROWS, keep_logits, some));
        const tn_weight *head = tn_module_weight(model->decoder->net.head);
        double of_head = 2.0 * (32 - ROWS) * (double)(tn_weight_in(head) * tn_weight_out(head));
        assert_true(tape.flops < flops - 1.01 * of_head); /* more than the head's rows is left out */
        for (int r = 0; r < ROWS; r++)
            assert_true(largest_difference(some + r * VOCABULARY, all + rows[r] * VOCABULARY, VOCABULARY) < 2e-5);
        tn_tape_free(&tape);
        tn_model_free(model);
    }
}

/* Samples without labels and a batch of one token have a loss and a gradient of nothing. */
static void pass_without_labels_is_fine(void **state) {
    tn_model *model = open_model(&setups[0]);
    packed p;
    double loss;
    (void)state;
    pack(&p, 1, 1);
    p.pass.labelled = 0;
    assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_OFF, &loss, NULL));
    assert_ok(step(model, &p, 16 << 20, TN_CHECKPOINTING_ON, &loss, NULL));
    assert_true(loss == 0);
    float *gradient = take_gradients(model->adapter);
    assert_true(largest_of(gradient, model->adapter->params.total) == 0);
    free(gradient);
    tn_model_free(model);
}

/* No sample sees another: the same losses alone as in company. */
static void samples_of_a_batch_do_not_see_each_other(void **state) {
    tn_model *model = open_model(&setups[3]);
    float together[MOST_TOKENS], alone[MOST_TOKENS];
    int64_t at = 0;
    (void)state;
    for (int run = -1; run < SAMPLES; run++) {
        tn_tape tape;
        packed p;
        pack(&p, run < 0 ? 0 : run, run < 0 ? SAMPLES : 1);
        assert_ok(tn_tape_init(&tape, model->kernels, 16 << 20));
        tn_forward forward = {.tape = &tape};
        tn_pass_loss(model, &forward, &p.pass, TN_CHECKPOINTING_OFF, 0, run < 0 ? together : alone, NULL);
        assert_ok(tn_tape_status(&tape));
        tn_tape_free(&tape);
        if (run >= 0) {
            assert_true(largest_difference(alone, together + at, p.pass.labelled) < 2e-5);
            at += p.pass.labelled;
        }
    }
    assert_int_equal(at, 9 + 3 + 14 + 6 - SAMPLES);
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planned_memory_is_exactly_what_a_step_takes),
        cmocka_unit_test(recomputing_blocks_changes_no_bit),
        cmocka_unit_test(packing_changes_gradients_by_rounding_alone),
        cmocka_unit_test(gradient_is_the_slope_of_the_loss),
        cmocka_unit_test(eight_bits_change_gradients_slightly),
        cmocka_unit_test(logits_of_some_rows_are_those_of_all),
        cmocka_unit_test(too_little_memory_fails_at_every_size),
        cmocka_unit_test(pass_without_labels_is_fine),
        cmocka_unit_test(samples_of_a_batch_do_not_see_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
