/* Sentence patterns of each intent. In braces: T, S the table's rows in plural and singular; c, C the column and d, D the
 * other column; l, L the label column; w conditions after a noun, v as a predicate; y the row looked up; n the limit; h
 * highest or lowest; m "oldest" or the like; a the aggregate; o the order. */
#ifndef TN_GENERATE_PHRASINGS_H
#define TN_GENERATE_PHRASINGS_H

#include "query.h"

/* Each list ends with NULL. */
extern const char *const *const tn_phrasings_asking[TN_INTENT_KINDS];
extern const char *const *const tn_phrasings_describing[TN_INTENT_KINDS];

#endif
