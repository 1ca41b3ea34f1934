/* loss_i = logsumexp(z_i) - z_i[label_i], z_i = head(hidden[rows_i]);  dz_i = grad_scale (softmax(z_i) - onehot(label_i)).
 * The logits of one piece of rows live at a time; the piece's gradient is taken back through the head before the next piece,
 * and its softmax overwrites the logits. */
#include "grad/ops.h"

/* Lean, and as many rows as the matrix product takes against the head's weight without packing that. A product that rounds
 * always packs, so that a piece must be worth it, unless memory is worth more. */
typedef struct {
    int64_t bytes, least_rows;
} piece_size;
static const piece_size plain = {24 << 20, 96}, rounded = {56 << 20, 256}, rounded_small = {24 << 20, 64};
enum { MOST_ROWS = 1024 };

int64_t tn_head_loss_rows(const tn_kernels *kernels, bool sparing, int64_t vocab_size, int64_t count) {
    const piece_size *size = !kernels->rounds ? &plain : sparing ? &rounded_small : &rounded;
    int64_t rows = size->bytes / (int64_t)sizeof(float) / vocab_size;
    rows = rows < size->least_rows ? size->least_rows : rows > MOST_ROWS ? MOST_ROWS : rows;
    const int64_t pieces = count > rows ? (count + rows - 1) / rows : 1;
    return (count + pieces - 1) / pieces;
}

typedef struct {
    tn_head_fn head;
    void *context;
    const int32_t *rows, *labels;
    float grad_scale, *losses;
    uint8_t *correct;
} job;

/* One piece: forward, loss, and back to `hidden`. */
static void loss_of_piece(tn_tape *tape, tn_var *hidden, const job *j, int64_t first, int64_t count) {
    tn_mark mark = tn_tape_mark(tape);
    tn_var *picked = tn_op_take_rows(tape, hidden, j->rows, first, count);
    tn_var *logits = j->head(tape, j->context, picked, first);
    tn_drop(tape, picked);
    bool back = tape->recording && logits->needs_grad;
    tn_op_begin(tape, "cross entropy");
    if (tn_tape_live(tape))
        tape->kernels->cross_entropy(j->losses + first, j->correct ? j->correct + first : NULL, logits->data,
                                     j->labels + first, back ? j->grad_scale : 0, count, logits->cols);
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
    const job j = {head, context, rows, labels, grad_scale, losses, correct};
    int64_t piece = tn_head_loss_rows(tape->kernels, tape->keeps_8bit, vocab_size, count);
    for (int64_t at = 0; at < count && tape->status == TN_OK; at += piece)
        loss_of_piece(tape, hidden, &j, at, count - at < piece ? count - at : piece);
}
