/* Composition as maths: recorded results of PEFT's add_weighted_adapter, and what must hold for any adapters. */
#include "peft/compose.h"
#include "peft/factors.h"
#include "support/support.h"

#define GOLDEN TENON_SOURCE_ROOT "/tests/golden/combine/"

enum { MOST = 4 };

/* The dense sum of weights[i] scale_i B_i A_i in double, into out [O, C]. */
static void dense_sum(double *out, const tn_factors *terms, const double *weights, size_t count) {
    memset(out, 0, (size_t)(terms->out * terms->in) * sizeof *out);
    for (size_t t = 0; t < count; t++)
        for (int64_t i = 0; i < terms->out; i++)
            for (int64_t r = 0; r < terms[t].rank; r++)
                for (int64_t j = 0; j < terms->in; j++)
                    out[i * terms->in + j] += weights[t] * terms[t].scale * terms[t].b[i * terms[t].rank + r] *
                                              (double)terms[t].a[r * terms->in + j];
}

static double norm_of(const double *x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

/* ||made - sum||_F / ||sum||_F, by whole matrices. */
static double relative_error(const tn_factors *made, const tn_factors *terms, const double *weights, size_t count) {
    static const double one = 1;
    int64_t n = made->out * made->in;
    double *x = calloc((size_t)n, sizeof *x), *y = calloc((size_t)n, sizeof *y);
    assert_true(x && y);
    dense_sum(x, made, &one, 1);
    dense_sum(y, terms, weights, count);
    double exact = norm_of(y, n);
    for (int64_t i = 0; i < n; i++)
        x[i] -= y[i];
    double error = norm_of(x, n) / exact;
    free(x);
    free(y);
    return error;
}

static tn_factors random_factors(tn_arena *arena, int64_t out, int64_t in, int64_t rank, double scale, uint64_t seed) {
    float *a = tn_arena_array(arena, (size_t)(rank * in), sizeof *a),
          *b = tn_arena_array(arena, (size_t)(out * rank), sizeof *b);
    assert_true(a && b);
    tn_fill_normal(a, (size_t)(rank * in), seed, tn_stream(TN_STREAM_DATA, 1), 0, 1);
    tn_fill_normal(b, (size_t)(out * rank), seed, tn_stream(TN_STREAM_DATA, 2), 0, 1);
    return (tn_factors){.out = out, .in = in, .rank = rank, .scale = scale, .a = a, .b = b};
}

static const size_t adapters[MOST] = {0, 1, 2, 3};

static tn_compose_rule rule_of(const char *mode) {
    tn_compose_rule rule = {0};
    assert_ok(tn_compose_mode_parse(mode, &rule));
    return rule;
}

/* --- PEFT's results --- */

static tn_status recorded_mask(void *cookie, const char *module, const char *part, size_t adapter, uint8_t *keep,
                               int64_t count) {
    char name[256];
    snprintf(name, sizeof name, "mask.%s.%s.adapter_%zu", module, part, adapter);
    const tn_safetensors_entry *entry = tn_safetensors_find(cookie, name);
    assert_non_null(entry);
    assert_int_equal(tn_tensor_count(&entry->tensor), count);
    memcpy(keep, entry->tensor.data, (size_t)count);
    return TN_OK;
}

static tn_compose_rule recorded_rule(const cJSON *json, tn_safetensors *io) {
    const cJSON *options = tn_json_get(json, "options");
    const char *sign = "total";
    tn_compose_rule rule = rule_of(tn_json_get(json, "combination_type")->valuestring);
    assert_ok(tn_json_get_int(options, "svd_rank", "options", 1, 100, &rule.rank));
    assert_ok(tn_json_get_double(options, "density", "options", &rule.density));
    assert_ok(tn_json_get_string(options, "majority_sign_method", "options", &sign));
    rule.by_frequency = strcmp(sign, "frequency") == 0;
    rule.mask = recorded_mask;
    rule.cookie = io;
    return rule;
}

static void golden_case_agrees_with_peft(void **state) {
    char path[512], name[256];
    const char *case_name = *state;
    cJSON *json;
    tn_safetensors io;
    tn_factor_folder folders[MOST];
    double weights[MOST];
    size_t count = 0;
    snprintf(path, sizeof path, GOLDEN "%s/case.json", case_name);
    assert_ok(tn_json_read(path, 1 << 20, &json));
    snprintf(path, sizeof path, GOLDEN "%s/io.safetensors", case_name);
    assert_ok(tn_safetensors_open(path, &io));
    tn_compose_rule rule = recorded_rule(json, &io);
    const cJSON *weight;
    cJSON_ArrayForEach(weight, tn_json_get(json, "weights")) {
        snprintf(path, sizeof path, GOLDEN "%s/adapter_%zu", case_name, count);
        assert_ok(tn_factor_folder_open(path, &folders[count]));
        weights[count++] = weight->valuedouble;
    }
    double tolerance = tn_json_get(tn_json_get(json, "tolerance"), "delta_abs")->valuedouble;
    assert_int_equal(folders->count, 2);
    for (size_t m = 0; m < folders->count; m++) {
        const char *module = folders->modules[m].name;
        static const double one = 1;
        tn_factors terms[MOST], made;
        double given[MOST], delta[32 * 32];
        tn_arena arena = {0};
        for (size_t i = 0; i < count; i++) {
            assert_ok(tn_factor_module_read(tn_factor_folder_find(&folders[i], module), &arena, &terms[i]));
            /* PEFT's scaling enters these twice */
            given[i] = weights[i] * (tn_compose_truncates(&rule) ? terms[i].scale : 1);
        }
        assert_ok(tn_compose_module(&rule, module, terms, given, adapters, count, &arena, &made));
        dense_sum(delta, &made, &one, 1);
        snprintf(name, sizeof name, "delta.%s.weight", module);
        const tn_tensor *want = &tn_safetensors_find(&io, name)->tensor;
        assert_int_equal(tn_tensor_count(want), made.out * made.in);
        for (int64_t i = 0; i < made.out * made.in; i++)
            assert_true(fabs(delta[i] - ((const float *)want->data)[i]) <= tolerance);
        tn_arena_free(&arena);
    }
    for (size_t i = 0; i < count; i++)
        tn_factor_folder_close(&folders[i]);
    tn_safetensors_close(&io);
    cJSON_Delete(json);
}

/* --- what must hold --- */

static void one_adapter_with_weight_one_is_itself(void **state) {
    (void)state;
    static const char *const modes[] = {"linear",
                                        "cat",
                                        "svd",
                                        "ties",
                                        "dare_linear",
                                        "dare_ties",
                                        "magnitude_prune",
                                        "ties_svd",
                                        "dare_linear_svd",
                                        "dare_ties_svd",
                                        "magnitude_prune_svd"};
    static const double one = 1;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        tn_arena arena = {0};
        tn_factors made, term = random_factors(&arena, 45, 70, 6, 1.75, i);
        tn_compose_rule rule = rule_of(modes[i]);
        rule.density = 1;
        assert_ok(tn_compose_module(&rule, "m", &term, &one, adapters, 1, &arena, &made));
        assert_true(made.scale == 1 && made.rank == 6);
        assert_true(relative_error(&made, &term, &one, 1) < 1e-6);
        for (int64_t j = 0; j < 6 * 70 && strcmp(modes[i], "linear") == 0; j++)
            assert_true(made.a[j] == (float)(sqrt(1.75) * term.a[j]));
        tn_arena_free(&arena);
    }
}

static void cat_is_the_exact_sum_and_so_is_svd_at_full_rank(void **state) {
    (void)state;
    static const double weights[3] = {0.7, -1.2, 0.05};
    static const int64_t shapes[][2] = {{40, 90}, {90, 40}, {7, 50}, {1, 5}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        tn_arena arena = {0};
        tn_factors made, terms[3];
        int64_t out = shapes[s][0], in = shapes[s][1], least = out < in ? out : in;
        for (size_t i = 0; i < 3; i++)
            terms[i] = random_factors(&arena, out, in, 3 + 2 * (int64_t)i, 0.5 + (double)i, s * 10 + i);
        tn_compose_rule cat = rule_of("cat"), svd = rule_of("svd");
        assert_ok(tn_compose_module(&cat, "m", terms, weights, adapters, 3, &arena, &made));
        assert_int_equal(made.rank, 15);
        assert_true(relative_error(&made, terms, weights, 3) < 1e-6);
        svd.rank = 100;
        assert_ok(tn_compose_module(&svd, "m", terms, weights, adapters, 3, &arena, &made));
        assert_int_equal(made.rank, least < 15 ? least : 15);
        assert_true(relative_error(&made, terms, weights, 3) < 1e-6);
        tn_arena_free(&arena);
    }
}

/* The best approximation of a rank has the error that the singular values left out say. */
static void svd_leaves_out_the_smallest_components(void **state) {
    (void)state;
    static const double weights[2] = {1, 0.5};
    tn_arena arena = {0};
    tn_factors terms[2] = {random_factors(&arena, 30, 50, 4, 2, 1), random_factors(&arena, 30, 50, 5, 1, 2)};
    tn_low_rank full, cut;
    double norm, previous = 0;
    assert_ok(tn_low_rank_of_sum(terms, weights, 2, (tn_rank_choice){.rank = 9}, &arena, &full));
    assert_ok(tn_factors_norm(terms, weights, 2, &norm, NULL));
    assert_true(fabs(full.total - norm * norm) < 1e-5 * full.total);
    assert_true(full.dropped == 0);
    for (int64_t rank = 8; rank >= 1; rank--) {
        assert_ok(tn_low_rank_of_sum(terms, weights, 2, (tn_rank_choice){.rank = rank}, &arena, &cut));
        assert_int_equal(cut.factors.rank, rank);
        double error = relative_error(&cut.factors, terms, weights, 2), stated = sqrt(cut.dropped / cut.total);
        assert_true(fabs(error - stated) < 1e-5);
        assert_true(error > previous);
        previous = error;
    }
    for (double energy = 0.1; energy < 1; energy += 0.1) {
        assert_ok(tn_low_rank_of_sum(terms, weights, 2, (tn_rank_choice){.energy = energy}, &arena, &cut));
        assert_true(1 - cut.dropped / cut.total >= energy - 1e-6);
        tn_low_rank less = cut;
        if (cut.factors.rank > 1)
            assert_ok(tn_low_rank_of_sum(terms, weights, 2, (tn_rank_choice){.rank = cut.factors.rank - 1}, &arena, &less));
        assert_true(cut.factors.rank == 1 || 1 - less.dropped / less.total < energy);
    }
    tn_arena_free(&arena);
}

/* A matrix large enough for the randomised decomposition: rank 20 and noise. */
static void large_matrices_are_decomposed_at_random_with_the_true_energy(void **state) {
    (void)state;
    enum { ROWS = 420, COLS = 530, N = ROWS * COLS };
    static const double one = 1;
    tn_arena arena = {0};
    tn_factors low = random_factors(&arena, ROWS, COLS, 20, 0.05, 5);
    double *exact = calloc(N, sizeof *exact), *made = calloc(N, sizeof *made), total = 0;
    float *w = calloc(N, sizeof *w);
    assert_true(exact && made && w);
    tn_fill_normal(w, N, 6, tn_stream(TN_STREAM_DATA, 1), 0, 0.01f);
    dense_sum(exact, &low, &one, 1);
    for (int i = 0; i < N; i++) {
        w[i] += (float)exact[i];
        total += (double)w[i] * w[i];
    }
    tn_low_rank random, full;
    static const tn_rank_choice choices[] = {{.rank = 20}, {.rank = 7}, {.energy = 0.9}, {.energy = 0.9999}};
    for (size_t c = 0; c < 4; c++) {
        assert_ok(tn_low_rank_of_dense(w, ROWS, COLS, choices[c], 3, &arena, &random));
        dense_sum(made, &random.factors, &one, 1);
        for (int i = 0; i < N; i++)
            made[i] -= w[i];
        double residual = norm_of(made, N);
        assert_true(fabs(random.total - total) < 1e-5 * total);
        assert_true(fabs(random.dropped - residual * residual) < 1e-5 * total);
        if (choices[c].energy > 0)
            assert_true(1 - random.dropped / random.total >= choices[c].energy - 1e-6);
    }
    /* as good as the full decomposition, which a rank above a quarter of all components takes */
    assert_ok(tn_low_rank_of_dense(w, ROWS, COLS, (tn_rank_choice){.rank = 7}, 3, &arena, &random));
    assert_ok(tn_low_rank_of_dense(w, ROWS, COLS, (tn_rank_choice){.rank = ROWS}, 3, &arena, &full));
    double best = full.total;
    for (int64_t r = 0; r < 7; r++)
        for (int64_t i = 0; i < ROWS; i++)
            best -= (double)full.factors.b[i * ROWS + r] * full.factors.b[i * ROWS + r];
    assert_true(random.dropped < best * (1 + 1e-4));
    tn_arena_free(&arena);
    free(exact);
    free(made);
    free(w);
}

static void norms_by_gram_matrices_are_those_of_the_matrices(void **state) {
    (void)state;
    static const double weights[3] = {2, -0.3, 1};
    tn_arena arena = {0};
    tn_factors terms[3] = {random_factors(&arena, 300, 600, 3, 0.5, 1), random_factors(&arena, 300, 600, 5, 1, 2),
                           random_factors(&arena, 300, 600, 1, 4, 3)};
    double *dense = calloc(300 * 600, sizeof *dense), norm;
    assert_non_null(dense);
    dense_sum(dense, terms, weights, 3);
    assert_ok(tn_factors_norm(terms, weights, 3, &norm, NULL));
    assert_true(fabs(norm / norm_of(dense, 300 * 600) - 1) < 1e-10);
    static const double opposite[2] = {1, -1};
    tn_factors same[2] = {terms[0], terms[0]};
    double rest;
    assert_ok(tn_factors_norm(same, opposite, 2, &rest, NULL));
    assert_true(rest < 1e-7 * norm);
    tn_arena_free(&arena);
    free(dense);
}

/* On factors that hold the entries themselves: B = 1 and rank 1, so that the update is A. */
static void compose_rows(const tn_compose_rule *rule, const float rows[][6], size_t count, float out[6]) {
    static const float one = 1;
    static const double weights[MOST] = {1, 1, 1, 1};
    tn_factors terms[MOST], made;
    tn_arena arena = {0};
    for (size_t i = 0; i < count; i++)
        terms[i] = (tn_factors){.out = 1, .in = 6, .rank = 1, .scale = 1, .a = rows[i], .b = &one};
    assert_ok(tn_compose_module(rule, "m", terms, weights, adapters, count, &arena, &made));
    for (int i = 0; i < 6; i++)
        out[i] = made.a[i] * made.b[0];
    tn_arena_free(&arena);
}

static void pruning_keeps_the_largest_and_the_first_of_equals(void **state) {
    (void)state;
    static const float rows[1][6] = {{1, -3, 3, 0.5f, 3, -2}};
    static const float want[7][6] = {{0},
                                     {0, -3, 0, 0, 0, 0},
                                     {0, -3, 3, 0, 0, 0},
                                     {0, -3, 3, 0, 3, 0},
                                     {0, -3, 3, 0, 3, -2},
                                     {1, -3, 3, 0, 3, -2},
                                     {1, -3, 3, 0.5f, 3, -2}};
    float got[6];
    for (int keep = 0; keep <= 6; keep++) {
        tn_compose_rule rule = rule_of("magnitude_prune");
        rule.density = (keep + 0.5) / 6 < 1 ? (keep + 0.5) / 6 : 1;
        /* B has one entry, which only density 1 keeps: look at A alone */
        static const float one = 1;
        static const double weight = 1;
        tn_arena arena = {0};
        tn_factors made, term = {.out = 1, .in = 6, .rank = 1, .scale = 1, .a = rows[0], .b = &one};
        assert_ok(tn_compose_module(&rule, "m", &term, &weight, adapters, 1, &arena, &made));
        memcpy(got, made.a, sizeof got);
        tn_arena_free(&arena);
        assert_memory_equal(got, want[keep], sizeof got);
    }
}

static void ties_averages_the_entries_of_the_elected_sign(void **state) {
    (void)state;
    static const float rows[3][6] = {{5, 1, 0, 2, -1, 0}, {-2, 1, 0, -2, -3, 0}, {-2, -4, 3, 0, 1, 0}};
    static const float total[6] = {5, -4, 3, 2, -2, 0}, frequency[6] = {-2, 1, 3, 2, -2, 0};
    float got[6];
    tn_compose_rule rule = rule_of("ties");
    rule.density = 1;
    compose_rows(&rule, rows, 3, got);
    assert_memory_equal(got, total, sizeof got);
    rule.by_frequency = true;
    compose_rows(&rule, rows, 3, got);
    assert_memory_equal(got, frequency, sizeof got);
}

static void random_masks_follow_seed_module_and_adapter(void **state) {
    (void)state;
    enum { IN = 20000 };
    static const double weight = 1;
    static const float one = 1;
    tn_arena arena = {0};
    float *ones = tn_arena_array(&arena, IN, sizeof *ones);
    assert_non_null(ones);
    for (int i = 0; i < IN; i++)
        ones[i] = 1;
    tn_factors term = {.out = 1, .in = IN, .rank = 1, .scale = 1, .a = ones, .b = &one}, made[5];
    tn_compose_rule rule = rule_of("dare_linear");
    rule.density = 0.3;
    for (size_t i = 0; i < 5; i++) {
        rule.seed = i == 2;
        assert_ok(tn_compose_module(&rule, i == 3 ? "n" : "m", &term, &weight, &adapters[i == 4], 1, &arena, &made[i]));
    }
    int kept = 0;
    for (int i = 0; i < IN; i++) {
        assert_true(made[0].a[i] == 0 || made[0].a[i] == (float)(1 / 0.3));
        kept += made[0].a[i] != 0;
    }
    assert_true(abs(kept - 6000) < 5 * 65); /* five standard deviations */
    assert_memory_equal(made[0].a, made[1].a, IN * sizeof(float));
    for (size_t i = 2; i < 5; i++)
        assert_memory_not_equal(made[0].a, made[i].a, IN * sizeof(float));
    tn_arena_free(&arena);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void clamping_cuts_at_the_quantile_of_both_signs(void **state) {
    (void)state;
    enum { N = 4 * (12 + 17) };
    static const double one = 1;
    tn_arena arena = {0};
    tn_factors made, plain, term = random_factors(&arena, 12, 17, 4, 1, 8);
    tn_compose_rule rule = rule_of("svd");
    assert_ok(tn_compose_module(&rule, "m", &term, &one, adapters, 1, &arena, &plain));
    rule.clamp = 0.8;
    assert_ok(tn_compose_module(&rule, "m", &term, &one, adapters, 1, &arena, &made));
    double all[2 * N];
    for (int i = 0; i < N; i++) {
        all[2 * i] = i < 4 * 12 ? plain.b[i] : plain.a[i - 4 * 12];
        all[2 * i + 1] = -all[2 * i];
    }
    qsort(all, 2 * N, sizeof *all, by_size);
    double at = 0.8 * (2 * N - 1), low = all[(int)at], high = all[(int)at + 1], most = low + (at - (int)at) * (high - low);
    int cut = 0;
    for (int i = 0; i < N; i++) {
        double before = i < 4 * 12 ? plain.b[i] : plain.a[i - 4 * 12], after = i < 4 * 12 ? made.b[i] : made.a[i - 4 * 12];
        assert_true(fabs(after - fmax(-most, fmin(most, before))) < 1e-6);
        cut += fabs(before) > most;
    }
    assert_in_range(cut, 0.3 * N, 0.5 * N);
    tn_arena_free(&arena);
}

static void factors_of_different_rank_are_refused_where_they_cannot_be_added(void **state) {
    (void)state;
    static const double weights[2] = {1, 1};
    tn_arena arena = {0};
    tn_factors made, terms[2] = {random_factors(&arena, 8, 9, 2, 1, 1), random_factors(&arena, 8, 9, 3, 1, 2)};
    static const char *const plain[] = {"linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"};
    static const char *const others[] = {
        "cat", "svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd"};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        tn_compose_rule rule = rule_of(plain[i]);
        rule.density = 0.5;
        assert_fails(tn_compose_module(&rule, "a.b", terms, weights, adapters, 2, &arena, &made), TN_ERROR_MISMATCH,
                     "'a.b' has rank 2 in one adapter and 3 in another");
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        tn_compose_rule rule = rule_of(others[i]);
        rule.density = 0.5;
        assert_ok(tn_compose_module(&rule, "a.b", terms, weights, adapters, 2, &arena, &made));
        assert_int_equal(made.rank, i == 0 ? 5 : 3);
    }
    tn_compose_rule rule;
    assert_fails(tn_compose_mode_parse("sum", &rule), TN_ERROR_ARGUMENT, "mode 'sum' is not one of linear, cat, svd,");
    tn_arena_free(&arena);
}

static void running_out_of_memory_is_an_error(void **state) {
    (void)state;
    static const char *const modes[] = {"linear", "cat", "svd", "dare_ties", "ties_svd"};
    static const double weights[2] = {1, 1};
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        tn_arena inputs = {0};
        tn_factors terms[2] = {random_factors(&inputs, 8, 9, 2, 1, 1), random_factors(&inputs, 8, 9, 2, 1, 2)}, made;
        tn_compose_rule rule = rule_of(modes[m]);
        size_t before = tn_memory_used();
        tn_status status = TN_ERROR_MEMORY;
        rule.density = 0.5;
        for (int64_t at = 0; status != TN_OK; at++) {
            tn_arena arena = {0};
            tn_memory_fail_after(at);
            status = tn_compose_module(&rule, "m", terms, weights, adapters, 2, &arena, &made);
            tn_memory_fail_after(-1);
            assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
            assert_true(at < 100);
            tn_arena_free(&arena);
            assert_int_equal(tn_memory_used(), before);
        }
        tn_arena_free(&inputs);
    }
}

#define GOLDEN_CASE(name)                                                                                                   \
    { "golden_" name, golden_case_agrees_with_peft, NULL, NULL, (void *)(uintptr_t)name }

int main(void) {
    const struct CMUnitTest tests[] = {
        GOLDEN_CASE("cat"),
        GOLDEN_CASE("dare_linear"),
        GOLDEN_CASE("dare_linear_svd"),
        GOLDEN_CASE("dare_ties"),
        GOLDEN_CASE("dare_ties_svd"),
        GOLDEN_CASE("linear"),
        GOLDEN_CASE("linear_negative"),
        GOLDEN_CASE("linear_three"),
        GOLDEN_CASE("magnitude_prune"),
        GOLDEN_CASE("magnitude_prune_svd"),
        GOLDEN_CASE("svd"),
        GOLDEN_CASE("ties"),
        GOLDEN_CASE("ties_frequency"),
        GOLDEN_CASE("ties_svd"),
        cmocka_unit_test(one_adapter_with_weight_one_is_itself),
        cmocka_unit_test(cat_is_the_exact_sum_and_so_is_svd_at_full_rank),
        cmocka_unit_test(svd_leaves_out_the_smallest_components),
        cmocka_unit_test(large_matrices_are_decomposed_at_random_with_the_true_energy),
        cmocka_unit_test(norms_by_gram_matrices_are_those_of_the_matrices),
        cmocka_unit_test(pruning_keeps_the_largest_and_the_first_of_equals),
        cmocka_unit_test(ties_averages_the_entries_of_the_elected_sign),
        cmocka_unit_test(random_masks_follow_seed_module_and_adapter),
        cmocka_unit_test(clamping_cuts_at_the_quantile_of_both_signs),
        cmocka_unit_test(factors_of_different_rank_are_refused_where_they_cannot_be_added),
        cmocka_unit_test(running_out_of_memory_is_an_error),
    };
    return cmocka_run_group_tests_name("compose", tests, NULL, NULL);
}
