/* Inner kernels of the matrix product for AVX-512 (F, BW, DQ, VL). */
#include "kernel/cpu/gemm_avx512.h"

enum { MR = 14, SHALLOW_UNITS = 2, GROUP = 8, MC = 1120, KC = 576 };

#define DEQUANTISE tn_dequantise_avx512
#include "kernel/cpu/gemm_tmpl.h"

void tn_gemm_avx512(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                    int64_t k) {
    tn_gemm_run(&kernel, true, c, ldc, a, b, alpha, beta, m, n, k);
}

void tn_gemm_avx512_serial(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                           int64_t k) {
    tn_gemm_run(&kernel, false, c, ldc, a, b, alpha, beta, m, n, k);
}
