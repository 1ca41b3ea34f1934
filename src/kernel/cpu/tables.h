/* The tables of the CPU backend and where each takes its matrix product from. */
#ifndef TN_KERNEL_CPU_TABLES_H
#define TN_KERNEL_CPU_TABLES_H

#include "kernel/cpu/cpu.h"
#include "kernel/cpu/gemm.h"
#include "kernel/kernel.h"

/* The triple loop of the reference table: sums in double, one thread. */
void tn_gemm_reference(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                       int64_t k);

/* Kernels that touch few elements: plain loops shared by all tables. */
void tn_gather_columns(float *out, const int32_t *ids, const float *table, int64_t rows, int64_t table_rows,
                       int64_t table_cols);
void tn_scatter_columns(float *table, const int32_t *ids, const float *in, int64_t rows, int64_t table_rows,
                        int64_t table_cols);
void tn_replace_rows(float *y, const int32_t *ids, const float *replacement, const int32_t *indices, int64_t rows,
                     int64_t cols, int64_t count);
void tn_replace_rows_backward(float *dreplacement, float *dy, const int32_t *ids, const int32_t *indices, int64_t rows,
                              int64_t cols, int64_t count);
void tn_put_columns(float *y, const int32_t *indices, const float *in, int64_t rows, int64_t count, int64_t cols);
void tn_gather_columns_and_clear(float *out, const int32_t *indices, float *y, int64_t rows, int64_t count, int64_t cols);

void tn_keep_rows(float *y, bool accumulate, const float *x, const bool *keep, int64_t rows, int64_t cols);

void tn_spread_channels(float *out, const float *values, int64_t channels, int64_t span);
void tn_sum_channels(float *out, const float *values, int64_t channels, int64_t span);
void tn_squared_error(float *losses, float *y, const float *targets, float grad_scale, int64_t rows, int64_t cols);

void tn_im2col(float *cols, const float *x, const tn_conv_shape *shape, int64_t first, int64_t count);
void tn_col2im(float *dx, const float *cols, const tn_conv_shape *shape, int64_t first, int64_t count);
void tn_put_positions(float *y, const float *in, int64_t channels, int64_t span, int64_t first, int64_t count);
void tn_take_positions(float *out, const float *y, int64_t channels, int64_t span, int64_t first, int64_t count);
void tn_max_pool(float *y, int32_t *index, const float *x, const tn_conv_shape *shape, int64_t planes);
void tn_max_pool_backward(float *dx, const float *dy, const int32_t *index, const tn_conv_shape *shape, int64_t planes);
void tn_avg_pool(float *y, const float *x, const tn_conv_shape *shape, int64_t planes);
void tn_avg_pool_backward(float *dx, const float *dy, const tn_conv_shape *shape, int64_t planes);

#define TN_PLAIN_KERNELS                                                                                                    \
    .gather_columns = tn_gather_columns, .scatter_columns = tn_scatter_columns, .replace_rows = tn_replace_rows,            \
    .replace_rows_backward = tn_replace_rows_backward, .put_columns = tn_put_columns,                                       \
    .gather_columns_and_clear = tn_gather_columns_and_clear, .keep_rows = tn_keep_rows,                                     \
    .spread_channels = tn_spread_channels, .sum_channels = tn_sum_channels, .squared_error = tn_squared_error,              \
    .im2col = tn_im2col, .col2im = tn_col2im, .put_positions = tn_put_positions, .take_positions = tn_take_positions,       \
    .max_pool = tn_max_pool, .max_pool_backward = tn_max_pool_backward, .avg_pool = tn_avg_pool,                            \
    .avg_pool_backward = tn_avg_pool_backward

extern const tn_kernels tn_kernels_reference;
extern const tn_kernels tn_kernels_generic;
#ifdef __x86_64__
extern const tn_kernels tn_kernels_avx2;
extern const tn_kernels tn_kernels_avx512;
extern const tn_kernels tn_kernels_avx512_bf16;
#endif

/* The table's gemm: few rows by gemv_tmpl.c, which is compiled once per instruction set, all else by tn_gemm_<isa>. */
#define TN_DECLARE_PRODUCT(isa)                                                                                             \
    void tn_product_##isa(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n, \
                          int64_t k);                                                                                       \
    void tn_infer_products_##isa(const tn_shared_product *products, int64_t count, tn_operand a, int64_t m, int64_t k);
TN_DECLARE_PRODUCT(generic)
TN_DECLARE_PRODUCT(avx2)
TN_DECLARE_PRODUCT(avx512)
TN_DECLARE_PRODUCT(avx512_bf16)

/* gemm_infer of quantised B by integers (gemv_quant_tmpl.c); false when there is no such product of one of them. */
enum { TN_QUANT_FEW_ROWS = 8, TN_QUANT_TOGETHER = 4 };
#define TN_DECLARE_QUANTISED(isa)                                                                                           \
    bool tn_gemv_quantised_##isa(const tn_shared_product *products, int64_t count, tn_operand a, int64_t m, int64_t k);
TN_DECLARE_QUANTISED(generic)
TN_DECLARE_QUANTISED(avx2)
TN_DECLARE_QUANTISED(avx512)
TN_DECLARE_QUANTISED(avx512_vnni)

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
TN_DECLARE_ATTENTION(avx512_bf16)

/* Activation functions, as in the table; activation_tmpl.c is compiled once per instruction set. */
#define TN_DECLARE_ACTIVATIONS(isa)                                                                                         \
    void tn_swiglu_forward_##isa(float *y, const float *gate, const float *up, int64_t count, void *gate_copy,              \
                                 void *up_copy, tn_dtype dtype);                                                            \
    void tn_swiglu_backward_##isa(float *dgate, float *dup, const float *dy, tn_stored gate, tn_stored up, int64_t count);  \
    void tn_activation_forward_##isa(float *y, const float *x, tn_activation f, int64_t count);                             \
    void tn_activation_backward_##isa(float *dx, bool accumulate, const float *dy, tn_stored x, tn_activation f,            \
                                      int64_t count);                                                                       \
    void tn_relu_forward_##isa(float *y, int64_t count);                                                                    \
    void tn_relu_backward_##isa(float *dy, const float *y, int64_t count);
TN_DECLARE_ACTIVATIONS(generic)
TN_DECLARE_ACTIVATIONS(avx2)
TN_DECLARE_ACTIVATIONS(avx512)
TN_DECLARE_ACTIVATIONS(avx512_bf16)

/* Conversions, as in the table, and both on the calling thread; convert_tmpl.c is compiled once per instruction set. */
#define TN_DECLARE_CONVERSIONS(isa)                                                                                         \
    void tn_widen_##isa(float *out, const void *in, tn_dtype dtype, int64_t count);                                         \
    void tn_narrow_##isa(void *out, tn_dtype dtype, const float *in, int64_t count);                                        \
    void tn_to_f32_##isa(float *out, const void *in, tn_dtype dtype, int64_t count);                                        \
    void tn_from_f32_##isa(void *out, tn_dtype dtype, const float *in, int64_t count);
TN_DECLARE_CONVERSIONS(generic)
TN_DECLARE_CONVERSIONS(avx2)
TN_DECLARE_CONVERSIONS(avx512)
TN_DECLARE_CONVERSIONS(avx512_bf16)

/* AdamW with moments in 8 bits, as in the table; adamw8bit_tmpl.c is compiled once per instruction set. */
#define TN_DECLARE_ADAMW8BIT(isa)                                                                                           \
    void tn_adamw8bit_##isa(float *param, const float *grad, const tn_moments8 *moments, const tn_adamw_step *step,         \
                            int64_t count);
TN_DECLARE_ADAMW8BIT(generic)
TN_DECLARE_ADAMW8BIT(avx2)
TN_DECLARE_ADAMW8BIT(avx512)
TN_DECLARE_ADAMW8BIT(avx512_bf16)

#endif
