/* Order of samples by epoch, and the choice of those kept for validation. */
#include "data/order.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

static void shuffle_epoch(tn_epoch_order *order, int64_t epoch) {
    if (!order->shuffled || order->epoch == epoch)
        return;
    tn_shuffle(order->permutation, order->count, order->seed, tn_stream(TN_STREAM_SHUFFLE, (uint32_t)epoch));
    order->epoch = epoch;
}

tn_status tn_epoch_order_init(tn_epoch_order *order, int64_t count, int64_t batch_size, bool shuffled, uint64_t seed) {
    *order = (tn_epoch_order){.count = count, .batch_size = batch_size, .shuffled = shuffled, .seed = seed, .epoch = -1};
    if (batch_size < 1)
        return tn_fail(TN_ERROR_ARGUMENT, "a batch must have at least one sample, not %lld", (long long)batch_size);
    if (count < 1)
        return tn_fail(TN_ERROR_ARGUMENT, "the data set has no samples");
    order->per_epoch = (count - 1) / batch_size + 1;
    if (shuffled && !(order->permutation = tn_calloc((size_t)count, sizeof *order->permutation)))
        return tn_fail_memory("the order of samples");
    shuffle_epoch(order, 0);
    return TN_OK;
}

void tn_epoch_order_free(tn_epoch_order *order) {
    tn_free(order->permutation);
    *order = (tn_epoch_order){0};
}

void tn_epoch_order_places(tn_epoch_order *order, int64_t index, int64_t *first, int64_t *end) {
    shuffle_epoch(order, index / order->per_epoch);
    *first = index % order->per_epoch * order->batch_size;
    int64_t left = order->count - *first;
    *end = *first + (left < order->batch_size ? left : order->batch_size);
}

int64_t tn_epoch_order_at(const tn_epoch_order *order, int64_t place) {
    return order->shuffled ? order->permutation[place] : place;
}

tn_status tn_choose_validation(bool *chosen, int64_t count, double fraction, uint64_t seed, int64_t *moved) {
    *moved = 0;
    memset(chosen, 0, (size_t)count * sizeof *chosen);
    if (!(fraction >= 0 && fraction < 1))
        return tn_fail(TN_ERROR_ARGUMENT, "the share of samples for validation must be at least 0 and below 1, not %g",
                       fraction);
    if (fraction == 0 || count < 2)
        return TN_OK;
    int64_t *order = tn_malloc((size_t)count * sizeof *order), most = count - 1, wanted = llround(fraction * (double)count);
    if (!order)
        return tn_fail_memory("splitting a data set");
    *moved = wanted < 1 ? 1 : wanted > most ? most : wanted;
    tn_shuffle(order, count, seed, tn_stream(TN_STREAM_DATA, 0));
    for (int64_t i = 0; i < *moved; i++)
        chosen[order[i]] = true;
    tn_free(order);
    return TN_OK;
}
