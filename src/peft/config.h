/* adapter_config.json: which modules an adapter changes and how, as PEFT's LoraConfig spells it. */
#ifndef TN_PEFT_CONFIG_H
#define TN_PEFT_CONFIG_H

#include "base/memory.h"
#include "base/options.h"
#include "format/json.h"

enum { TN_MOST_INVOCATION = 256 }; /* tokens */
enum { TN_MOST_LOFTQ_ITERATIONS = 1000 };

typedef enum tn_bias_mode { TN_BIAS_NONE, TN_BIAS_ALL, TN_BIAS_ADAPTED } tn_bias_mode;

/* A value for the modules whose name matches (.*\.)?(key)$. */
typedef struct tn_pattern {
    const char *key;
    double value;
} tn_pattern;

typedef struct tn_token_rows {
    const char *module; /* NULL: the input embedding */
    int32_t *indices;
    int64_t count;
} tn_token_rows;

/* BD-LoRA: A of some modules and B of others is block-diagonal. */
typedef struct tn_block_diagonal {
    int64_t blocks;                    /* 0: not used */
    tn_text_list a_modules, b_modules; /* whose A, whose B, by name or suffix after a dot */
    bool strict;                       /* every target must be in one of the lists */
} tn_block_diagonal;

typedef struct tn_peft_method tn_peft_method;

typedef struct tn_peft_config {
    const tn_peft_method *method;
    tn_options options; /* the method's own, over `settings` */
    void *settings;     /* NULL: the method has no options of its own */
    int64_t rank;
    double alpha, dropout;
    bool use_rslora, use_dora, lora_bias, ensure_weight_tying;
    bool fan_in_fan_out; /* written for readers that need to be told; set from the adapted layers */
    bool freeze_a;       /* LoRA-FA */
    tn_bias_mode bias;
    const char *init; /* "kaiming", "gaussian", "pissa", "pissa_niter_K", "olora", "orthogonal", "loftq", "random" (not a
                         no-op) */
    int64_t loftq_bits, loftq_iterations; /* of "loftq"; 0: 4 and 1 */
    const char *target_regex;             /* full match; or NULL */
    tn_text_list target_modules, exclude_modules, modules_to_save, layers_pattern, target_parameters;
    const char *exclude_regex;
    bool all_linear;
    tn_pattern *rank_pattern, *alpha_pattern;
    size_t rank_pattern_count, alpha_pattern_count;
    int64_t *layers; /* layers_to_transform */
    size_t layers_count;
    tn_token_rows *token_rows;
    size_t token_rows_count;
    int64_t (*replication)[2];
    size_t replication_count;
    int32_t *invocation_tokens; /* alora_invocation_tokens: the update acts from their last occurrence on */
    size_t invocation_count;
    tn_block_diagonal block_diagonal; /* use_bdlora */
    bool kasa;
    double kasa_beta, kasa_gamma; /* weights of KaSA's regularisation terms, kept for the file */
    const char *base_model;       /* base_model_name_or_path */
    const char *task_type;
    tn_arena arena; /* owns everything above */
} tn_peft_config;

/* PEFT's defaults for the method, targets by the model's family. Free also after a failure. */
tn_status tn_peft_config_init(tn_peft_config *config, const tn_peft_method *method);
void tn_peft_config_free(tn_peft_config *config);

/* Reads adapter_config.json. A key that is set to something other than its default and that this build does not know is an
 * error naming it. */
tn_status tn_peft_config_parse(const cJSON *json, const char *where, tn_peft_config *out);

/* Appends adapter_config.json text that PEFT loads, with sorted keys. */
tn_status tn_peft_config_print(const tn_peft_config *config, tn_buf *out);

/* Fails for what is set, but has no place in the method's adapter_config.json, so that it would be lost. */
tn_status tn_peft_config_check(const tn_peft_config *config);

/* Targets as the command line gives them: "all-linear", names separated by commas, or one regular expression (anything with
 * a character that no module name holds). `what` is the option's name in errors. */
tn_status tn_peft_config_set_targets(tn_peft_config *config, const char *text);

/* A list of names in that syntax, on its own. */
tn_status tn_peft_config_parse_names(tn_peft_config *config, const char *text, tn_text_list *out);

/* "key=value,key=value" into a pattern list. */
tn_status tn_peft_config_set_pattern(tn_peft_config *config, const char *text, const char *what, tn_pattern **out,
                                     size_t *count);

/* Sets one of the method's own options from text; an unknown one is an error that names those there are. */
tn_status tn_peft_config_set(tn_peft_config *config, const char *name, const char *text);

/* Copies a list into the config's arena. */
tn_status tn_peft_config_copy_list(tn_peft_config *config, tn_text_list in, tn_text_list *out);

/* name == entry, or name ends in "." + entry, for an entry of the list. */
bool tn_peft_names_module(tn_text_list list, const char *name);

/* True when name matches the pattern as Python's re.fullmatch would; a bad expression is an error naming `what`. */
tn_status tn_peft_full_match(const char *pattern, const char *name, const char *what, bool *matches);

/* The value of the first pattern whose key matches the module, else `otherwise`. */
tn_status tn_peft_pattern_value(const tn_pattern *patterns, size_t count, const char *module, const char *what,
                                double otherwise, double *out);

/* scaling: alpha / rank, or alpha / sqrt(rank) with rsLoRA. */
double tn_peft_scale(const tn_peft_config *config, double alpha, int64_t rank);

#endif
