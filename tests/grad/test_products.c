/* Hadamard products of low-rank factors, Kronecker products, and columns that are dropped: gradients by central differences,
 * values by plain loops in double. */
#include "gradient_check.h"

static tn_var *zeros(tn_tape *tape, int64_t rows, int64_t cols) {
    tn_var *y = tn_var_new(tape, rows, cols, false);
    if (tn_tape_live(tape))
        tape->kernels->fill(y->data, 0, rows * cols);
    return y;
}

/* --- gradients --- */

static tn_hadamard_factors factors_of(const operands *in) {
    return (tn_hadamard_factors){.a1 = in->weights[1], .b1 = in->weights[2], .a2 = in->weights[3], .b2 = in->weights[4]};
}
static tn_var *run_hadamard(const operands *in) {
    const tn_hadamard_factors f = factors_of(in);
    tn_var *y = zeros(in->tape, in->values[0]->rows, f.a1->tensor.shape[0]);
    tn_op_hadamard_low_rank(in->tape, y, in->values[0], &f, 1.5f);
    return y;
}
/* The update of a value that x is in already: gradients of x add up. */
static tn_var *run_residual_hadamard(const operands *in) {
    const tn_hadamard_factors f = factors_of(in);
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_hadamard_low_rank(in->tape, y, in->values[0], &f, -0.75f);
    tn_op_add(in->tape, y, in->values[0], 1);
    return y;
}

static tn_var *run_kronecker(const operands *in) {
    tn_var *w1 = in->values[1], *r1 = in->values[2], *r2 = in->values[3];
    tn_var *y = zeros(in->tape, in->values[0]->rows, w1->rows * r2->rows);
    tn_op_kronecker(in->tape, y, in->values[0], w1, r1, r2, 1.5f);
    return y;
}
static tn_var *run_kronecker_first(const operands *in) {
    tn_var *w1 = in->values[1], *w2 = in->values[2];
    tn_var *y = zeros(in->tape, in->values[0]->rows, w1->rows * w2->rows);
    tn_op_kronecker(in->tape, y, in->values[0], w1, w2, NULL, 1.5f);
    return y;
}
static tn_var *run_kronecker_last(const operands *in) {
    tn_var *w1 = in->values[1], *w2 = in->values[2];
    tn_var *y = zeros(in->tape, in->values[0]->rows, w1->rows * w2->rows);
    tn_op_kronecker(in->tape, y, in->values[0], w1, NULL, w2, 1.5f);
    return y;
}
static tn_var *run_residual_kronecker(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_kronecker(in->tape, y, in->values[0], in->values[1], NULL, in->values[2], -0.75f);
    tn_op_add(in->tape, y, in->values[0], 1);
    return y;
}

static tn_var *run_weight_product(const operands *in) {
    return tn_op_weight_product(in->tape, in->weights[0], in->weights[1]);
}
static tn_var *run_weight(const operands *in) {
    return tn_op_weight_product(in->tape, in->weights[0], NULL);
}
static tn_var *run_drop_columns(const operands *in) {
    tn_var *y = copied(in->tape, in->values[0]);
    tn_op_drop_columns(in->tape, y, 4, 0.4f, true, 5, 18);
    return y;
}

static tn_var *run_tucker(const operands *in) {
    return tn_op_tucker(in->tape, in->weights[0], in->weights[1], in->weights[2]);
}
static tn_var *run_multiply(const operands *in) {
    return tn_op_multiply(in->tape, in->values[0], in->values[1]);
}
static tn_var *run_residual_multiply(const operands *in) {
    tn_var *y = tn_op_multiply(in->tape, in->values[0], in->values[1]);
    tn_op_add(in->tape, y, in->values[0], 1);
    tn_op_add(in->tape, y, in->values[1], 1);
    return y;
}
static tn_var *run_kronecker_weight(const operands *in) {
    return tn_op_kronecker_weight(in->tape, in->values[0], in->values[1]);
}
/* A convolution by a value: two groups, a stride and padding; and the same value once more, so that its gradients add up. */
static tn_var *run_convolution(const operands *in) {
    const tn_conv_shape shape = {.in_channels = 4,
                                 .out_channels = 6,
                                 .height = 4,
                                 .width = 3,
                                 .kernel_height = 2,
                                 .kernel_width = 2,
                                 .stride_height = 2,
                                 .stride_width = 1,
                                 .padding_height = 1,
                                 .dilation_height = 1,
                                 .dilation_width = 1,
                                 .groups = 2};
    tn_var *y = tn_op_conv2d_by(in->tape, in->values[0], &shape, in->values[1]);
    tn_var *z = tn_op_conv2d_by(in->tape, in->values[0], &shape, in->values[1]);
    tn_op_add(in->tape, y, z, -0.5f);
    tn_drop(in->tape, z);
    return y;
}

/* A leaf of the case for each factor; V stands for a value, W for a weight. */
#define V(rows, cols)                                                                                                       \
    { rows, cols, false }
#define W(rows, cols)                                                                                                       \
    { rows, cols, true }

static const op_case op_cases[] = {
    {"hadamard of low rank", run_hadamard, 5, {V(4, 8), W(9, 2), W(2, 8), W(9, 2), W(2, 8)}},
    {"hadamard of two ranks", run_hadamard, 5, {V(4, 16), W(14, 2), W(2, 16), W(14, 3), W(3, 16)}},
    {"hadamard of high rank", run_hadamard, 5, {V(4, 5), W(6, 3), W(3, 5), W(6, 4), W(4, 5)}},
    {"hadamard in blocks", run_hadamard, 5, {V(2, 1), W(130, 1), W(1, 1), W(130, 1), W(1, 1)}},
    {"hadamard of low rank, residual", run_residual_hadamard, 5, {V(3, 8), W(8, 2), W(2, 8), W(8, 2), W(2, 8)}},
    {"hadamard of high rank, residual", run_residual_hadamard, 5, {V(3, 4), W(4, 2), W(2, 4), W(4, 2), W(2, 4)}},
    {"kronecker", run_kronecker, 4, {V(4, 3 * 5), V(2, 3), V(2, 5), V(4, 2)}},
    {"kronecker of one row", run_kronecker, 4, {V(1, 3 * 5), V(2, 3), V(2, 5), V(4, 2)}},
    {"kronecker, wide first", run_kronecker_first, 3, {V(4, 3 * 5), V(2, 3), V(4, 5)}},
    {"kronecker, wide first, of one row", run_kronecker_first, 3, {V(1, 3 * 5), V(2, 3), V(4, 5)}},
    {"kronecker, narrow first", run_kronecker_last, 3, {V(4, 3 * 5), V(2, 3), V(4, 5)}},
    {"kronecker, narrow first, of one row", run_kronecker_last, 3, {V(1, 3 * 5), V(2, 3), V(4, 5)}},
    {"kronecker, residual", run_residual_kronecker, 3, {V(3, 6), V(3, 2), V(2, 3)}},
    {"weight product", run_weight_product, 2, {W(5, 3), W(3, 4)}},
    {"weight", run_weight, 1, {W(5, 3)}},
    {"tucker", run_tucker, 3, {W(2, 2 * 3), W(2, 5), W(2, 4)}},
    {"multiply", run_multiply, 2, {V(3, 4), V(3, 4)}},
    {"multiply, residual", run_residual_multiply, 2, {V(3, 4), V(3, 4)}},
    {"kronecker weight", run_kronecker_weight, 2, {V(2, 3), V(4, 5)}},
    {"convolution by a value", run_convolution, 2, {V(2, 4 * 4 * 3), V(6, 2 * 2 * 2)}},
    {"drop columns", run_drop_columns, 1, {V(5, 8)}},
};

/* --- values --- */

enum { MOST_SIZE = 300 * 40 };

typedef struct {
    tn_weight weight;
    float data[MOST_SIZE];
} random_weight;

static tn_weight *fill(random_weight *w, int64_t rows, int64_t cols, uint64_t stream) {
    assert_true(rows * cols <= MOST_SIZE);
    w->weight = (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rows, cols}, .data = w->data}};
    tn_fill_normal(w->data, (size_t)(rows * cols), 31, stream, 0, 1);
    return &w->weight;
}

static double product_at(const tn_weight *a, const tn_weight *b, int64_t row, int64_t col) {
    int64_t rank = b->tensor.shape[0], cols = b->tensor.shape[1];
    double sum = 0;
    for (int64_t r = 0; r < rank; r++)
        sum += (double)((float *)a->tensor.data)[row * rank + r] * ((float *)b->tensor.data)[r * cols + col];
    return sum;
}

/* y against x D^T, for sizes on both sides of the choice between the two ways, and of a block of rows. Sums of up to 60
 * products of five numbers of size 1 come within 1e-5 of their scale. */
static void hadamard_product_is_that_of_plain_loops(void **state) {
    static const int64_t shapes[][4] = {{20, 30, 2, 3}, {20, 30, 8, 7}, {257, 33, 1, 2}, {257, 33, 9, 9}, {1, 1, 1, 1}};
    static random_weight a1, b1, a2, b2, x;
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t out = shapes[i][0], in = shapes[i][1], p = shapes[i][2], q = shapes[i][3], rows = 5;
        const tn_hadamard_factors f = {fill(&a1, out, p, 1), fill(&b1, p, in, 2), fill(&a2, out, q, 3), fill(&b2, q, in, 4)};
        tn_tape tape;
        assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), RESERVE));
        tn_var *input = tn_var_new(&tape, rows, in, false), *y = zeros(&tape, rows, out);
        memcpy(input->data, fill(&x, rows, in, 5)->tensor.data, (size_t)(rows * in) * sizeof(float));
        tn_op_hadamard_low_rank(&tape, y, input, &f, 0.5f);
        for (int64_t t = 0; t < rows; t++) {
            for (int64_t o = 0; o < out; o++) {
                double want = 0, scale = 1;
                for (int64_t c = 0; c < in; c++) {
                    double term = 0.5 * x.data[t * in + c] * product_at(f.a1, f.b1, o, c) * product_at(f.a2, f.b2, o, c);
                    want += term;
                    scale += fabs(term);
                }
                assert_true(fabs(y->data[t * out + o] - want) <= 1e-5 * scale);
            }
        }
        tn_tape_free(&tape);
    }
}

static tn_var *value(tn_tape *tape, const random_weight *w) {
    tn_var *v = tn_var_new(tape, w->weight.tensor.shape[0], w->weight.tensor.shape[1], false);
    memcpy(v->data, w->data, (size_t)(v->rows * v->cols) * sizeof(float));
    return v;
}

static void kronecker_product_is_that_of_plain_loops(void **state) {
    enum { L = 3, M = 4, K = 5, N = 6, P = 2 };
    static random_weight w1, w2, r1, r2, x;
    (void)state;
    fill(&w1, L, M, 1);
    fill(&r1, P, N, 2);
    fill(&r2, K, P, 3);
    fill(&w2, K, N, 4);
    for (int64_t i = 0; i < K * N; i++)
        w2.data[i] = (float)product_at(&r2.weight, &r1.weight, i / N, i % N);
    for (int way = 0; way < 6; way++) {
        int64_t rows = way < 3 ? 7 : 1;
        tn_tape tape;
        assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), RESERVE));
        fill(&x, rows, M * N, 5);
        tn_var *y = zeros(&tape, rows, L * K), *first = value(&tape, &w1);
        tn_var *right = way % 3 == 0 ? value(&tape, &r1) : way % 3 == 1 ? value(&tape, &w2) : NULL;
        tn_var *left = way % 3 == 0 ? value(&tape, &r2) : way % 3 == 2 ? value(&tape, &w2) : NULL;
        tn_op_kronecker(&tape, y, value(&tape, &x), first, right, left, 0.5f);
        for (int64_t t = 0; t < rows; t++) {
            for (int64_t o = 0; o < L * K; o++) {
                double want = 0;
                for (int64_t c = 0; c < M * N; c++)
                    want += 0.5 * (double)w1.data[o / K * M + c / N] * w2.data[o % K * N + c % N] * x.data[t * M * N + c];
                assert_true(fabs(y->data[t * L * K + o] - want) < 1e-4);
            }
        }
        tn_tape_free(&tape);
    }
}

/* Groups of columns go together; each of them is dropped in about p of the draws, and the rest keeps the mean. */
static void columns_are_dropped_by_groups(void **state) {
    enum { GROUPS = 200, WIDTH = 3, COLS = GROUPS * WIDTH };
    (void)state;
    for (int rescale = 0; rescale < 2; rescale++) {
        tn_tape tape;
        int kept = 0;
        assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), RESERVE));
        tn_var *y = tn_var_new(&tape, 2, COLS, false), *z = tn_var_new(&tape, 2, COLS, false);
        tape.kernels->fill(y->data, 1, 2 * COLS);
        tape.kernels->fill(z->data, 1, 2 * COLS);
        tn_op_drop_columns(&tape, y, GROUPS, 0.25f, rescale, 3, 4);
        tn_op_drop_columns(&tape, z, GROUPS, 0.25f, rescale, 3, 4);
        assert_memory_equal(y->data, z->data, 2 * COLS * sizeof(float));
        for (int g = 0; g < GROUPS; g++) {
            kept += y->data[g * WIDTH] != 0;
            for (int i = 0; i < 2 * WIDTH; i++)
                assert_true(y->data[i / WIDTH * COLS + g * WIDTH + i % WIDTH] == y->data[g * WIDTH]);
        }
        for (int i = 0; i < COLS; i++)
            assert_true(y->data[i] == 0 || fabs(y->data[i] - (rescale ? (double)GROUPS / kept : 1)) < 1e-6);
        /* 150 expected, standard deviation 6 */
        assert_in_range(kept, 120, 180);
        tn_tape_free(&tape);
    }
}

int main(void) {
    enum { CASES = sizeof op_cases / sizeof *op_cases };
    struct CMUnitTest tests[CASES + 3];
    add_gradient_tests(tests, op_cases, CASES);
    tests[CASES] = (struct CMUnitTest)cmocka_unit_test(hadamard_product_is_that_of_plain_loops);
    tests[CASES + 1] = (struct CMUnitTest)cmocka_unit_test(kronecker_product_is_that_of_plain_loops);
    tests[CASES + 2] = (struct CMUnitTest)cmocka_unit_test(columns_are_dropped_by_groups);
    return cmocka_run_group_tests_name("gradients of products", tests, NULL, NULL);
}
