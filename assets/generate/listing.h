/* A few rows of a table, and the answers to queries over them in plain English. */
#ifndef TN_GENERATE_LISTING_H
#define TN_GENERATE_LISTING_H

#include "query.h"

enum { TN_LISTING_ROWS = 5 };

typedef struct tn_listing {
    tn_schema schema;
    tn_value cells[TN_LISTING_ROWS][TN_SCHEMA_COLUMNS];
    int count; /* rows */
} tn_listing;

/* Three to five rows with different labels; other text columns repeat values, so that there is something to count. */
tn_listing tn_listing_draw(tn_rng *rng, const tn_schema *schema);

/* A query about the listing, its values taken from the rows; query->schema points into it. */
tn_query tn_listing_query(tn_rng *rng, const tn_listing *listing);

/* Appends the listing in one of several forms: CSV, bars, "key: value", sentences. */
void tn_listing_print(tn_rng *rng, const tn_listing *listing, tn_buf *out);

/* Appends the answer as a sentence, "Ada and Bo live in Oslo."; false (nothing appended) for queries whose answer would need
 * arithmetic or a whole table. */
bool tn_listing_answer(tn_rng *rng, const tn_listing *listing, const tn_query *query, tn_buf *out);

/* Appends "Oslo", "Oslo and Rome", "Oslo, Rome and Lima". */
void tn_listing_join(const char *const *items, int count, tn_buf *out);

#endif
