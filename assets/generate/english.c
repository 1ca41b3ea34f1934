/* Expanding sentence patterns for a query. */
#include "english.h"

#include <ctype.h>
#include <string.h>

#include "phrasings.h"

const char *tn_english_rows(tn_rng *rng, const tn_table *table, bool plural) {
    int which = table->plural[1] && tn_draw_chance(rng, 35);
    return plural ? table->plural[which] : table->singular[which];
}

const char *tn_english_article(const char *noun) {
    return strchr("aeiou", *noun) ? "an" : "a";
}

/* "highest" or "lowest", in the words that fit the concept. */
static const char *extreme(tn_rng *rng, const tn_concept *concept, bool high) {
    if (concept->in_time)
        return high ? "latest" : "earliest";
    if (high)
        return TN_DRAW_OF(rng, ((const char *const[]){"highest", "highest", "largest", "maximum"}));
    return TN_DRAW_OF(rng, ((const char *const[]){"lowest", "lowest", "smallest", "minimum"}));
}

const char *tn_english_aggregate(tn_rng *rng, const tn_query *query) {
    switch (query->aggregate) {
    case TN_AVG: return tn_draw_chance(rng, 60) ? "average" : "mean";
    case TN_SUM: return tn_draw_chance(rng, 60) ? "total" : "combined";
    default: return extreme(rng, query->schema->columns[query->column].concept, query->aggregate == TN_MAX);
    }
}

static const char *order(tn_rng *rng, const tn_query *query) {
    const tn_concept *concept = query->schema->columns[query->column].concept;
    static const char *const words[3][2][3] = {{{"from lowest to highest", "in ascending order", "with the lowest first"},
                                                {"from highest to lowest", "in descending order", "with the highest first"}},
                                               {{"from earliest to latest", "in ascending order", "with the earliest first"},
                                                {"from latest to earliest", "in descending order", "with the latest first"}},
                                               {{"from A to Z", "in alphabetical order", "in ascending order"},
                                                {"from Z to A", "in reverse alphabetical order", "in descending order"}}};
    int kind = concept->type == TN_VALUE_TEXT ? 2 : concept->in_time;
    return words[kind][query->descending][tn_draw(rng, 3)];
}

/* A pattern of a concept with its '%' replaced; "are" and other verbs are negated when the condition is. */
static void put_verb(const char *pattern, const tn_condition *condition, tn_buf *out) {
    if (condition->op == TN_IS_NOT && strncmp(pattern, "are ", 4) == 0) {
        tn_buf_puts(out, "are not ");
        pattern += 4;
    } else if (condition->op == TN_IS_NOT) {
        tn_buf_puts(out, "do not ");
    }
    for (const char *p = pattern; *p; p++) {
        if (*p == '%')
            tn_buf_puts(out, condition->value.text);
        else
            tn_buf_putc(out, *p);
    }
}

/* "above 3000", "after 2019-05-12". */
static void put_comparison(tn_rng *rng, const tn_concept *concept, const tn_condition *condition, tn_buf *out) {
    static const char *const amounts[2][4] = {{"above", "over", "greater than", "higher than"},
                                              {"below", "under", "less than", "lower than"}};
    static const char *const times[2][2] = {{"after", "later than"}, {"before", "earlier than"}};
    int less = condition->op == TN_LESS;
    if (condition->op == TN_BETWEEN)
        tn_buf_printf(out, "between %s and %s", condition->value.text, condition->upper.text);
    else
        tn_buf_printf(out, "%s %s", concept->in_time ? times[less][tn_draw(rng, 2)] : amounts[less][tn_draw(rng, 4)],
                      condition->value.text);
}

/* "the city Oslo", "a salary above 3000". */
static void put_noun_phrase(tn_rng *rng, const tn_query *query, const tn_condition *condition, tn_buf *out) {
    const tn_column *column = &query->schema->columns[condition->column];
    const char *noun = column->name->singular;
    if (condition->op == TN_IS) {
        tn_buf_printf(out, "the %s %s", noun, condition->value.text);
    } else if (condition->op == TN_IS_NOT) {
        tn_buf_printf(out, "%s %s other than %s", tn_english_article(noun), noun, condition->value.text);
    } else {
        tn_buf_printf(out, "%s %s ", tn_english_article(noun), noun);
        put_comparison(rng, column->concept, condition, out);
    }
}

/* "city is Oslo", "salary is above 3000". */
static void put_clause(tn_rng *rng, const tn_query *query, const tn_condition *condition, tn_buf *out) {
    const tn_column *column = &query->schema->columns[condition->column];
    tn_buf_printf(out, "%s is ", column->name->singular);
    if (condition->op == TN_IS || condition->op == TN_IS_NOT)
        tn_buf_printf(out, "%s%s", condition->op == TN_IS ? "" : "not ", condition->value.text);
    else
        put_comparison(rng, column->concept, condition, out);
}

static void put_predicate(tn_rng *rng, const tn_query *query, const tn_condition *condition, tn_buf *out) {
    const tn_concept *concept = query->schema->columns[condition->column].concept;
    const char *verb = condition->op == TN_IS || condition->op == TN_IS_NOT ? concept->is : NULL;
    if (verb && tn_draw_chance(rng, 65)) {
        put_verb(verb, condition, out);
    } else {
        tn_buf_puts(out, "have ");
        put_noun_phrase(rng, query, condition, out);
    }
}

void tn_english_predicate(tn_rng *rng, const tn_query *query, tn_buf *out) {
    for (int i = 0; i < query->condition_count; i++) {
        tn_buf_puts(out, i ? " and " : "");
        put_predicate(rng, query, &query->conditions[i], out);
    }
}

/* Conditions after a noun, all in one style: "in Oslo", "who live in Oslo", "with the city Oslo", "whose city is Oslo". */
static void put_modifier(tn_rng *rng, const tn_query *query, tn_buf *out) {
    const tn_condition *first = &query->conditions[0];
    const char *short_is = query->schema->columns[first->column].concept->short_is;
    if (query->condition_count == 1 && first->op == TN_IS && short_is && tn_draw_chance(rng, 30)) {
        put_verb(short_is, first, out);
        return;
    }
    switch (tn_draw(rng, 3)) {
    case 0:
        tn_buf_puts(out, query->schema->table->people ? "who " : "that ");
        tn_english_predicate(rng, query, out);
        break;
    case 1:
        for (int i = 0; i < query->condition_count; i++) {
            tn_buf_puts(out, i ? " and " : "with ");
            put_noun_phrase(rng, query, &query->conditions[i], out);
        }
        break;
    default:
        for (int i = 0; i < query->condition_count; i++) {
            tn_buf_puts(out, i ? " and whose " : "whose ");
            put_clause(rng, query, &query->conditions[i], out);
        }
    }
}

/* "Ada", but "the product kettle" where the name alone would read badly. */
static void put_row_name(tn_rng *rng, const tn_query *query, tn_buf *out) {
    const char *value = query->conditions[0].value.text;
    if (islower((unsigned char)*value) || tn_draw_chance(rng, 40))
        tn_buf_printf(out, "the %s ", tn_english_rows(rng, query->schema->table, false));
    tn_buf_puts(out, value);
}

static void put_slot(tn_rng *rng, const tn_query *query, char slot, tn_buf *out) {
    const tn_schema *schema = query->schema;
    const tn_column *columns = schema->columns;
    switch (slot) {
    case 'T': tn_buf_puts(out, tn_english_rows(rng, schema->table, true)); break;
    case 'S': tn_buf_puts(out, tn_english_rows(rng, schema->table, false)); break;
    case 'c': tn_buf_puts(out, columns[query->column].name->singular); break;
    case 'C': tn_buf_puts(out, columns[query->column].name->plural); break;
    case 'd': tn_buf_puts(out, columns[query->other].name->singular); break;
    case 'D': tn_buf_puts(out, columns[query->other].name->plural); break;
    case 'l': tn_buf_puts(out, columns[schema->label].name->singular); break;
    case 'L': tn_buf_puts(out, columns[schema->label].name->plural); break;
    case 'w': put_modifier(rng, query, out); break;
    case 'v': tn_english_predicate(rng, query, out); break;
    case 'x': tn_buf_puts(out, query->conditions[0].value.text); break;
    case 'y': put_row_name(rng, query, out); break;
    case 'n': tn_buf_printf(out, "%d", query->limit); break;
    case 'h': tn_buf_puts(out, extreme(rng, columns[query->column].concept, query->descending)); break;
    case 'a': tn_buf_puts(out, tn_english_aggregate(rng, query)); break;
    case 'o': tn_buf_puts(out, order(rng, query)); break;
    default: break;
    }
}

static int pattern_count(const char *const *patterns) {
    int count = 0;
    while (patterns[count])
        count++;
    return count;
}

static void expand_any(tn_rng *rng, const tn_query *query, const char *const *patterns, tn_buf *out) {
    for (const char *p = patterns[tn_draw(rng, pattern_count(patterns))]; *p; p++) {
        if (*p == '{') {
            put_slot(rng, query, p[1], out);
            p += 2;
        } else {
            tn_buf_putc(out, *p);
        }
    }
}

void tn_english_ask(tn_rng *rng, const tn_query *query, tn_buf *out) {
    expand_any(rng, query, tn_phrasings_asking[query->intent], out);
}

void tn_english_describe(tn_rng *rng, const tn_query *query, tn_buf *out) {
    expand_any(rng, query, tn_phrasings_describing[query->intent], out);
}

int tn_english_phrasing_count(tn_intent intent) {
    return pattern_count(tn_phrasings_asking[intent]);
}
