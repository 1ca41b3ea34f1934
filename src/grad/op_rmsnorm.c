/* y = w * x / rms(x), rms(x) = sqrt(mean(x^2) + eps), over each group of C / groups columns (Zhang & Sennrich 2019).
 * With r = 1 / rms and n columns:  dx = r (dy w - x r^2 sum(dy w x) / n),  dw += sum_t dy x r. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x, *rstd;
    tn_kept kept_x;
    const tn_weight *weight;
    int64_t groups;
} rmsnorm_node;

static void rmsnorm_backward(tn_tape *tape, tn_node *base) {
    rmsnorm_node *node = (rmsnorm_node *)base;
    int64_t rows = base->out->rows * node->groups, cols = base->out->cols / node->groups;
    bool accumulate = false;
    float *dx = tn_grad_of(tape, node->x, &accumulate);
    tn_block wide = {0};
    const float *x = tn_kept_floats(tape, &node->kept_x, &wide);
    if (tn_tape_live(tape))
        tape->kernels->rmsnorm_backward(dx, accumulate, node->weight->grad, tn_grad_in(base), x, node->rstd->data,
                                        node->weight->tensor.data, rows, cols);
    tn_scratch_give(tape, &wide);
}

tn_var *tn_op_rmsnorm(tn_tape *tape, tn_var *x, const tn_weight *weight, float eps, int64_t groups) {
    tn_op_begin(tape, "rmsnorm");
    tn_var *y = tn_var_new(tape, x->rows, x->cols, x->needs_grad || weight->trainable);
    tn_var *rstd = tn_var_new(tape, x->rows, groups, false);
    if (tn_tape_live(tape))
        tape->kernels->rmsnorm_forward(y->data, rstd->data, x->data, weight->tensor.data, eps, x->rows * groups,
                                       x->cols / groups);
    rmsnorm_node *node = tn_node_new(tape, sizeof *node, rmsnorm_backward, y);
    if (node) {
        node->x = x;
        node->kept_x = weight->trainable ? tn_node_keep(tape, &node->node, x) : tn_node_keep_8bit(tape, &node->node, x);
        node->rstd = tn_node_save(&node->node, rstd);
        node->weight = weight;
        node->groups = groups;
    }
    tn_drop(tape, rstd);
    tn_op_end(tape);
    return y;
}
