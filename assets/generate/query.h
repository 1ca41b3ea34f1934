/* Queries over one table of the world: drawing a schema and a query on it, and writing the query as SQL. There is one
 * spelling of SQL for each meaning, so that exact match is a fair measure. */
#ifndef TN_GENERATE_QUERY_H
#define TN_GENERATE_QUERY_H

#include "base/buf.h"
#include "world.h"

enum { TN_SCHEMA_COLUMNS = 5, TN_QUERY_CONDITIONS = 2 };

/* A column is a concept under one of its names. */
typedef struct tn_column {
    const tn_concept *concept;
    const tn_concept_name *name;
} tn_column;

/* The label and two to four other columns of a table, in any order. */
typedef struct tn_schema {
    const tn_table *table;
    tn_column columns[TN_SCHEMA_COLUMNS];
    int count, label; /* label: index of the column that names a row */
} tn_schema;

/* Schemas are split once and for all by a hash of the table and its set of columns, whatever their order. */
typedef enum tn_split { TN_SPLIT_TRAIN, TN_SPLIT_VALID, TN_SPLIT_TEST, TN_SPLIT_COUNT } tn_split;

typedef enum tn_intent {
    TN_INTENT_COLUMN,           /* SELECT a FROM t; */
    TN_INTENT_COLUMNS,          /* SELECT a, b FROM t; */
    TN_INTENT_EVERYTHING,       /* SELECT * FROM t; */
    TN_INTENT_EVERYTHING_WHERE, /* SELECT * FROM t WHERE p; */
    TN_INTENT_DISTINCT,         /* SELECT DISTINCT a FROM t; */
    TN_INTENT_COUNT,            /* SELECT COUNT(*) FROM t; */
    TN_INTENT_COUNT_WHERE,      /* SELECT COUNT(*) FROM t WHERE p; */
    TN_INTENT_AGGREGATE,        /* SELECT MAX(a) FROM t; */
    TN_INTENT_AGGREGATE_WHERE,  /* SELECT MAX(a) FROM t WHERE p; */
    TN_INTENT_FILTER,           /* SELECT label FROM t WHERE p; */
    TN_INTENT_FILTER_BOTH,      /* SELECT label FROM t WHERE p AND q; */
    TN_INTENT_FILTER_COLUMN,    /* SELECT a FROM t WHERE p; */
    TN_INTENT_LOOKUP,           /* SELECT a FROM t WHERE label = 'x'; */
    TN_INTENT_SORT,             /* SELECT label FROM t ORDER BY a DESC; */
    TN_INTENT_TOP,              /* SELECT label FROM t ORDER BY a DESC LIMIT n; */
    TN_INTENT_BEST,             /* SELECT label FROM t ORDER BY a DESC LIMIT 1; */
    TN_INTENT_GROUP_COUNT,      /* SELECT a, COUNT(*) FROM t GROUP BY a; */
    TN_INTENT_GROUP_AGGREGATE,  /* SELECT b, AVG(a) FROM t GROUP BY b; */
    TN_INTENT_KINDS
} tn_intent;

typedef enum tn_operator { TN_IS, TN_IS_NOT, TN_MORE, TN_LESS, TN_BETWEEN } tn_operator;
typedef enum tn_aggregate { TN_MAX, TN_MIN, TN_AVG, TN_SUM } tn_aggregate;

typedef struct tn_condition {
    int column;
    tn_operator op;
    tn_value value, upper; /* upper: of TN_BETWEEN */
} tn_condition;

typedef struct tn_query {
    const tn_schema *schema; /* borrowed */
    tn_intent intent;
    int column, other; /* a and b of the pictures above */
    tn_aggregate aggregate;
    bool descending;
    int limit;
    tn_condition conditions[TN_QUERY_CONDITIONS];
    int condition_count;
} tn_query;

/* A random schema of that split. */
tn_schema tn_schema_draw(tn_rng *rng, tn_split split);
tn_split tn_schema_split(const tn_schema *schema);

/* Appends table and sorted columns, "employees|city|name|salary": the same text for the same set of columns. */
void tn_schema_key(const tn_schema *schema, tn_buf *out);

/* Appends "name, salary, city" with `separator` between. */
void tn_schema_columns(const tn_schema *schema, const char *separator, tn_buf *out);

/* A random query that the schema can answer. Values come from the pools. */
tn_query tn_query_draw(tn_rng *rng, const tn_schema *schema);

/* The columns a query names, each once, in the order of the statement; returns how many. */
int tn_query_columns(const tn_query *query, int columns[TN_SCHEMA_COLUMNS]);

/* Appends the statement, "SELECT name FROM employees WHERE city = 'Oslo';". */
void tn_query_sql(const tn_query *query, tn_buf *out);

#endif
