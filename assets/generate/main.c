/* tenon-make-data: writes the demo's data.
 *   tenon-make-data corpus --seed 1 --bytes 3000000 --out DIR
 *   tenon-make-data sql --seed 1 --train 4000 --valid 200 --test 200 --out DIR */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "corpus.h"
#include "sql_task.h"

static const char usage[] = "usage: tenon-make-data corpus [--seed N] [--bytes N] --out DIR\n"
                            "       tenon-make-data sql [--seed N] [--train N] [--valid N] [--test N] --out DIR\n";

enum { BYTES_MOST = 1 << 30, ROWS_MOST = 1000000 };

typedef struct options {
    int64_t seed, bytes, rows[TN_SPLIT_COUNT];
    const char *out;
} options;

static tn_status parse_number(const char *name, const char *text, int64_t low, int64_t high, int64_t *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < low || value > high)
        return tn_fail(TN_ERROR_ARGUMENT, "%s must be a whole number from %" PRId64 " to %" PRId64 ", not '%s'", name, low,
                       high, text);
    *out = value;
    return TN_OK;
}

static tn_status parse_options(int argc, char **argv, bool sql, options *out) {
    const struct {
        const char *name;
        bool sql, corpus;
        int64_t low, high, *value;
    } numbers[] = {{"--seed", true, true, 0, INT64_MAX, &out->seed},
                   {"--bytes", false, true, 1, BYTES_MOST, &out->bytes},
                   {"--train", true, false, 1, ROWS_MOST, &out->rows[TN_SPLIT_TRAIN]},
                   {"--valid", true, false, 1, ROWS_MOST, &out->rows[TN_SPLIT_VALID]},
                   {"--test", true, false, 1, ROWS_MOST, &out->rows[TN_SPLIT_TEST]}};
    for (int i = 0; i < argc; i += 2) {
        size_t n = 0, count = sizeof numbers / sizeof *numbers;
        while (n < count && (strcmp(argv[i], numbers[n].name) != 0 || !(sql ? numbers[n].sql : numbers[n].corpus)))
            n++;
        bool is_out = strcmp(argv[i], "--out") == 0;
        if (!is_out && n == count)
            return tn_fail(TN_ERROR_ARGUMENT, "unknown option '%s'\n%s", argv[i], usage);
        if (i + 1 == argc)
            return tn_fail(TN_ERROR_ARGUMENT, "%s needs a value", argv[i]);
        if (is_out)
            out->out = argv[i + 1];
        else
            TN_TRY(parse_number(argv[i], argv[i + 1], numbers[n].low, numbers[n].high, numbers[n].value));
    }
    return out->out ? TN_OK : tn_fail(TN_ERROR_ARGUMENT, "--out DIR is missing");
}

static tn_status make_corpus(int argc, char **argv) {
    options chosen = {.seed = 1, .bytes = 3000000};
    TN_TRY(parse_options(argc, argv, false, &chosen));
    int64_t rows;
    TN_TRY(tn_corpus_write((uint64_t)chosen.seed, chosen.bytes, chosen.out, &rows));
    printf("%s/corpus.jsonl: %" PRId64 " rows\n", chosen.out, rows);
    return TN_OK;
}

static tn_status make_sql(int argc, char **argv) {
    static const char *const names[TN_SPLIT_COUNT] = {"train", "valid", "test"};
    options chosen = {.seed = 1, .rows = {4000, 200, 200}};
    TN_TRY(parse_options(argc, argv, true, &chosen));
    tn_sql_counts counts = {.rows = {0}};
    for (int i = 0; i < TN_SPLIT_COUNT; i++)
        counts.rows[i] = (int)chosen.rows[i];
    TN_TRY(tn_sql_task_write((uint64_t)chosen.seed, chosen.out, &counts));
    for (int i = 0; i < TN_SPLIT_COUNT; i++)
        printf("%s/%s.jsonl: %d rows over %d schemas\n", chosen.out, names[i], counts.rows[i], counts.schemas[i]);
    return TN_OK;
}

int main(int argc, char **argv) {
    bool sql = argc > 1 && strcmp(argv[1], "sql") == 0;
    if (!sql && (argc < 2 || strcmp(argv[1], "corpus") != 0)) {
        fputs(usage, stderr);
        return 2;
    }
    tn_status status = sql ? make_sql(argc - 2, argv + 2) : make_corpus(argc - 2, argv + 2);
    if (status != TN_OK)
        fprintf(stderr, "tenon-make-data: %s\n", tn_error_message());
    return status == TN_OK ? 0 : status == TN_ERROR_ARGUMENT ? 2 : 1;
}
