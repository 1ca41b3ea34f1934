#include "tensor/gguf_tensors.h"

#include <string.h>

#include "tensor/quant.h"

static const char layer_hf[] = "model.layers.", layer_gguf[] = "blk.";

/* Parts of a layer, then what stands outside; without ".weight" or ".bias". */
static const char *const layer_parts[][2] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};
static const char *const outer_parts[][2] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

/* Digits without leading zeros, followed by a dot; their number, 0 when there are none. */
static size_t layer_digits(const char *text) {
    enum { MOST = 5 };
    size_t count = strspn(text, "0123456789");
    return count && count <= MOST && text[count] == '.' && (*text != '0' || count == 1) ? count : 0;
}

/* Renames from column `from` of the tables to the other. */
static bool rename_tensor(const char *name, int from, const char *prefix, const char *other_prefix, char *out, size_t size) {
    const char *const(*parts)[2] = outer_parts;
    size_t count = sizeof outer_parts / sizeof *outer_parts, digits = 0, skipped = strlen(prefix);
    const char *number = "", *dot = strrchr(name, '.');
    if (!dot || (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0))
        return false;
    if (strncmp(name, prefix, skipped) == 0) {
        number = name + skipped;
        digits = layer_digits(number);
        if (!digits)
            return false;
        name = number + digits + 1;
        parts = layer_parts;
        count = sizeof layer_parts / sizeof *layer_parts;
    }
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(parts[i][from]);
        if (dot < name || (size_t)(dot - name) != length || memcmp(name, parts[i][from], length) != 0)
            continue;
        int written = snprintf(out, size, "%s%.*s%s%s%s", digits ? other_prefix : "", (int)digits, number, digits ? "." : "",
                               parts[i][1 - from], dot);
        return written > 0 && (size_t)written < size;
    }
    return false;
}

bool tn_gguf_name_to_hf(const char *name, char out[TN_GGUF_HF_NAME]) {
    return rename_tensor(name, 0, layer_gguf, layer_hf, out, TN_GGUF_HF_NAME);
}

bool tn_gguf_name_from_hf(const char *name, char out[TN_GGUF_NAME_LIMIT]) {
    return rename_tensor(name, 1, layer_hf, layer_gguf, out, TN_GGUF_NAME_LIMIT);
}

bool tn_gguf_interleaves(const char *architecture) {
    return strcmp(architecture, "llama") == 0;
}

/* Row of llama.cpp's order that row `row` of Hugging Face's is. */
static int64_t interleaved_row(int64_t row, int64_t head_rows) {
    int64_t head = row / head_rows, within = row % head_rows, half = head_rows / 2;
    return head * head_rows + 2 * (within % half) + within / half;
}

void tn_gguf_rows_to_hf(void *out, const void *in, int64_t rows, int64_t bytes, int64_t heads) {
    for (int64_t row = 0; row < rows; row++)
        memcpy((char *)out + row * bytes, (const char *)in + interleaved_row(row, rows / heads) * bytes, (size_t)bytes);
}

void tn_gguf_rows_from_hf(void *out, const void *in, int64_t rows, int64_t bytes, int64_t heads) {
    for (int64_t row = 0; row < rows; row++)
        memcpy((char *)out + interleaved_row(row, rows / heads) * bytes, (const char *)in + row * bytes, (size_t)bytes);
}

/* What tn_gguf_tensors knows of the model. */
typedef struct family {
    bool as_hf, interleaves;
    int64_t heads, kv_heads;
} family;

static tn_status read_family(tn_gguf *gguf, bool as_hf, family *out) {
    const char *name;
    *out = (family){.as_hf = as_hf};
    if (!as_hf)
        return TN_OK;
    TN_TRY(tn_gguf_get_string(gguf, "general.architecture", &name));
    if (strcmp(name, "llama") != 0 && strcmp(name, "qwen2") != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: GGUF models of the architecture '%.64s' are not supported; supported are llama and qwen2",
                       gguf->path, name);
    out->interleaves = tn_gguf_interleaves(name);
    if (!out->interleaves)
        return TN_OK;
    TN_TRY(tn_gguf_get_integer(gguf, "llama.attention.head_count", &out->heads));
    out->kv_heads = out->heads;
    if (tn_gguf_find(gguf, "llama.attention.head_count_kv"))
        TN_TRY(tn_gguf_get_integer(gguf, "llama.attention.head_count_kv", &out->kv_heads));
    return TN_OK;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* Heads by which the rows of this tensor are interleaved; 0: they are not. */
static int64_t interleaved_heads(const family *f, const char *name) {
    if (!f->interleaves)
        return 0;
    if (ends_with(name, ".attn_q.weight") || ends_with(name, ".attn_q.bias"))
        return f->heads;
    return ends_with(name, ".attn_k.weight") || ends_with(name, ".attn_k.bias") ? f->kv_heads : 0;
}

/* The tensor's bytes in Hugging Face's order, and aligned for elements of `alignment` bytes. */
static tn_status place_bytes(const tn_gguf_tensor *tensor, int64_t heads, int64_t alignment, tn_arena *arena,
                             const void **out) {
    int64_t rows = tensor->ndim > 1 ? tensor->rows : tensor->columns;
    *out = tensor->data;
    if (heads && (heads < 0 || rows % heads || rows / heads % 2))
        return tn_fail(TN_ERROR_FORMAT, "its %lld rows are not %lld heads of an even size", (long long)rows,
                       (long long)heads);
    if ((!heads && (uintptr_t)tensor->data % (uintptr_t)alignment == 0) || !tensor->bytes)
        return TN_OK;
    void *copy = tn_arena_alloc(arena, (size_t)tensor->bytes);
    if (!copy)
        return tn_fail_memory("rows in another order");
    if (heads)
        tn_gguf_rows_to_hf(copy, tensor->data, rows, tensor->bytes / rows, heads);
    else
        memcpy(copy, tensor->data, (size_t)tensor->bytes);
    *out = copy;
    return TN_OK;
}

/* Blocks as they lie in the file. */
static tn_status view_blocks(const tn_gguf_tensor *tensor, const void *bytes, tn_arena *arena, void **out) {
    const tn_quant_codec *codec = tn_quant_codec_of_ggml(tensor->type);
    const tn_quant_pieces pieces = {.codes = {bytes, tensor->bytes}};
    if (!codec)
        return tn_fail(TN_ERROR_UNSUPPORTED, "weights of the ggml type %s cannot be read",
                       tn_ggml_type_info(tensor->type)->name);
    if (!tensor->bytes)
        return tn_fail(TN_ERROR_FORMAT, "it has blocks of %s, but no values", codec->name);
    tn_quantised *array = tn_arena_alloc(arena, sizeof *array);
    *out = array;
    return array ? tn_quantised_view(array, codec, &codec->defaults, tensor->rows * tensor->columns, &pieces)
                 : tn_fail_memory("a quantised tensor");
}

static tn_status add_tensor(const family *f, const tn_gguf_tensor *tensor, tn_safetensors *out) {
    char name[TN_GGUF_HF_NAME];
    const void *bytes;
    const tn_ggml_info *info = tn_ggml_type_info(tensor->type);
    tn_safetensors_entry *entry = &out->entries[out->count];
    TN_TRY(place_bytes(tensor, interleaved_heads(f, tensor->name), info->plain ? info->bytes : 1, &out->arena, &bytes));
    entry->name = tn_arena_strdup(&out->arena, f->as_hf && tn_gguf_name_to_hf(tensor->name, name) ? name : tensor->name);
    if (!entry->name)
        return tn_fail_memory("names");
    entry->tensor = (tn_tensor){.dtype = info->plain ? info->dtype : TN_DTYPE_QUANTISED, .ndim = tensor->ndim};
    entry->tensor.data = (void *)(uintptr_t)bytes;
    if (!info->plain)
        TN_TRY(view_blocks(tensor, bytes, &out->arena, &entry->tensor.data));
    memcpy(entry->tensor.shape, tensor->shape, sizeof entry->tensor.shape);
    if (tn_map_get_text(&out->by_name, entry->name, NULL))
        return tn_fail(TN_ERROR_FORMAT, "it is there twice, under the name '%s' as well", entry->name);
    TN_TRY(tn_map_put_text(&out->by_name, entry->name, (int64_t)out->count));
    out->count++;
    return TN_OK;
}

static tn_status check_whole(tn_gguf *gguf) {
    int64_t parts = 1;
    if (tn_gguf_find(gguf, "split.count"))
        TN_TRY(tn_gguf_get_integer(gguf, "split.count", &parts));
    if (parts > 1)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s is one of the %lld parts of a split model; join them with llama-gguf-split --merge", gguf->path,
                       (long long)parts);
    return TN_OK;
}

tn_status tn_gguf_tensors(tn_gguf *gguf, bool as_hf, tn_safetensors *out) {
    family f;
    tn_status status;
    *out =
        (tn_safetensors){.path = tn_strdup(gguf->path), .entries = tn_calloc(gguf->tensor_count + 1, sizeof *out->entries)};
    if (!out->path || !out->entries) {
        status = tn_fail_memory("the tensors of a GGUF file");
        goto fail;
    }
    TN_TRY_GOTO(read_family(gguf, as_hf, &f));
    if (as_hf)
        TN_TRY_GOTO(check_whole(gguf));
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        const tn_gguf_tensor *tensor = &gguf->tensors[i];
        /* said by the configuration: rotary frequencies of llama3 scaling */
        if (as_hf && strcmp(tensor->name, "rope_freqs.weight") == 0)
            continue;
        status = add_tensor(&f, tensor, out);
        if (status != TN_OK) {
            status = tn_fail_context(status, "%s: tensor '%s'", gguf->path, tensor->name);
            goto fail;
        }
    }
    return TN_OK;
fail:
    tn_safetensors_close(out);
    return status;
}
