/* Micro-batches: the order in which samples are seen, and whole samples packed one after another without padding.
 *
 *     ids        [ a0 a1 a2 | b0 b1 | c0 c1 c2 c3 ]     tokens, no sequence sees another
 *     positions  [ 0  1  2  | 0  1  | 0  1  2  3  ]
 *     starts     [ 0, 3, 5, 9 ]
 *     label_rows rows t whose next token in the same sequence is labelled; label_ids: that label
 *
 * A micro-batch may go through the model in parts, whole sequences each: activations of one part are in memory at a time. */
#ifndef TN_DATA_BATCH_H
#define TN_DATA_BATCH_H

#include "data/dataset.h"
#include "data/order.h"

typedef struct tn_batch_size {
    int64_t sequences, tokens, labelled;
} tn_batch_size;

/* B sequences with T tokens in all; owned by its builder and valid until that builds the next one. */
typedef struct tn_batch {
    int64_t sequences, tokens, labelled;
    int32_t *ids, *positions; /* [T] */
    int64_t *starts;          /* [B + 1] */
    int32_t *label_rows;      /* [labelled] ascending */
    int32_t *label_ids;       /* [labelled] */
    int64_t *samples;         /* [B] index into the data set */
} tn_batch;

/* The samples of a whole run in micro-batches (see tn_epoch_order, whose batches they are). */
typedef struct tn_order {
    const tn_dataset *dataset; /* the caller's; outlives the order, unchanged */
    tn_epoch_order epochs;
    int32_t *labelled; /* [count] labels of each sample */
} tn_order;

/* batch_size >= 1; the data set must not be empty. Each epoch is shuffled by (seed, epoch), or all are in file order. */
tn_status tn_order_init(tn_order *order, const tn_dataset *dataset, int64_t batch_size, bool shuffled, uint64_t seed);
void tn_order_free(tn_order *order);

int64_t tn_order_per_epoch(const tn_order *order);            /* micro-batches */
int64_t tn_order_epoch(const tn_order *order, int64_t index); /* from 0, of micro-batch `index` */

/* Sizes of micro-batch `index` >= 0, without building it. Epochs beyond 2^32 repeat. */
tn_batch_size tn_order_size(tn_order *order, int64_t index);

/* The greatest of each size over the parts of at most `part_tokens` tokens that micro-batch `index` goes in. */
tn_batch_size tn_order_part_size(tn_order *order, int64_t index, int64_t part_tokens);

/* The one with the largest part of micro-batches [first, first + count): most tokens, then most labels, then the earliest.
 */
int64_t tn_order_largest(tn_order *order, int64_t first, int64_t count, int64_t part_tokens);

/* The greatest of each size over the same range; what buffers must hold. */
tn_batch_size tn_order_bounds(tn_order *order, int64_t first, int64_t count);

/* Buffers for micro-batches up to `bounds`. */
typedef struct tn_batch_builder {
    tn_batch_size bounds;
    tn_batch batch;
    int64_t *part_starts;     /* [sequences + 1] of the part at hand */
    int32_t *part_label_rows; /* [labelled] */
} tn_batch_builder;

/* Free with tn_batch_builder_free; a failed init needs none. More than 2^31 - 1 tokens are an error. */
tn_status tn_batch_builder_init(tn_batch_builder *builder, tn_batch_size bounds);
void tn_batch_builder_free(tn_batch_builder *builder);

/* Packs micro-batch `index` without allocating; *out points into the builder. An error when it exceeds the bounds. */
tn_status tn_batch_at(tn_batch_builder *builder, tn_order *order, int64_t index, const tn_batch **out);

/* Whole sequences of a micro-batch, numbered from their own start. */
typedef struct tn_batch_part {
    tn_batch batch; /* views; valid until the builder makes another part or batch */
    int64_t number, first_sequence, first_label;
} tn_batch_part;

/* Goes on to the next part of the batch that the builder holds: as many sequences as have at most `part_tokens` tokens
 * together, at least one. *part is all zero for the first; false when there are no more. */
bool tn_batch_next_part(tn_batch_builder *builder, int64_t part_tokens, tn_batch_part *part);

#endif
