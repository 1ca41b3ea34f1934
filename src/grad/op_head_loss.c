/* loss_i = logsumexp(z_i) - z_i[label_i], z_i = head(hidden[rows_i]);  dz_i = grad_scale (softmax(z_i) - onehot(label_i)).
 * The logits of one piece of rows live at a time; the piece's gradient is taken back through the head before the next piece,
 * and its softmax overwrites the logits. */
#include "grad/ops.h"

/* Lean, and as many rows as the matrix product takes against the head's weight without packing that. A product that rounds
 * always packs, so that a piece must be worth it. */
enum { LOGITS_BYTES = 24 << 20, LEAST_ROWS = 96, MOST_ROWS = 1024 };
enum { ROUNDED_LOGITS_BYTES = 56 << 20, LEAST_ROUNDED_ROWS = 192 };

int64_t tn_head_loss_rows(const tn_kernels *kernels, int64_t vocab_size, int64_t count) {
    const int64_t least = kernels->rounds ? LEAST_ROUNDED_ROWS : LEAST_ROWS;
    int64_t rows = (kernels->rounds ? ROUNDED_LOGITS_BYTES : LOGITS_BYTES) / (int64_t)sizeof(float) / vocab_size;
    rows = rows < least ? least : rows > MOST_ROWS ? MOST_ROWS : rows;
    const int64_t pieces = count > rows ? (count + rows - 1) / rows : 1;
    return (count + pieces - 1) / pieces;
}

/* One piece: forward, loss, and back to `hidden`. */
static void loss_of_piece(tn_tape *tape, tn_var *hidden, tn_head_fn head, void *context, const int32_t *rows,
                          const int32_t *labels, int64_t count, float grad_scale, float *losses, uint8_t *correct) {
    tn_mark mark = tn_tape_mark(tape);
    tn_var *picked = tn_op_take_rows(tape, hidden, rows, count);
    tn_var *logits = head(tape, context, picked);
    tn_drop(tape, picked);
    bool back = tape->recording && logits->needs_grad;
    tn_op_begin(tape, "cross entropy");
    if (tn_tape_live(tape))
        tape->kernels->cross_entropy(losses, correct, logits->data, labels, back ? grad_scale : 0, count, logits->cols);
    tn_op_end(tape);
    if (back) {
        logits->grad = logits->value;
        logits->value = (tn_block){0};
    }
    tn_drop(tape, logits);
    if (back)
        tn_tape_backward_to(tape, mark);
}

void tn_op_head_loss(tn_tape *tape, tn_var *hidden, tn_head_fn head, void *context, int64_t vocab_size, const int32_t *rows,
                     const int32_t *labels, int64_t count, float grad_scale, float *losses, uint8_t *correct) {
    int64_t piece = tn_head_loss_rows(tape->kernels, vocab_size, count);
    for (int64_t at = 0; at < count && tape->status == TN_OK; at += piece) {
        int64_t n = count - at < piece ? count - at : piece;
        if (tape->rehearsal)
            loss_of_piece(tape, hidden, head, context, NULL, NULL, n, grad_scale, NULL, NULL);
        else
            loss_of_piece(tape, hidden, head, context, rows + at, labels + at, n, grad_scale, losses + at,
                          correct ? correct + at : NULL);
    }
}
