/* Order of samples and packing of micro-batches. */
#include "data/batch.h"

#include <limits.h>
#include <string.h>

#include "base/memory.h"

tn_status tn_order_init(tn_order *order, const tn_dataset *dataset, int64_t batch_size, bool shuffled, uint64_t seed) {
    *order = (tn_order){.dataset = dataset};
    TN_TRY(tn_epoch_order_init(&order->epochs, dataset->count, batch_size, shuffled, seed));
    order->labelled = tn_calloc((size_t)dataset->count, sizeof *order->labelled);
    if (!order->labelled) {
        tn_order_free(order);
        return tn_fail_memory("the order of samples");
    }
    for (int64_t s = 0; s < dataset->count; s++)
        for (int64_t i = dataset->starts[s] + 1; i < dataset->starts[s + 1]; i++)
            order->labelled[s] += dataset->labels[i] != TN_LABEL_IGNORED;
    return TN_OK;
}

void tn_order_free(tn_order *order) {
    tn_epoch_order_free(&order->epochs);
    tn_free(order->labelled);
    *order = (tn_order){0};
}

int64_t tn_order_per_epoch(const tn_order *order) {
    return order->epochs.per_epoch;
}

int64_t tn_order_epoch(const tn_order *order, int64_t index) {
    return index / order->epochs.per_epoch;
}

tn_batch_size tn_order_size(tn_order *order, int64_t index) {
    int64_t first, end;
    tn_epoch_order_places(&order->epochs, index, &first, &end);
    tn_batch_size size = {.sequences = end - first};
    for (int64_t place = first; place < end; place++) {
        int64_t s = tn_epoch_order_at(&order->epochs, place);
        size.tokens += order->dataset->starts[s + 1] - order->dataset->starts[s];
        size.labelled += order->labelled[s];
    }
    return size;
}

static tn_batch_size greatest(tn_batch_size a, tn_batch_size b) {
    return (tn_batch_size){a.sequences > b.sequences ? a.sequences : b.sequences, a.tokens > b.tokens ? a.tokens : b.tokens,
                           a.labelled > b.labelled ? a.labelled : b.labelled};
}

tn_batch_size tn_order_part_size(tn_order *order, int64_t index, int64_t part_tokens) {
    int64_t first, end;
    tn_batch_size most = {0}, part = {0};
    tn_epoch_order_places(&order->epochs, index, &first, &end);
    for (int64_t place = first; place < end; place++) {
        int64_t s = tn_epoch_order_at(&order->epochs, place),
                length = order->dataset->starts[s + 1] - order->dataset->starts[s];
        if (part.sequences && part.tokens + length > part_tokens) {
            most = greatest(most, part);
            part = (tn_batch_size){0};
        }
        part.sequences++;
        part.tokens += length;
        part.labelled += order->labelled[s];
    }
    return greatest(most, part);
}

int64_t tn_order_largest(tn_order *order, int64_t first, int64_t count, int64_t part_tokens) {
    int64_t largest = first;
    tn_batch_size most = {0};
    for (int64_t i = first; i < first + count; i++) {
        tn_batch_size size = tn_order_part_size(order, i, part_tokens);
        if (size.tokens > most.tokens || (size.tokens == most.tokens && size.labelled > most.labelled)) {
            most = size;
            largest = i;
        }
    }
    return largest;
}

tn_batch_size tn_order_bounds(tn_order *order, int64_t first, int64_t count) {
    tn_batch_size most = {0};
    for (int64_t i = first; i < first + count; i++)
        most = greatest(most, tn_order_size(order, i));
    return most;
}

tn_status tn_batch_builder_init(tn_batch_builder *builder, tn_batch_size bounds) {
    *builder = (tn_batch_builder){.bounds = bounds};
    if (bounds.sequences < 0 || bounds.tokens < 0 || bounds.labelled < 0 || bounds.tokens > INT32_MAX ||
        bounds.sequences > bounds.tokens || bounds.labelled > bounds.tokens)
        return tn_fail(TN_ERROR_ARGUMENT,
                       "a batch of %lld sequences with %lld tokens is too large; use a smaller batch size",
                       (long long)bounds.sequences, (long long)bounds.tokens);
    tn_batch *b = &builder->batch;
    b->ids = tn_calloc((size_t)bounds.tokens, sizeof *b->ids);
    b->positions = tn_calloc((size_t)bounds.tokens, sizeof *b->positions);
    b->starts = tn_calloc((size_t)bounds.sequences + 1, sizeof *b->starts);
    b->label_rows = tn_calloc((size_t)bounds.labelled, sizeof *b->label_rows);
    b->label_ids = tn_calloc((size_t)bounds.labelled, sizeof *b->label_ids);
    b->samples = tn_calloc((size_t)bounds.sequences, sizeof *b->samples);
    builder->part_starts = tn_calloc((size_t)bounds.sequences + 1, sizeof *builder->part_starts);
    builder->part_label_rows = tn_calloc((size_t)bounds.labelled, sizeof *builder->part_label_rows);
    if (b->ids && b->positions && b->starts && b->label_rows && b->label_ids && b->samples && builder->part_starts &&
        builder->part_label_rows)
        return TN_OK;
    tn_batch_builder_free(builder);
    return tn_fail_memory("a batch");
}

void tn_batch_builder_free(tn_batch_builder *builder) {
    tn_batch *b = &builder->batch;
    tn_free(b->ids);
    tn_free(b->positions);
    tn_free(b->starts);
    tn_free(b->label_rows);
    tn_free(b->label_ids);
    tn_free(b->samples);
    tn_free(builder->part_starts);
    tn_free(builder->part_label_rows);
    *builder = (tn_batch_builder){0};
}

static void pack_sample(tn_batch *b, const tn_dataset *dataset, int64_t sample) {
    int64_t start = dataset->starts[sample], length = dataset->starts[sample + 1] - start;
    const int32_t *labels = dataset->labels + start;
    memcpy(b->ids + b->tokens, dataset->ids + start, (size_t)length * sizeof *b->ids);
    for (int64_t i = 0; i < length; i++) {
        b->positions[b->tokens + i] = (int32_t)i;
        if (i + 1 < length && labels[i + 1] != TN_LABEL_IGNORED) {
            b->label_rows[b->labelled] = (int32_t)(b->tokens + i);
            b->label_ids[b->labelled++] = labels[i + 1];
        }
    }
    b->samples[b->sequences++] = sample;
    b->tokens += length;
    b->starts[b->sequences] = b->tokens;
}

tn_status tn_batch_at(tn_batch_builder *builder, tn_order *order, int64_t index, const tn_batch **out) {
    tn_batch_size size = tn_order_size(order, index), most = builder->bounds;
    if (size.sequences > most.sequences || size.tokens > most.tokens || size.labelled > most.labelled)
        return tn_fail(TN_ERROR_ARGUMENT, "micro-batch %lld of %lld tokens exceeds the %lld its buffers were made for",
                       (long long)index, (long long)size.tokens, (long long)most.tokens);
    tn_batch *b = &builder->batch;
    b->sequences = b->tokens = b->labelled = 0;
    b->starts[0] = 0;
    int64_t first, end;
    tn_epoch_order_places(&order->epochs, index, &first, &end);
    for (int64_t place = first; place < end; place++)
        pack_sample(b, order->dataset, tn_epoch_order_at(&order->epochs, place));
    *out = b;
    return TN_OK;
}

bool tn_batch_next_part(tn_batch_builder *builder, int64_t part_tokens, tn_batch_part *part) {
    const tn_batch *b = &builder->batch;
    int64_t first = part->first_sequence + part->batch.sequences, end = first + 1, label = part->first_label;
    if (first >= b->sequences)
        return false;
    while (end < b->sequences && b->starts[end + 1] - b->starts[first] <= part_tokens)
        end++;
    int64_t start = b->starts[first], tokens = b->starts[end] - start;
    label += part->batch.labelled;
    *part = (tn_batch_part){.batch = {.sequences = end - first,
                                      .tokens = tokens,
                                      .ids = b->ids + start,
                                      .positions = b->positions + start,
                                      .starts = builder->part_starts,
                                      .label_rows = builder->part_label_rows,
                                      .label_ids = b->label_ids + label,
                                      .samples = b->samples + first},
                            .number = part->number + (part->batch.sequences > 0),
                            .first_sequence = first,
                            .first_label = label};
    for (int64_t i = first; i <= end; i++)
        builder->part_starts[i - first] = b->starts[i] - start;
    for (; label < b->labelled && b->label_rows[label] < start + tokens; label++)
        builder->part_label_rows[part->batch.labelled++] = b->label_rows[label] - (int32_t)start;
    return true;
}
