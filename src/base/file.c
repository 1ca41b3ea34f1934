/* Mapped reading, atomic writing, and the few path operations that go with them. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static tn_status fail_errno(const char *doing, const char *path) {
    return tn_fail(TN_ERROR_IO, "cannot %s %s: %s", doing, path, strerror(errno));
}

tn_status tn_file_map(const char *path, tn_mapping *mapping) {
    *mapping = (tn_mapping){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno("open", path);
    struct stat info;
    tn_status status = TN_OK;
    if (fstat(fd, &info) != 0) {
        status = fail_errno("read", path);
    } else if (!S_ISREG(info.st_mode)) {
        status = tn_fail(TN_ERROR_IO, "cannot read %s: it is not a regular file", path);
    } else if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = fail_errno("map", path);
        else
            *mapping = (tn_mapping){.data = data, .size = (size_t)info.st_size};
        tn_pages_ask_huge(mapping->data, mapping->size);
    }
    close(fd);
    return status;
}

void tn_file_unmap(tn_mapping *mapping) {
    if (mapping->data)
        munmap((void *)(uintptr_t)mapping->data, mapping->size);
    *mapping = (tn_mapping){0};
}

size_t tn_file_resident(const tn_mapping *mapping) {
    char line[TN_PATH_MAX];
    const uintptr_t from = (uintptr_t)mapping->data, to = from + mapping->size;
    unsigned long long begin, end, kilobytes, sum = 0;
    bool inside = false;
    FILE *file = mapping->data ? fopen("/proc/self/smaps", "r") : NULL;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2)
            inside = begin >= from && begin < to;
        else if (inside && sscanf(line, "Rss: %llu", &kilobytes) == 1)
            sum += kilobytes * 1024;
    }
    if (file)
        fclose(file);
    return (size_t)sum;
}

void tn_file_forget(const void *data, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)data, to = (from + size) / page * page;
    from = (from + page - 1) / page * page;
    if (from < to)
        madvise((void *)from, to - from, MADV_DONTNEED);
}

tn_status tn_file_read(const char *path, size_t limit, tn_buf *out) {
    tn_mapping mapping;
    TN_TRY(tn_file_map(path, &mapping));
    tn_status status = TN_OK;
    if (mapping.size > limit) {
        status = tn_fail(TN_ERROR_FORMAT, "%s: %zu bytes is larger than the %zu this kind of file may have", path,
                         mapping.size, limit);
    } else {
        tn_buf_clear(out);
        tn_buf_append(out, mapping.data, mapping.size);
        status = tn_buf_status(out);
    }
    tn_file_unmap(&mapping);
    return status;
}

bool tn_path_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

bool tn_path_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

tn_status tn_path_join(char out[TN_PATH_MAX], const char *dir, const char *name) {
    size_t length = strlen(dir);
    const char *slash = length && dir[length - 1] == '/' ? "" : "/";
    int n = snprintf(out, TN_PATH_MAX, "%s%s%s", dir, slash, name);
    if (n < 0 || n >= TN_PATH_MAX)
        return tn_fail(TN_ERROR_ARGUMENT, "the path %.100s.../%s is too long", dir, name);
    return TN_OK;
}

tn_status tn_dir_create(const char *path) {
    char partial[TN_PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof partial)
        return tn_fail(TN_ERROR_ARGUMENT, "'%.100s' cannot be the name of a folder", path);
    memcpy(partial, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (partial[i] != '/' && partial[i] != 0)
            continue;
        char kept = partial[i];
        partial[i] = 0;
        if (mkdir(partial, 0777) != 0 && errno != EEXIST)
            return fail_errno("create the folder", partial);
        partial[i] = kept;
    }
    if (!tn_path_is_dir(path))
        return tn_fail(TN_ERROR_IO, "cannot create the folder %s: a file of that name is in the way", path);
    return TN_OK;
}

tn_status tn_dir_check_writable(const char *path) {
    char probe[TN_PATH_MAX + 32];
    snprintf(probe, sizeof probe, "%s/.write-test-%ld", path, (long)getpid());
    int fd = open(probe, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return fail_errno("write in the folder", path);
    close(fd);
    unlink(probe);
    return TN_OK;
}

tn_status tn_disk_check_free(const char *dir, uint64_t bytes) {
    struct statvfs info;
    if (statvfs(dir, &info) != 0)
        return fail_errno("inspect the disk of", dir);
    uint64_t free_bytes = (uint64_t)info.f_bavail * info.f_frsize;
    if (free_bytes < bytes)
        return tn_fail(TN_ERROR_IO,
                       "%s: %.1f MB are needed and only %.1f MB are free; free some space or choose another folder", dir,
                       (double)bytes / 1e6, (double)free_bytes / 1e6);
    return TN_OK;
}

tn_status tn_path_remove_tree(const char *path) {
    struct stat info;
    if (lstat(path, &info) != 0)
        return errno == ENOENT ? TN_OK : fail_errno("inspect", path);
    if (!S_ISDIR(info.st_mode))
        return unlink(path) == 0 ? TN_OK : fail_errno("remove", path);
    DIR *dir = opendir(path);
    if (!dir)
        return fail_errno("list", path);
    tn_status status = TN_OK;
    for (struct dirent *entry; status == TN_OK && (entry = readdir(dir));) {
        char child[TN_PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        status = tn_path_join(child, path, entry->d_name);
        if (status == TN_OK)
            status = tn_path_remove_tree(child);
    }
    closedir(dir);
    if (status == TN_OK && rmdir(path) != 0)
        status = fail_errno("remove", path);
    return status;
}

tn_status tn_dir_sync(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno("open", path);
    int failed = fsync(fd);
    tn_status status = failed && errno != EINVAL ? fail_errno("sync", path) : TN_OK;
    close(fd);
    return status;
}

tn_status tn_writer_open(tn_writer *writer, const char *path) {
    *writer = (tn_writer){0};
    int n = snprintf(writer->temporary, TN_PATH_MAX, "%s.tmp-%ld", path, (long)getpid());
    if (n < 0 || n >= TN_PATH_MAX)
        return tn_fail(TN_ERROR_ARGUMENT, "the path %.100s... is too long", path);
    snprintf(writer->path, TN_PATH_MAX, "%s", path);
    writer->file = fopen(writer->temporary, "wb");
    if (!writer->file)
        return fail_errno("write", path);
    return TN_OK;
}

tn_status tn_writer_write(tn_writer *writer, const void *bytes, size_t length) {
    if (writer->failed)
        return TN_ERROR_IO;
    if (length && fwrite(bytes, 1, length, writer->file) != length) {
        writer->failed = true;
        return fail_errno("write", writer->path);
    }
    return TN_OK;
}

static tn_status sync_folder_of(const char *path) {
    char folder[TN_PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash)
        return tn_dir_sync(".");
    slash[slash == folder] = 0;
    return tn_dir_sync(folder);
}

tn_status tn_writer_commit(tn_writer *writer) {
    tn_status status = TN_OK;
    if (writer->failed)
        status = TN_ERROR_IO;
    else if (fflush(writer->file) != 0 || fsync(fileno(writer->file)) != 0)
        status = fail_errno("write", writer->path);
    if (fclose(writer->file) != 0 && status == TN_OK)
        status = fail_errno("write", writer->path);
    writer->file = NULL;
    if (status == TN_OK && rename(writer->temporary, writer->path) != 0)
        status = fail_errno("rename the finished file to", writer->path);
    if (status != TN_OK)
        unlink(writer->temporary);
    return status == TN_OK ? sync_folder_of(writer->path) : status;
}

void tn_writer_abort(tn_writer *writer) {
    if (!writer->file)
        return;
    fclose(writer->file);
    writer->file = NULL;
    unlink(writer->temporary);
}

tn_status tn_file_write(const char *path, const void *bytes, size_t length) {
    tn_writer writer;
    TN_TRY(tn_writer_open(&writer, path));
    tn_writer_write(&writer, bytes, length);
    return tn_writer_commit(&writer);
}
