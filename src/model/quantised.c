#include "model/quantised.h"

#include <math.h>
#include <string.h>

enum { NAME_SIZE = 640, STATE_LIMIT = 1 << 16 };

tn_quantised *tn_network_new_quantised(tn_network *network) {
    tn_quantised_node *node = tn_arena_alloc(&network->arena, sizeof *node);
    if (!node)
        return NULL;
    node->next = network->quantised;
    network->quantised = node;
    return &node->array;
}

/* What NAME.quant_state.FORM says. */
typedef struct {
    int64_t block, nested_block;
    double nested_offset;
} quant_state;

static const tn_tensor *piece_tensor(const tn_network *network, const char *name, const char *ending) {
    char full[NAME_SIZE];
    if (snprintf(full, sizeof full, "%s%s", name, ending) >= (int)sizeof full)
        return NULL;
    return tn_checkpoint_find(&network->checkpoint, full);
}

static tn_quant_piece piece_of(const tn_tensor *tensor) {
    return tensor ? (tn_quant_piece){tensor->data, tn_tensor_bytes(tensor)} : (tn_quant_piece){0};
}

/* The codec whose state is stored beside the weight, or NULL; whether it is bitsandbytes' own. */
static const tn_quant_codec *find_codec(const tn_network *network, const char *name, const tn_tensor **state,
                                        bool *foreign) {
    for (const tn_quant_codec *const *at = tn_quant_codecs; *at; at++) {
        static const char *const makers[] = {"bitsandbytes", "tenon"};
        for (int i = 0; i < 2; i++) {
            char ending[96];
            snprintf(ending, sizeof ending, ".quant_state.%s__%s", makers[i], (*at)->name);
            *foreign = i == 0;
            if ((*state = piece_tensor(network, name, ending)))
                return *at;
        }
    }
    return NULL;
}

static tn_status check_shape(const cJSON *json, const char *where, const tn_tensor *tensor) {
    const cJSON *shape = tn_json_get(json, "shape"), *item;
    int dims = 0;
    bool same = cJSON_IsArray(shape);
    for (item = same ? shape->child : NULL; item; item = item->next, dims++)
        same = same && dims < tensor->ndim && cJSON_IsNumber(item) && item->valuedouble == (double)tensor->shape[dims];
    char want[TN_SHAPE_TEXT];
    if (same && dims == tensor->ndim)
        return TN_OK;
    return tn_fail(TN_ERROR_MISMATCH, "%s: its shape is not the %s that config.json makes it", where,
                   tn_shape_text(tensor, want));
}

static tn_status read_state(const tn_quant_codec *codec, const tn_tensor *state, const char *where, const tn_tensor *tensor,
                            quant_state *out) {
    cJSON *json;
    char inside[NAME_SIZE + 16];
    const char *type = codec->name, *nested_dtype = "float32";
    int64_t bytes = tn_tensor_bytes(state);
    *out = (quant_state){0};
    if (state->dtype != TN_DTYPE_U8 || bytes > STATE_LIMIT)
        return tn_fail(TN_ERROR_FORMAT, "%s: the quantisation state must be a short text in U8", where);
    snprintf(inside, sizeof inside, "%s, quant_state", where);
    TN_TRY(tn_json_parse(state->data, (size_t)bytes, inside, &json));
    tn_status status;
    TN_TRY_GOTO(tn_json_get_string(json, "quant_type", inside, &type));
    TN_TRY_GOTO(tn_json_get_int(json, "blocksize", inside, 0, INT32_MAX, &out->block));
    TN_TRY_GOTO(tn_json_get_int(json, "nested_blocksize", inside, 1, INT32_MAX, &out->nested_block));
    TN_TRY_GOTO(tn_json_get_double(json, "nested_offset", inside, &out->nested_offset));
    TN_TRY_GOTO(tn_json_get_string(json, "nested_dtype", inside, &nested_dtype));
    TN_TRY_GOTO(check_shape(json, where, tensor));
    if (strcmp(type, codec->name) != 0)
        status = tn_fail(TN_ERROR_FORMAT, "%s: quant_type is '%s'", where, type);
    else if (strcmp(nested_dtype, "float32") != 0)
        status =
            tn_fail(TN_ERROR_UNSUPPORTED, "%s: nested scales of type %s are not read, only float32", where, nested_dtype);
fail:
    cJSON_Delete(json);
    return status;
}

/* A map that is stored must be the one that the codec decodes with. */
static tn_status check_map(const char *where, const tn_tensor *stored, const float *values, int64_t count) {
    if (!stored)
        return TN_OK;
    bool same = stored->dtype == TN_DTYPE_F32 && tn_tensor_count(stored) == count;
    for (int64_t i = 0; same && i < count; i++)
        same = fabsf(((const float *)stored->data)[i] - values[i]) <= 1e-6f;
    return same ? TN_OK
                : tn_fail(TN_ERROR_UNSUPPORTED, "%s: its codes stand for other values than bitsandbytes' own", where);
}

static tn_status view(tn_network *network, const tn_quant_codec *codec, const tn_quant_params *params, const char *where,
                      const tn_quant_pieces *pieces, tn_tensor *tensor) {
    tn_quantised *array = tn_network_new_quantised(network);
    if (!array)
        return tn_fail_memory("the quantised weights");
    tn_status status = tn_quantised_view(array, codec, params, tn_tensor_count(tensor), pieces);
    tensor->dtype = TN_DTYPE_QUANTISED;
    tensor->data = array;
    status = status == TN_ERROR_ARGUMENT ? TN_ERROR_FORMAT : status; /* the parameters are the file's */
    return status == TN_OK ? TN_OK : tn_fail_context(status, "%s", where);
}

/* bitsandbytes turns what GPT-2 stores as [C, O] around, and a square matrix does not tell. */
static tn_status check_orientation(const tn_weight *weight, const char *where) {
    if (!weight->transposed)
        return TN_OK;
    return tn_fail(TN_ERROR_UNSUPPORTED,
                   "%s: bitsandbytes stores this layer the other way round than its model does, which is not read; "
                   "quantise the original checkpoint on loading",
                   where);
}

static tn_status find_blocks(tn_network *network, const char *name, const char *where, const tn_quant_codec *codec,
                             const tn_tensor *state, const tn_tensor *codes, tn_tensor *tensor) {
    quant_state s;
    TN_TRY(read_state(codec, state, where, tensor, &s));
    const tn_tensor *absmax = piece_tensor(network, name, ".absmax");
    const bool four_bits = codec == &tn_codec_nf4 || codec == &tn_codec_fp4;
    if (four_bits)
        TN_TRY(check_map(where, piece_tensor(network, name, ".quant_map"),
                         codec == &tn_codec_nf4 ? tn_nf4_values : tn_fp4_values, 16));
    if (s.nested_block)
        TN_TRY(check_map(where, piece_tensor(network, name, ".nested_quant_map"), tn_dynamic_signed, 256));
    if (absmax && absmax->dtype != (s.nested_block ? TN_DTYPE_U8 : TN_DTYPE_F32))
        return tn_fail(TN_ERROR_FORMAT, "%s: absmax must not be %s", where, tn_dtype_name(absmax->dtype));
    tn_quant_pieces pieces = {.codes = piece_of(codes),
                              .zeros = piece_of(piece_tensor(network, name, ".zeros")),
                              .nested_offset = (float)s.nested_offset};
    *(s.nested_block ? &pieces.scale_codes : &pieces.scales) = piece_of(absmax);
    if (s.nested_block)
        pieces.nested_scales = piece_of(piece_tensor(network, name, ".nested_absmax"));
    tn_quant_params params = {.block = s.block, .nested_block = s.nested_block, .range = codec->defaults.range};
    return view(network, codec, &params, where, &pieces, tensor);
}

/* The name of a module from that of its weight, with `ending` behind it. */
static void beside_weight(const char *name, const char *ending, char out[NAME_SIZE]) {
    const char *dot = strrchr(name, '.');
    size_t length = dot ? (size_t)(dot - name) : 0, tail = strlen(ending) + 1;
    length = length + tail <= NAME_SIZE ? length : NAME_SIZE - tail;
    memcpy(out, name, length);
    memcpy(out + length, ending, tail);
}

static tn_status check_rows(const char *where, const tn_tensor *codes, const tn_tensor *scales, const tn_tensor *format,
                            const tn_tensor *tensor) {
    char got[TN_SHAPE_TEXT], want[TN_SHAPE_TEXT];
    if (!tn_tensor_same_shape(codes, tensor))
        return tn_fail(TN_ERROR_MISMATCH, "%s has shape %s, but config.json makes it %s", where, tn_shape_text(codes, got),
                       tn_shape_text(tensor, want));
    if (scales->dtype != TN_DTYPE_F32)
        return tn_fail(TN_ERROR_FORMAT, "%s: SCB must be F32, not %s", where, tn_dtype_name(scales->dtype));
    if (format && (format->dtype != TN_DTYPE_U8 || tn_tensor_count(format) != 1 || *(const uint8_t *)format->data != 0))
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: its weight_format is not 0, which stands for whole rows", where);
    return TN_OK;
}

static tn_status find_rows(tn_network *network, const char *name, const char *where, const tn_tensor *codes,
                           tn_weight *weight, bool *found) {
    char scales_name[NAME_SIZE], format_name[NAME_SIZE];
    tn_tensor *tensor = &weight->tensor;
    beside_weight(name, ".SCB", scales_name);
    beside_weight(name, ".weight_format", format_name);
    const tn_tensor *scales = tn_checkpoint_find(&network->checkpoint, scales_name);
    if (!scales)
        return TN_OK;
    *found = true;
    TN_TRY(check_orientation(weight, where));
    TN_TRY(check_rows(where, codes, scales, tn_checkpoint_find(&network->checkpoint, format_name), tensor));
    const tn_quant_params params = {.block = tensor->shape[1]};
    const tn_quant_pieces pieces = {.codes = piece_of(codes), .scales = piece_of(scales)};
    return view(network, &tn_codec_int8_row, &params, where, &pieces, tensor);
}

tn_status tn_network_find_quantised(tn_network *network, const char *name, tn_weight *weight, bool *found) {
    char where[NAME_SIZE];
    const tn_tensor *state, *codes = tn_checkpoint_find(&network->checkpoint, name);
    bool foreign;
    *found = false;
    if (!codes || weight->tensor.ndim != 2)
        return TN_OK;
    snprintf(where, sizeof where, "%s: tensor '%s'", network->dir, name);
    const tn_quant_codec *codec = find_codec(network, name, &state, &foreign);
    if (codec) {
        *found = true;
        if (foreign)
            TN_TRY(check_orientation(weight, where));
        return find_blocks(network, name, where, codec, state, codes, &weight->tensor);
    }
    if (piece_tensor(network, name, ".absmax"))
        return tn_fail(TN_ERROR_FORMAT,
                       "%s: there are scales beside it (absmax), but no quant_state says how it is quantised", where);
    return codes->dtype == TN_DTYPE_I8 ? find_rows(network, name, where, codes, weight, found) : TN_OK;
}

bool tn_network_is_quantised_piece(const tn_network *network, const char *name) {
    static const char *const of_weight[] = {".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".zeros"};
    static const char *const of_module[] = {".SCB", ".weight_format"};
    char base[NAME_SIZE];
    const char *end = strstr(name, ".quant_state.");
    const char *added = "";
    size_t length = strlen(name);
    for (size_t i = 0; !end && i < sizeof of_weight / sizeof *of_weight; i++) {
        size_t tail = strlen(of_weight[i]);
        if (length > tail && strcmp(name + length - tail, of_weight[i]) == 0)
            end = name + length - tail;
    }
    for (size_t i = 0; !end && i < sizeof of_module / sizeof *of_module; i++) {
        size_t tail = strlen(of_module[i]);
        if (length > tail && strcmp(name + length - tail, of_module[i]) == 0) {
            end = name + length - tail;
            added = ".weight";
        }
    }
    tn_module *module;
    int part;
    if (!end || snprintf(base, sizeof base, "%.*s%s", (int)(end - name), name, added) >= (int)sizeof base)
        return false;
    return tn_network_find_part(network, base, &module, &part) && part == 0 &&
           module->weight.tensor.dtype == TN_DTYPE_QUANTISED;
}

tn_status tn_network_quantise(tn_network *network, tn_module *module, const tn_quant_codec *codec,
                              const tn_quant_params *params) {
    tn_tensor *tensor = &module->weight.tensor;
    const tn_tensor original = *tensor;
    tn_quant_params complete = *params;
    int64_t count = tn_tensor_count(tensor), row = count / tensor->shape[0];
    if (codec->rows)
        complete.block = row;
    if (codec->block_bytes && row % codec->min_block)
        return tn_fail(TN_ERROR_ARGUMENT,
                       "'%s': its rows of %lld elements are not whole blocks of %lld, as %s has them; choose another "
                       "quantisation for it or exclude it",
                       module->name, (long long)row, (long long)codec->min_block, codec->name);
    tn_quantised *array = tn_network_new_quantised(network);
    if (!array)
        return tn_fail_memory("the quantised weights");
    tn_status status = tn_quantised_new_in(&network->quantised_memory, array, codec, &complete, count);
    if (status == TN_OK)
        status = tn_quantise(array, &original);
    if (status != TN_OK) {
        tn_quantised_free(array);
        return tn_fail_context(status, "'%s'", module->name);
    }
    tensor->dtype = TN_DTYPE_QUANTISED;
    tensor->data = array;
    tn_checkpoint_forget(&network->checkpoint, &original);
    return TN_OK;
}
