/* Combining the updates of several adapters on one module: PEFT's add_weighted_adapter as maths. */
#ifndef TN_PEFT_COMPOSE_H
#define TN_PEFT_COMPOSE_H

#include "peft/low_rank.h"

typedef enum tn_compose_method {
    TN_COMPOSE_LINEAR,
    TN_COMPOSE_CAT,
    TN_COMPOSE_SVD,
    TN_COMPOSE_TIES,
    TN_COMPOSE_DARE_LINEAR,
    TN_COMPOSE_DARE_TIES,
    TN_COMPOSE_MAGNITUDE_PRUNE,
} tn_compose_method;

/* Fills keep [count] with 1 for the entries that DARE keeps. part: "lora_A", "lora_B" or "delta". */
typedef tn_status (*tn_compose_mask)(void *cookie, const char *module, const char *part, size_t adapter, uint8_t *keep,
                                     int64_t count);

typedef struct tn_compose_rule {
    tn_compose_method method;
    bool on_updates;      /* the _svd forms: of B A, not of A and B on their own */
    int64_t rank;         /* of svd and the _svd forms; 0: the highest of the inputs' */
    double density;       /* share of entries that pruning keeps, above 0 and at most 1 */
    bool by_frequency;    /* TIES elects signs by their number, not by the sum of the values */
    double clamp;         /* svd and _svd: entries of the factors are cut at this quantile; 0: not */
    uint64_t seed;        /* of DARE's masks */
    tn_compose_mask mask; /* NULL: Philox by seed, module, part and adapter */
    void *cookie;
} tn_compose_rule;

/* Method and form of "ties_svd" and the like; an unknown mode is an error that lists those there are. */
tn_status tn_compose_mode_parse(const char *mode, tn_compose_rule *rule);
bool tn_compose_truncates(const tn_compose_rule *rule); /* svd and the _svd forms: `rank` and `clamp` count */
bool tn_compose_prunes(const tn_compose_rule *rule);    /* `density` counts */
bool tn_compose_elects(const tn_compose_rule *rule);    /* `by_frequency` counts */

/* The combined update of a module with scale 1, in the arena. terms[i] is that of adapter number adapters[i], with
 * weights[i]. Modes that combine A and B on their own need equal ranks: TN_ERROR_MISMATCH. */
tn_status tn_compose_module(const tn_compose_rule *rule, const char *module, const tn_factors *terms, const double *weights,
                            const size_t *adapters, size_t count, tn_arena *arena, tn_factors *out);

#endif
