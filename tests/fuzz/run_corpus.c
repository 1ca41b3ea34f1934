/* Feeds every file of the folders given to a fuzz target, and every prefix of the small ones, without libFuzzer. */
#include <dirent.h>

#include "base/file.h"
#include "fuzz.h"

enum { LARGEST = 1 << 24, SMALL = 4096 };

/* An exact copy on the heap, so that a sanitizer sees reads past its end. */
static void feed(const char *bytes, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    fuzz_require(copy);
    if (size)
        memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static int feed_folder(const char *folder) {
    int count = 0;
    DIR *listing = opendir(folder);
    if (!listing) {
        fprintf(stderr, "cannot read the folder %s\n", folder);
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(listing));) {
        char path[TN_PATH_MAX];
        tn_buf bytes = {0};
        if (entry->d_name[0] == '.')
            continue;
        fuzz_require(tn_path_join(path, folder, entry->d_name) == TN_OK);
        if (tn_file_read(path, LARGEST, &bytes) != TN_OK) {
            fprintf(stderr, "%s\n", tn_error_message());
            abort();
        }
        feed(bytes.data, bytes.length);
        for (size_t size = 0; bytes.length <= SMALL && size < bytes.length; size++)
            feed(bytes.data, size);
        tn_buf_free(&bytes);
        count++;
    }
    closedir(listing);
    return count;
}

int main(int argc, char **argv) {
    int count = 0;
    for (int i = 1; i < argc; i++)
        count += feed_folder(argv[i]);
    printf("%d files\n", count);
    return count == 0;
}
