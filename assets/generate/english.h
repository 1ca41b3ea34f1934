/* Queries in English: as questions and requests, and as noun phrases that say what a query gives. Nouns are any name of the
 * concept, so "wage" may stand for a column called salary. */
#ifndef TN_GENERATE_ENGLISH_H
#define TN_GENERATE_ENGLISH_H

#include "query.h"

/* Appends a question or request, "Which employees live in Oslo?". */
void tn_english_ask(tn_rng *rng, const tn_query *query, tn_buf *out);

/* Appends a noun phrase, "the names of the employees who live in Oslo". */
void tn_english_describe(tn_rng *rng, const tn_query *query, tn_buf *out);

/* Appends the query's conditions after a plural noun: "live in Oslo", "have a salary above 3000". */
void tn_english_predicate(tn_rng *rng, const tn_query *query, tn_buf *out);

/* "highest", "latest"; "average"; how the query's aggregate is said. */
const char *tn_english_aggregate(tn_rng *rng, const tn_query *query);

const char *tn_english_rows(tn_rng *rng, const tn_table *table, bool plural);

/* "a" or "an". */
const char *tn_english_article(const char *noun);

/* How many phrasings there are of an intent as question. */
int tn_english_phrasing_count(tn_intent intent);

#endif
