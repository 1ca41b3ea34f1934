/* The small world of the demo: tables, the columns they may have, and the values these hold, with the English for each.
 * A concept is what a column means; a concept may have several column names (salary, pay, wage), so that the schema must be
 * read to know which one to write. */
#ifndef TN_GENERATE_WORLD_H
#define TN_GENERATE_WORLD_H

#include <stdbool.h>

#include "base/rng.h"

typedef enum tn_value_type { TN_VALUE_TEXT, TN_VALUE_NUMBER, TN_VALUE_DATE } tn_value_type;

/* One name of a concept: as a column, and as an English noun. */
typedef struct tn_concept_name {
    const char *column, *singular, *plural;
} tn_concept_name;

enum { TN_CONCEPT_NAMES = 3 };

/* Predicates follow a plural noun and hold '%' where the value goes; NULL where English has none. */
typedef struct tn_concept {
    tn_concept_name names[TN_CONCEPT_NAMES]; /* from the first; unused ones have a NULL column */
    tn_value_type type;
    bool in_time;              /* ordered from early to late instead of low to high */
    bool additive;             /* a sum makes sense */
    const char *const *words;  /* text: its values, NULL at the end */
    int low, high, step;       /* numbers */
    const char *is, *short_is; /* "live in %", "in %" */
} tn_concept;

enum { TN_TABLE_CONCEPTS = 6 };

typedef struct tn_table {
    const char *name;
    const char *singular[2], *plural[2]; /* the second may be NULL */
    bool people;
    int label;                       /* the concept that names a row */
    int concepts[TN_TABLE_CONCEPTS]; /* what else a table may hold; 0 ends the list early */
} tn_table;

enum { TN_VALUE_SIZE = 32 };

/* A cell as text without quotes; `number` orders numbers. */
typedef struct tn_value {
    char text[TN_VALUE_SIZE];
    int number;
} tn_value;

int tn_world_table_count(void);
const tn_table *tn_world_table(int index);
const tn_concept *tn_world_concept(int id);

int tn_concept_name_count(const tn_concept *concept);
tn_value tn_value_draw(tn_rng *rng, const tn_concept *concept);

/* Below zero, zero or above as a sorts before, with or after b. */
int tn_value_compare(const tn_concept *concept, const tn_value *a, const tn_value *b);

/* Indices and choices. */
int tn_draw(tn_rng *rng, int bound); /* 0..bound-1 */
bool tn_draw_chance(tn_rng *rng, int percent);
#define TN_DRAW_OF(rng, array) ((array)[tn_draw((rng), (int)(sizeof(array) / sizeof *(array)))])

#endif
