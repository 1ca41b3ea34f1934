/* Drawing schemas and queries; queries as SQL. */
#include "query.h"

#include <string.h>

#include "base/map.h"

enum { SPLIT_SHARES = 10 }; /* of ten parts, one is valid and one is test */

static tn_column draw_column(tn_rng *rng, int concept_id) {
    const tn_concept *concept = tn_world_concept(concept_id);
    return (tn_column){concept, &concept->names[tn_draw(rng, tn_concept_name_count(concept))]};
}

static tn_schema draw_any_schema(tn_rng *rng) {
    tn_schema schema = {.table = tn_world_table(tn_draw(rng, tn_world_table_count()))};
    int ids[TN_TABLE_CONCEPTS], id_count = 0;
    while (id_count < TN_TABLE_CONCEPTS && schema.table->concepts[id_count]) {
        ids[id_count] = schema.table->concepts[id_count];
        id_count++;
    }
    schema.count = 3 + tn_draw(rng, TN_SCHEMA_COLUMNS - 2);
    schema.label = tn_draw(rng, schema.count);
    for (int i = 0; i < schema.count; i++) {
        if (i == schema.label) {
            schema.columns[i] = draw_column(rng, schema.table->label);
            continue;
        }
        int pick = tn_draw(rng, id_count);
        schema.columns[i] = draw_column(rng, ids[pick]);
        ids[pick] = ids[--id_count];
    }
    return schema;
}

tn_schema tn_schema_draw(tn_rng *rng, tn_split split) {
    for (;;) {
        tn_schema schema = draw_any_schema(rng);
        if (tn_schema_split(&schema) == split)
            return schema;
    }
}

static void sorted_columns(const tn_schema *schema, const char *names[TN_SCHEMA_COLUMNS]) {
    for (int i = 0; i < schema->count; i++) {
        int at = i;
        for (; at > 0 && strcmp(names[at - 1], schema->columns[i].name->column) > 0; at--)
            names[at] = names[at - 1];
        names[at] = schema->columns[i].name->column;
    }
}

tn_split tn_schema_split(const tn_schema *schema) {
    const char *names[TN_SCHEMA_COLUMNS];
    sorted_columns(schema, names);
    uint64_t hash = tn_hash(TN_HASH_START, schema->table->name, strlen(schema->table->name));
    for (int i = 0; i < schema->count; i++) {
        hash = tn_hash(hash, "|", 1);
        hash = tn_hash(hash, names[i], strlen(names[i]));
    }
    switch ((hash ^ hash >> 32) % SPLIT_SHARES) {
    case 0: return TN_SPLIT_TEST;
    case 1: return TN_SPLIT_VALID;
    default: return TN_SPLIT_TRAIN;
    }
}

void tn_schema_key(const tn_schema *schema, tn_buf *out) {
    const char *names[TN_SCHEMA_COLUMNS];
    sorted_columns(schema, names);
    tn_buf_puts(out, schema->table->name);
    for (int i = 0; i < schema->count; i++)
        tn_buf_printf(out, "|%s", names[i]);
}

void tn_schema_columns(const tn_schema *schema, const char *separator, tn_buf *out) {
    for (int i = 0; i < schema->count; i++)
        tn_buf_printf(out, "%s%s", i ? separator : "", schema->columns[i].name->column);
}

static bool is_number(const tn_column *column) {
    return column->concept->type == TN_VALUE_NUMBER;
}

static bool is_ordered(const tn_column *column) {
    return column->concept->type != TN_VALUE_TEXT;
}

static bool is_category(const tn_column *column) {
    return column->concept->type == TN_VALUE_TEXT;
}

/* A column other than the label and `except` (-1: none) for which `fits` holds; -1 when the schema has none. */
static int draw_fitting(tn_rng *rng, const tn_schema *schema, int except, bool (*fits)(const tn_column *)) {
    int found[TN_SCHEMA_COLUMNS], count = 0;
    for (int i = 0; i < schema->count; i++)
        if (i != schema->label && i != except && (!fits || fits(&schema->columns[i])))
            found[count++] = i;
    return count ? found[tn_draw(rng, count)] : -1;
}

static tn_condition draw_condition(tn_rng *rng, const tn_schema *schema, int except) {
    tn_condition condition = {.column = draw_fitting(rng, schema, except, NULL)};
    const tn_concept *concept = schema->columns[condition.column].concept;
    condition.value = tn_value_draw(rng, concept);
    int dice = tn_draw(rng, 100);
    if (concept->type == TN_VALUE_TEXT) {
        condition.op = dice < 85 ? TN_IS : TN_IS_NOT;
    } else if (concept->type == TN_VALUE_DATE || dice < 80) {
        condition.op = dice % 2 ? TN_MORE : TN_LESS;
    } else {
        condition.op = TN_BETWEEN;
        do
            condition.upper = tn_value_draw(rng, concept);
        while (condition.upper.number == condition.value.number);
        if (condition.upper.number < condition.value.number) {
            tn_value swap = condition.value;
            condition.value = condition.upper;
            condition.upper = swap;
        }
    }
    return condition;
}

/* MAX and MIN fit all that is ordered, AVG amounts, SUM what adds up. */
static tn_aggregate draw_aggregate(tn_rng *rng, const tn_concept *concept) {
    int kinds = concept->in_time ? 2 : concept->additive ? 4 : 3;
    return (tn_aggregate)tn_draw(rng, kinds);
}

static void draw_conditions(tn_rng *rng, tn_query *query, int count) {
    int except = query->column;
    for (int i = 0; i < count; i++) {
        query->conditions[i] = draw_condition(rng, query->schema, except);
        except = query->conditions[i].column;
    }
    query->condition_count = count;
}

/* Fills the columns that the intent needs; false when the schema does not have them. */
static bool draw_columns(tn_rng *rng, tn_query *query) {
    const tn_schema *schema = query->schema;
    query->column = query->other = -1;
    switch (query->intent) {
    case TN_INTENT_COLUMN: query->column = tn_draw(rng, schema->count); return true;
    case TN_INTENT_COLUMNS:
        query->column = tn_draw(rng, schema->count);
        query->other = (query->column + 1 + tn_draw(rng, schema->count - 1)) % schema->count;
        return true;
    case TN_INTENT_AGGREGATE:
    case TN_INTENT_AGGREGATE_WHERE: query->column = draw_fitting(rng, schema, -1, is_ordered); return query->column >= 0;
    case TN_INTENT_FILTER_COLUMN:
    case TN_INTENT_LOOKUP: query->column = draw_fitting(rng, schema, -1, NULL); return true;
    case TN_INTENT_SORT: query->column = draw_fitting(rng, schema, -1, NULL); return true;
    case TN_INTENT_TOP:
    case TN_INTENT_BEST: query->column = draw_fitting(rng, schema, -1, is_ordered); return query->column >= 0;
    case TN_INTENT_DISTINCT:
    case TN_INTENT_GROUP_COUNT: query->column = draw_fitting(rng, schema, -1, is_category); return query->column >= 0;
    case TN_INTENT_GROUP_AGGREGATE:
        query->column = draw_fitting(rng, schema, -1, is_number);
        query->other = draw_fitting(rng, schema, -1, is_category);
        return query->column >= 0 && query->other >= 0;
    default: return true;
    }
}

tn_query tn_query_draw(tn_rng *rng, const tn_schema *schema) {
    tn_query query = {.schema = schema};
    do
        query.intent = tn_draw_chance(rng, 15) ? TN_INTENT_FILTER : (tn_intent)tn_draw(rng, TN_INTENT_KINDS);
    while (!draw_columns(rng, &query));
    query.descending = tn_draw_chance(rng, 50);
    query.limit = query.intent == TN_INTENT_BEST ? 1 : 2 + tn_draw(rng, 8);
    if (query.column >= 0)
        query.aggregate = draw_aggregate(rng, schema->columns[query.column].concept);
    switch (query.intent) {
    case TN_INTENT_EVERYTHING_WHERE:
    case TN_INTENT_COUNT_WHERE:
    case TN_INTENT_AGGREGATE_WHERE:
    case TN_INTENT_FILTER:
    case TN_INTENT_FILTER_COLUMN: draw_conditions(rng, &query, 1); break;
    case TN_INTENT_FILTER_BOTH: draw_conditions(rng, &query, 2); break;
    case TN_INTENT_LOOKUP:
        query.conditions[0] = (tn_condition){.column = schema->label, .op = TN_IS};
        query.conditions[0].value = tn_value_draw(rng, schema->columns[schema->label].concept);
        query.condition_count = 1;
        break;
    default: break;
    }
    return query;
}

static bool selects_label(tn_intent intent) {
    return intent == TN_INTENT_FILTER || intent == TN_INTENT_FILTER_BOTH || intent == TN_INTENT_SORT ||
           intent == TN_INTENT_TOP || intent == TN_INTENT_BEST;
}

static int add_column(int column, int *columns, int count) {
    for (int i = 0; i < count; i++)
        if (columns[i] == column)
            return count;
    columns[count] = column;
    return count + 1;
}

int tn_query_columns(const tn_query *query, int columns[TN_SCHEMA_COLUMNS]) {
    int count = 0;
    if (selects_label(query->intent))
        count = add_column(query->schema->label, columns, count);
    if (query->intent == TN_INTENT_GROUP_AGGREGATE)
        count = add_column(query->other, columns, count);
    if (query->column >= 0)
        count = add_column(query->column, columns, count);
    if (query->other >= 0)
        count = add_column(query->other, columns, count);
    for (int i = 0; i < query->condition_count; i++)
        count = add_column(query->conditions[i].column, columns, count);
    return count;
}

static const char *column_name(const tn_query *query, int column) {
    return query->schema->columns[column].name->column;
}

static void put_selected(const tn_query *query, tn_buf *out) {
    static const char *const functions[] = {"MAX", "MIN", "AVG", "SUM"};
    switch (query->intent) {
    case TN_INTENT_EVERYTHING:
    case TN_INTENT_EVERYTHING_WHERE: tn_buf_puts(out, "*"); break;
    case TN_INTENT_COUNT:
    case TN_INTENT_COUNT_WHERE: tn_buf_puts(out, "COUNT(*)"); break;
    case TN_INTENT_COLUMNS:
        tn_buf_printf(out, "%s, %s", column_name(query, query->column), column_name(query, query->other));
        break;
    case TN_INTENT_AGGREGATE:
    case TN_INTENT_AGGREGATE_WHERE:
        tn_buf_printf(out, "%s(%s)", functions[query->aggregate], column_name(query, query->column));
        break;
    case TN_INTENT_DISTINCT: tn_buf_printf(out, "DISTINCT %s", column_name(query, query->column)); break;
    case TN_INTENT_GROUP_COUNT: tn_buf_printf(out, "%s, COUNT(*)", column_name(query, query->column)); break;
    case TN_INTENT_GROUP_AGGREGATE:
        tn_buf_printf(out, "%s, %s(%s)", column_name(query, query->other), functions[query->aggregate],
                      column_name(query, query->column));
        break;
    case TN_INTENT_COLUMN:
    case TN_INTENT_FILTER_COLUMN:
    case TN_INTENT_LOOKUP: tn_buf_puts(out, column_name(query, query->column)); break;
    default: tn_buf_puts(out, column_name(query, query->schema->label)); break;
    }
}

static void put_condition(const tn_query *query, const tn_condition *condition, tn_buf *out) {
    static const char *const operators[] = {"=", "<>", ">", "<"};
    const char *quote = query->schema->columns[condition->column].concept->type == TN_VALUE_NUMBER ? "" : "'";
    if (condition->op == TN_BETWEEN)
        tn_buf_printf(out, "%s BETWEEN %s AND %s", column_name(query, condition->column), condition->value.text,
                      condition->upper.text);
    else
        tn_buf_printf(out, "%s %s %s%s%s", column_name(query, condition->column), operators[condition->op], quote,
                      condition->value.text, quote);
}

void tn_query_sql(const tn_query *query, tn_buf *out) {
    tn_buf_puts(out, "SELECT ");
    put_selected(query, out);
    tn_buf_printf(out, " FROM %s", query->schema->table->name);
    for (int i = 0; i < query->condition_count; i++) {
        tn_buf_puts(out, i ? " AND " : " WHERE ");
        put_condition(query, &query->conditions[i], out);
    }
    switch (query->intent) {
    case TN_INTENT_SORT:
    case TN_INTENT_TOP:
    case TN_INTENT_BEST:
        tn_buf_printf(out, " ORDER BY %s %s", column_name(query, query->column), query->descending ? "DESC" : "ASC");
        if (query->intent != TN_INTENT_SORT)
            tn_buf_printf(out, " LIMIT %d", query->limit);
        break;
    case TN_INTENT_GROUP_COUNT: tn_buf_printf(out, " GROUP BY %s", column_name(query, query->column)); break;
    case TN_INTENT_GROUP_AGGREGATE: tn_buf_printf(out, " GROUP BY %s", column_name(query, query->other)); break;
    default: break;
    }
    tn_buf_puts(out, ";");
}
