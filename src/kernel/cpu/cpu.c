/* Processor features through the compiler's cpuid helpers, which also ask whether the system saves the wide registers. */
#include "kernel/cpu/cpu.h"

#if defined(__x86_64__)

#include <cpuid.h>

/* Clang's __builtin_cpu_supports does not know "f16c". */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool tn_cpu_has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool tn_cpu_has_avx512(void) {
    return tn_cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool tn_cpu_has_avx512_vnni(void) {
    return __builtin_cpu_supports("avx512vnni");
}

bool tn_cpu_has_avx512_bf16(void) {
    return tn_cpu_has_avx512() && __builtin_cpu_supports("avx512bf16");
}

#else

bool tn_cpu_has_avx2(void) {
    return false;
}

bool tn_cpu_has_avx512(void) {
    return false;
}

bool tn_cpu_has_avx512_vnni(void) {
    return false;
}

bool tn_cpu_has_avx512_bf16(void) {
    return false;
}

#endif
