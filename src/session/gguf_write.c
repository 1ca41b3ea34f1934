#include "session/gguf_write.h"

#include <tenon/quantize.h>

#include <math.h>
#include <string.h>

#include "model/gguf_config.h"
#include "session/merge.h"
#include "tensor/gguf_tensors.h"
#include "text/gguf_tokenizer.h"

typedef struct output {
    char name[TN_GGUF_NAME_LIMIT];
    const tn_tensor *tensor;
    uint32_t type;
    int64_t rows, columns, heads; /* heads 0: rows as they are */
} output;

typedef struct exporter {
    const tn_model *model;
    const tn_decoder_config *config;
    tn_gguf_writer *writer;
    tn_gguf_type_chooser *choose;
    void *context;
    output *outputs;
    int64_t count;
    float *frequency_factors; /* [D/2], or NULL */
} exporter;

static tn_status cannot(const exporter *e, const char *what) {
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s: %s cannot be written as GGUF", e->model->network->dir, what);
}

static tn_status check_model(const exporter *e) {
    const tn_decoder_config *c = e->config;
    if (strcmp(c->family, "llama") != 0 && strcmp(c->family, "qwen2") != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: models of the family %s cannot be written as GGUF; llama and qwen2 can",
                       e->model->network->dir, c->family);
    if (c->window)
        return cannot(e, "a sliding window");
    if (c->rope.type == TN_ROPE_YARN && (c->rope.mscale != 0 || c->rope.mscale_all_dim != 0 || !c->rope.truncate))
        return cannot(e, "this form of yarn rope scaling");
    return TN_OK;
}

/* F32 for codes of other kinds than ggml's. */
static uint32_t stored_type(const tn_tensor *tensor) {
    uint32_t type = TN_GGML_F32;
    if (tensor->dtype == TN_DTYPE_QUANTISED) {
        const tn_quant_codec *codec = ((const tn_quantised *)tensor->data)->codec;
        return codec->block_bytes ? codec->ggml_type : TN_GGML_F32;
    }
    tn_ggml_type_from_dtype(tensor->dtype, &type);
    return type;
}

static int64_t heads_of(const exporter *e, const tn_module *module) {
    const char *part = strrchr(module->name, '.');
    if (!tn_gguf_interleaves(e->config->family) || !part)
        return 0;
    return strcmp(part, ".q_proj") == 0 ? e->config->heads : strcmp(part, ".k_proj") == 0 ? e->config->kv_heads : 0;
}

static tn_status add_output(exporter *e, const tn_module *module, int part, const tn_tensor *tensor) {
    char name[TN_GGUF_HF_NAME];
    output *o = &e->outputs[e->count++];
    snprintf(name, sizeof name, "%s.%s", module->name, tn_module_part_name(part));
    *o = (output){.tensor = tensor, .type = TN_GGML_F32, .heads = heads_of(e, module)};
    if (!tn_gguf_name_from_hf(name, o->name))
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: the tensor '%s' has no name in GGUF", e->model->network->dir, name);
    o->rows = tensor->shape[0];
    o->columns = tensor->ndim > 1 ? tensor->shape[1] : 1;
    if (tensor->ndim > 1)
        o->type = stored_type(tensor);
    if (tensor->ndim > 1 && e->choose)
        o->type = e->choose(e->context, o->name, tensor, o->type);
    return tn_gguf_writer_declare(e->writer, o->name, o->type, tensor->ndim, tensor->shape);
}

static tn_status declare_tensors(exporter *e) {
    const tn_network *network = e->model->network;
    const int64_t half = e->config->head_size / 2;
    for (int64_t i = 0; i < network->module_count * TN_MODULE_PARTS; i++) {
        tn_module *module = &network->modules[i / TN_MODULE_PARTS];
        const tn_weight *weight = tn_module_part(module, (int)(i % TN_MODULE_PARTS));
        if (weight)
            TN_TRY(add_output(e, module, (int)(i % TN_MODULE_PARTS), &weight->tensor));
    }
    return e->frequency_factors ? tn_gguf_writer_declare(e->writer, "rope_freqs.weight", TN_GGML_F32, 1, &half) : TN_OK;
}

/* llama.cpp's number for what most of a file is: F32 0, mostly F16 1, ... */
static int64_t file_type(const exporter *e) {
    static const struct {
        uint32_t type;
        int64_t number;
    } numbers[] = {{TN_GGML_F32, 0},   {TN_GGML_F16, 1},   {TN_GGML_Q4_0, 2},    {TN_GGML_Q4_1, 3},  {TN_GGML_Q8_0, 7},
                   {TN_GGML_Q5_0, 8},  {TN_GGML_Q5_1, 9},  {TN_GGML_Q2_K, 10},   {TN_GGML_Q3_K, 12}, {TN_GGML_Q4_K, 15},
                   {TN_GGML_Q5_K, 17}, {TN_GGML_Q6_K, 18}, {TN_GGML_IQ4_NL, 25}, {TN_GGML_BF16, 32}};
    int64_t most = -1, best = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int64_t elements = 0;
        for (int64_t n = 0; n < e->count; n++)
            elements += e->outputs[n].type == numbers[i].type ? e->outputs[n].rows * e->outputs[n].columns : 0;
        if (elements > most) {
            most = elements;
            best = numbers[i].number;
        }
    }
    return best;
}

enum { KEY_SIZE = 128 };

static tn_status put_integer(const exporter *e, const char *name, int64_t value) {
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.%s", e->config->family, name);
    return tn_gguf_writer_integer(e->writer, key, TN_GGUF_U32, value);
}

static tn_status put_float(const exporter *e, const char *name, double value) {
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.%s", e->config->family, name);
    return tn_gguf_writer_float(e->writer, key, (float)value);
}

static tn_status put_scaling_type(const exporter *e, const char *type) {
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.rope.scaling.type", e->config->family);
    return tn_gguf_writer_string(e->writer, key, type);
}

static tn_status put_rope(const exporter *e) {
    const tn_rope_config *rope = &e->config->rope;
    TN_TRY(put_integer(e, "rope.dimension_count", e->config->head_size));
    TN_TRY(put_float(e, "rope.freq_base", rope->theta));
    if (rope->type == TN_ROPE_DEFAULT)
        return TN_OK;
    if (rope->type == TN_ROPE_LLAMA3) /* the rest is in rope_freqs.weight */
        return put_integer(e, "rope.scaling.original_context_length", rope->original_max_positions);
    TN_TRY(put_scaling_type(e, rope->type == TN_ROPE_LINEAR ? "linear" : "yarn"));
    TN_TRY(put_float(e, "rope.scaling.factor", rope->factor));
    if (rope->type == TN_ROPE_LINEAR)
        return TN_OK;
    TN_TRY(put_integer(e, "rope.scaling.original_context_length", rope->original_max_positions));
    TN_TRY(put_float(e, "rope.scaling.yarn_beta_fast", rope->beta_fast));
    TN_TRY(put_float(e, "rope.scaling.yarn_beta_slow", rope->beta_slow));
    if (rope->attention_factor == 0)
        return TN_OK;
    /* llama.cpp multiplies by what Hugging Face takes when none is given */
    double usual = rope->factor > 1 ? 1 + 0.1 * log(rope->factor) : 1;
    return put_float(e, "rope.scaling.attn_factor", rope->attention_factor / usual);
}

static tn_status put_config(const exporter *e) {
    const tn_decoder_config *c = e->config;
    const char *slash = strrchr(e->model->network->dir, '/');
    TN_TRY(tn_gguf_writer_string(e->writer, "general.architecture", c->family));
    TN_TRY(tn_gguf_writer_string(e->writer, "general.type", "model"));
    TN_TRY(tn_gguf_writer_string(e->writer, "general.name", slash && slash[1] ? slash + 1 : e->model->network->dir));
    TN_TRY(tn_gguf_writer_integer(e->writer, "general.file_type", TN_GGUF_U32, file_type(e)));
    TN_TRY(tn_gguf_writer_integer(e->writer, "general.quantization_version", TN_GGUF_U32, 2));
    TN_TRY(put_integer(e, "vocab_size", c->vocab_size));
    TN_TRY(put_integer(e, "context_length", c->max_positions));
    TN_TRY(put_integer(e, "embedding_length", c->hidden_size));
    TN_TRY(put_integer(e, "block_count", c->layers));
    TN_TRY(put_integer(e, "feed_forward_length", c->intermediate_size));
    TN_TRY(put_integer(e, "attention.head_count", c->heads));
    TN_TRY(put_integer(e, "attention.head_count_kv", c->kv_heads));
    if (c->head_size * c->heads != c->hidden_size) {
        TN_TRY(put_integer(e, "attention.key_length", c->head_size));
        TN_TRY(put_integer(e, "attention.value_length", c->head_size));
    }
    TN_TRY(put_float(e, "attention.layer_norm_rms_epsilon", c->norm_eps));
    return put_rope(e);
}

/* tokenizer.json and tokenizer_config.json of the model, from its folder or its own GGUF file; NULL when there are none. */
static tn_status read_words(const tn_model *model, cJSON **tokenizer, cJSON **config) {
    enum { WORDS_LIMIT = 512 << 20 };
    char path[TN_PATH_MAX];
    *tokenizer = *config = NULL;
    if (model->network->checkpoint.gguf)
        return tn_gguf_tokenizer_read(model->network->dir, tokenizer, config);
    TN_TRY(tn_path_join(path, model->tokenizer_dir, "tokenizer.json"));
    TN_TRY(tn_json_read(path, WORDS_LIMIT, tokenizer));
    TN_TRY(tn_path_join(path, model->tokenizer_dir, "tokenizer_config.json"));
    return tn_path_exists(path) ? tn_json_read(path, WORDS_LIMIT, config) : TN_OK;
}

/* A template in a file of its own counts before the one in tokenizer_config.json. */
static tn_status take_template_file(const tn_model *model, cJSON **config) {
    enum { TEMPLATE_LIMIT = 4 << 20 };
    char path[TN_PATH_MAX];
    tn_buf text = {0};
    if (model->network->checkpoint.gguf)
        return TN_OK;
    TN_TRY(tn_path_join(path, model->tokenizer_dir, "chat_template.jinja"));
    if (!tn_path_exists(path))
        return TN_OK;
    tn_status status = tn_file_read(path, TEMPLATE_LIMIT, &text);
    if (!*config)
        *config = cJSON_CreateObject();
    cJSON_DeleteItemFromObjectCaseSensitive(*config, "chat_template");
    cJSON_AddStringToObject(*config, "chat_template", tn_buf_text(&text));
    tn_buf_free(&text);
    return status;
}

/* Tokenizer first, config.json where it has nothing to say. */
static tn_status find_roles(const tn_model *model, const cJSON *json, tn_gguf_tokenizer_roles *out) {
    const tn_tokenizer *t = model->tokenizer;
    const cJSON *unknown = tn_json_get(tn_json_get(json, "model"), "unk_token");
    tn_ids ids = {0};
    out->bos = tn_tokenizer_bos(t) >= 0 ? tn_tokenizer_bos(t) : out->bos;
    out->eos = tn_tokenizer_eos(t) >= 0 ? tn_tokenizer_eos(t) : out->eos;
    out->pad = tn_tokenizer_pad(t);
    out->unknown = cJSON_IsString(unknown) ? tn_tokenizer_id(t, unknown->valuestring) : -1;
    tn_status status = tn_tokenizer_encode(t, "", 0, true, &ids);
    out->adds_bos = ids.count && ids.data[0] == out->bos;
    out->adds_eos = ids.count > (size_t)out->adds_bos && ids.data[ids.count - 1] == out->eos;
    bool known = ids.count == (size_t)out->adds_bos + (size_t)out->adds_eos;
    tn_ids_free(&ids);
    if (status == TN_OK && !known)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: the tokenizer puts other tokens than bos and eos around a text, which GGUF "
                       "cannot say",
                       model->tokenizer_dir);
    return status;
}

/* The ids at which a text begins and ends; of those that only config.json names GGUF takes one. */
static tn_status put_ends(const exporter *e, const tn_gguf_tokenizer_roles *roles) {
    const tn_decoder_config *c = e->config;
    if (roles->bos >= 0)
        TN_TRY(tn_gguf_writer_integer(e->writer, "tokenizer.ggml.bos_token_id", TN_GGUF_U32, roles->bos));
    if (roles->eos >= 0)
        TN_TRY(tn_gguf_writer_integer(e->writer, "tokenizer.ggml.eos_token_id", TN_GGUF_U32, roles->eos));
    for (int i = 0; i < c->eos_count; i++)
        if (c->eos[i] != roles->eos)
            return tn_gguf_writer_integer(e->writer, "tokenizer.ggml.eot_token_id", TN_GGUF_U32, c->eos[i]);
    return TN_OK;
}

static tn_status put_tokenizer(const exporter *e) {
    cJSON *tokenizer = NULL, *config = NULL;
    const tn_decoder_config *c = e->config;
    tn_gguf_tokenizer_roles roles = {.bos = c->bos, .eos = c->eos_count ? c->eos[0] : -1, .unknown = -1, .pad = -1};
    tn_status status;
    if (!e->model->tokenizer) {
        TN_TRY(tn_gguf_writer_string(e->writer, "tokenizer.ggml.model", "none"));
        return put_ends(e, &roles);
    }
    TN_TRY_GOTO(read_words(e->model, &tokenizer, &config));
    TN_TRY_GOTO(take_template_file(e->model, &config));
    TN_TRY_GOTO(find_roles(e->model, tokenizer, &roles));
    TN_TRY_GOTO(tn_gguf_write_tokenizer(e->writer, tokenizer, config, &roles, c->vocab_size, e->model->tokenizer_dir));
    status = put_ends(e, &roles);
fail:
    cJSON_Delete(tokenizer);
    cJSON_Delete(config);
    return status;
}

/* The row, in Hugging Face's order, that comes as number `row` in the file. */
static int64_t source_row(const output *o, int64_t row) {
    if (!o->heads)
        return row;
    int64_t head_rows = o->rows / o->heads, within = row % head_rows;
    return row - within + within / 2 + within % 2 * (head_rows / 2);
}

/* The bytes of a tensor that stay what they are; NULL when its values are to be encoded. */
static const char *stored_bytes(const output *o) {
    if (o->tensor->dtype == TN_DTYPE_QUANTISED) {
        const tn_quantised *array = o->tensor->data;
        return array->codec->block_bytes && o->type == array->codec->ggml_type ? (const char *)array->codes : NULL;
    }
    return o->type == stored_type(o->tensor) ? o->tensor->data : NULL;
}

static tn_status write_tensor(const exporter *e, const output *o, float *values, uint8_t *encoded) {
    const char *stored = stored_bytes(o);
    int64_t bytes;
    TN_TRY(tn_ggml_bytes(o->type, 1, o->columns, &bytes));
    for (int64_t row = 0; row < o->rows; row++) {
        int64_t source = source_row(o, row);
        if (stored) {
            TN_TRY(tn_gguf_writer_data(e->writer, stored + source * bytes, bytes));
            continue;
        }
        tn_tensor_read(values, o->tensor, source * o->columns, o->columns);
        tn_status status = tn_ggml_encode(o->type, encoded, values, 1, o->columns);
        if (status != TN_OK)
            return tn_fail_context(status, "tensor '%s', row %lld", o->name, (long long)row);
        TN_TRY(tn_gguf_writer_data(e->writer, encoded, bytes));
    }
    return TN_OK;
}

static tn_status write_tensors(const exporter *e) {
    int64_t widest = 1;
    for (int64_t i = 0; i < e->count; i++)
        widest = e->outputs[i].columns > widest ? e->outputs[i].columns : widest;
    /* no type takes more than four bytes a value, but a block may be longer than a row of one */
    float *values = tn_malloc((size_t)widest * sizeof *values);
    uint8_t *encoded = tn_malloc((size_t)widest * sizeof *values + TN_GGML_BLOCK_BYTES_MAX);
    tn_status status = values && encoded ? TN_OK : tn_fail_memory("rows to write");
    for (int64_t i = 0; i < e->count && status == TN_OK; i++)
        status = write_tensor(e, &e->outputs[i], values, encoded);
    if (status == TN_OK && e->frequency_factors)
        status = tn_gguf_writer_data(e->writer, e->frequency_factors,
                                     e->config->head_size / 2 * (int64_t)sizeof *e->frequency_factors);
    tn_free(values);
    tn_free(encoded);
    return status;
}

static tn_status prepare(exporter *e) {
    const tn_rope_config *rope = &e->config->rope;
    size_t most = (size_t)e->model->network->module_count * TN_MODULE_PARTS;
    e->outputs = tn_calloc(most, sizeof *e->outputs);
    if (!e->outputs)
        return tn_fail_memory("the list of tensors");
    if (rope->type != TN_ROPE_LLAMA3)
        return TN_OK;
    const tn_llama3_scaling scaling = {rope->factor, rope->low_freq_factor, rope->high_freq_factor,
                                       (double)rope->original_max_positions};
    e->frequency_factors = tn_malloc((size_t)(e->config->head_size / 2) * sizeof *e->frequency_factors);
    if (!e->frequency_factors)
        return tn_fail_memory("rotary frequencies");
    tn_llama3_frequency_factors(e->frequency_factors, e->config->head_size, rope->theta, &scaling);
    return TN_OK;
}

tn_status tn_session_write_gguf(const tn_model *model, const char *path, tn_gguf_type_chooser *choose, void *context) {
    exporter e = {.model = model, .choose = choose, .context = context};
    tn_status status;
    TN_TRY(tn_session_need_decoder(model, "GGUF"));
    e.config = &model->decoder->config;
    TN_TRY(check_model(&e));
    TN_TRY(tn_gguf_writer_new(&e.writer, path));
    TN_TRY_GOTO(prepare(&e));
    TN_TRY_GOTO(declare_tensors(&e));
    TN_TRY_GOTO(put_config(&e));
    TN_TRY_GOTO(put_tokenizer(&e));
    TN_TRY_GOTO(tn_gguf_writer_begin(e.writer));
    TN_TRY_GOTO(write_tensors(&e));
    status = tn_gguf_writer_finish(e.writer);
    e.writer = NULL;
fail:
    tn_gguf_writer_abort(e.writer);
    tn_free(e.outputs);
    tn_free(e.frequency_factors);
    return status;
}

/* Codes that are not ggml's would silently be written decoded. */
static tn_status check_types(const tn_network *network) {
    for (int64_t i = 0; i < network->module_count; i++) {
        const tn_module *module = &network->modules[i];
        const tn_tensor *weight = &module->weight.tensor;
        if (weight->dtype == TN_DTYPE_QUANTISED && !((const tn_quantised *)weight->data)->codec->block_bytes)
            return tn_fail(TN_ERROR_UNSUPPORTED,
                           "'%s' is quantised as %s, which GGUF has no place for; choose a type of ggml, such as q4_0",
                           module->name, tn_tensor_type(weight));
    }
    return TN_OK;
}

tn_status tn_model_save_gguf(tn_model *model, const char *dir) {
    char path[TN_PATH_MAX];
    TN_TRY(check_types(model->network));
    TN_TRY(tn_path_join(path, dir, "model.gguf"));
    TN_TRY(tn_dir_create(dir));
    TN_TRY(tn_session_check_output(model, dir, false));
    TN_TRY(tn_dir_check_writable(dir));
    TN_TRY(tn_disk_check_free(dir, (uint64_t)tn_network_bytes(model->network)));
    return tn_session_write_gguf(model, path, NULL, NULL);
}
