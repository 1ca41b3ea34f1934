/* The tables of the CPU backend and where each takes its matrix product from. */
#ifndef TN_KERNEL_CPU_TABLES_H
#define TN_KERNEL_CPU_TABLES_H

#include "kernel/kernel.h"

/* The triple loop of the reference table: sums in double, one thread. */
void tn_gemm_reference(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                       int64_t k);

/* The matrix products and the checks of the CPU: to be replaced by #include "kernel/cpu/gemm.h". */
#define tn_gemm_generic tn_gemm_reference
#define tn_gemm_generic_serial tn_gemm_reference
#define tn_gemm_avx2 tn_gemm_reference
#define tn_gemm_avx2_serial tn_gemm_reference
#define tn_gemm_avx512 tn_gemm_reference
#define tn_gemm_avx512_serial tn_gemm_reference
static inline bool tn_cpu_has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static inline bool tn_cpu_has_avx512(void) {
    return tn_cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

extern const tn_kernels tn_kernels_reference;
extern const tn_kernels tn_kernels_generic;
#ifdef __x86_64__
extern const tn_kernels tn_kernels_avx2;
extern const tn_kernels tn_kernels_avx512;
#endif

/* Attention, as in the table; attention_tmpl.c is compiled once per instruction set. */
#define TN_DECLARE_ATTENTION(isa)                                                                                           \
    void tn_attention_forward_##isa(float *out, float *lse, const float *q, const float *k, const float *v,                 \
                                    const tn_span *spans, int64_t span_count, const tn_attention_shape *shape);             \
    void tn_attention_backward_##isa(float *dq, float *dk, float *dv, const float *dout, const float *out,                  \
                                     const float *lse, const float *q, const float *k, const float *v,                      \
                                     const tn_span *spans, int64_t span_count, const tn_attention_shape *shape);
TN_DECLARE_ATTENTION(generic)
TN_DECLARE_ATTENTION(avx2)
TN_DECLARE_ATTENTION(avx512)

#endif
