/* Telling by a path whether a model is a GGUF file. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "format/gguf.h"

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* By the magic, or by the name of a file that lacks it, so that opening says what is wrong with it. */
bool tn_gguf_is_file(const char *path) {
    char magic[4] = "";
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    FILE *file = fopen(path, "rb");
    if (!file)
        return ends_with(path, ".gguf");
    size_t count = fread(magic, 1, sizeof magic, file);
    fclose(file);
    return (count == sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0) || ends_with(path, ".gguf");
}

static bool has(const char *dir, const char *name) {
    char path[TN_PATH_MAX];
    return tn_path_join(path, dir, name) == TN_OK && tn_path_exists(path);
}

/* The name of the only GGUF file in a folder; "" when there is none. */
static tn_status find_only(const char *dir, char name[TN_PATH_MAX]) {
    DIR *listing = opendir(dir);
    tn_status status = TN_OK;
    *name = 0;
    if (!listing)
        return tn_fail(TN_ERROR_IO, "cannot list %s: %s", dir, strerror(errno));
    for (struct dirent *entry; status == TN_OK && (entry = readdir(listing));) {
        if (!ends_with(entry->d_name, ".gguf"))
            continue;
        if (*name)
            status =
                tn_fail(TN_ERROR_ARGUMENT, "%s holds several GGUF files, %s and %s among them; give the file that is meant",
                        dir, name, entry->d_name);
        else
            snprintf(name, TN_PATH_MAX, "%s", entry->d_name);
    }
    closedir(listing);
    return status;
}

tn_status tn_gguf_locate(const char *path, char file[TN_PATH_MAX], bool *found) {
    char name[TN_PATH_MAX] = "model.gguf";
    *found = false;
    if (!tn_path_is_dir(path)) {
        *found = tn_gguf_is_file(path) && strlen(path) < TN_PATH_MAX;
        if (*found)
            memcpy(file, path, strlen(path) + 1);
        return TN_OK;
    }
    if (has(path, "model.safetensors") || has(path, "model.safetensors.index.json"))
        return TN_OK;
    if (!has(path, name))
        TN_TRY(find_only(path, name));
    *found = *name != 0;
    return *found ? tn_path_join(file, path, name) : TN_OK;
}
