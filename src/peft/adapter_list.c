/* A folder with several adapters, as PEFT saves a model that has more than one: "default" in the folder itself, every other
 * in a subfolder of its name, which then holds an adapter's files and nothing else (a training run or a checkpoint of one
 * holds more, and is not meant). */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "peft/adapter.h"

enum { MOST_ADAPTERS = 64 };

typedef struct {
    char *items[MOST_ADAPTERS];
    size_t count;
} name_list;

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool holds_an_adapter_alone(const char *folder) {
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors", "README.md", ".", ".."};
    enum { FILES = sizeof files / sizeof *files, NEEDED = 2 };
    int needed = 0, unknown = 0;
    DIR *listing = opendir(folder);
    if (!listing)
        return false;
    for (struct dirent *entry; (entry = readdir(listing));) {
        int at = 0;
        while (at < FILES && strcmp(files[at], entry->d_name) != 0)
            at++;
        needed += at < NEEDED;
        unknown += at == FILES;
    }
    closedir(listing);
    return needed == NEEDED && !unknown;
}

static tn_status note_subfolder(const char *dir, const char *name, name_list *names) {
    char folder[TN_PATH_MAX];
    if (name[0] == '.')
        return TN_OK;
    TN_TRY(tn_path_join(folder, dir, name));
    if (!holds_an_adapter_alone(folder))
        return TN_OK;
    if (names->count == MOST_ADAPTERS)
        return tn_fail(TN_ERROR_ARGUMENT, "%s holds more than %d adapters; name the one that you want", dir, MOST_ADAPTERS);
    names->items[names->count] = tn_strdup(name);
    return names->items[names->count++] ? TN_OK : tn_fail_memory("the adapters");
}

static tn_status list_subfolders(const char *dir, name_list *names) {
    DIR *folder = opendir(dir);
    tn_status status = TN_OK;
    if (!folder)
        return tn_fail(TN_ERROR_IO, "%s cannot be listed", dir);
    for (struct dirent *entry; status == TN_OK && (entry = readdir(folder));)
        status = note_subfolder(dir, entry->d_name, names);
    closedir(folder);
    qsort(names->items, names->count, sizeof *names->items, compare_names);
    return status;
}

static void free_names(name_list *names) {
    for (size_t i = 0; i < names->count; i++)
        tn_free(names->items[i]);
}

static tn_status append_named(tn_network *model, const char *dir, const char *name, const tn_adapter_load_options *options,
                              tn_adapter *first) {
    char folder[TN_PATH_MAX];
    tn_adapter *adapter;
    TN_TRY(tn_path_join(folder, dir, name));
    TN_TRY(tn_adapter_load(model, folder, options, NULL, &adapter));
    return tn_adapter_append(first, adapter, name);
}

tn_status tn_adapter_load_all(tn_network *model, const char *dir, const char *name, const tn_adapter_load_options *options,
                              tn_adapter **out) {
    char folder[TN_PATH_MAX];
    name_list names = {0};
    *out = NULL;
    if (name && strcmp(name, "default") != 0) {
        TN_TRY(tn_path_join(folder, dir, name));
        return tn_adapter_load(model, folder, options, NULL, out);
    }
    TN_TRY(tn_adapter_load(model, dir, options, NULL, out));
    tn_status status = name ? TN_OK : list_subfolders(dir, &names);
    for (size_t i = 0; i < names.count && status == TN_OK; i++)
        status = append_named(model, dir, names.items[i], options, *out);
    free_names(&names);
    if (status == TN_OK)
        return TN_OK;
    tn_adapter_free(*out);
    *out = NULL;
    return status;
}

static bool is_in_list(const tn_adapter *adapter, const char *name) {
    for (; adapter; adapter = adapter->next)
        if (adapter->name && strcmp(adapter->name, name) == 0)
            return true;
    return false;
}

tn_status tn_adapter_check_folder(const tn_adapter *adapter, const char *dir) {
    name_list names = {0};
    if (!tn_path_is_dir(dir))
        return TN_OK;
    tn_status status = list_subfolders(dir, &names);
    for (size_t i = 0; i < names.count && status == TN_OK; i++)
        if (!is_in_list(adapter, names.items[i]))
            status = tn_fail(TN_ERROR_ARGUMENT,
                             "%s holds another adapter, '%s', which would be read along; remove it or choose another folder",
                             dir, names.items[i]);
    free_names(&names);
    return status;
}

tn_status tn_adapter_save_all(const tn_adapter *adapter, const char *dir) {
    char folder[TN_PATH_MAX];
    TN_TRY(tn_adapter_check_folder(adapter, dir));
    TN_TRY(tn_adapter_save(adapter, dir));
    for (adapter = adapter->next; adapter; adapter = adapter->next) {
        TN_TRY(tn_path_join(folder, dir, adapter->name));
        TN_TRY(tn_adapter_save(adapter, folder));
    }
    return TN_OK;
}
