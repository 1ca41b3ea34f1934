/* The fine-tuning task. Row: {"prompt": "Table: t (a, b)\nQuestion: ...\nSQL:", "completion": " SELECT ...;"} */
#include "sql_task.h"

#include "base/map.h"
#include "english.h"
#include "rows.h"

enum { DRAWS_PER_ROW = 50 }; /* before giving up on finding another new prompt */

/* What has been written so far, over all three files. */
typedef struct record {
    tn_map prompts; /* -> hash of the completion */
    tn_map schemas; /* key -> split */
    tn_buf prompt, completion, key;
} record;

static void record_free(record *seen) {
    tn_map_free(&seen->prompts);
    tn_map_free(&seen->schemas);
    tn_buf_free(&seen->prompt);
    tn_buf_free(&seen->completion);
    tn_buf_free(&seen->key);
}

/* Left out: rising orders and dates to be copied, which a model of this size takes longer to learn than a demo may last. */
static bool suits_task(const tn_query *query) {
    bool orders = query->intent == TN_INTENT_SORT || query->intent == TN_INTENT_TOP || query->intent == TN_INTENT_BEST;
    if (orders && !query->descending)
        return false;
    for (int i = 0; i < query->condition_count; i++)
        if (query->schema->columns[query->conditions[i].column].concept->type == TN_VALUE_DATE)
            return false;
    return true;
}

static void draw_row(tn_rng *rng, tn_split split, record *seen) {
    tn_schema schema;
    tn_query query;
    do {
        schema = tn_schema_draw(rng, split);
        query = tn_query_draw(rng, &schema);
    } while (!suits_task(&query));
    tn_buf_clear(&seen->prompt);
    tn_buf_clear(&seen->completion);
    tn_buf_clear(&seen->key);
    tn_buf_printf(&seen->prompt, "Table: %s (", schema.table->name);
    tn_schema_columns(&schema, ", ", &seen->prompt);
    tn_buf_puts(&seen->prompt, ")\nQuestion: ");
    tn_english_ask(rng, &query, &seen->prompt);
    tn_buf_puts(&seen->prompt, "\nSQL:");
    tn_buf_puts(&seen->completion, " ");
    tn_query_sql(&query, &seen->completion);
    tn_schema_key(&schema, &seen->key);
}

/* Sets *added to false when the prompt is there already. */
static tn_status admit_row(record *seen, tn_split split, tn_buf *rows, int *schemas, bool *added) {
    TN_TRY(tn_buf_status(&seen->prompt));
    TN_TRY(tn_buf_status(&seen->completion));
    TN_TRY(tn_buf_status(&seen->key));
    int64_t answer = (int64_t)tn_hash(TN_HASH_START, seen->completion.data, seen->completion.length), earlier;
    *added = !tn_map_get_text(&seen->prompts, seen->prompt.data, &earlier);
    if (!*added) {
        if (earlier != answer)
            return tn_fail(TN_ERROR_MISMATCH, "ambiguous: '%s' has two answers, one is '%s'", seen->prompt.data,
                           seen->completion.data);
        return TN_OK;
    }
    TN_TRY(tn_map_put_text(&seen->prompts, seen->prompt.data, answer));
    if (!tn_map_get_text(&seen->schemas, seen->key.data, &earlier)) {
        TN_TRY(tn_map_put_text(&seen->schemas, seen->key.data, split));
        ++*schemas;
    } else if (earlier != (int64_t)split) {
        return tn_fail(TN_ERROR_MISMATCH, "the schema %s is in two of the files", seen->key.data);
    }
    tn_buf_puts(rows, "{\"prompt\": ");
    tn_rows_put_string(rows, seen->prompt.data);
    tn_buf_puts(rows, ", \"completion\": ");
    tn_rows_put_string(rows, seen->completion.data);
    tn_buf_puts(rows, "}\n");
    return TN_OK;
}

static tn_status draw_split(uint64_t seed, tn_split split, int count, record *seen, tn_buf *rows, int *schemas) {
    tn_rng rng = tn_rng_start(seed, tn_stream(TN_STREAM_DATA, (uint32_t)split));
    int64_t draws_left = (int64_t)count * DRAWS_PER_ROW;
    *schemas = 0;
    for (int done = 0; done < count; draws_left--) {
        if (draws_left == 0)
            return tn_fail(TN_ERROR_ARGUMENT, "only %d different prompts were found of the %d asked for; ask for fewer",
                           done, count);
        bool added = false;
        draw_row(&rng, split, seen);
        TN_TRY(admit_row(seen, split, rows, schemas, &added));
        done += added;
    }
    return TN_OK;
}

tn_status tn_sql_task_write(uint64_t seed, const char *dir, tn_sql_counts *counts) {
    static const char *const names[TN_SPLIT_COUNT] = {"train.jsonl", "valid.jsonl", "test.jsonl"};
    record seen = {0};
    tn_buf rows[TN_SPLIT_COUNT] = {{0}};
    tn_status status = TN_OK;
    for (int i = 0; i < TN_SPLIT_COUNT; i++)
        TN_TRY_GOTO(draw_split(seed, (tn_split)i, counts->rows[i], &seen, &rows[i], &counts->schemas[i]));
    for (int i = 0; i < TN_SPLIT_COUNT; i++)
        TN_TRY_GOTO(tn_rows_save(&rows[i], dir, names[i]));
fail:
    for (int i = 0; i < TN_SPLIT_COUNT; i++)
        tn_buf_free(&rows[i]);
    record_free(&seen);
    return status;
}
