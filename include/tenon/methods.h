/* What can be trained: methods, ways of training them, starting values. */
#ifndef TENON_METHODS_H
#define TENON_METHODS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <tenon/error.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tn_method_kind {
    TN_METHOD_OWN,    /* with a peft_type of its own, or "full" */
    TN_METHOD_PRESET, /* a method with some of its settings, by a name that tn_adapter_options takes as `method` */
    TN_METHOD_WAY,    /* an option of a method or of its training */
    TN_METHOD_INIT,   /* starting values, tn_adapter_options' `init` */
} tn_method_kind;

/* Strings live as long as the program. */
typedef struct tn_method_info {
    tn_method_kind kind;
    const char *name;   /* "lora", "dora", "lora+", "pissa" */
    const char *method; /* that it belongs to; its own name for TN_METHOD_OWN */
    char flags[48];     /* of `tenon train`: "--method dora", "--init pissa" */
    const char *summary, *formula;
    const char *paper;                              /* "arXiv:2106.09685", or NULL */
    const char *peft_type;                          /* in adapter_config.json; NULL: no adapter */
    const char *rank_key, *alpha_key, *dropout_key; /* in adapter_config.json; NULL: the method has none */
    int64_t rank;                                   /* default; 0: none */
    double alpha;                                   /* of a new adapter when none is given; 0: none */
    size_t option_count;                            /* of the method's own options */
    bool mergeable, unmergeable; /* into one matrix with the base, and out of it again, at the method's defaults */
    char obstacle[320];          /* why not, of the first that is not; "" when there is none */
} tn_method_info;

/* An option that only this method has. */
typedef struct tn_method_option {
    const char *name;    /* of the flag, without dashes */
    const char *initial; /* default as text; NULL: none */
    const char *help;
    char key[64];   /* in adapter_config.json */
    char range[96]; /* "from 1 to 64", or "" */
} tn_method_option;

/* How many there are, and the one at `index` below that. TN_ERROR_MEMORY. */
TN_API size_t tn_method_count(void);
TN_API tn_status tn_method_describe(size_t index, tn_method_info *out);

/* The index of a name; TN_ERROR_ARGUMENT with the nearest name when there is none. */
TN_API tn_status tn_method_find(const char *name, size_t *index);

/* Its option `option`, below info.option_count. */
TN_API void tn_method_describe_option(size_t index, size_t option, tn_method_option *out);

/* Numbers in one linear layer's adapter, weight [rows, cols], without making one: trained, and frozen ones that go into its
 * file or that several layers share. rank 0: the method's default, which is also used by methods without a rank.
 * TN_ERROR_ARGUMENT when the rank does not fit, _MEMORY. */
TN_API tn_status tn_method_parameters(size_t index, int64_t rows, int64_t cols, int64_t rank, int64_t *trained,
                                      int64_t *frozen);

#ifdef __cplusplus
}
#endif
#endif
