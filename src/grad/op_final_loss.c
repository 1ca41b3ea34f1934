/* Losses that end a pass, by rows, the gradient of s sum_t loss_t put on the value at once:
 * loss_t = logsumexp(z_t) - z_t[label_t],  dz_t = s (softmax(z_t) - onehot(label_t));
 * loss_t = mean_k (y_tk - target_tk)^2,  dy_tk = s 2 / K (y_tk - target_tk). */
#include "grad/ops.h"

/* Where the loss's kernel leaves the gradient: a copy of the value, in its own memory when no other op needs that. Returns
 * the value itself when there is no way back. */
static float *copy_for_gradient(tn_tape *tape, tn_var *value, bool *back) {
    const float *from = value->data;
    bool accumulate;
    *back = tape->recording && value->needs_grad;
    if (!*back)
        return value->data;
    float *gradient = tn_grad_over_value(tape, value, &accumulate);
    if (tn_tape_live(tape) && gradient != from)
        tape->kernels->copy(gradient, from, value->rows * value->cols);
    return gradient;
}

void tn_op_class_loss(tn_tape *tape, tn_var *logits, const int32_t *labels, float grad_scale, float *losses,
                      int32_t *predicted) {
    bool back;
    tn_op_begin(tape, "cross entropy");
    if (predicted && tn_tape_live(tape))
        tape->kernels->argmax_rows(predicted, logits->data, logits->rows, logits->cols);
    float *z = copy_for_gradient(tape, logits, &back);
    if (tn_tape_live(tape))
        tape->kernels->cross_entropy(losses, NULL, z, labels, back ? grad_scale : 0, logits->rows, logits->cols);
    tn_op_end(tape);
}

void tn_op_squared_error(tn_tape *tape, tn_var *y, const float *targets, float grad_scale, float *losses) {
    bool back;
    tn_op_begin(tape, "squared error");
    float *z = copy_for_gradient(tape, y, &back);
    if (tn_tape_live(tape))
        tape->kernels->squared_error(losses, z, targets, back ? grad_scale : 0, y->rows, y->cols);
    tn_op_end(tape);
}
