/* Files: mapped for reading, and written so that a crash never leaves half a file under the final name. */
#ifndef TN_BASE_FILE_H
#define TN_BASE_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/memory.h"

/* A read-only mapping; `data` is NULL for an empty file. */
typedef struct tn_mapping {
    const uint8_t *data;
    size_t size;
} tn_mapping;

tn_status tn_file_map(const char *path, tn_mapping *mapping);
void tn_file_unmap(tn_mapping *mapping);

/* Bytes of a mapping that are in this process's memory now; 0 where the system does not say. */
size_t tn_file_resident(const tn_mapping *mapping);

/* Lets the whole pages within a part of a mapping go from this process's memory; touching them reads them again. */
void tn_file_forget(const void *data, size_t size);

/* Reads a whole file of at most `limit` bytes into an empty buffer (NUL-terminated). */
tn_status tn_file_read(const char *path, size_t limit, tn_buf *out);

bool tn_path_exists(const char *path);
bool tn_path_is_dir(const char *path);
tn_status tn_dir_create(const char *path);                     /* with its parents; fine when it exists */
tn_status tn_dir_check_writable(const char *path);             /* by creating and removing a file in it */
tn_status tn_disk_check_free(const char *dir, uint64_t bytes); /* error when fewer bytes are free there */
tn_status tn_path_remove_tree(const char *path);               /* a file or a folder with all it holds; fine when absent */

/* dir + "/" + name in `out`; out must hold TN_PATH_MAX bytes. */
enum { TN_PATH_MAX = 4096 };
tn_status tn_path_join(char out[TN_PATH_MAX], const char *dir, const char *name);

/* Atomic writing: bytes go to "<path>.tmp-<pid>"; commit flushes, syncs, renames it over `path` and syncs the folder. After
 * a failure, or without commit, nothing is left behind and an older file under `path` is untouched. */
typedef struct tn_writer {
    FILE *file;
    char path[TN_PATH_MAX], temporary[TN_PATH_MAX];
    bool failed;
} tn_writer;

tn_status tn_writer_open(tn_writer *writer, const char *path);
tn_status tn_writer_write(tn_writer *writer, const void *bytes, size_t length);
tn_status tn_writer_commit(tn_writer *writer);
void tn_writer_abort(tn_writer *writer); /* fine after commit */

/* The three above in one call. */
tn_status tn_file_write(const char *path, const void *bytes, size_t length);

/* Syncs a folder's entries to disk (after a rename in it). */
tn_status tn_dir_sync(const char *path);

#endif
