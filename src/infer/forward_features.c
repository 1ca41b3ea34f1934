/* tn_forward_file for sequential models: rows of numbers in, logits, loss and gradients out. */
#include <tenon/evaluate.h>

#include "infer/forward_file.h"

typedef struct {
    float *x, *targets;
    int32_t *labels;
    int64_t count;
    bool has_target;
    tn_arena arena;
} inputs;

/* A tensor whose first dimension counts rows and whose others hold `width` numbers. */
static tn_status find_rows(const tn_safetensors *file, const char *name, int64_t width, const tn_tensor **out) {
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    char shape[TN_SHAPE_TEXT];
    *out = entry ? &entry->tensor : NULL;
    if (!entry)
        return TN_OK;
    const tn_tensor *t = *out;
    if (t->ndim < 1 || t->shape[0] < 1 || t->shape[0] > INT32_MAX || tn_tensor_count(t) / t->shape[0] != width)
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' has shape %s, but must have 1 or more rows of %lld numbers", file->path,
                       name, tn_shape_text(t, shape), (long long)width);
    return TN_OK;
}

static tn_status read_floats(const tn_safetensors *file, const char *name, const tn_tensor *t, tn_arena *arena,
                             float **out) {
    int64_t count = tn_tensor_count(t);
    if (!tn_dtype_is_float(t->dtype))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' is stored as %s, not as floats", file->path, name,
                       tn_dtype_name(t->dtype));
    int64_t bad = tn_tensor_first_nonfinite(t);
    if (bad >= 0)
        return tn_fail(TN_ERROR_NUMERIC, "%s: '%s' holds a NaN or infinity at element %lld", file->path, name,
                       (long long)bad);
    *out = tn_arena_array(arena, (size_t)count, sizeof **out);
    if (!*out)
        return tn_fail_memory("the input");
    tn_convert_to_f32(*out, t->data, t->dtype, count);
    return TN_OK;
}

static tn_status read_labels(const tn_safetensors *file, const tn_tensor *t, int64_t classes, inputs *in) {
    if (t->dtype != TN_DTYPE_I32 && t->dtype != TN_DTYPE_I64)
        return tn_fail(TN_ERROR_FORMAT, "%s: 'target' is stored as %s, but class ids are I32 or I64", file->path,
                       tn_dtype_name(t->dtype));
    in->labels = tn_arena_array(&in->arena, (size_t)in->count, sizeof *in->labels);
    if (!in->labels)
        return tn_fail_memory("the input");
    for (int64_t i = 0; i < in->count; i++) {
        int64_t label = t->dtype == TN_DTYPE_I64 ? ((const int64_t *)t->data)[i] : ((const int32_t *)t->data)[i];
        if (label < 0 || label >= classes)
            return tn_fail(TN_ERROR_FORMAT, "%s: target[%lld] is %lld, but the model has the classes 0 to %lld", file->path,
                           (long long)i, (long long)label, (long long)classes - 1);
        in->labels[i] = (int32_t)label;
    }
    return TN_OK;
}

static tn_status read_inputs(const tn_safetensors *file, const tn_sequential_config *c, inputs *in) {
    const tn_tensor *x, *target;
    bool classes = !c->regression;
    TN_TRY(find_rows(file, "x", c->inputs, &x));
    if (!x)
        return tn_fail(TN_ERROR_FORMAT, "%s: there is no tensor 'x', which a sequential model reads", file->path);
    in->count = x->shape[0];
    TN_TRY(read_floats(file, "x", x, &in->arena, &in->x));
    TN_TRY(find_rows(file, "target", classes ? 1 : c->outputs, &target));
    in->has_target = target != NULL;
    if (!target)
        return TN_OK;
    if (target->shape[0] != in->count)
        return tn_fail(TN_ERROR_FORMAT, "%s: 'target' has %lld rows and 'x' %lld", file->path, (long long)target->shape[0],
                       (long long)in->count);
    return classes ? read_labels(file, target, c->outputs, in)
                   : read_floats(file, "target", target, &in->arena, &in->targets);
}

static tn_status declare(tn_safetensors_writer *writer, const tn_model *model, const inputs *in, bool with_grad) {
    int64_t shape[2] = {in->count, model->sequential->config.outputs};
    TN_TRY(tn_safetensors_writer_declare(writer, "logits", TN_DTYPE_F32, 2, shape));
    if (in->has_target)
        TN_TRY(tn_safetensors_writer_declare(writer, "loss", TN_DTYPE_F32, 0, shape));
    if (with_grad)
        TN_TRY(tn_forward_declare_gradients(writer, model->adapter));
    return tn_safetensors_writer_begin(writer);
}

static tn_status write_loss(tn_safetensors_writer *writer, tn_model *model, inputs *in, tn_tape *tape, bool with_grad) {
    const tn_feature_pass pass = {.x = in->x, .count = in->count, .labels = in->labels, .targets = in->targets};
    tn_forward forward = {.tape = tape};
    float *losses = tn_arena_array(&in->arena, (size_t)in->count, sizeof *losses), loss;
    double sum = 0;
    if (!losses)
        return tn_fail_memory("the losses");
    tn_tape_reset(tape);
    tape->recording = with_grad;
    tn_pass_features(model, &forward, &pass, 1.0f / (float)in->count, losses, NULL);
    TN_TRY(tn_tape_status(tape));
    for (int64_t i = 0; i < in->count; i++)
        sum += losses[i];
    loss = (float)(sum / (double)in->count + tn_adapter_penalty(model->adapter));
    TN_TRY(tn_safetensors_writer_data(writer, &loss, sizeof loss));
    return with_grad ? tn_forward_write_gradients(writer, model->adapter) : TN_OK;
}

static tn_status write_output(tn_model *model, inputs *in, const char *path, tn_tape *tape, bool with_grad) {
    tn_safetensors_writer *writer;
    int64_t floats = in->count * model->sequential->config.outputs;
    float *logits = tn_arena_array(&in->arena, (size_t)floats, sizeof *logits);
    tn_status status;
    if (!logits)
        return tn_fail_memory("the logits");
    TN_TRY(tn_pass_feature_logits(model, tape, in->x, in->count, logits));
    TN_TRY(tn_safetensors_writer_new(&writer, path));
    TN_TRY_GOTO(declare(writer, model, in, with_grad));
    TN_TRY_GOTO(tn_safetensors_writer_data(writer, logits, floats * (int64_t)sizeof *logits));
    if (in->has_target)
        TN_TRY_GOTO(write_loss(writer, model, in, tape, with_grad));
    return tn_safetensors_writer_finish(writer);
fail:
    tn_safetensors_writer_abort(writer);
    return status;
}

tn_status tn_forward_features(tn_model *model, const tn_safetensors *file, const char *output_path, bool with_grad) {
    tn_pass_cost plain, loss;
    tn_tape tape = {0};
    inputs in = {0};
    tn_status status;
    TN_TRY_GOTO(read_inputs(file, &model->sequential->config, &in));
    if (with_grad && !in.has_target) {
        status = tn_fail(TN_ERROR_ARGUMENT, "%s: gradients need a tensor 'target'", file->path);
        goto fail;
    }
    TN_TRY_GOTO(tn_pass_rehearse_features(model, in.count, false, &plain));
    TN_TRY_GOTO(tn_pass_rehearse_features(model, in.count, with_grad, &loss));
    TN_TRY_GOTO(
        tn_tape_init(&tape, model->kernels, loss.heap_bytes > plain.heap_bytes ? loss.heap_bytes : plain.heap_bytes));
    status = write_output(model, &in, output_path, &tape, with_grad);
fail:
    tn_tape_free(&tape);
    tn_arena_free(&in.arena);
    return status;
}
