/* Chooses the table of kernels for this CPU and sets the number of threads. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernel/cpu/tables.h"

static bool always(void) {
    return true;
}

/* Fastest first. What stands behind the reference, which every CPU runs, is never chosen, only asked for. */
static const struct {
    const tn_kernels *table;
    bool (*is_supported)(void);
} tables[] = {
#ifdef __x86_64__
    {&tn_kernels_avx512, tn_cpu_has_avx512},
    {&tn_kernels_avx2, tn_cpu_has_avx2},
#endif
    {&tn_kernels_generic, always},
    {&tn_kernels_reference, always},
#ifdef __x86_64__
    {&tn_kernels_avx512_bf16, tn_cpu_has_avx512_bf16},
#endif
};
enum { TABLE_COUNT = sizeof tables / sizeof tables[0] };

static const tn_kernels *chosen;
static const char bf16_name[] = "avx512_bf16";

const tn_kernels *tn_kernels_by_name(const char *name) {
    for (int i = 0; i < TABLE_COUNT; i++)
        if (strcmp(tables[i].table->name, name) == 0 && tables[i].is_supported())
            return tables[i].table;
    return NULL;
}

static void choose(void) {
    const char *wanted = getenv("TENON_CPU");
    if (wanted && strcmp(wanted, bf16_name) != 0)
        chosen = tn_kernels_by_name(wanted);
    for (int i = 0; !chosen && i < TABLE_COUNT; i++)
        chosen = tn_kernels_by_name(tables[i].table->name);
}

const tn_kernels *tn_kernels_cpu(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    return chosen;
}

const tn_kernels *tn_kernels_cpu_bf16(void) {
    return strcmp(tn_kernels_cpu()->name, "avx512") == 0 ? tn_kernels_by_name(bf16_name) : NULL;
}

int tn_threads_set(int count) {
#ifdef _OPENMP
    omp_set_num_threads(count > 0 ? count : omp_get_num_procs());
#else
    (void)count;
#endif
    return tn_threads();
}

int tn_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}
