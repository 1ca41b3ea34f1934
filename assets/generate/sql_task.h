/* The fine-tuning task: a table's columns and a question as prompt, the SQL that answers it as completion. */
#ifndef TN_GENERATE_SQL_TASK_H
#define TN_GENERATE_SQL_TASK_H

#include "query.h"

typedef struct tn_sql_counts {
    int rows[TN_SPLIT_COUNT], schemas[TN_SPLIT_COUNT];
} tn_sql_counts;

/* Writes train.jsonl, valid.jsonl and test.jsonl into `dir` with rows[split] rows each and counts their schemas. No prompt
 * occurs twice; no schema of one file occurs in another. An error when so many different prompts do not exist, or when a
 * prompt would have two answers. */
tn_status tn_sql_task_write(uint64_t seed, const char *dir, tn_sql_counts *counts);

#endif
