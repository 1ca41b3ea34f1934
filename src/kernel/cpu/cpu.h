/* What the running processor can do. */
#ifndef TN_KERNEL_CPU_CPU_H
#define TN_KERNEL_CPU_CPU_H

#include <stdbool.h>

bool tn_cpu_has_avx2(void);        /* AVX2, FMA and F16C: what the files compiled for "avx2" use */
bool tn_cpu_has_avx512(void);      /* the above and AVX-512 F, BW, DQ, VL: what the files compiled for "avx512" use */
bool tn_cpu_has_avx512_bf16(void); /* those and AVX-512 BF16 */
bool tn_cpu_has_avx512_vnni(void); /* AVX-512 VNNI, where the rest of "avx512" is known to be there; takes no time */

#endif
