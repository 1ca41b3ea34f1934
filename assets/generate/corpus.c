/* Documents of the corpus: stories, tables in prose, tables with questions answered in prose, query scripts and logs,
 * queries explained, questions paraphrased, and lists repeated. A question is never followed by a query here. */
#include "corpus.h"

#include "english.h"
#include "listing.h"
#include "rows.h"
#include "story.h"
#include "words.h"

enum { TEXT_SHORTEST = 100, TEXT_LONGEST = 720, TEXT_GOAL_LEAST = 220, TEXT_GOAL_SPREAD = 330 };

static void put_column_list(const tn_schema *schema, const int *columns, int count, tn_buf *out) {
    const char *names[TN_SCHEMA_COLUMNS];
    for (int i = 0; i < count; i++)
        names[i] = schema->columns[columns ? columns[i] : i].name->column;
    tn_listing_join(names, count, out);
}

/* "The table employees has the columns name, salary and city." */
static void put_table_sentence(tn_rng *rng, const tn_schema *schema, tn_buf *out) {
    static const char *const openings[] = {"The table %s has the columns ", "The columns of the table %s are ",
                                           "There is a table %s with the columns "};
    tn_buf_printf(out, TN_DRAW_OF(rng, openings), schema->table->name);
    put_column_list(schema, NULL, schema->count, out);
    tn_buf_puts(out, ".");
}

static void put_column_sentence(tn_rng *rng, const tn_schema *schema, const tn_column *column, tn_buf *out) {
    static const char *const types[] = {"a text", "a number", "a date"};
    const char *name = column->name->column, *noun = column->name->singular;
    const char *row = tn_english_rows(rng, schema->table, false);
    tn_value value = tn_value_draw(rng, column->concept);
    switch (tn_draw(rng, 4)) {
    case 0:
        tn_buf_printf(out, " The column %s holds the %s of each %s, for example %s.", name, noun, row, value.text);
        break;
    case 1: tn_buf_printf(out, " The %s of each %s is kept in %s.", noun, row, name); break;
    case 2: tn_buf_printf(out, " Whoever asks for the %s wants the column %s.", noun, name); break;
    default: tn_buf_printf(out, " The %s is %s such as %s.", name, types[column->concept->type], value.text);
    }
}

static void write_table_prose(tn_rng *rng, size_t goal, tn_buf *out) {
    do {
        tn_schema schema = tn_schema_draw(rng, TN_SPLIT_TRAIN);
        put_table_sentence(rng, &schema, out);
        for (int i = 0; i < schema.count; i++)
            put_column_sentence(rng, &schema, &schema.columns[i], out);
        tn_buf_puts(out, "\n");
    } while (out->length < goal);
}

static void write_story(tn_rng *rng, size_t goal, tn_buf *out) {
    tn_story_tell(rng, 3 + (int)goal / 80, out);
}

/* A listing, then questions with their answers. */
static void write_reading(tn_rng *rng, size_t goal, tn_buf *out) {
    tn_schema schema = tn_schema_draw(rng, TN_SPLIT_TRAIN);
    tn_listing listing = tn_listing_draw(rng, &schema);
    if (tn_draw_chance(rng, 50)) {
        tn_buf_printf(out, "Table: %s (", schema.table->name);
        tn_schema_columns(&schema, ", ", out);
        tn_buf_puts(out, ")\n");
    } else {
        put_table_sentence(rng, &schema, out);
        tn_buf_puts(out, "\n");
    }
    tn_listing_print(rng, &listing, out);
    tn_buf answer = {0};
    do {
        tn_query query = tn_listing_query(rng, &listing);
        tn_buf_clear(&answer);
        if (!tn_listing_answer(rng, &listing, &query, &answer))
            continue;
        tn_buf_puts(out, "Question: ");
        tn_english_ask(rng, &query, out);
        tn_buf_printf(out, "\nAnswer: %s\n", tn_buf_text(&answer));
    } while (out->length < goal && !answer.failed && !out->failed);
    out->failed |= answer.failed;
    tn_buf_free(&answer);
}

static void put_definition(const tn_schema *schema, tn_buf *out) {
    static const char *const types[] = {"TEXT", "INTEGER", "DATE"};
    tn_buf_printf(out, "CREATE TABLE %s (", schema->table->name);
    for (int i = 0; i < schema->count; i++)
        tn_buf_printf(out, "%s%s %s", i ? ", " : "", schema->columns[i].name->column,
                      types[schema->columns[i].concept->type]);
    tn_buf_puts(out, ");\n");
}

static void put_insertion(tn_rng *rng, const tn_schema *schema, tn_buf *out) {
    tn_buf_printf(out, "INSERT INTO %s VALUES (", schema->table->name);
    for (int i = 0; i < schema->count; i++) {
        tn_value value = tn_value_draw(rng, schema->columns[i].concept);
        const char *quote = schema->columns[i].concept->type == TN_VALUE_NUMBER ? "" : "'";
        tn_buf_printf(out, "%s%s%s%s", i ? ", " : "", quote, value.text, quote);
    }
    tn_buf_puts(out, ");\n");
}

static void write_script(tn_rng *rng, size_t goal, tn_buf *out) {
    tn_schema schema = tn_schema_draw(rng, TN_SPLIT_TRAIN);
    put_definition(&schema, out);
    for (int i = tn_draw(rng, 3); i > 0; i--)
        put_insertion(rng, &schema, out);
    bool commented = tn_draw_chance(rng, 85);
    do {
        tn_query query = tn_query_draw(rng, &schema);
        if (commented) {
            tn_buf_puts(out, "-- ");
            tn_english_describe(rng, &query, out);
            tn_buf_puts(out, "\n");
        }
        tn_query_sql(&query, out);
        tn_buf_puts(out, "\n");
    } while (out->length < goal);
}

static void write_log(tn_rng *rng, size_t goal, tn_buf *out) {
    int minute = tn_draw(rng, 1200);
    do {
        tn_schema schema = tn_schema_draw(rng, TN_SPLIT_TRAIN);
        tn_query query = tn_query_draw(rng, &schema);
        tn_buf_printf(out, "%02d:%02d ", minute / 60, minute % 60);
        tn_query_sql(&query, out);
        tn_buf_puts(out, "\n");
        minute += tn_draw(rng, 9);
    } while (out->length < goal);
}

/* "The query SELECT ...; lists the names of the employees who live in Oslo." */
static void write_explanation(tn_rng *rng, size_t goal, tn_buf *out) {
    static const char *const verbs[] = {"lists", "gives", "shows", "returns", "finds"};
    tn_schema schema = tn_schema_draw(rng, TN_SPLIT_TRAIN);
    put_table_sentence(rng, &schema, out);
    do {
        tn_query query = tn_query_draw(rng, &schema);
        const char *verb = TN_DRAW_OF(rng, verbs);
        bool named = tn_draw_chance(rng, 60);
        tn_buf_puts(out, named ? "\nThe query " : "\n");
        tn_query_sql(&query, out);
        tn_buf_printf(out, named ? " %s " : " means: ", verb);
        tn_english_describe(rng, &query, out);
        tn_buf_puts(out, ".");
    } while (out->length < goal);
}

static void put_needed_columns(tn_rng *rng, const tn_query *query, tn_buf *out) {
    int columns[TN_SCHEMA_COLUMNS], count = tn_query_columns(query, columns);
    if (count == 0) {
        tn_buf_printf(out, "This is about the table %s as a whole.", query->schema->table->name);
        return;
    }
    bool many = count > 1;
    tn_buf_puts(out, tn_draw_chance(rng, 50) ? "This needs the column" : "To answer, look at the column");
    tn_buf_puts(out, many ? "s " : " ");
    put_column_list(query->schema, columns, count, out);
    tn_buf_printf(out, " of the table %s.", query->schema->table->name);
}

/* Two questions that ask the same, what they ask for, and the columns it takes. */
static void write_paraphrase(tn_rng *rng, size_t goal, tn_buf *out) {
    do {
        tn_schema schema = tn_schema_draw(rng, TN_SPLIT_TRAIN);
        tn_query query = tn_query_draw(rng, &schema);
        put_table_sentence(rng, &schema, out);
        bool pair = tn_draw_chance(rng, 50);
        tn_buf_puts(out, pair ? " One asks: \"" : " \"");
        tn_english_ask(rng, &query, out);
        if (pair) {
            tn_buf_puts(out, "\" Another asks: \"");
            tn_english_ask(rng, &query, out);
        }
        tn_buf_puts(out, pair ? "\" Both want " : "\" asks for ");
        tn_english_describe(rng, &query, out);
        tn_buf_puts(out, ". ");
        put_needed_columns(rng, &query, out);
        tn_buf_puts(out, "\n");
    } while (out->length < goal);
}

/* The same words bare, in quotes and backwards. */
static void write_repetition(tn_rng *rng, size_t goal, tn_buf *out) {
    do {
        tn_schema schema = tn_schema_draw(rng, TN_SPLIT_TRAIN);
        tn_column column = schema.columns[tn_draw(rng, schema.count)];
        tn_value values[4];
        int count = 2 + tn_draw(rng, 3);
        for (int i = 0; i < count; i++)
            values[i] = tn_value_draw(rng, column.concept);
        tn_buf_printf(out, "Some %s:", column.name->plural);
        for (int i = 0; i < count; i++)
            tn_buf_printf(out, "%s %s", i ? "," : "", values[i].text);
        bool quoted = tn_draw_chance(rng, 60), backwards = tn_draw_chance(rng, 40);
        tn_buf_printf(out, ". %s%s:", backwards ? "Backwards" : "Again", quoted ? " in quotes" : "");
        for (int i = 0; i < count; i++) {
            const char *text = values[backwards ? count - 1 - i : i].text;
            tn_buf_printf(out, quoted ? "%s '%s'" : "%s %s", i ? "," : "", text);
        }
        tn_buf_puts(out, ".\n");
    } while (out->length < goal);
}

static void write_document(tn_rng *rng, tn_buf *out) {
    static const struct {
        void (*write)(tn_rng *, size_t, tn_buf *);
        int share; /* percent of the documents */
    } kinds[] = {{write_story, 6},        {write_table_prose, 6}, {write_reading, 20},    {write_script, 26},
                 {write_explanation, 14}, {write_paraphrase, 10}, {write_repetition, 14}, {write_log, 4}};
    int dice = tn_draw(rng, 100), kind = 0;
    while (dice >= kinds[kind].share)
        dice -= kinds[kind++].share;
    size_t goal = TEXT_GOAL_LEAST + (size_t)tn_draw(rng, TEXT_GOAL_SPREAD);
    kinds[kind].write(rng, goal, out);
    while (out->length && out->data[out->length - 1] == '\n')
        out->data[--out->length] = 0;
}

tn_status tn_corpus_write(uint64_t seed, int64_t bytes, const char *dir, int64_t *rows) {
    tn_rng rng = tn_rng_start(seed, tn_stream(TN_STREAM_DATA, TN_SPLIT_COUNT));
    tn_buf text = {0}, out = {0};
    tn_status status = TN_OK;
    *rows = 0;
    while ((int64_t)out.length < bytes) {
        tn_buf_clear(&text);
        write_document(&rng, &text);
        TN_TRY_GOTO(tn_buf_status(&text));
        if (text.length < TEXT_SHORTEST || text.length > TEXT_LONGEST)
            continue;
        tn_buf_puts(&out, "{\"text\": ");
        tn_rows_put_string(&out, text.data);
        tn_buf_puts(&out, "}\n");
        TN_TRY_GOTO(tn_buf_status(&out));
        ++*rows;
    }
    status = tn_rows_save(&out, dir, "corpus.jsonl");
fail:
    tn_buf_free(&text);
    tn_buf_free(&out);
    return status;
}
