/* Opens a GGUF file, model.safetensors, or the shards of model.safetensors.index.json:
 * {"metadata": {...}, "weight_map": {"<tensor>": "<file>"}}. The index is the truth: what a shard holds besides is ignored.
 */
#include "tensor/checkpoint.h"

#include <dirent.h>
#include <string.h>

#include "format/json.h"
#include "tensor/gguf_tensors.h"
#include "tensor/quant.h"

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE "model.safetensors.index.json"

enum { MAX_INDEX = 100000000 };

static int64_t location(size_t file, size_t entry) {
    return (int64_t)((uint64_t)file << 32 | entry);
}

/* Maps one more file; its index is file_count - 1 afterwards. */
static tn_status add_file(tn_checkpoint *checkpoint, const char *path) {
    tn_safetensors *files = tn_realloc_array(checkpoint->files, checkpoint->file_count + 1, sizeof *files);
    if (!files)
        return tn_fail_memory("the list of shards");
    checkpoint->files = files;
    TN_TRY(tn_safetensors_open(path, &files[checkpoint->file_count]));
    checkpoint->file_count++;
    return TN_OK;
}

static tn_status name_tensors(tn_checkpoint *checkpoint) {
    const tn_safetensors *file = &checkpoint->files[0];
    for (size_t i = 0; i < file->count; i++)
        TN_TRY(tn_map_put_text(&checkpoint->by_name, file->entries[i].name, location(0, i)));
    return TN_OK;
}

static tn_status open_single(const char *path, tn_checkpoint *checkpoint) {
    TN_TRY(add_file(checkpoint, path));
    return name_tensors(checkpoint);
}

static tn_status open_gguf(const char *path, tn_checkpoint *checkpoint) {
    checkpoint->gguf = tn_calloc(1, sizeof *checkpoint->gguf);
    checkpoint->files = tn_calloc(1, sizeof *checkpoint->files);
    if (!checkpoint->gguf || !checkpoint->files)
        return tn_fail_memory("a checkpoint");
    TN_TRY(tn_gguf_open(path, checkpoint->gguf));
    TN_TRY(tn_gguf_tensors(checkpoint->gguf, true, &checkpoint->files[0]));
    checkpoint->file_count = 1;
    /* one owner, and the same one as elsewhere */
    checkpoint->files[0].mapping = checkpoint->gguf->mapping;
    checkpoint->gguf->mapping = (tn_mapping){0};
    return name_tensors(checkpoint);
}

/* Opens the shard that the index names for `tensor`, unless it is open already; sets its index in files. */
static tn_status open_shard(tn_checkpoint *checkpoint, tn_map *shards, const char *dir, const char *tensor, const char *name,
                            int64_t *index) {
    char path[TN_PATH_MAX];
    if (tn_map_get_text(shards, name, index))
        return TN_OK;
    if (!*name || strpbrk(name, "/\\") || strstr(name, ".."))
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s': the shard name '%s' is not a plain file name", tensor, name);
    TN_TRY(tn_path_join(path, dir, name));
    if (!tn_path_exists(path))
        return tn_fail(TN_ERROR_IO, "tensor '%s': its shard %s is missing; download it again", tensor, path);
    *index = (int64_t)checkpoint->file_count;
    TN_TRY(add_file(checkpoint, path));
    return tn_map_put_text(shards, name, *index);
}

static tn_status add_mapped_tensor(tn_checkpoint *checkpoint, tn_map *shards, const char *dir, const cJSON *item) {
    int64_t index = 0;
    if (!cJSON_IsString(item))
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s': its shard must be a file name", item->string);
    if (tn_map_get_text(&checkpoint->by_name, item->string, NULL))
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s' is there twice", item->string);
    TN_TRY(open_shard(checkpoint, shards, dir, item->string, item->valuestring, &index));
    const tn_safetensors *file = &checkpoint->files[index];
    const tn_safetensors_entry *entry = tn_safetensors_find(file, item->string);
    if (!entry)
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s' is not in its shard %s", item->string, file->path);
    return tn_map_put_text(&checkpoint->by_name, item->string, location((size_t)index, (size_t)(entry - file->entries)));
}

static tn_status open_sharded(const char *dir, const char *index_path, tn_checkpoint *checkpoint) {
    cJSON *index;
    tn_map shards = {0};
    TN_TRY(tn_json_read(index_path, MAX_INDEX, &index));
    const cJSON *weights = tn_json_get(index, "weight_map"), *item;
    const char *duplicate = tn_json_duplicate_key(index);
    tn_status status = TN_OK;
    checkpoint->sharded = true;
    if (!cJSON_IsObject(weights))
        status = tn_fail(TN_ERROR_FORMAT, "weight_map must be an object of tensor names and file names");
    else if (duplicate)
        status = tn_fail(TN_ERROR_FORMAT, "the key '%s' is there twice", duplicate);
    for (item = weights ? weights->child : NULL; item && status == TN_OK; item = item->next)
        status = add_mapped_tensor(checkpoint, &shards, dir, item);
    tn_map_free(&shards);
    cJSON_Delete(index);
    return status == TN_OK ? TN_OK : tn_fail_context(status, "%s", index_path);
}

/* Says what was looked for and, when weights of another kind are there, why they do not do. */
static tn_status fail_nothing_found(const char *dir) {
    char other[256] = "";
    DIR *listing = opendir(dir);
    if (!listing)
        return tn_fail(TN_ERROR_IO, "%s is not a folder that can be read; give the folder of a downloaded checkpoint", dir);
    for (struct dirent *entry; (entry = readdir(listing));) {
        const char *name = entry->d_name;
        if (strncmp(name, "pytorch_model", strlen("pytorch_model")) == 0)
            memcpy(other, name, strlen(name) + 1);
    }
    closedir(listing);
    if (*other)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s holds %s, but weights are read from safetensors (" SINGLE_FILE " or " INDEX_FILE
                       ") or GGUF only; download or convert them in that format",
                       dir, other);
    return tn_fail(TN_ERROR_IO, "%s holds neither " SINGLE_FILE " nor " INDEX_FILE " nor a GGUF file", dir);
}

tn_status tn_checkpoint_open(const char *dir, tn_checkpoint *out) {
    char single[TN_PATH_MAX], index[TN_PATH_MAX], gguf[TN_PATH_MAX];
    bool is_gguf;
    *out = (tn_checkpoint){0};
    TN_TRY(tn_gguf_locate(dir, gguf, &is_gguf));
    TN_TRY(tn_path_join(single, dir, SINGLE_FILE));
    TN_TRY(tn_path_join(index, dir, INDEX_FILE));
    tn_status status = is_gguf                  ? open_gguf(gguf, out)
                       : tn_path_exists(single) ? open_single(single, out)
                       : tn_path_exists(index)  ? open_sharded(dir, index, out)
                                                : fail_nothing_found(dir);
    if (status != TN_OK)
        tn_checkpoint_close(out);
    return status;
}

void tn_checkpoint_close(tn_checkpoint *checkpoint) {
    for (size_t i = 0; i < checkpoint->file_count; i++)
        tn_safetensors_close(&checkpoint->files[i]);
    if (checkpoint->gguf)
        tn_gguf_close(checkpoint->gguf);
    tn_free(checkpoint->gguf);
    tn_free(checkpoint->files);
    tn_map_free(&checkpoint->by_name);
    *checkpoint = (tn_checkpoint){0};
}

void tn_checkpoint_forget(const tn_checkpoint *checkpoint, const tn_tensor *tensor) {
    const uint8_t *data =
        tensor->dtype == TN_DTYPE_QUANTISED ? ((const tn_quantised *)tensor->data)->codes : (const uint8_t *)tensor->data;
    for (size_t i = 0; i < checkpoint->file_count; i++) {
        const tn_mapping *mapping = &checkpoint->files[i].mapping;
        if (data >= mapping->data && data < mapping->data + mapping->size)
            tn_file_forget(data, (size_t)tn_tensor_bytes(tensor));
    }
}

const tn_tensor *tn_checkpoint_find(const tn_checkpoint *checkpoint, const char *name) {
    int64_t at;
    if (!tn_map_get_text(&checkpoint->by_name, name, &at))
        return NULL;
    return &checkpoint->files[at >> 32].entries[at & 0xffffffff].tensor;
}
