/* The gradients of the decoder's ops, of dropout and of the loss in pieces. */
#include "gradient_check.h"

enum { T = 7, C = 6, O = 5, R = 3, V = 9, K = 2 };

static const int32_t ids[T] = {3, 0, 8, 3, 5, 5, 1}, replaced[K] = {5, 3}, positions[T] = {0, 1, 2, 3, 0, 1, 2};
static const int32_t picked[T + 2] = {6, 0, 0, 3, 2, 6, 6, 1, 4};
static const tn_span spans[2] = {{0, 4, 0, 4}, {4, 3, 4, 3}};

static tn_var *run_embedding(const operands *in) {
    return tn_op_embedding(in->tape, ids, T, in->weights[0]);
}
static tn_var *run_linear(const operands *in) {
    return tn_op_linear(in->tape, in->values[0], in->weights[1], NULL);
}
static tn_var *run_linear_with_bias(const operands *in) {
    return tn_op_linear(in->tape, in->values[0], in->weights[1], in->weights[2]);
}
static tn_var *run_transposed_linear(const operands *in) {
    static tn_weight weight; /* the op keeps a pointer */
    weight = *in->weights[1];
    weight.transposed = true;
    return tn_op_linear(in->tape, in->values[0], &weight, in->weights[2]);
}
static tn_var *run_add_linear(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_add_linear(in->tape, y, in->values[1], in->weights[2], -0.75f);
    return y;
}
static tn_var *run_low_rank(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_low_rank(in->tape, y, in->values[1], in->weights[2], in->weights[3], NULL, 1.5f);
    return y;
}
static tn_var *run_low_rank_with_bias(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_low_rank(in->tape, y, in->values[1], in->weights[2], in->weights[3], in->weights[4], -0.75f);
    return y;
}
/* Frozen factors that are wider and taller than the layer. */
static tn_var *run_scaled_low_rank(const operands *in) {
    static float a[R * (C + 2)], b[(O + 3) * R];
    static const tn_weight a_weight = {.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {R, C + 2}, .data = a}},
                           b_weight = {.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {O + 3, R}, .data = b}};
    tn_fill_normal(a, R * (C + 2), 1, 1, 0, 0.5f);
    tn_fill_normal(b, (O + 3) * R, 1, 2, 0, 0.5f);
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_scaled_low_rank(in->tape, y, in->values[1], &a_weight, &b_weight, in->weights[2], in->weights[3]);
    return y;
}
static tn_var *run_low_rank_embedding(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_low_rank_embedding(in->tape, y, ids, in->weights[1], in->weights[2], 1.5f);
    return y;
}
static tn_var *run_replace_embeddings(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_replace_embeddings(in->tape, y, ids, in->weights[1], replaced);
    return y;
}
static tn_var *run_replace_logits(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_replace_logits(in->tape, y, in->values[1], in->weights[2], replaced);
    return y;
}
static tn_var *run_rmsnorm(const operands *in) {
    return tn_op_rmsnorm(in->tape, in->values[0], in->weights[1], 1e-5f, 1);
}
static tn_var *run_rmsnorm_of_heads(const operands *in) {
    return tn_op_rmsnorm(in->tape, in->values[0], in->weights[1], 1e-5f, 2);
}
static tn_var *run_rope(const operands *in) {
    static float cos_table[4 * 2], sin_table[4 * 2];
    for (int i = 0; i < 8; i++) {
        cos_table[i] = cosf((float)(i / 2) * (i % 2 ? 0.3f : 1.0f));
        sin_table[i] = sinf((float)(i / 2) * (i % 2 ? 0.3f : 1.0f));
    }
    tn_rope_table table = {cos_table, sin_table};
    tn_var *x = copied(in->tape, in->values[0]);
    tn_op_rope(in->tape, x, positions, &table, 2, 4);
    return x;
}
/* The op owns the gradients of q, k and v, so that they are values of its own. */
static tn_var *attention(const operands *in, int64_t window) {
    tn_attention_shape shape = {.heads = 4, .kv_heads = 2, .head_size = 2, .window = window, .scale = 0.7f};
    tn_var *q = copied(in->tape, in->values[0]), *k = copied(in->tape, in->values[1]), *v = copied(in->tape, in->values[2]);
    tn_var *out = tn_op_attention(in->tape, q, k, v, spans, 2, &shape);
    tn_drop(in->tape, q);
    tn_drop(in->tape, k);
    tn_drop(in->tape, v);
    return out;
}
static tn_var *run_attention(const operands *in) {
    return attention(in, 0);
}
static tn_var *run_attention_with_window(const operands *in) {
    return attention(in, 2);
}
static tn_var *run_swiglu(const operands *in) {
    tn_var *gate = copied(in->tape, in->values[0]), *up = copied(in->tape, in->values[1]);
    tn_var *y = tn_op_swiglu(in->tape, gate, up);
    tn_drop(in->tape, gate);
    tn_drop(in->tape, up);
    return y;
}
/* Its slope jumps at 0: half of the values are moved well above it, half well below. */
static tn_var *run_relu(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    for (int64_t i = 0; y->data && i < T * C; i++)
        y->data[i] += i % 2 ? 4 : -4;
    tn_op_relu(in->tape, y);
    return y;
}
/* Its backward may not write over a gate that an earlier op still reads. */
static tn_var *run_swiglu_of_a_kept_gate(const operands *in) {
    tn_var *gate = copied(in->tape, in->values[0]), *up = copied(in->tape, in->values[1]);
    tn_var *h = tn_op_linear(in->tape, gate, in->weights[2], NULL), *y = tn_op_swiglu(in->tape, gate, up);
    tn_drop(in->tape, gate);
    tn_drop(in->tape, up);
    tn_op_add(in->tape, y, h, 1);
    tn_drop(in->tape, h);
    return y;
}
static tn_var *run_add(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_add(in->tape, y, in->values[1], 1);
    return y;
}
static tn_var *run_add_scaled(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_add(in->tape, y, in->values[1], -1.5f);
    return y;
}
static tn_var *run_block_linear(const operands *in) {
    return tn_op_block_linear(in->tape, in->values[0], in->weights[1], 2);
}
static tn_var *run_scale_columns(const operands *in) {
    return tn_op_scale_columns(in->tape, in->values[0], in->weights[1]);
}
static const float some_norms[O] = {0.5f, 2, 1.5f, 0.75f, 3};
static tn_var *run_magnitude(const operands *in) {
    return tn_op_magnitude(in->tape, in->values[0], in->weights[1], some_norms, NULL);
}
static tn_var *run_magnitude_with_bias(const operands *in) {
    return tn_op_magnitude(in->tape, in->values[0], in->weights[1], some_norms, in->weights[2]);
}
static tn_var *run_keep_rows(const operands *in) {
    static const bool keep[T] = {true, false, false, true, true, false, true};
    return tn_op_keep_rows(in->tape, in->values[0], keep);
}
static tn_var *run_dropout(const operands *in) {
    return tn_op_dropout(in->tape, in->values[0], 0.4f, 5, 17);
}
static tn_var *run_take_rows(const operands *in) {
    return tn_op_take_rows(in->tape, in->values[0], picked, 0, T + 2);
}
static tn_var *run_blend(const operands *in, const int32_t *rows, float weight) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_blend_rows(in->tape, y, in->values[1], rows, weight);
    return y;
}
static tn_var *run_blend_rows(const operands *in) {
    static const int32_t rows[] = {1, 2, 5};
    return run_blend(in, rows, 0.3f);
}
static tn_var *run_blend_replacing(const operands *in) {
    static const int32_t rows[] = {0, 4, 6};
    return run_blend(in, rows, 1);
}
static tn_var *run_blend_all(const operands *in) {
    return run_blend(in, NULL, -1.25f);
}
static tn_var *run_take_columns(const operands *in) {
    return tn_op_take_columns(in->tape, in->values[0], 2, 3);
}
/* As a fused projection is taken apart. */
static tn_var *run_take_all_columns(const operands *in) {
    tn_var *x = copied(in->tape, in->values[0]), *parts[3];
    for (int i = 0; i < 3; i++)
        parts[i] = tn_op_take_columns(in->tape, x, i * 2, 2);
    tn_drop(in->tape, x);
    tn_op_add(in->tape, parts[0], parts[1], 0.5f);
    tn_op_add(in->tape, parts[0], parts[2], -2);
    tn_drop(in->tape, parts[1]);
    tn_drop(in->tape, parts[2]);
    return parts[0];
}
/* One value read by several ops: gradients add up, whichever op comes first. */
static tn_var *run_shared_value(const operands *in) {
    tn_var *x = in->values[0];
    tn_var *y = tn_op_linear(in->tape, x, in->weights[1], NULL), *z = tn_op_rmsnorm(in->tape, x, in->weights[2], 1e-5f, 1);
    tn_op_low_rank(in->tape, y, z, in->weights[3], in->weights[4], NULL, 1);
    tn_op_add(in->tape, y, z, 1);
    tn_op_add(in->tape, y, x, 1);
    tn_drop(in->tape, z);
    return y;
}

static const op_case op_cases[] = {
    {"embedding", run_embedding, 1, {{V, C, true}}},
    {"linear", run_linear, 2, {{T, C, false}, {O, C, true}}},
    {"linear with bias", run_linear_with_bias, 3, {{T, C, false}, {O, C, true}, {1, O, true}}},
    {"transposed linear", run_transposed_linear, 3, {{T, C, false}, {C, O, true}, {1, O, true}}},
    {"add linear", run_add_linear, 3, {{T, O, false}, {T, C, false}, {O, C, true}}},
    {"low rank", run_low_rank, 4, {{T, O, false}, {T, C, false}, {R, C, true}, {O, R, true}}},
    {"low rank with bias",
     run_low_rank_with_bias,
     5,
     {{T, O, false}, {T, C, false}, {R, C, true}, {O, R, true}, {1, O, true}}},
    {"scaled low rank", run_scaled_low_rank, 4, {{T, O, false}, {T, C, false}, {1, R, true}, {1, O, true}}},
    {"low rank embedding", run_low_rank_embedding, 3, {{T, C, false}, {R, V, true}, {C, R, true}}},
    {"replace embeddings", run_replace_embeddings, 2, {{T, C, false}, {K, C, true}}},
    {"replace logits", run_replace_logits, 3, {{T, V, false}, {T, C, false}, {K, C, true}}},
    {"rmsnorm", run_rmsnorm, 2, {{T, C, false}, {1, C, true}}},
    {"rmsnorm of heads", run_rmsnorm_of_heads, 2, {{T, C, false}, {1, C / 2, true}}},
    {"rope", run_rope, 1, {{T, 8, false}}},
    {"attention", run_attention, 3, {{T, 8, false}, {T, 4, false}, {T, 4, false}}},
    {"attention with window", run_attention_with_window, 3, {{T, 8, false}, {T, 4, false}, {T, 4, false}}},
    {"swiglu", run_swiglu, 2, {{T, C, false}, {T, C, false}}},
    {"swiglu of a kept gate", run_swiglu_of_a_kept_gate, 3, {{T, C, false}, {T, C, false}, {C, C, true}}},
    {"relu", run_relu, 1, {{T, C, false}}},
    {"add", run_add, 2, {{T, C, false}, {T, C, false}}},
    {"add scaled", run_add_scaled, 2, {{T, C, false}, {T, C, false}}},
    {"block linear", run_block_linear, 2, {{T, C, false}, {4, C / 2, true}}},
    {"scale columns", run_scale_columns, 2, {{T, C, false}, {1, C, true}}},
    {"magnitude", run_magnitude, 2, {{T, O, false}, {1, O, true}}},
    {"magnitude with bias", run_magnitude_with_bias, 3, {{T, O, false}, {1, O, true}, {1, O, true}}},
    {"keep rows", run_keep_rows, 1, {{T, C, false}}},
    {"dropout", run_dropout, 1, {{T, C, false}}},
    {"take rows", run_take_rows, 1, {{T, C, false}}},
    {"blend rows", run_blend_rows, 2, {{T, C, false}, {3, C, false}}},
    {"blend rows, replacing", run_blend_replacing, 2, {{T, C, false}, {3, C, false}}},
    {"blend all rows", run_blend_all, 2, {{T, C, false}, {T, C, false}}},
    {"take columns", run_take_columns, 1, {{T, C, false}}},
    {"take all columns", run_take_all_columns, 1, {{T, C, false}}},
    {"shared value", run_shared_value, 5, {{T, C, false}, {C, C, true}, {1, C, true}, {R, C, true}, {C, R, true}}},
};

/* --- weights that are stored transposed --- */

/* y = x W^T from W [O, C] in f32, and from the same stored as [C, O] in `dtype`. */
static void compare_stored_both_ways(const tn_kernels *kernels, tn_dtype dtype, int64_t rows, int64_t in, int64_t out) {
    static float w[300 * 130], wt[300 * 130], read_back[300 * 130], stored[300 * 130];
    int64_t count = in * out;
    tn_tape tape;
    tn_fill_normal(w, (size_t)count, 31, 1, 0, 1);
    tn_convert_from_f32(stored, dtype, w, count); /* so that both have the same values */
    tn_convert_to_f32(w, stored, dtype, count);
    const tn_weight plain = {.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {out, in}, .data = w}};
    const tn_weight transposed = {.tensor = {.dtype = dtype, .ndim = 2, .shape = {in, out}, .data = stored},
                                  .transposed = true};
    assert_int_equal(tn_weight_out(&transposed), out);
    assert_int_equal(tn_weight_in(&transposed), in);
    tn_weight_lay_out(&transposed, w, wt);
    assert_true(wt[1] == w[in] && wt[out] == w[1]);
    tn_convert_from_f32(stored, dtype, wt, count);
    tn_weight_read(&transposed, read_back);
    assert_memory_equal(read_back, w, (size_t)count * sizeof *w);

    assert_ok(tn_tape_init(&tape, kernels, RESERVE));
    tn_var *x = tn_var_new(&tape, rows, in, false);
    tn_fill_normal(x->data, (size_t)(rows * in), 31, 2, 0, 1);
    tn_var *y = tn_op_linear(&tape, x, &plain, NULL), *z = tn_op_linear(&tape, x, &transposed, NULL);
    /* sums of at most 300 products of normal numbers, in another order: 300 * 2^-24 * 4, generously */
    assert_true(largest_difference(y->data, z->data, rows * out) < 1e-4);
    tn_tape_free(&tape);
}

static void a_weight_is_the_same_stored_either_way(void **state) {
    static const tn_dtype dtypes[] = {TN_DTYPE_F32, TN_DTYPE_BF16, TN_DTYPE_F16};
    (void)state;
    for (int kernels = 0; kernels < 2; kernels++)
        for (int d = 0; d < 3; d++)
            for (int64_t rows = 1; rows <= 70; rows += 23)
                compare_stored_both_ways(kernels ? tn_kernels_cpu() : tn_kernels_by_name("reference"), dtypes[d], rows, 130,
                                         300);
}

/* --- dropout --- */

static void dropout_depends_on_seed_and_stream_alone(void **state) {
    (void)state;
    enum { COUNT = 4096 };
    static const struct { uint64_t seed, stream; } draws[] = {{1, 1}, {1, 1}, {2, 1}, {1, 2}};
    tn_tape tape;
    tn_var *y[4];
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), RESERVE));
    tn_var *x = tn_var_new(&tape, 64, COUNT / 64, false);
    tape.kernels->fill(x->data, 3, COUNT);
    int kept = 0;
    for (int i = 0; i < 4; i++)
        y[i] = tn_op_dropout(&tape, x, 0.25f, draws[i].seed, draws[i].stream);
    for (int i = 0; i < COUNT; i++) {
        assert_true(y[0]->data[i] == 0 || y[0]->data[i] == 4);
        kept += y[0]->data[i] != 0;
    }
    /* 3072 expected, standard deviation 28 */
    assert_in_range(kept, 3072 - 140, 3072 + 140);
    assert_memory_equal(y[0]->data, y[1]->data, COUNT * sizeof(float));
    assert_true(largest_difference(y[0]->data, y[2]->data, COUNT) > 0);
    assert_true(largest_difference(y[0]->data, y[3]->data, COUNT) > 0);
    tn_var *all = tn_op_dropout(&tape, x, 0, 1, 1);
    assert_memory_equal(all->data, x->data, COUNT * sizeof(float));
    tn_tape_free(&tape);
}

/* --- loss --- */

enum { HIDDEN_ROWS = 12, LABELS = 2500 };

typedef struct {
    float hidden[HIDDEN_ROWS * C], head[V * C], bias[V], dhidden[HIDDEN_ROWS * C], dhead[V * C], dbias[V];
    int32_t rows[LABELS], labels[LABELS];
    tn_weight weight, head_bias;
} loss_case;

static tn_var *head_of_case(tn_tape *tape, void *context, tn_var *hidden, int64_t first) {
    (void)first;
    const loss_case *c = context;
    return tn_op_linear(tape, hidden, &c->weight, &c->head_bias);
}

/* The mean loss over LABELS rows, many of them of the same hidden state; with its gradients when recording. */
static double mean_loss(loss_case *c, const tn_kernels *kernels, bool recording, bool trained_head, int *correct_count) {
    static float losses[LABELS];
    static uint8_t correct[LABELS];
    tn_tape tape;
    double sum = 0;
    memset(c->dhead, 0, sizeof c->dhead);
    memset(c->dbias, 0, sizeof c->dbias);
    c->weight = (tn_weight){.tensor = {.ndim = 2, .shape = {V, C}, .data = c->head},
                            .trainable = trained_head,
                            .grad = trained_head ? c->dhead : NULL};
    c->head_bias = (tn_weight){.tensor = {.ndim = 1, .shape = {V}, .data = c->bias},
                               .trainable = trained_head,
                               .grad = trained_head ? c->dbias : NULL};
    assert_ok(tn_tape_init(&tape, kernels, RESERVE));
    tape.recording = recording;
    tn_var *hidden = tn_var_new(&tape, HIDDEN_ROWS, C, true);
    memcpy(hidden->data, c->hidden, sizeof c->hidden);
    tn_op_head_loss(&tape, hidden, head_of_case, c, V, c->rows, c->labels, LABELS, 1.0f / LABELS, losses, correct);
    *correct_count = 0;
    for (int i = 0; i < LABELS; i++) {
        sum += losses[i];
        *correct_count += correct[i];
    }
    assert_true(hidden->grad.taken == recording);
    if (recording)
        memcpy(c->dhidden, hidden->grad.data, sizeof c->dhidden);
    assert_null(tape.last);
    assert_ok(tn_tape_status(&tape));
    tn_tape_free(&tape);
    return sum / LABELS;
}

static void compare_loss_gradient(loss_case *c, float *values, const float *gradient, int64_t count) {
    int unused;
    for (int64_t i = 0; i < count; i++) {
        float kept = values[i];
        values[i] = kept + STEP;
        double up = mean_loss(c, tn_kernels_by_name("reference"), false, false, &unused);
        values[i] = kept - STEP;
        double down = mean_loss(c, tn_kernels_by_name("reference"), false, false, &unused);
        values[i] = kept;
        assert_true(fabs((up - down) / (2 * (double)STEP) - (double)gradient[i]) <= 2e-4);
    }
}

/* The losses that the formula gives, and the gradient of their mean over three pieces of rows. */
static void loss_in_pieces_is_cross_entropy(void **state) {
    static loss_case c;
    int correct, want_correct = 0;
    double want = 0;
    (void)state;
    assert_true(LABELS > 2 * tn_head_loss_rows(tn_kernels_cpu(), false, V, LABELS));
    tn_fill_normal(c.hidden, HIDDEN_ROWS * C, 21, 1, 0, 1);
    tn_fill_normal(c.head, V * C, 21, 2, 0, 0.7f);
    tn_fill_normal(c.bias, V, 21, 3, 0, 0.7f);
    tn_rng rng = tn_rng_start(21, 4);
    for (int i = 0; i < LABELS; i++) {
        c.rows[i] = (int32_t)tn_rng_below(&rng, HIDDEN_ROWS);
        c.labels[i] = (int32_t)tn_rng_below(&rng, V);
        double z[V], sum = 0;
        int best = 0;
        for (int v = 0; v < V; v++) {
            z[v] = c.bias[v];
            for (int j = 0; j < C; j++)
                z[v] += (double)c.hidden[c.rows[i] * C + j] * c.head[v * C + j];
            sum += exp(z[v]);
            best = z[v] > z[best] ? v : best;
        }
        want += (log(sum) - z[c.labels[i]]) / LABELS;
        want_correct += best == c.labels[i];
    }
    for (int kernels = 0; kernels < 2; kernels++) {
        static loss_case kept;
        const tn_kernels *table = kernels ? tn_kernels_cpu() : tn_kernels_by_name("reference");
        assert_true(fabs(mean_loss(&c, table, true, true, &correct) - want) < 1e-5);
        assert_int_equal(correct, want_correct);
        kept = c;
        compare_loss_gradient(&c, c.hidden, kept.dhidden, HIDDEN_ROWS * C);
        compare_loss_gradient(&c, c.head, kept.dhead, V * C);
        compare_loss_gradient(&c, c.bias, kept.dbias, V);
        mean_loss(&c, table, true, false, &correct);
        assert_memory_equal(c.dhidden, kept.dhidden, sizeof c.dhidden);
        assert_true(c.dhead[0] == 0);
    }
}

int main(void) {
    enum { CASES = sizeof op_cases / sizeof *op_cases };
    struct CMUnitTest tests[CASES + 3];
    add_gradient_tests(tests, op_cases, CASES);
    tests[CASES] = (struct CMUnitTest)cmocka_unit_test(dropout_depends_on_seed_and_stream_alone);
    tests[CASES + 1] = (struct CMUnitTest)cmocka_unit_test(loss_in_pieces_is_cross_entropy);
    tests[CASES + 2] = (struct CMUnitTest)cmocka_unit_test(a_weight_is_the_same_stored_either_way);
    return cmocka_run_group_tests_name("gradients of ops", tests, NULL, NULL);
}
