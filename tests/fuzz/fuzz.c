/* A file in memory where the system has them, else one in /tmp. */
#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

static int open_file(char path[64]) {
#ifdef MFD_CLOEXEC
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    snprintf(path, 64, "/proc/self/fd/%d", fd);
#else
    strcpy(path, "/tmp/tenon-fuzz-XXXXXX");
    int fd = mkstemp(path);
#endif
    return fd;
}

const char *fuzz_file(const uint8_t *data, size_t size) {
    static int fd = -1;
    static char path[64];
    if (fd < 0)
        fd = open_file(path);
    fuzz_require(fd >= 0 && ftruncate(fd, 0) == 0);
    for (size_t at = 0; at < size;) {
        ssize_t written = pwrite(fd, data + at, size - at, (off_t)at);
        fuzz_require(written > 0);
        at += (size_t)written;
    }
    return path;
}

void fuzz_read(const void *bytes, size_t size) {
    volatile unsigned char touched = 0;
    for (size_t i = 0; i < size; i++)
        touched = ((const unsigned char *)bytes)[i];
    (void)touched;
}
