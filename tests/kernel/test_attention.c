/* Attention of every table against the plain reference: head sizes, grouped heads, windows, packed and cached spans. */
#include "kernel_test.h"

static const double SUMS = 1e-5, ROUNDED = 1e-2;

typedef struct {
    const char *name;
    tn_attention_shape shape;
    int64_t span_count;
    tn_span spans[12];
} attention_case;

static const attention_case cases[] = {
    {"one token", {1, 1, 8, 0, 1}, 1, {{0, 1, 0, 1}}},
    {"one head", {1, 1, 8, 0, 0.35f}, 1, {{0, 37, 0, 37}}},
    {"grouped heads", {6, 2, 16, 0, 0.25f}, 1, {{0, 65, 0, 65}}},
    {"packed", {4, 2, 64, 0, 0.125f}, 4, {{0, 5, 0, 5}, {5, 70, 5, 70}, {75, 1, 75, 1}, {76, 33, 76, 33}}},
    {"head size 80", {3, 1, 80, 0, 0.11f}, 2, {{0, 20, 0, 20}, {20, 21, 20, 21}}},
    {"head size 128", {2, 2, 128, 0, 0.09f}, 2, {{3, 66, 1, 66}, {0, 3, 70, 3}}},
    {"window", {2, 1, 16, 7, 0.25f}, 2, {{0, 130, 0, 130}, {130, 9, 130, 9}}},
    {"window of one", {2, 1, 16, 1, 0.25f}, 1, {{0, 66, 0, 66}}},
    {"wide window over key blocks", {2, 1, 16, 300, 0.25f}, 1, {{0, 80, 0, 700}}},
    {"narrow window over key blocks", {1, 1, 8, 20, 0.25f}, 1, {{0, 600, 0, 600}}},
    {"decode", {6, 2, 64, 0, 0.125f}, 2, {{0, 1, 0, 523}, {1, 1, 523, 40}}},
    {"decode in a window", {6, 2, 16, 100, 0.25f}, 2, {{0, 1, 0, 523}, {1, 3, 523, 140}}},
    {"decode in a wide window", {3, 3, 24, 200, 0.25f}, 2, {{0, 1, 0, 523}, {1, 1, 523, 130}}},
    {"decode of large pieces", {28, 4, 128, 0, 0.09f}, 1, {{0, 1, 0, 1901}}},
    {"decode of large heads", {64, 1, 300, 0, 0.06f}, 1, {{0, 1, 0, 300}}},
    {"decode of small heads", {2, 2, 6, 0, 0.3f}, 1, {{0, 1, 0, 400}}},
    {"chunk after a cache", {2, 1, 16, 0, 0.25f}, 2, {{0, 70, 0, 600}, {70, 4, 600, 19}}},
    {"two key heads", {6, 2, 32, 0, 0.2f}, 1, {{0, 300, 0, 300}}},
    {"two key heads after a cache", {4, 2, 16, 0, 0.25f}, 1, {{0, 190, 0, 423}}},
    {"large scores", {2, 1, 16, 0, 20}, 1, {{0, 300, 0, 300}}},
    {"many spans",
     {4, 4, 8, 0, 0.3f},
     12,
     {{0, 9, 0, 9},
      {9, 8, 9, 8},
      {17, 12, 17, 12},
      {29, 1, 29, 1},
      {30, 30, 30, 30},
      {60, 7, 60, 7},
      {67, 8, 67, 8},
      {75, 5, 75, 5},
      {80, 20, 80, 20},
      {100, 2, 100, 2},
      {102, 3, 102, 3},
      {105, 4, 105, 4}}},
    {"empty span", {2, 1, 8, 0, 0.3f}, 3, {{0, 0, 0, 0}, {0, 6, 0, 6}, {6, 0, 6, 3}}},
};

static void rows_of(const attention_case *c, int64_t *q_rows, int64_t *kv_rows) {
    *q_rows = *kv_rows = 0;
    for (int64_t i = 0; i < c->span_count; i++) {
        const tn_span *span = &c->spans[i];
        *q_rows = *q_rows > span->q_start + span->q_rows ? *q_rows : span->q_start + span->q_rows;
        *kv_rows = *kv_rows > span->kv_start + span->kv_rows ? *kv_rows : span->kv_start + span->kv_rows;
    }
}

/* With a scale of 20 the scores reach hundreds, where one ulp of a score is 1e-5 of its probability. */
static double tolerance_of(const tn_kernels *t, const attention_case *c) {
    return rounds_to_bf16(t) ? ROUNDED : c->shape.scale > 1 ? 1e-3 : SUMS;
}

/* Of what a table that rounds reads: probabilities and their gradients are then all that rounding changes. */
static float *noise_for(const tn_kernels *t, int64_t count) {
    float *x = noise(count, 1);
    for (int64_t i = 0; i < count && rounds_to_bf16(t); i++)
        x[i] = tn_bf16_to_f32(tn_f32_to_bf16(x[i]));
    return x;
}

static void check_attention(const tn_kernels *t, const attention_case *c) {
    const tn_kernels *r = reference();
    int64_t q_rows, kv_rows;
    rows_of(c, &q_rows, &kv_rows);
    int64_t q_count = q_rows * c->shape.heads * c->shape.head_size, lse_count = q_rows * c->shape.heads;
    int64_t kv_count = kv_rows * c->shape.kv_heads * c->shape.head_size;
    double tolerance = tolerance_of(t, c);
    float *q = noise_for(t, q_count), *k = noise_for(t, kv_count), *v = noise_for(t, kv_count),
          *dout = noise_for(t, q_count);
    float *out = floats(q_count), *lse = floats(lse_count), *got = noise(q_count, 1), *got_lse = copy_of(lse, lse_count);
    memcpy(out, got, (size_t)q_count * sizeof *out); /* rows of no span stay as they were */
    r->attention_forward(out, lse, q, k, v, c->spans, c->span_count, &c->shape);
    t->attention_forward(got, got_lse, q, k, v, c->spans, c->span_count, &c->shape);
    expect_close(c->name, got, out, q_count, tolerance);
    expect_close(c->name, got_lse, lse, lse_count, tolerance);
    float *again = copy_of(got, q_count);
    t->attention_forward(again, NULL, q, k, v, c->spans, c->span_count, &c->shape);
    expect_same_bytes(c->name, again, got, (size_t)q_count * sizeof *got);

    float *dq = noise(q_count, 1), *dk = noise(kv_count, 1), *dv = noise(kv_count, 1);
    float *got_dq = copy_of(dq, q_count), *got_dk = copy_of(dk, kv_count), *got_dv = copy_of(dv, kv_count);
    r->attention_backward(dq, dk, dv, dout, out, lse, q, k, v, c->spans, c->span_count, &c->shape);
    t->attention_backward(got_dq, got_dk, got_dv, dout, out, lse, q, k, v, c->spans, c->span_count, &c->shape);
    expect_close(c->name, got_dq, dq, q_count, tolerance);
    expect_close(c->name, got_dk, dk, kv_count, tolerance);
    expect_close(c->name, got_dv, dv, kv_count, tolerance);
    release_arrays();
}

static void check_all(const tn_kernels *t) {
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_attention(t, &cases[i]);
}

static void every_table_agrees_with_the_reference(void **state) {
    (void)state;
    FOR_EACH_TABLE(t) {
        noise_stream = 0;
        check_all(t);
    }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state) {
    (void)state;
    expect_thread_invariance(check_all);
}

/* A sequence gives the same whether its rows come at once or one by one against the cache. */
static void decoding_row_by_row_gives_what_one_pass_gives(void **state) {
    (void)state;
    enum { ROWS = 150, HEADS = 4, KV_HEADS = 2, SIZE = 16 };
    const tn_attention_shape shape = {HEADS, KV_HEADS, SIZE, 0, 0.25f};
    FOR_EACH_TABLE(t) {
        int64_t count = ROWS * HEADS * SIZE, row = HEADS * SIZE;
        float *q = noise(count, 1), *k = noise(count / 2, 1), *v = noise(count / 2, 1);
        float *whole = floats(count), *rows = floats(count);
        tn_span span = {0, ROWS, 0, ROWS};
        t->attention_forward(whole, NULL, q, k, v, &span, 1, &shape);
        for (int64_t i = 0; i < ROWS; i++) {
            tn_span step = {0, 1, 0, i + 1};
            t->attention_forward(rows + i * row, NULL, q + i * row, k, v, &step, 1, &shape);
        }
        expect_close("row by row", rows, whole, count, rounds_to_bf16(t) ? ROUNDED : SUMS);
        release_arrays();
    }
}

static void a_broken_key_shows_in_every_query_that_sees_it(void **state) {
    (void)state;
    enum { ROWS = 170, SIZE = 8 };
    const tn_attention_shape shape = {1, 1, SIZE, 0, 0.25f};
    FOR_EACH_TABLE(t) {
        float *q = noise(ROWS * SIZE, 1), *k = noise(ROWS * SIZE, 1), *v = noise(ROWS * SIZE, 1);
        float *out = floats(ROWS * SIZE);
        tn_span span = {0, ROWS, 0, ROWS}, last = {0, 1, 0, ROWS};
        k[30 * SIZE] = NAN;
        t->attention_forward(out, NULL, q, k, v, &last, 1, &shape);
        assert_true(isnan(out[0]));
        t->attention_forward(out, NULL, q, k, v, &span, 1, &shape);
        for (int64_t i = 0; i < ROWS; i++)
            assert_true(isnan(out[i * SIZE]) == (i >= 30));
        release_arrays();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table_agrees_with_the_reference),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(decoding_row_by_row_gives_what_one_pass_gives),
        cmocka_unit_test(a_broken_key_shows_in_every_query_that_sees_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
