/* Matrix products of SmolLM2-135M's and Qwen2.5-0.5B's shapes against OpenBLAS, and rounded to bf16 where the CPU can:
 * bench_gemm [threads] [isa] [seconds per row, 0 for the last table only]. Both run in turns and medians are printed (and
 * the fastest runs, for a busy machine): GFLOP/s, and GB/s of weights for one token against a plain sum's. */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/gemm.h"

#ifdef _OPENMP
#include <omp.h>
#endif

typedef void gemm_function(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                           int64_t k);

enum { MAX_RUNS = 400 };

typedef struct bench {
    gemm_function *gemm;
    gemm_function *rounded; /* products of bf16, or NULL */
    double seconds;
} bench;

/* x by rows or transposed; w likewise, so that all four orders of a training step are seen. */
typedef struct shape {
    const char *what;
    int64_t m, n, k;
    bool a_transposed, b_transposed;
    float beta;
} shape;

static const shape shapes[] = {
    {"forward q, o", 1024, 576, 576, false, true, 0},
    {"forward k, v", 1024, 192, 576, false, true, 0},
    {"forward gate, up", 1024, 1536, 576, false, true, 0},
    {"forward down", 1024, 576, 1536, false, true, 0},
    {"forward head", 128, 49152, 576, false, true, 0},
    {"backward q, o", 1024, 576, 576, false, false, 1},
    {"backward k, v", 1024, 576, 192, false, false, 1},
    {"backward gate, up", 1024, 576, 1536, false, false, 1},
    {"backward down", 1024, 1536, 576, false, false, 1},
    {"backward head", 128, 576, 49152, false, false, 0},
    {"square", 1024, 1024, 1024, false, false, 0},
    {"weight gradient", 576, 576, 1024, true, false, 1},
    {"lora x A^T", 1024, 8, 576, false, true, 0},
    {"lora u B^T", 1024, 576, 8, false, true, 1},
    {"lora dy B", 1024, 8, 576, false, false, 0},
    {"lora dA = du^T x", 8, 576, 1024, true, false, 1},
    {"lora dB = dy^T u", 576, 8, 1024, true, false, 1},
    {"lora x A^T, rank 16", 1024, 16, 576, false, true, 0},
    {"lora dB, rank 16", 576, 16, 1024, true, false, 1},
    {"rank 32", 1024, 32, 576, false, true, 0},
    {"attention scores", 64, 64, 64, false, true, 0},
    {"attention values", 64, 64, 64, false, false, 1},
    {"16 tokens", 16, 1536, 576, false, true, 0},
    {"24 tokens", 24, 1536, 576, false, true, 0},
    {"32 tokens", 32, 1536, 576, false, true, 0},
    {"64 tokens", 64, 1536, 576, false, true, 0},
    {"qwen q, o", 512, 896, 896, false, true, 0},
    {"qwen k, v", 512, 128, 896, false, true, 0},
    {"qwen gate, up", 512, 4864, 896, false, true, 0},
    {"qwen down", 512, 896, 4864, false, true, 0},
    {"qwen head", 128, 151936, 896, false, true, 0},
    {"qwen back q, o", 512, 896, 896, false, false, 1},
    {"qwen back gate, up", 512, 896, 4864, false, false, 1},
    {"qwen back down", 512, 4864, 896, false, false, 1},
    {"qwen back head", 128, 896, 151936, false, false, 0},
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *times, int count) {
    qsort(times, (size_t)count, sizeof *times, by_value);
    return times[count / 2];
}

static void blas(float *c, const shape *s, const float *a, const float *b) {
    cblas_sgemm(CblasRowMajor, s->a_transposed ? CblasTrans : CblasNoTrans, s->b_transposed ? CblasTrans : CblasNoTrans,
                (blasint)s->m, (blasint)s->n, (blasint)s->k, 1.0f, a, (blasint)(s->a_transposed ? s->m : s->k), b,
                (blasint)(s->b_transposed ? s->k : s->n), s->beta, c, (blasint)s->n);
}

static tn_operand operand(const void *data, tn_dtype dtype, int64_t rows, int64_t cols, bool transposed) {
    return transposed ? tn_transpose_of(data, dtype, rows) : tn_rows_of(data, dtype, cols);
}

/* Seconds of one product, of enough in a row for the clock. */
static double time_ours(gemm_function *gemm, float *c, const shape *s, tn_operand a, tn_operand b, int repeat) {
    double start = tn_seconds();
    for (int i = 0; i < repeat; i++)
        gemm(c, s->n, a, b, 1.0f, s->beta, s->m, s->n, s->k);
    return (tn_seconds() - start) / repeat;
}

static double time_blas(float *c, const shape *s, const float *a, const float *b, int repeat) {
    double start = tn_seconds();
    for (int i = 0; i < repeat; i++)
        blas(c, s, a, b);
    return (tn_seconds() - start) / repeat;
}

static float *random_floats(int64_t count, uint64_t seed) {
    float *values = tn_pages_alloc((size_t)count * sizeof(float));
    if (!values) {
        fprintf(stderr, "bench_gemm: no memory for %lld floats\n", (long long)count);
        exit(1);
    }
    tn_fill_uniform(values, (size_t)count, seed, 0, -1.0f, 1.0f);
    return values;
}

enum { F32, F32_BY_BF16, ROUNDED, ROUNDED_BY_BF16, BLAS, COLUMNS };
static const char *const columns[COLUMNS] = {"f32", "x bf16", "rounded", "x bf16", "openblas"};

static void print_speeds(double times[COLUMNS][MAX_RUNS], int runs, double flops) {
    double fastest[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) {
        double middle = median(times[c], runs);
        fastest[c] = times[c][0];
        printf(" %8.1f", middle > 0 ? flops / middle * 1e-9 : 0.0);
    }
    printf("  |");
    for (int c = 0; c < COLUMNS; c++)
        printf(" %8.1f", fastest[c] > 0 ? flops / fastest[c] * 1e-9 : 0.0);
    printf(" %6.2f %6.2f\n", fastest[BLAS] / fastest[F32], fastest[ROUNDED] > 0 ? fastest[F32] / fastest[ROUNDED] : 0.0);
}

static void bench_shape(const bench *with, const shape *s) {
    static double times[COLUMNS][MAX_RUNS];
    float *a = random_floats(s->m * s->k, 1), *b = random_floats(s->k * s->n, 2), *c = random_floats(s->m * s->n, 3);
    uint16_t *narrow = tn_pages_alloc((size_t)(s->k * s->n) * 2);
    if (!narrow)
        exit(1);
    tn_convert_from_f32(narrow, TN_DTYPE_BF16, b, s->k * s->n);
    tn_operand a_f32 = operand(a, TN_DTYPE_F32, s->m, s->k, s->a_transposed);
    tn_operand b_f32 = operand(b, TN_DTYPE_F32, s->k, s->n, s->b_transposed);
    tn_operand b_bf16 = operand(narrow, TN_DTYPE_BF16, s->k, s->n, s->b_transposed);
    double flops = 2.0 * (double)s->m * (double)s->n * (double)s->k, start = tn_seconds();
    int repeat = flops > 1e8 ? 1 : (int)(1e8 / flops) + 1, runs = 0;
    time_ours(with->gemm, c, s, a_f32, b_f32, 1);
    time_blas(c, s, a, b, 1);
    for (; runs < MAX_RUNS && (runs < 3 || tn_seconds() - start < with->seconds); runs++) {
        times[F32][runs] = time_ours(with->gemm, c, s, a_f32, b_f32, repeat);
        times[BLAS][runs] = time_blas(c, s, a, b, repeat);
        times[F32_BY_BF16][runs] = time_ours(with->gemm, c, s, a_f32, b_bf16, repeat);
        times[ROUNDED][runs] = with->rounded ? time_ours(with->rounded, c, s, a_f32, b_f32, repeat) : 0;
        times[ROUNDED_BY_BF16][runs] = with->rounded ? time_ours(with->rounded, c, s, a_f32, b_bf16, repeat) : 0;
    }
    printf("%-20s %5lld %6lld %6lld", s->what, (long long)s->m, (long long)s->n, (long long)s->k);
    print_speeds(times, runs, flops);
    tn_pages_free(a, (size_t)(s->m * s->k) * sizeof *a);
    tn_pages_free(b, (size_t)(s->k * s->n) * sizeof *b);
    tn_pages_free(c, (size_t)(s->m * s->n) * sizeof *c);
    tn_pages_free(narrow, (size_t)(s->k * s->n) * 2);
}

/* Seconds in which a sum that the compiler vectorises reads memory. */
static double time_sum(const float *values, int64_t count) {
    static volatile uint64_t kept;
    double start = tn_seconds();
    uint64_t total = 0;
#pragma omp parallel for reduction(+ : total)
    for (int64_t block = 0; block < count / 16384; block++) {
        const uint64_t *words = (const uint64_t *)(values + block * 16384);
        uint64_t sum = 0;
        for (int i = 0; i < 8192; i++)
            sum += words[i];
        total += sum;
    }
    kept = total;
    return kept == 1 ? 0.0 : tn_seconds() - start;
}

static double time_tokens(const bench *with, tn_operand w, int64_t m, int64_t n, int64_t k, float *c, const float *x) {
    double start = tn_seconds();
    with->gemm(c, n, tn_rows_of(x, TN_DTYPE_F32, k), w, 1.0f, 0.0f, m, n, k);
    return tn_seconds() - start;
}

/* Weights of 512 MB, read once for m tokens: forward, x W^T, and backward, dy W. */
static void bench_tokens(const bench *with) {
    enum { WIDTH = 4096, BYTES = 512 << 20, RUNS = 7 };
    float *w = random_floats(BYTES / 4, 4), *c = random_floats(8 * (BYTES / 2 / WIDTH), 5);
    float *x = random_floats(8 * (BYTES / 2 / WIDTH), 6);
    printf("\nGB/s of weights read for m tokens, medians, and as a share of what a plain sum reads:\n");
    printf("%-8s %3s %8s %8s %8s %10s %8s\n", "weights", "m", "sum", "forward", "", "backward", "");
    for (int narrow = 0; narrow < 2; narrow++) {
        tn_dtype dtype = narrow ? TN_DTYPE_BF16 : TN_DTYPE_F32;
        int64_t rows = BYTES / WIDTH / tn_dtype_size(dtype);
        for (int64_t m = 1; m <= 8; m *= 2) {
            double sum[RUNS], forward[RUNS], backward[RUNS];
            for (int run = 0; run < RUNS; run++) {
                sum[run] = time_sum(w, BYTES / 4);
                forward[run] = time_tokens(with, tn_transpose_of(w, dtype, WIDTH), m, rows, WIDTH, c, x);
                backward[run] = time_tokens(with, tn_rows_of(w, dtype, WIDTH), m, WIDTH, rows, c, x);
            }
            double s = median(sum, RUNS), f = median(forward, RUNS), b = median(backward, RUNS);
            printf("%-8s %3lld %8.1f %8.1f %7.0f%% %10.1f %7.0f%%   fastest %5.1f %3.0f%% %3.0f%%\n", tn_dtype_name(dtype),
                   (long long)m, BYTES / s * 1e-9, BYTES / f * 1e-9, 100 * s / f, BYTES / b * 1e-9, 100 * s / b,
                   BYTES / sum[0] * 1e-9, 100 * sum[0] / forward[0], 100 * sum[0] / backward[0]);
        }
    }
    tn_pages_free(w, BYTES);
    tn_pages_free(c, (size_t)8 * (BYTES / 2 / WIDTH) * sizeof *c);
    tn_pages_free(x, (size_t)8 * (BYTES / 2 / WIDTH) * sizeof *x);
}

static gemm_function *find_isa(const char *name) {
#ifdef __x86_64__
    if (tn_cpu_has_avx512() && (!name || strcmp(name, "avx512") == 0))
        return tn_gemm_avx512;
    if (tn_cpu_has_avx2() && (!name || strcmp(name, "avx2") == 0))
        return tn_gemm_avx2;
#endif
    return !name || strcmp(name, "generic") == 0 ? tn_gemm_generic : NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 2;
    bench with = {find_isa(argc > 2 ? argv[2] : NULL), NULL, argc > 3 ? atof(argv[3]) : 0.3};
#ifdef __x86_64__
    if (with.gemm == tn_gemm_avx512 && tn_cpu_has_avx512_bf16())
        with.rounded = tn_gemm_avx512_bf16;
#endif
    if (threads < 1 || !with.gemm) {
        fprintf(stderr, "usage: bench_gemm [threads] [generic|avx2|avx512, when this CPU has it] [seconds per row]\n");
        return 2;
    }
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    openblas_set_num_threads(threads);
    printf("%d threads; GFLOP/s, medians | fastest runs; ratios of these: f32 / openblas, rounded to bf16 / f32\n", threads);
    printf("%-20s %5s %6s %6s", "", "m", "n", "k");
    for (int c = 0; c < 2 * COLUMNS; c++)
        printf(" %8s%s", columns[c % COLUMNS], c == COLUMNS - 1 ? "  |" : "");
    printf(" %13s\n", "ratios");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && with.seconds > 0; i++)
        bench_shape(&with, &shapes[i]);
    bench_tokens(&with);
    return 0;
}
