/* A model with quantised weights as a checkpoint in the manner of bitsandbytes:
 *
 *   NAME u8 [codes, 1]   NAME.absmax f32 [blocks]   NAME.quant_map f32 [16]   NAME.quant_state.bitsandbytes__nf4 u8: JSON
 *     nested scales: NAME.absmax u8 [blocks], NAME.nested_absmax f32, NAME.nested_quant_map f32 [256]
 *   NAME i8 [O, C]       MODULE.SCB f32 [O]         MODULE.weight_format u8: 0
 *
 * and for what bitsandbytes has not, integers and matrices that are stored transposed, NAME.quant_state.tenon__CODEC with
 * NAME.absmax and NAME.zeros u8 [blocks]. */
#include <tenon/quantize.h>

#include <stdlib.h>
#include <string.h>

#include "model/quantised.h"
#include "session/merge.h"

typedef struct {
    const char *name;
    tn_dtype dtype;
    int ndim;
    int64_t shape[TN_MAX_DIMS];
    const void *data;
} piece;

typedef struct {
    const tn_network *network;
    piece *pieces;
    size_t count, capacity;
    int64_t bytes;
    tn_arena arena;
    tn_status status;
} listing;

static void add(listing *list, const char *name, tn_dtype dtype, int ndim, const int64_t *shape, const void *data) {
    if (!name || list->count == list->capacity) {
        list->status = tn_fail_memory("the list of tensors");
        return;
    }
    piece *p = &list->pieces[list->count++];
    *p = (piece){.name = name, .dtype = dtype, .ndim = ndim, .data = data};
    int64_t bytes = tn_dtype_size(dtype);
    for (int i = 0; i < ndim; i++)
        bytes *= p->shape[i] = shape[i];
    list->bytes += bytes;
}

static void add_vector(listing *list, const char *base, const char *ending, tn_dtype dtype, int64_t count,
                       const void *data) {
    add(list, tn_arena_printf(&list->arena, "%s%s", base, ending), dtype, 1, &count, data);
}

/* The type that the weight had before, as torch names it. */
static const char *former_dtype(const tn_network *network, const tn_module *module) {
    const tn_tensor *stored = tn_network_stored(network, module->name, "weight");
    if (stored && stored->dtype == TN_DTYPE_BF16)
        return "bfloat16";
    return stored && stored->dtype == TN_DTYPE_F16 ? "float16" : "float32";
}

static const char *state_text(listing *list, const tn_module *module, const tn_quantised *array) {
    const tn_tensor *tensor = &module->weight.tensor;
    cJSON *json = cJSON_CreateObject(), *shape;
    tn_buf text = {0};
    cJSON_AddStringToObject(json, "quant_type", array->codec->name);
    cJSON_AddNumberToObject(json, "blocksize", (double)array->params.block);
    cJSON_AddStringToObject(json, "dtype", former_dtype(list->network, module));
    shape = cJSON_AddArrayToObject(json, "shape");
    for (int i = 0; i < tensor->ndim; i++)
        cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)tensor->shape[i]));
    if (array->params.nested_block) {
        cJSON_AddNumberToObject(json, "nested_blocksize", (double)array->params.nested_block);
        cJSON_AddStringToObject(json, "nested_dtype", "float32");
        cJSON_AddNumberToObject(json, "nested_offset", (double)array->nested_offset);
    }
    tn_json_print(&text, json, false);
    cJSON_Delete(json);
    const char *out = text.failed ? NULL : tn_arena_strndup(&list->arena, text.data, text.length);
    tn_buf_free(&text);
    return out;
}

/* As transformers would read it: codes of W [O, C] by rows. */
static bool is_of_bitsandbytes(const tn_module *module) {
    const tn_quant_codec *codec = ((const tn_quantised *)module->weight.tensor.data)->codec;
    return (codec == &tn_codec_nf4 || codec == &tn_codec_fp4 || codec == &tn_codec_int8_row) && !module->weight.transposed;
}

static void add_blocks(listing *list, const tn_module *module, const char *name, const tn_quantised *array) {
    const int64_t codes[2] = {array->sizes.codes, 1};
    const bool nested = array->params.nested_block != 0;
    const char *text = state_text(list, module, array);
    add(list, name, TN_DTYPE_U8, 2, codes, array->codes);
    add_vector(list, name, ".absmax", nested ? TN_DTYPE_U8 : TN_DTYPE_F32, array->sizes.blocks,
               nested ? (const void *)array->scale_codes : array->scales);
    if (nested) {
        add_vector(list, name, ".nested_absmax", TN_DTYPE_F32, array->sizes.nested_scales / (int64_t)sizeof(float),
                   array->nested_scales);
        add_vector(list, name, ".nested_quant_map", TN_DTYPE_F32, 256, tn_dynamic_signed);
    }
    if (array->zeros)
        add_vector(list, name, ".zeros", TN_DTYPE_U8, array->sizes.zeros, array->zeros);
    if (array->codec == &tn_codec_nf4 || array->codec == &tn_codec_fp4)
        add_vector(list, name, ".quant_map", TN_DTYPE_F32, 16,
                   array->codec == &tn_codec_nf4 ? tn_nf4_values : tn_fp4_values);
    const char *maker = is_of_bitsandbytes(module) ? "bitsandbytes" : "tenon";
    const char *ending = tn_arena_printf(&list->arena, ".quant_state.%s__%s", maker, array->codec->name);
    if (text && ending)
        add_vector(list, name, ending, TN_DTYPE_U8, (int64_t)strlen(text), text);
    else
        list->status = tn_fail_memory("the list of tensors");
}

static void add_quantised(listing *list, const tn_module *module, const char *name) {
    static const uint8_t row_major = 0;
    const tn_quantised *array = module->weight.tensor.data;
    if (array->codec->block_bytes) {
        list->status = tn_fail(TN_ERROR_UNSUPPORTED,
                               "'%s' is quantised as %s, which only GGUF files hold; choose that format or another type",
                               module->name, array->codec->name);
    } else if (array->codec == &tn_codec_int8_row && !module->weight.transposed) {
        add(list, name, TN_DTYPE_I8, 2, module->weight.tensor.shape, array->codes);
        add_vector(list, module->name, ".SCB", TN_DTYPE_F32, array->sizes.blocks, array->scales);
        add(list, tn_arena_printf(&list->arena, "%s.weight_format", module->name), TN_DTYPE_U8, 0, NULL, &row_major);
    } else {
        add_blocks(list, module, name, array);
    }
}

/* Vectors are widened on loading: those are written as they are stored, unless merging made them new. */
static bool is_new(const listing *list, const tn_tensor *tensor, const tn_tensor *stored) {
    const char *vectors = (const char *)list->network->vectors, *data = tensor->data;
    bool widened = data >= vectors && data < vectors + list->network->vector_bytes;
    return !widened && data != stored->data;
}

static void list_module(listing *list, tn_module *module) {
    for (int part = 0; part < TN_MODULE_PARTS && list->status == TN_OK; part++) {
        const tn_weight *weight = tn_module_part(module, part);
        if (!weight)
            continue;
        const char *name = tn_arena_printf(&list->arena, "%s.%s", module->name, tn_module_part_name(part));
        const tn_tensor *stored = tn_network_stored(list->network, module->name, tn_module_part_name(part));
        const tn_tensor *tensor = stored && !is_new(list, &weight->tensor, stored) ? stored : &weight->tensor;
        if (weight->tensor.dtype == TN_DTYPE_QUANTISED)
            add_quantised(list, module, name);
        else
            add(list, name, tensor->dtype, tensor->ndim, tensor->shape, tensor->data);
    }
}

/* As the writer wants them: large elements first. */
static int by_element_size(const void *a, const void *b) {
    const piece *x = a, *y = b;
    int64_t size_x = tn_dtype_size(x->dtype), size_y = tn_dtype_size(y->dtype);
    return size_x != size_y ? (size_x < size_y) - (size_x > size_y) : strcmp(x->name, y->name);
}

static int64_t piece_bytes(const piece *p) {
    int64_t bytes = tn_dtype_size(p->dtype);
    for (int i = 0; i < p->ndim; i++)
        bytes *= p->shape[i];
    return bytes;
}

static tn_status write_pieces(const listing *list, const char *path) {
    tn_safetensors_writer *writer;
    TN_TRY(tn_safetensors_writer_new(&writer, path));
    tn_status status;
    TN_TRY_GOTO(tn_safetensors_writer_metadata(writer, "format", "pt"));
    for (size_t i = 0; i < list->count; i++)
        TN_TRY_GOTO(tn_safetensors_writer_declare(writer, list->pieces[i].name, list->pieces[i].dtype, list->pieces[i].ndim,
                                                  list->pieces[i].shape));
    TN_TRY_GOTO(tn_safetensors_writer_begin(writer));
    for (size_t i = 0; i < list->count; i++) {
        const piece *p = &list->pieces[i];
        TN_TRY_GOTO(tn_safetensors_writer_data(writer, p->data, piece_bytes(p)));
    }
    return tn_safetensors_writer_finish(writer);
fail:
    tn_safetensors_writer_abort(writer);
    return status;
}

/* What transformers needs to know, or a method of our own where it could not read the weights. */
static void describe(cJSON *json, const tn_network *network) {
    const tn_quantised *first = NULL;
    bool same = true;
    cJSON *out = cJSON_CreateObject(), *skipped = cJSON_CreateArray();
    for (int64_t i = 0; i < network->module_count; i++) {
        const tn_module *module = &network->modules[i];
        const tn_quantised *array = module->weight.tensor.data;
        if (module->kind == TN_MODULE_LINEAR && module->weight.tensor.dtype != TN_DTYPE_QUANTISED)
            cJSON_AddItemToArray(skipped, cJSON_CreateString(module->name));
        if (module->tied || module->weight.tensor.dtype != TN_DTYPE_QUANTISED)
            continue;
        first = first ? first : array;
        same = same && array->codec == first->codec && !array->params.nested_block == !first->params.nested_block &&
               is_of_bitsandbytes(module) && module->kind == TN_MODULE_LINEAR;
    }
    bool eight = same && first->codec == &tn_codec_int8_row;
    cJSON_AddStringToObject(out, "quant_method", same ? "bitsandbytes" : "tenon");
    if (same) {
        cJSON_AddBoolToObject(out, "load_in_4bit", !eight);
        cJSON_AddBoolToObject(out, "load_in_8bit", eight);
        cJSON_AddItemToObject(out, "llm_int8_skip_modules", skipped);
    } else {
        cJSON_Delete(skipped);
    }
    if (same && !eight) {
        cJSON_AddStringToObject(out, "bnb_4bit_quant_type", first->codec->name);
        cJSON_AddBoolToObject(out, "bnb_4bit_use_double_quant", first->params.nested_block != 0);
        cJSON_AddStringToObject(out, "bnb_4bit_compute_dtype", "float32");
        cJSON_AddStringToObject(out, "bnb_4bit_quant_storage", "uint8");
    }
    cJSON_DeleteItemFromObjectCaseSensitive(json, "quantization_config");
    cJSON_AddItemToObject(json, "quantization_config", out);
}

static tn_status write_config(const tn_network *network, const char *path) {
    cJSON *json = cJSON_Duplicate(network->json, true);
    tn_buf text = {0};
    if (!json)
        return tn_fail_memory("config.json");
    describe(json, network);
    tn_json_print(&text, json, true);
    tn_buf_putc(&text, '\n');
    cJSON_Delete(json);
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK)
        status = tn_file_write(path, text.data, text.length);
    tn_buf_free(&text);
    return status;
}

static tn_status list_pieces(listing *list, tn_network *network) {
    enum { MOST_PIECES = 6 };
    *list = (listing){.network = network, .capacity = (size_t)network->module_count * TN_MODULE_PARTS * MOST_PIECES};
    list->pieces = tn_calloc(list->capacity, sizeof *list->pieces);
    if (!list->pieces)
        return tn_fail_memory("the list of tensors");
    for (int64_t i = 0; i < network->module_count && list->status == TN_OK; i++)
        list_module(list, &network->modules[i]);
    qsort(list->pieces, list->count, sizeof *list->pieces, by_element_size);
    return list->status;
}

tn_status tn_model_save_quantized(tn_model *model, const char *dir) {
    char weights[TN_PATH_MAX], config[TN_PATH_MAX];
    tn_quantize_summary summary;
    listing list = {0};
    tn_model_describe_quantized(model, &summary);
    if (!summary.modules)
        return tn_fail(TN_ERROR_ARGUMENT, "no weight of this model is quantised; quantise it first");
    tn_status status;
    TN_TRY_GOTO(tn_path_join(weights, dir, "model.safetensors"));
    TN_TRY_GOTO(tn_path_join(config, dir, "config.json"));
    TN_TRY_GOTO(list_pieces(&list, model->network));
    TN_TRY_GOTO(tn_dir_create(dir));
    TN_TRY_GOTO(tn_session_check_output(model, dir, false));
    TN_TRY_GOTO(tn_dir_check_writable(dir));
    TN_TRY_GOTO(tn_disk_check_free(dir, (uint64_t)list.bytes));
    TN_TRY_GOTO(write_pieces(&list, weights));
    TN_TRY_GOTO(write_config(model->network, config));
    TN_TRY_GOTO(tn_session_copy_words(model, dir));
fail:
    tn_arena_free(&list.arena);
    tn_free(list.pieces);
    return status;
}
