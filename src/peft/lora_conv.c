/* LoRA and DoRA on a convolution, as PEFT has them: A [R, C, kh, kw] is a convolution by the base's window that reads all
 * channels whatever the base's groups G, B [O, R / G, 1, 1] one of single pixels in those groups:
 *   y = conv(x, W) + b + s (conv(conv(dropout(x), A), B) + b_B)
 * Flattened, with A_g the rows of A that group g of B's rows reads, the update of group g is s B_g A_g [O / G, C kh kw]. It
 * reads all channels, so merged with G > 1 the convolution is one without groups; PEFT does not merge that. DoRA is that of
 * linear layers by output channels, its magnitude [1, O, 1, 1]; like PEFT's it is for G = 1. */
#include <string.h>

#include "base/rng.h"
#include "peft/lora.h"

static tn_conv_shape shape_of_a(const tn_lora_slot *slot, const tn_module *module) {
    tn_conv_shape shape = module->conv;
    shape.out_channels = slot->a.tensor.shape[0];
    shape.groups = 1;
    return shape;
}

static tn_conv_shape shape_of_b(const tn_lora_slot *slot, const tn_module *module) {
    return (tn_conv_shape){.in_channels = slot->a.tensor.shape[0],
                           .out_channels = module->conv.out_channels,
                           .height = tn_conv_out_height(&module->conv),
                           .width = tn_conv_out_width(&module->conv),
                           .kernel_height = 1,
                           .kernel_width = 1,
                           .stride_height = 1,
                           .stride_width = 1,
                           .dilation_height = 1,
                           .dilation_width = 1,
                           .groups = module->conv.groups};
}

/* y += s (conv(conv(x, A), B) + b_B). */
static void add_update(tn_tape *tape, const tn_lora_slot *slot, const tn_module *module, tn_var *y, tn_var *x) {
    const tn_conv_shape a = shape_of_a(slot, module), b = shape_of_b(slot, module);
    tn_var *u = tn_op_conv2d(tape, x, &a, &slot->a, NULL);
    tn_var *z = tn_op_conv2d(tape, u, &b, &slot->b, slot->has_bias ? &slot->bias : NULL);
    tn_op_add(tape, y, z, slot->scale);
    tn_drop(tape, u);
    tn_drop(tape, z);
}

/* With dropout the rescaled output is that of the dropped input, as on linear layers. */
static tn_var *dora_conv(const tn_forward *forward, const tn_lora_slot *slot, const tn_module *module, tn_var *x,
                         tn_var *dropped, tn_var *y) {
    tn_tape *tape = forward->tape;
    const tn_tensor *w = &module->weight.tensor;
    int64_t out = w->shape[0], in = tn_tensor_count(w) / out;
    const float *n = tn_dora_norms(tape, slot, tn_rows_of(w->data, w->dtype, in), out, in);
    if (dropped == x) {
        add_update(tape, slot, module, y, x);
        tn_var *scaled = tn_op_magnitude(tape, y, &slot->magnitude, n, module->has_bias ? &module->bias : NULL);
        tn_drop(tape, y);
        return scaled;
    }
    tn_var *z = tn_op_conv2d(tape, dropped, &module->conv, &module->weight, NULL);
    tn_op_add(tape, y, z, -1);
    add_update(tape, slot, module, z, dropped);
    tn_var *scaled = tn_op_magnitude(tape, z, &slot->magnitude, n, NULL);
    tn_op_add(tape, y, scaled, 1);
    tn_drop(tape, z);
    tn_drop(tape, scaled);
    return y;
}

tn_var *tn_lora_conv(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x, tn_var *y) {
    const tn_lora_slot *slot = (const tn_lora_slot *)base;
    tn_tape *tape = forward->tape;
    tn_var *input = x;
    if (forward->training && slot->dropout > 0)
        input = tn_op_dropout(tape, x, slot->dropout, forward->dropout_seed, tn_stream(TN_STREAM_DROPOUT, base->id));
    if (slot->has_magnitude)
        y = dora_conv(forward, slot, module, x, input, y);
    else
        add_update(tape, slot, module, y, input);
    if (input != x)
        tn_drop(tape, input);
    return y;
}

static tn_weight kernels_of(int64_t out, int64_t in, int64_t height, int64_t width) {
    return (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 4, .shape = {out, in, height, width}}};
}

tn_status tn_lora_conv_create(const tn_peft_config *config, tn_lora_slot *slot, const tn_module *module, int64_t rank) {
    const tn_conv_shape *conv = &module->conv;
    if (rank % conv->groups)
        return tn_fail(TN_ERROR_ARGUMENT,
                       "'%s' is a convolution in %lld groups, so the rank must be a multiple of that, not %lld",
                       module->name, (long long)conv->groups, (long long)rank);
    if (slot->has_magnitude && conv->groups > 1)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "use_dora: '%s' is a convolution in %lld groups, whose update has no weight to "
                       "take the norm of; use plain LoRA there",
                       module->name, (long long)conv->groups);
    if (config->freeze_a && conv->groups > 1)
        return tn_fail(TN_ERROR_UNSUPPORTED, "lora-fa: '%s' is a convolution in %lld groups; use plain LoRA there",
                       module->name, (long long)conv->groups);
    if (tn_lora_init_changes_base(config->init) || strcmp(config->init, "orthogonal") == 0)
        return tn_fail(TN_ERROR_UNSUPPORTED, "init_lora_weights '%s' is for linear layers, but '%s' is a convolution",
                       config->init, module->name);
    slot->a = kernels_of(rank, conv->in_channels, conv->kernel_height, conv->kernel_width);
    slot->b = kernels_of(conv->out_channels, rank / conv->groups, 1, 1);
    slot->magnitude = kernels_of(1, conv->out_channels, 1, 1);
    return TN_OK;
}

void tn_lora_conv_merge(const tn_lora_slot *slot, const tn_module *module, float *weight) {
    int64_t groups = module->conv.groups, out = module->conv.out_channels / groups;
    int64_t rank = slot->a.tensor.shape[0] / groups, in = tn_tensor_count(&slot->a.tensor) / slot->a.tensor.shape[0];
    const float *a = slot->a.tensor.data, *b = slot->b.tensor.data;
    for (int64_t g = 0; g < groups; g++)
        tn_kernels_cpu()->gemm(weight + g * out * in, in, tn_rows_of(b + g * out * rank, TN_DTYPE_F32, rank),
                               tn_rows_of(a + g * rank * in, TN_DTYPE_F32, in), slot->scale, 1, out, in, rank);
}
