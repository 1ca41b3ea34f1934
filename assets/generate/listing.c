/* A few rows of a table, and the answers to queries over them. */
#include "listing.h"

#include <string.h>

#include "english.h"

static bool label_taken(const tn_listing *listing, const tn_value *value) {
    for (int i = 0; i < listing->count; i++)
        if (strcmp(listing->cells[i][listing->schema.label].text, value->text) == 0)
            return true;
    return false;
}

tn_listing tn_listing_draw(tn_rng *rng, const tn_schema *schema) {
    tn_listing listing = {.schema = *schema};
    int count = 3 + tn_draw(rng, TN_LISTING_ROWS - 2);
    for (; listing.count < count; listing.count++) {
        tn_value *row = listing.cells[listing.count];
        for (int c = 0; c < schema->count; c++) {
            const tn_concept *concept = schema->columns[c].concept;
            do
                row[c] = tn_value_draw(rng, concept);
            while (c == schema->label && label_taken(&listing, &row[c]));
            if (c != schema->label && concept->type == TN_VALUE_TEXT && listing.count && tn_draw_chance(rng, 45))
                row[c] = listing.cells[tn_draw(rng, listing.count)][c];
        }
    }
    return listing;
}

tn_query tn_listing_query(tn_rng *rng, const tn_listing *listing) {
    tn_query query = tn_query_draw(rng, &listing->schema);
    for (int i = 0; i < query.condition_count; i++) {
        tn_condition *condition = &query.conditions[i];
        if (condition->op != TN_BETWEEN && (query.intent == TN_INTENT_LOOKUP || tn_draw_chance(rng, 80)))
            condition->value = listing->cells[tn_draw(rng, listing->count)][condition->column];
    }
    if (query.intent == TN_INTENT_TOP)
        query.limit = 2 + tn_draw(rng, listing->count - 2);
    return query;
}

static void print_separated(const tn_listing *listing, const char *separator, tn_buf *out) {
    tn_schema_columns(&listing->schema, separator, out);
    for (int r = 0; r < listing->count; r++) {
        tn_buf_puts(out, "\n");
        for (int c = 0; c < listing->schema.count; c++)
            tn_buf_printf(out, "%s%s", c ? separator : "", listing->cells[r][c].text);
    }
    tn_buf_puts(out, "\n");
}

static void print_keys(const tn_listing *listing, const char *between, const char *after, tn_buf *out) {
    for (int r = 0; r < listing->count; r++) {
        for (int c = 0; c < listing->schema.count; c++)
            tn_buf_printf(out, "%s%s: %s", c ? between : "", listing->schema.columns[c].name->column,
                          listing->cells[r][c].text);
        tn_buf_puts(out, after);
    }
}

/* "Ada has the city Oslo and the salary 4700." */
static void print_sentences(tn_rng *rng, const tn_listing *listing, tn_buf *out) {
    const tn_schema *schema = &listing->schema;
    for (int r = 0; r < listing->count; r++) {
        tn_buf_printf(out, "The %s %s has ", tn_english_rows(rng, schema->table, false),
                      listing->cells[r][schema->label].text);
        for (int c = 0, said = 0; c < schema->count; c++) {
            if (c == schema->label)
                continue;
            const char *joint = said == 0 ? "" : said == schema->count - 2 ? " and " : ", ";
            tn_buf_printf(out, "%sthe %s %s", joint, schema->columns[c].name->singular, listing->cells[r][c].text);
            said++;
        }
        tn_buf_puts(out, ".\n");
    }
}

void tn_listing_print(tn_rng *rng, const tn_listing *listing, tn_buf *out) {
    switch (tn_draw(rng, 5)) {
    case 0: print_separated(listing, ",", out); break;
    case 1: print_separated(listing, " | ", out); break;
    case 2: print_keys(listing, ", ", "\n", out); break;
    case 3: print_keys(listing, "\n", "\n\n", out); break;
    default: print_sentences(rng, listing, out);
    }
}

static bool holds(const tn_listing *listing, const tn_condition *condition, int row) {
    const tn_concept *concept = listing->schema.columns[condition->column].concept;
    const tn_value *cell = &listing->cells[row][condition->column];
    int order = tn_value_compare(concept, cell, &condition->value);
    switch (condition->op) {
    case TN_IS: return order == 0;
    case TN_IS_NOT: return order != 0;
    case TN_MORE: return order > 0;
    case TN_LESS: return order < 0;
    default: return order >= 0 && tn_value_compare(concept, cell, &condition->upper) <= 0;
    }
}

/* The rows a query is about, in its order, up to its limit. */
static int select_rows(const tn_listing *listing, const tn_query *query, int rows[TN_LISTING_ROWS]) {
    int count = 0;
    for (int r = 0; r < listing->count; r++) {
        bool all = true;
        for (int i = 0; i < query->condition_count; i++)
            all = all && holds(listing, &query->conditions[i], r);
        if (all)
            rows[count++] = r;
    }
    bool sorts = query->intent == TN_INTENT_SORT || query->intent == TN_INTENT_TOP || query->intent == TN_INTENT_BEST;
    for (int i = 1; sorts && i < count; i++)
        for (int j = i; j > 0; j--) {
            int order =
                tn_value_compare(listing->schema.columns[query->column].concept, &listing->cells[rows[j - 1]][query->column],
                                 &listing->cells[rows[j]][query->column]);
            if (query->descending ? order >= 0 : order <= 0)
                break;
            int swap = rows[j];
            rows[j] = rows[j - 1];
            rows[j - 1] = swap;
        }
    return sorts && query->intent != TN_INTENT_SORT && count > query->limit ? query->limit : count;
}

void tn_listing_join(const char *const *items, int count, tn_buf *out) {
    for (int i = 0; i < count; i++)
        tn_buf_printf(out, "%s%s", i == 0 ? "" : i == count - 1 ? " and " : ", ", items[i]);
}

/* The texts of a column in the selected rows, each once when `distinct`. */
static int collect(const tn_listing *listing, const int *rows, int count, int column, bool distinct, const char **items) {
    int found = 0;
    for (int i = 0; i < count; i++) {
        const char *text = listing->cells[rows[i]][column].text;
        bool repeated = false;
        for (int j = 0; distinct && j < found; j++)
            repeated = repeated || strcmp(items[j], text) == 0;
        if (!repeated)
            items[found++] = text;
    }
    return found;
}

static void answer_labels(tn_rng *rng, const tn_listing *listing, const tn_query *query, const int *rows, int count,
                          tn_buf *out) {
    const char *items[TN_LISTING_ROWS];
    int found = collect(listing, rows, count, listing->schema.label, false, items);
    if (found == 0) {
        tn_buf_puts(out, "None of them.");
        return;
    }
    tn_listing_join(items, found, out);
    if (found > 1 && query->condition_count && tn_draw_chance(rng, 60)) {
        tn_buf_puts(out, " ");
        tn_english_predicate(rng, query, out);
    }
    tn_buf_puts(out, ".");
}

static void answer_column(const tn_listing *listing, const tn_query *query, const int *rows, int count, tn_buf *out) {
    const char *items[TN_LISTING_ROWS];
    int found = collect(listing, rows, count, query->column, query->intent == TN_INTENT_DISTINCT, items);
    const tn_concept_name *noun = listing->schema.columns[query->column].name;
    if (found == 0)
        tn_buf_puts(out, "None, because no row fits.");
    else if (found == 1)
        tn_buf_printf(out, "The %s is ", noun->singular);
    else
        tn_buf_printf(out, "The %s are ", noun->plural);
    tn_listing_join(items, found, out);
    tn_buf_puts(out, found ? "." : "");
}

static void answer_extreme(tn_rng *rng, const tn_listing *listing, const tn_query *query, const int *rows, int count,
                           tn_buf *out) {
    const tn_column *column = &listing->schema.columns[query->column];
    const tn_value *best = &listing->cells[rows[0]][query->column];
    for (int i = 1; i < count; i++) {
        const tn_value *cell = &listing->cells[rows[i]][query->column];
        int order = tn_value_compare(column->concept, cell, best);
        if (query->aggregate == TN_MAX ? order > 0 : order < 0)
            best = cell;
    }
    const char *word = tn_english_aggregate(rng, query);
    tn_buf_printf(out, "The %s %s is %s.", word, column->name->singular, best->text);
}

/* "Oslo has 2, Rome has 1." */
static void answer_groups(const tn_listing *listing, const tn_query *query, const int *rows, int count, tn_buf *out) {
    const char *items[TN_LISTING_ROWS];
    int found = collect(listing, rows, count, query->column, true, items);
    for (int i = 0; i < found; i++) {
        int members = 0;
        for (int r = 0; r < count; r++)
            members += strcmp(listing->cells[rows[r]][query->column].text, items[i]) == 0;
        tn_buf_printf(out, "%s%s has %d", i ? ", " : "", items[i], members);
    }
    tn_buf_puts(out, ".");
}

bool tn_listing_answer(tn_rng *rng, const tn_listing *listing, const tn_query *query, tn_buf *out) {
    int rows[TN_LISTING_ROWS] = {0}, count = select_rows(listing, query, rows);
    switch (query->intent) {
    case TN_INTENT_COLUMN:
    case TN_INTENT_DISTINCT:
    case TN_INTENT_FILTER_COLUMN: answer_column(listing, query, rows, count, out); return true;
    case TN_INTENT_LOOKUP:
        tn_buf_printf(out, "The %s of %s is %s.", listing->schema.columns[query->column].name->singular,
                      query->conditions[0].value.text, listing->cells[rows[0]][query->column].text);
        return true;
    case TN_INTENT_COUNT:
    case TN_INTENT_COUNT_WHERE: tn_buf_printf(out, count == 1 ? "There is %d." : "There are %d.", count); return true;
    case TN_INTENT_AGGREGATE:
    case TN_INTENT_AGGREGATE_WHERE:
        if (query->aggregate == TN_AVG || query->aggregate == TN_SUM || count == 0)
            return false;
        answer_extreme(rng, listing, query, rows, count, out);
        return true;
    case TN_INTENT_FILTER:
    case TN_INTENT_FILTER_BOTH:
    case TN_INTENT_SORT:
    case TN_INTENT_TOP:
    case TN_INTENT_BEST: answer_labels(rng, listing, query, rows, count, out); return true;
    case TN_INTENT_GROUP_COUNT: answer_groups(listing, query, rows, count, out); return true;
    default: return false;
    }
}
