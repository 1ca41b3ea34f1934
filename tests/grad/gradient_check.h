/* An op's gradient against central differences of its own forward.
 *
 * The scalar is L = sum(w * y) with random w, summed in double. Each entry of each value and weight is moved by h = 1/64
 * both ways on the reference kernels. Rounding: y carries errors of about 2^-22 for entries of size 1, of which a few dozen
 * add up at random, over 2 h: below 1e-4. Truncation: h^2 / 6 times the third derivative, which is at most about 20 here:
 * below 1e-3. So entries must agree within 2e-3 of the largest entry of their gradient (or of 1, for gradients that vanish).
 */
#ifndef TENON_TESTS_GRADIENT_CHECK_H
#define TENON_TESTS_GRADIENT_CHECK_H

#include "support/support.h"

#include "grad/ops.h"

enum { MOST = 5, LARGEST = 256, RESERVE = 8 << 20 }; /* leaves, entries of a leaf, bytes of a tape */
static const float STEP = 1.0f / 64;

/* What an op reads: values and weights by number, in the order of the case's leaves. */
typedef struct {
    tn_tape *tape;
    tn_var *values[MOST];
    const tn_weight *weights[MOST];
} operands;

/* Returns the result; in-place ops return the value they changed. Values are the caller's. */
typedef tn_var *(*op_fn)(const operands *in);

typedef struct {
    int64_t rows, cols;
    bool is_weight;
} leaf;

typedef struct {
    const char *name;
    op_fn run;
    int leaf_count;
    leaf leaves[MOST];
} op_case;

static inline tn_var *copied(tn_tape *tape, tn_var *x) {
    static const int32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    return tn_op_take_rows(tape, x, all, 0, x->rows);
}

static float data[MOST][LARGEST], numeric[MOST][LARGEST], analytic[MOST][LARGEST];

static inline float weight_of(int64_t i) {
    return (float)((i * 7919 + 13) % 101) / 50 - 1;
}

/* What a run took, to the byte. */
typedef struct {
    int64_t peak;
    double flops;
} costs;

/* A recording tape and on it the leaves, those of `trained` needing gradients. */
static inline void lay_out(const op_case *c, const tn_kernels *kernels, unsigned trained, int64_t reserve, tn_tape *tape,
                           tn_weight weights[MOST], operands *in) {
    *in = (operands){.tape = tape};
    assert_ok(tn_tape_init(tape, kernels, reserve));
    tape->recording = trained != 0;
    for (int i = 0; i < c->leaf_count; i++) {
        const leaf *l = &c->leaves[i];
        bool needs = trained >> i & 1;
        if (l->is_weight) {
            weights[i].tensor = (tn_tensor){
                .ndim = l->rows > 1 ? 2 : 1, .shape = {l->rows > 1 ? l->rows : l->cols, l->cols}, .data = data[i]};
            weights[i].trainable = needs;
            weights[i].grad = needs ? memset(analytic[i], 0, sizeof analytic[i]) : NULL;
            in->weights[i] = &weights[i];
        } else {
            in->values[i] = tn_var_new(tape, l->rows, l->cols, needs);
            if (in->values[i]->data)
                memcpy(in->values[i]->data, data[i], (size_t)(l->rows * l->cols) * sizeof(float));
        }
    }
}

/* Lays the scalar's gradient on y and goes back. */
static inline void go_back(tn_tape *tape, tn_var *y) {
    y->grad = tn_scratch_take(tape, y->rows * y->cols);
    for (int64_t i = 0; y->grad.data && i < y->rows * y->cols; i++)
        y->grad.data[i] = weight_of(i);
    tn_drop(tape, y);
    tn_tape_backward(tape);
}

/* Runs the case, and back when anything is trained. With reserve 0 it is a rehearsal, for its costs (which may be NULL). */
static inline double run(const op_case *c, const tn_kernels *kernels, unsigned trained, int64_t reserve, costs *taken) {
    tn_tape tape;
    tn_weight weights[MOST] = {0};
    operands in;
    lay_out(c, kernels, trained, reserve, &tape, weights, &in);
    tn_var *y = c->run(&in);
    double sum = 0;
    for (int64_t i = 0; reserve > 0 && i < y->rows * y->cols; i++)
        sum += (double)weight_of(i) * y->data[i];
    assert_true(y->needs_grad == (trained != 0));
    if (trained)
        go_back(&tape, y);
    for (int i = 0; i < c->leaf_count; i++) {
        if (c->leaves[i].is_weight || !(trained >> i & 1))
            continue;
        assert_true(in.values[i]->grad.taken);
        if (reserve > 0)
            memcpy(analytic[i], in.values[i]->grad.data, (size_t)(c->leaves[i].rows * c->leaves[i].cols) * sizeof(float));
    }
    assert_ok(tn_tape_status(&tape));
    if (taken)
        *taken = (costs){tape.heap.peak, tape.flops};
    tn_tape_free(&tape);
    return sum;
}

/* Wherever memory ends, on the way forward or back, the tape says so. */
static inline void run_short_of_memory(const op_case *c, unsigned trained, int64_t peak) {
    for (int64_t reserve = TN_HEAP_ALIGN; reserve < peak; reserve += TN_HEAP_ALIGN) {
        tn_tape tape;
        tn_weight weights[MOST] = {0};
        operands in;
        lay_out(c, tn_kernels_cpu(), trained, reserve, &tape, weights, &in);
        tn_var *y = c->run(&in);
        if (tn_tape_status(&tape) == TN_OK)
            go_back(&tape, y);
        assert_int_equal(tn_tape_status(&tape), TN_ERROR_MEMORY);
        tn_tape_free(&tape);
    }
}

static inline void find_numeric(const op_case *c) {
    for (int i = 0; i < c->leaf_count; i++) {
        for (int64_t j = 0; j < c->leaves[i].rows * c->leaves[i].cols; j++) {
            float kept = data[i][j];
            data[i][j] = kept + STEP;
            double up = run(c, tn_kernels_by_name("reference"), 0, RESERVE, NULL);
            data[i][j] = kept - STEP;
            double down = run(c, tn_kernels_by_name("reference"), 0, RESERVE, NULL);
            data[i][j] = kept;
            numeric[i][j] = (float)((up - down) / (2.0 * (double)STEP));
        }
    }
}

static inline void compare(const op_case *c, unsigned trained, const char *kernels, double tolerance) {
    for (int i = 0; i < c->leaf_count; i++) {
        int64_t count = c->leaves[i].rows * c->leaves[i].cols;
        double scale = 1;
        if (!(trained >> i & 1))
            continue;
        for (int64_t j = 0; j < count; j++)
            scale = fmax(scale, fabs((double)numeric[i][j]));
        double difference = largest_difference(analytic[i], numeric[i], count);
        if (!(difference <= tolerance * scale))
            fail_msg("%s on %s, trained %u: gradient of operand %d is off by %g of %g", c->name, kernels, trained, i,
                     difference, scale);
    }
}

/* With kernels that round to bf16, which keep values for the way back in it. They then need other memory. */
static inline void check_rounded(const op_case *c, unsigned trained) {
    const tn_kernels *kernels = tn_kernels_cpu_bf16();
    costs planned, taken;
    if (!kernels)
        return;
    run(c, kernels, trained, 0, &planned);
    run(c, kernels, trained, planned.peak, &taken);
    assert_true(planned.peak == taken.peak && planned.flops == taken.flops);
    compare(c, trained, kernels->name, 2e-2);
}

/* With every choice of what is trained, on the plain and on the fastest kernels. A rehearsal counts what the run then takes;
 * less memory is an error. */
static inline void gradient_is_that_of_central_differences(void **state) {
    const op_case *c = *state;
    for (int i = 0; i < c->leaf_count; i++) {
        assert_true(c->leaves[i].rows * c->leaves[i].cols <= LARGEST);
        tn_fill_normal(data[i], LARGEST, 11, (uint64_t)i, 0, 1);
    }
    find_numeric(c);
    for (unsigned trained = 1; trained < 1u << c->leaf_count; trained++) {
        costs planned, taken;
        run(c, tn_kernels_cpu(), trained, 0, &planned);
        run(c, tn_kernels_by_name("reference"), trained, planned.peak, &taken);
        assert_true(planned.peak == taken.peak && planned.flops == taken.flops);
        compare(c, trained, "reference", 2e-3);
        run(c, tn_kernels_cpu(), trained, planned.peak, NULL);
        compare(c, trained, tn_kernels_cpu()->name, 2e-3);
        check_rounded(c, trained);
        run_short_of_memory(c, trained, planned.peak);
    }
}

/* A test for each case of an array. */
static inline void add_gradient_tests(struct CMUnitTest *tests, const op_case *cases, int count) {
    for (int i = 0; i < count; i++)
        tests[i] = (struct CMUnitTest){cases[i].name, gradient_is_that_of_central_differences, NULL, NULL,
                                       (void *)(uintptr_t)&cases[i]};
}

#endif
