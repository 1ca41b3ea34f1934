/* Clocks from POSIX, memory figures from Linux's /proc (0 elsewhere but for the peak). */
#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

double tn_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The figure in kB behind `label` at the start of a line of a /proc file. */
static uint64_t proc_kilobytes(const char *path, const char *label) {
    FILE *file = fopen(path, "r");
    char line[256];
    unsigned long long value = 0;
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, label, strlen(label)) == 0 && sscanf(line + strlen(label), "%llu", &value) == 1)
            break;
    fclose(file);
    return (uint64_t)value * 1024;
}

uint64_t tn_memory_peak(void) {
    uint64_t peak = proc_kilobytes("/proc/self/status", "VmHWM:");
    struct rusage usage;
    if (!peak && getrusage(RUSAGE_SELF, &usage) == 0)
        peak = (uint64_t)usage.ru_maxrss * 1024;
    return peak;
}

uint64_t tn_memory_resident(void) {
    return proc_kilobytes("/proc/self/status", "VmRSS:");
}

uint64_t tn_memory_available(void) {
    return proc_kilobytes("/proc/meminfo", "MemAvailable:");
}
