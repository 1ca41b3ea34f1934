/* safetensors in, logits, loss and gradients out. Rows are packed without their padding, as in training. */
#include <string.h>
#include <tenon/evaluate.h>

#include "infer/forward_file.h"
#include "session/merge.h"

typedef struct {
    int64_t batch, length, tokens, labelled;
    int32_t *ids, *positions, *label_rows, *label_ids;
    int64_t *places; /* [tokens] index into [B, T] */
    int64_t *starts; /* [B + 1] */
    tn_span *spans;
    bool has_labels;
    tn_arena arena;
} inputs;

static int64_t integer_at(const tn_tensor *tensor, int64_t i) {
    return tensor->dtype == TN_DTYPE_I64 ? ((const int64_t *)tensor->data)[i] : ((const int32_t *)tensor->data)[i];
}

static tn_status find_integers(const tn_safetensors *file, const char *name, const tn_tensor *like, const tn_tensor **out) {
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    char got[TN_SHAPE_TEXT];
    *out = NULL;
    if (!entry)
        return TN_OK;
    const tn_tensor *t = &entry->tensor;
    if ((t->dtype != TN_DTYPE_I32 && t->dtype != TN_DTYPE_I64) || t->ndim != 2 || (like && !tn_tensor_same_shape(t, like)))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' must be I32 or I64 of shape [B, T]%s, not %s %s", file->path, name,
                       like ? " as input_ids" : "", tn_dtype_name(t->dtype), tn_shape_text(t, got));
    *out = t;
    return TN_OK;
}

static tn_status allocate_inputs(inputs *in, int64_t batch, int64_t length) {
    size_t count = (size_t)(batch * length);
    in->batch = batch;
    in->length = length;
    in->ids = tn_arena_array(&in->arena, count, sizeof *in->ids);
    in->positions = tn_arena_array(&in->arena, count, sizeof *in->positions);
    in->label_rows = tn_arena_array(&in->arena, count, sizeof *in->label_rows);
    in->label_ids = tn_arena_array(&in->arena, count, sizeof *in->label_ids);
    in->places = tn_arena_array(&in->arena, count, sizeof *in->places);
    in->starts = tn_arena_array(&in->arena, (size_t)batch + 1, sizeof *in->starts);
    in->spans = tn_arena_array(&in->arena, (size_t)batch, sizeof *in->spans);
    return in->ids && in->positions && in->label_rows && in->label_ids && in->places && in->starts && in->spans
               ? TN_OK
               : tn_fail_memory("the input");
}

/* Position t - 1 predicts the label at t. */
static tn_status take_label(inputs *in, const char *path, int64_t label, int64_t vocab, int64_t row) {
    if (label == TN_LABEL_IGNORED)
        return TN_OK;
    if (label < 0 || label >= vocab)
        return tn_fail(TN_ERROR_FORMAT, "%s: label %lld is outside the vocabulary of %lld", path, (long long)label,
                       (long long)vocab);
    in->label_rows[in->labelled] = (int32_t)row;
    in->label_ids[in->labelled++] = (int32_t)label;
    return TN_OK;
}

static tn_status read_inputs(const tn_safetensors *file, int64_t vocab, inputs *in) {
    const tn_tensor *ids, *mask, *labels;
    TN_TRY(find_integers(file, "input_ids", NULL, &ids));
    if (!ids)
        return tn_fail(TN_ERROR_FORMAT, "%s: there is no tensor 'input_ids'", file->path);
    TN_TRY(find_integers(file, "attention_mask", ids, &mask));
    TN_TRY(find_integers(file, "labels", ids, &labels));
    if (tn_tensor_count(ids) == 0 || tn_tensor_count(ids) > INT32_MAX)
        return tn_fail(TN_ERROR_FORMAT, "%s: 'input_ids' must hold 1 to 2^31 - 1 ids", file->path);
    TN_TRY(allocate_inputs(in, ids->shape[0], ids->shape[1]));
    in->has_labels = labels != NULL;
    for (int64_t b = 0; b < in->batch; b++) {
        in->starts[b] = in->tokens;
        for (int64_t t = 0; t < in->length; t++) {
            int64_t at = b * in->length + t, id = integer_at(ids, at);
            if (mask && !integer_at(mask, at))
                continue;
            if (id < 0 || id >= vocab)
                return tn_fail(TN_ERROR_FORMAT, "%s: input_ids[%lld, %lld] = %lld is outside the vocabulary of %lld",
                               file->path, (long long)b, (long long)t, (long long)id, (long long)vocab);
            in->ids[in->tokens] = (int32_t)id;
            in->positions[in->tokens] = (int32_t)t;
            in->places[in->tokens] = at;
            if (labels && t + 1 < in->length)
                TN_TRY(take_label(in, file->path, integer_at(labels, at + 1), vocab, in->tokens));
            in->tokens++;
        }
        int64_t rows = in->tokens - in->starts[b];
        in->spans[b] = (tn_span){in->starts[b], rows, in->starts[b], rows};
    }
    in->starts[in->batch] = in->tokens;
    return TN_OK;
}

/* Logits arrive in the order of the packed tokens; masked places between them are zeros. */
typedef struct {
    tn_safetensors_writer *writer;
    const inputs *in;
    int64_t vocab, written; /* rows of [B, T] */
    const float *zeros;
} logits_file;

static tn_status pad_to(logits_file *out, int64_t place) {
    for (; out->written < place; out->written++)
        TN_TRY(tn_safetensors_writer_data(out->writer, out->zeros, out->vocab * (int64_t)sizeof(float)));
    return TN_OK;
}

static tn_status write_logits(void *cookie, int64_t first_row, int64_t rows, const float *logits) {
    logits_file *out = cookie;
    for (int64_t i = 0; i < rows; i++) {
        TN_TRY(pad_to(out, out->in->places[first_row + i]));
        TN_TRY(tn_safetensors_writer_data(out->writer, logits + i * out->vocab, out->vocab * (int64_t)sizeof(float)));
        out->written++;
    }
    return TN_OK;
}

/* "grad." and the key in the adapter's file; of a named adapter as PEFT names the parameter: "lora_A.other.weight". */
static void name_gradient(char *out, size_t size, const tn_adapter *adapter, const char *name) {
    const char *suffix = strrchr(name, '.');
    const char *prefix = adapter->method ? "base_model.model." : "";
    bool has_suffix = suffix && (strcmp(suffix, ".weight") == 0 || strcmp(suffix, ".bias") == 0);
    int stem = has_suffix ? (int)(suffix - name) : (int)strlen(name);
    if (adapter->name)
        snprintf(out, size, "grad.%s%.*s.%s%s", prefix, stem, name, adapter->name, has_suffix ? suffix : "");
    else
        snprintf(out, size, "grad.%s%s", prefix, name);
}

tn_status tn_forward_declare_gradients(tn_safetensors_writer *writer, const tn_adapter *adapter) {
    char name[640];
    for (; adapter; adapter = adapter->next)
        for (int64_t i = 0; i < adapter->params.count; i++) {
            const tn_param *param = &adapter->params.entries[i];
            if (param->is_buffer)
                continue;
            name_gradient(name, sizeof name, adapter, param->name);
            TN_TRY(tn_safetensors_writer_declare(writer, name, TN_DTYPE_F32, param->weight->tensor.ndim,
                                                 param->weight->tensor.shape));
        }
    return TN_OK;
}

tn_status tn_forward_write_gradients(tn_safetensors_writer *writer, const tn_adapter *adapter) {
    for (; adapter; adapter = adapter->next)
        for (int64_t i = 0; i < adapter->params.count; i++) {
            const tn_param *param = &adapter->params.entries[i];
            if (!param->is_buffer)
                TN_TRY(tn_safetensors_writer_data(writer, param->weight->grad, param->count * (int64_t)sizeof(float)));
        }
    return TN_OK;
}

static tn_status declare(tn_safetensors_writer *writer, const tn_model *model, const inputs *in, bool with_grad) {
    int64_t shape[3] = {in->batch, in->length, model->decoder->config.vocab_size};
    TN_TRY(tn_safetensors_writer_declare(writer, "logits", TN_DTYPE_F32, 3, shape));
    if (in->has_labels)
        TN_TRY(tn_safetensors_writer_declare(writer, "loss", TN_DTYPE_F32, 0, shape));
    if (with_grad)
        TN_TRY(tn_forward_declare_gradients(writer, model->adapter));
    return tn_safetensors_writer_begin(writer);
}

static tn_status write_loss_and_grads(tn_safetensors_writer *writer, tn_model *model, const inputs *in, tn_tape *tape,
                                      bool with_grad) {
    tn_pass pass = {.tokens = {.ids = in->ids,
                               .positions = in->positions,
                               .count = in->tokens,
                               .spans = in->spans,
                               .span_count = in->batch},
                    .label_rows = in->label_rows,
                    .label_ids = in->label_ids,
                    .labelled = in->labelled};
    tn_forward forward = {.tape = tape};
    float *losses = tn_malloc((size_t)(in->labelled + 1) * sizeof *losses), loss;
    double sum = 0;
    if (!losses)
        return tn_fail_memory("the losses");
    tn_tape_reset(tape);
    tape->recording = with_grad;
    tn_pass_loss(model, &forward, &pass, TN_CHECKPOINTING_OFF, in->labelled ? 1.0f / (float)in->labelled : 0, losses, NULL);
    tn_status status = tn_tape_status(tape);
    for (int64_t i = 0; i < in->labelled; i++)
        sum += losses[i];
    tn_free(losses);
    TN_TRY(status);
    loss = (float)((in->labelled ? sum / (double)in->labelled : 0) + tn_adapter_penalty(model->adapter));
    TN_TRY(tn_safetensors_writer_data(writer, &loss, sizeof loss));
    return with_grad ? tn_forward_write_gradients(writer, model->adapter) : TN_OK;
}

static tn_status write_output(tn_model *model, const inputs *in, const char *path, bool with_grad, tn_tape *tape,
                              const float *zeros) {
    tn_safetensors_writer *writer;
    tn_tokens tokens = {
        .ids = in->ids, .positions = in->positions, .count = in->tokens, .spans = in->spans, .span_count = in->batch};
    logits_file out = {.in = in, .vocab = model->decoder->config.vocab_size, .zeros = zeros};
    tn_status status;
    TN_TRY(tn_safetensors_writer_new(&writer, path));
    out.writer = writer;
    TN_TRY_GOTO(declare(writer, model, in, with_grad));
    TN_TRY_GOTO(tn_pass_logits(model, tape, &tokens, NULL, in->tokens, write_logits, &out));
    TN_TRY_GOTO(pad_to(&out, in->batch * in->length));
    if (in->has_labels)
        TN_TRY_GOTO(write_loss_and_grads(writer, model, in, tape, with_grad));
    return tn_safetensors_writer_finish(writer);
fail:
    tn_safetensors_writer_abort(writer);
    return status;
}

static tn_status run(tn_model *model, const inputs *in, const char *output_path, bool with_grad) {
    tn_pass_cost logits_cost, loss_cost;
    tn_tape tape = {0};
    int64_t vocab = model->decoder->config.vocab_size;
    TN_TRY(tn_decoder_prepare(model->decoder, in->length));
    TN_TRY(tn_pass_rehearse(model, in->starts, in->batch, in->tokens, false, TN_CHECKPOINTING_OFF, &logits_cost));
    TN_TRY(tn_pass_rehearse(model, in->starts, in->batch, in->labelled, with_grad, TN_CHECKPOINTING_OFF, &loss_cost));
    int64_t bytes = logits_cost.heap_bytes > loss_cost.heap_bytes ? logits_cost.heap_bytes : loss_cost.heap_bytes;
    float *zeros = tn_calloc((size_t)vocab, sizeof *zeros);
    tn_status status = zeros ? tn_tape_init(&tape, model->kernels, bytes) : tn_fail_memory("the logits");
    if (status == TN_OK)
        status = write_output(model, in, output_path, with_grad, &tape, zeros);
    tn_tape_free(&tape);
    tn_free(zeros);
    return status;
}

/* The model is ready: its adapter merged or trainable as it was asked for. */
static tn_status forward_tokens(tn_model *model, const tn_safetensors *file, const char *output_path, bool with_grad) {
    inputs in = {0};
    tn_status status = read_inputs(file, model->decoder->config.vocab_size, &in);
    if (status == TN_OK && with_grad && !in.has_labels)
        status = tn_fail(TN_ERROR_ARGUMENT, "%s: gradients need a tensor 'labels'", file->path);
    if (status == TN_OK)
        status = run(model, &in, output_path, with_grad);
    tn_arena_free(&in.arena);
    return status;
}

tn_status tn_forward_file(tn_model *model, const char *input_path, const char *output_path, bool with_grad, bool merged) {
    tn_safetensors file;
    tn_merged kept = {0};
    tn_status status;
    if (merged && with_grad)
        return tn_fail(TN_ERROR_ARGUMENT, "gradients of a merged adapter do not exist; choose --merged or --grad");
    TN_TRY(tn_safetensors_open(input_path, &file));
    if (with_grad && !model->adapter)
        TN_TRY_GOTO(tn_adapter_create_full(model->network, true, &model->adapter));
    if (merged && model->adapter)
        TN_TRY_GOTO(tn_session_merge_in_memory(model, &kept));
    status = model->decoder ? forward_tokens(model, &file, output_path, with_grad)
                            : tn_forward_features(model, &file, output_path, with_grad);
fail:
    tn_session_merged_free(model, &kept);
    tn_safetensors_close(&file);
    return status;
}
