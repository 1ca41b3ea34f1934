/* Packing and order of micro-batches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/batch.h"

/* Lengths 2, 3, 4, 5, 6, 2, 3, ...: ids are 10 * sample + position, all trained but the first `untrained` ones. */
static tn_dataset make_dataset(int count, int untrained) {
    char path[] = "/tmp/tenon-batch-XXXXXX";
    close(mkstemp(path));
    tn_buf text = {0};
    for (int s = 0; s < count; s++) {
        int length = 2 + s % 5;
        tn_buf_puts(&text, "{\"input_ids\": [");
        for (int i = 0; i < length; i++)
            tn_buf_printf(&text, "%s%d", i ? ", " : "", 10 * s + i);
        tn_buf_puts(&text, "], \"labels\": [");
        for (int i = 0; i < length; i++)
            tn_buf_printf(&text, "%s%d", i ? ", " : "", i < untrained ? TN_LABEL_IGNORED : 10 * s + i);
        tn_buf_puts(&text, "]}\n");
    }
    tn_dataset dataset;
    assert_int_equal(tn_file_write(path, tn_buf_text(&text), text.length), TN_OK);
    assert_int_equal(tn_dataset_read(path, &(tn_dataset_options){.vocab_size = 100000}, &dataset), TN_OK);
    tn_buf_free(&text);
    unlink(path);
    return dataset;
}

static void sequences_are_packed_with_restarted_positions_and_label_rows(void **state) {
    (void)state;
    tn_dataset dataset = make_dataset(3, 0);
    tn_order order;
    tn_batch_builder builder;
    const tn_batch *b;
    assert_int_equal(tn_order_init(&order, &dataset, 3, false, 0), TN_OK);
    assert_int_equal(tn_batch_builder_init(&builder, tn_order_bounds(&order, 0, 1)), TN_OK);
    assert_int_equal(tn_batch_at(&builder, &order, 0, &b), TN_OK);
    const int32_t ids[] = {0, 1, 10, 11, 12, 20, 21, 22, 23}, positions[] = {0, 1, 0, 1, 2, 0, 1, 2, 3};
    const int32_t rows[] = {0, 2, 3, 5, 6, 7}, labels[] = {1, 11, 12, 21, 22, 23};
    const int64_t starts[] = {0, 2, 5, 9}, samples[] = {0, 1, 2};
    assert_int_equal(b->sequences, 3);
    assert_int_equal(b->tokens, 9);
    assert_int_equal(b->labelled, 6);
    assert_memory_equal(b->ids, ids, sizeof ids);
    assert_memory_equal(b->positions, positions, sizeof positions);
    assert_memory_equal(b->starts, starts, sizeof starts);
    assert_memory_equal(b->label_rows, rows, sizeof rows);
    assert_memory_equal(b->label_ids, labels, sizeof labels);
    assert_memory_equal(b->samples, samples, sizeof samples);
    tn_batch_builder_free(&builder);
    tn_order_free(&order);
    tn_dataset_free(&dataset);
}

static void untrained_positions_have_no_label_row(void **state) {
    (void)state;
    tn_dataset dataset = make_dataset(5, 3); /* samples of two and three tokens are left out */
    tn_order order;
    tn_batch_builder builder;
    const tn_batch *b;
    assert_int_equal(dataset.unlabelled, 2);
    assert_int_equal(tn_order_init(&order, &dataset, 3, false, 0), TN_OK);
    assert_int_equal(tn_batch_builder_init(&builder, tn_order_bounds(&order, 0, 1)), TN_OK);
    assert_int_equal(tn_batch_at(&builder, &order, 0, &b), TN_OK);
    const int32_t rows[] = {2, 6, 7, 11, 12, 13}, labels[] = {23, 33, 34, 43, 44, 45};
    assert_int_equal(b->labelled, 6);
    assert_memory_equal(b->label_rows, rows, sizeof rows);
    assert_memory_equal(b->label_ids, labels, sizeof labels);
    tn_batch_builder_free(&builder);
    tn_order_free(&order);
    tn_dataset_free(&dataset);
}

/* Sizes are known beforehand, every epoch holds each sample once, and the last batch of an epoch is smaller. */
static void every_epoch_sees_each_sample_once_in_another_order(void **state) {
    (void)state;
    enum { COUNT = 23, BATCH = 4, PER_EPOCH = 6 };
    tn_dataset dataset = make_dataset(COUNT, 1);
    tn_order order;
    tn_batch_builder builder;
    const tn_batch *b;
    int64_t sequence[3][COUNT];
    assert_int_equal(tn_order_init(&order, &dataset, BATCH, true, 7), TN_OK);
    assert_int_equal(tn_order_per_epoch(&order), PER_EPOCH);
    assert_int_equal(tn_batch_builder_init(&builder, tn_order_bounds(&order, 0, 3 * PER_EPOCH)), TN_OK);
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[COUNT] = {0}, at = 0;
        for (int64_t i = epoch * PER_EPOCH; i < (epoch + 1) * PER_EPOCH; i++) {
            assert_int_equal(tn_order_epoch(&order, i), epoch);
            tn_batch_size size = tn_order_size(&order, i);
            assert_int_equal(tn_batch_at(&builder, &order, i, &b), TN_OK);
            assert_int_equal(b->sequences, i % PER_EPOCH == PER_EPOCH - 1 ? 3 : BATCH);
            assert_int_equal(b->sequences, size.sequences);
            assert_int_equal(b->tokens, size.tokens);
            assert_int_equal(b->labelled, size.labelled);
            assert_int_equal(b->starts[b->sequences], b->tokens);
            for (int64_t s = 0; s < b->sequences; s++) {
                assert_int_equal(b->ids[b->starts[s]], 10 * b->samples[s]);
                seen[b->samples[s]]++;
                sequence[epoch][at++] = b->samples[s];
            }
        }
        for (int s = 0; s < COUNT; s++)
            assert_int_equal(seen[s], 1);
    }
    assert_memory_not_equal(sequence[0], sequence[1], sizeof sequence[0]);
    assert_memory_not_equal(sequence[1], sequence[2], sizeof sequence[0]);
    tn_batch_builder_free(&builder);
    tn_order_free(&order);
    tn_dataset_free(&dataset);
}

static void any_micro_batch_can_be_had_at_any_time(void **state) {
    (void)state;
    tn_dataset dataset = make_dataset(23, 1);
    tn_order a, b, other;
    assert_int_equal(tn_order_init(&a, &dataset, 4, true, 7), TN_OK);
    assert_int_equal(tn_order_init(&b, &dataset, 4, true, 7), TN_OK);
    assert_int_equal(tn_order_init(&other, &dataset, 4, true, 8), TN_OK);
    tn_batch_builder x, y;
    const tn_batch *p, *q;
    assert_int_equal(tn_batch_builder_init(&x, tn_order_bounds(&a, 0, 18)), TN_OK);
    assert_int_equal(tn_batch_builder_init(&y, tn_order_bounds(&b, 0, 18)), TN_OK);
    size_t before = tn_memory_used();
    for (int64_t i = 17; i >= 0; i--) {
        assert_int_equal(tn_batch_at(&x, &a, i, &p), TN_OK);
        assert_int_equal(tn_batch_at(&y, &b, (17 - i) * 5 % 18, &q), TN_OK);
        assert_int_equal(tn_batch_at(&y, &b, i, &q), TN_OK);
        assert_int_equal(p->sequences, q->sequences);
        assert_memory_equal(p->samples, q->samples, (size_t)p->sequences * sizeof *p->samples);
    }
    assert_int_equal(tn_memory_used(), before);
    assert_memory_not_equal(a.epochs.permutation, other.epochs.permutation, 23 * sizeof(int64_t));
    tn_batch_builder_free(&x);
    tn_batch_builder_free(&y);
    tn_order_free(&a);
    tn_order_free(&b);
    tn_order_free(&other);
    tn_dataset_free(&dataset);
}

/* Together the parts are the batch: every token, label and sample once, in order, rows counted from each part's start. */
static void parts_are_the_batch_in_whole_sequences(void **state) {
    (void)state;
    tn_dataset dataset = make_dataset(15, 0);
    tn_order order;
    tn_batch_builder builder;
    const tn_batch *b;
    assert_int_equal(tn_order_init(&order, &dataset, 15, true, 3), TN_OK);
    assert_int_equal(tn_batch_builder_init(&builder, tn_order_bounds(&order, 0, 1)), TN_OK);
    for (int64_t limit = 0; limit < 60; limit++) {
        tn_batch_part part = {0};
        tn_batch_size most = {0};
        int64_t sequences = 0, tokens = 0, labelled = 0, count = 0;
        assert_int_equal(tn_batch_at(&builder, &order, 0, &b), TN_OK);
        for (; tn_batch_next_part(&builder, limit, &part); count++) {
            const tn_batch *p = &part.batch;
            assert_int_equal(part.number, count);
            assert_true(p->sequences == 1 || p->tokens <= limit);
            assert_int_equal(p->starts[0], 0);
            assert_int_equal(p->starts[p->sequences], p->tokens);
            assert_memory_equal(p->ids, b->ids + tokens, (size_t)p->tokens * sizeof *p->ids);
            assert_memory_equal(p->samples, b->samples + sequences, (size_t)p->sequences * sizeof *p->samples);
            for (int64_t i = 0; i < p->labelled; i++) {
                assert_int_equal(p->label_rows[i] + tokens, b->label_rows[labelled + i]);
                assert_int_equal(p->label_ids[i], b->label_ids[labelled + i]);
            }
            sequences += p->sequences;
            tokens += p->tokens;
            labelled += p->labelled;
            most.tokens = p->tokens > most.tokens ? p->tokens : most.tokens;
            most.labelled = p->labelled > most.labelled ? p->labelled : most.labelled;
        }
        assert_int_equal(sequences, b->sequences);
        assert_int_equal(tokens, b->tokens);
        assert_int_equal(labelled, b->labelled);
        assert_int_equal(count == 1, tokens <= limit);
        assert_int_equal(tn_order_part_size(&order, 0, limit).tokens, most.tokens);
        assert_int_equal(tn_order_part_size(&order, 0, limit).labelled, most.labelled);
    }
    tn_batch_builder_free(&builder);
    tn_order_free(&order);
    tn_dataset_free(&dataset);
}

static void largest_batch_has_most_tokens_then_most_labels(void **state) {
    (void)state;
    tn_dataset dataset = make_dataset(15, 0);
    for (int64_t i = dataset.starts[4]; i < dataset.starts[5] - 1; i++)
        dataset.labels[i] = TN_LABEL_IGNORED; /* the first of the three longest is trained least */
    tn_order order;
    assert_int_equal(tn_order_init(&order, &dataset, 1, false, 0), TN_OK);
    assert_int_equal(tn_order_largest(&order, 0, 15, INT64_MAX), 9);
    assert_int_equal(tn_order_largest(&order, 0, 9, INT64_MAX), 4);
    assert_int_equal(tn_order_largest(&order, 10, 5, INT64_MAX), 14);
    tn_batch_size bounds = tn_order_bounds(&order, 0, 9);
    assert_int_equal(bounds.sequences, 1);
    assert_int_equal(bounds.tokens, 6);
    assert_int_equal(bounds.labelled, 4); /* from another batch than the tokens */
    tn_batch_builder builder;
    const tn_batch *b;
    assert_int_equal(tn_batch_builder_init(&builder, bounds), TN_OK);
    assert_int_equal(tn_batch_at(&builder, &order, 4, &b), TN_OK);
    assert_int_equal(tn_batch_at(&builder, &order, 9, &b), TN_ERROR_ARGUMENT);
    tn_batch_builder_free(&builder);
    tn_order_free(&order);
    tn_dataset_free(&dataset);
}

static void unusable_sizes_are_errors(void **state) {
    (void)state;
    tn_dataset dataset = make_dataset(3, 0), empty = {0};
    tn_order order;
    tn_batch_builder builder;
    assert_int_equal(tn_order_init(&order, &dataset, 0, true, 0), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_order_init(&order, &empty, 1, true, 0), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_batch_builder_init(&builder, (tn_batch_size){1, (int64_t)1 << 31, 1}), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_order_init(&order, &dataset, INT64_MAX, false, 0), TN_OK);
    assert_int_equal(tn_order_size(&order, 5).sequences, 3);
    tn_order_free(&order);
    size_t before = tn_memory_used();
    tn_status status = TN_ERROR_MEMORY;
    for (int64_t i = 0; status != TN_OK; i++) {
        tn_memory_fail_after(i);
        status = tn_order_init(&order, &dataset, 2, true, 0);
        if (status == TN_OK) {
            status = tn_batch_builder_init(&builder, tn_order_bounds(&order, 0, 2));
            tn_order_free(&order);
        }
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
    }
    tn_batch_builder_free(&builder);
    assert_int_equal(tn_memory_used(), before);
    tn_dataset_free(&dataset);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_are_packed_with_restarted_positions_and_label_rows),
        cmocka_unit_test(untrained_positions_have_no_label_row),
        cmocka_unit_test(every_epoch_sees_each_sample_once_in_another_order),
        cmocka_unit_test(any_micro_batch_can_be_had_at_any_time),
        cmocka_unit_test(parts_are_the_batch_in_whole_sequences),
        cmocka_unit_test(largest_batch_has_most_tokens_then_most_labels),
        cmocka_unit_test(unusable_sizes_are_errors),
    };
    return cmocka_run_group_tests_name("batch", tests, NULL, NULL);
}
