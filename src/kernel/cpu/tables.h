/* The tables of the CPU backend and where each takes its matrix product from. */
#ifndef TN_KERNEL_CPU_TABLES_H
#define TN_KERNEL_CPU_TABLES_H

#include "kernel/kernel.h"

extern const tn_kernels tn_kernels_reference;

/* The triple loop of the reference table: sums in double, one thread. */
void tn_gemm_reference(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                       int64_t k);

#endif
