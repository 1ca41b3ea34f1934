/* Options as tables: one row gives an option's name, type, default, range and help, and from it come the command line, run
 * files, validation, --help, the manual and shell completion. A row also says where the value lives in a config struct:
 *
 *     struct lora { int r; double dropout; };
 *     const tn_option lora_options[] = {
 *         {.name = "lora-r", .type = TN_OPTION_INT, TN_FIELD(struct lora, r), .initial = "8", .low = 1, .high = 4096,
 *          .value_name = "N", .group = "Adapter", .help = "rank of the update"},
 *         {.name = "lora-dropout", .type = TN_OPTION_FLOAT, TN_FIELD(struct lora, dropout), .initial = "0", .low = 0,
 *          .high = 1, .flags = TN_OPTION_BELOW_HIGH, .help = "share of inputs dropped"},
 *         {0},
 *     };
 */
#ifndef TN_BASE_OPTIONS_H
#define TN_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/memory.h"

/* The type of an option and of its field. */
typedef enum tn_option_type {
    TN_OPTION_BOOL,   /* bool */
    TN_OPTION_INT,    /* int or int64_t */
    TN_OPTION_FLOAT,  /* float or double */
    TN_OPTION_STRING, /* const char *, valid UTF-8 */
    TN_OPTION_CHOICE, /* an int or enum: index into `choices` */
    TN_OPTION_LIST,   /* tn_text_list; items checked against `choices` when there are any */
    TN_OPTION_PATH,   /* const char *, not empty */
} tn_option_type;

typedef struct tn_text_list {
    const char *const *items;
    size_t count;
} tn_text_list;

enum {
    TN_OPTION_REQUIRED = 1 << 0,
    TN_OPTION_HIDDEN = 1 << 1,     /* works, but is in no help, manual, completion or suggestion */
    TN_OPTION_POSITIONAL = 1 << 2, /* an argument without a dash, in the order of the table; a list takes all that follow */
    TN_OPTION_REPEATABLE = 1 << 3, /* of a list: each occurrence is one item, commas included, instead of "a,b,c" */
    TN_OPTION_ABOVE_LOW = 1 << 4,  /* `low` itself is not allowed */
    TN_OPTION_BELOW_HIGH = 1 << 5, /* `high` itself is not allowed */
    TN_OPTION_RUN_FILE = 1 << 6,   /* of a path: names a YAML file with values for the other options */
};

typedef struct tn_option {
    const char *name; /* "lora-alpha"; NULL ends a table */
    tn_option_type type;
    size_t offset, size;        /* of the field: TN_FIELD(struct, member) */
    const char *initial;        /* default as text; NULL: none (false, 0, NULL, choice -1, empty list) */
    double low, high;           /* of numbers, inclusive, +-INFINITY for open ends; both 0: no range */
    const char *const *choices; /* NULL-terminated; plain words, which shells and lists need no quotes for */
    const char *value_name;     /* for help: "DIR"; NULL: by type */
    const char *help;           /* one line, no capital, no full stop */
    const char *group;          /* heading; NULL: that of the row before */
    unsigned flags;
    char alias;           /* 'o' for -o; 0: none */
    const char *json_key; /* in adapter_config.json, where that is not the name with '_' for '-' */
} tn_option;

#define TN_FIELD(type, member) .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)

/* A table and where its struct lies in the config that it is joined into. An array of these ends with options = NULL. */
typedef struct tn_option_table {
    const tn_option *options;
    size_t offset;
} tn_option_table;

/* Who gave a value; a later one wins. */
typedef enum tn_option_source {
    TN_SOURCE_INITIAL,
    TN_SOURCE_FILE,
    TN_SOURCE_FLAG,
} tn_option_source;

typedef struct tn_option_slot {
    const tn_option *option;
    const char *group; /* heading, never NULL */
    void *field;       /* in the config; NULL without one */
    tn_option_source source;
} tn_option_slot;

/* The joined tables over one config. Owns the strings and lists in the config. */
typedef struct tn_options {
    tn_option_slot *slots; /* in the order of the tables */
    size_t count;
    tn_arena arena;
} tn_options;

/* Joins the tables and sets every default in `config`, which must outlive `options`. With config NULL the tables can only be
 * looked at. Fails on a table that contradicts itself (a name twice, a default out of range). Free also after a failure. */
tn_status tn_options_start(tn_options *options, const tn_option_table *tables, void *config);

/* Frees what the options own; strings and lists in the config are gone then. */
void tn_options_free(tn_options *options);

/* The slot of a name, '_' and '-' being the same; NULL when there is none. */
tn_option_slot *tn_options_find(const tn_options *options, const char *name);

/* The error for a name that is not in the tables, with the nearest one that is. */
tn_status tn_options_fail_unknown(tn_options *options, const char *name, tn_option_source source);

/* Sets an option from text after checking it. A value from a stronger source stays, but this one is still checked. A list is
 * replaced by the first value of a stronger source and extended by more of the same. */
tn_status tn_options_set(tn_options *options, const char *name, const char *text, tn_option_source source);

/* Sets a list from its items, replacing what it held. */
tn_status tn_options_set_list(tn_options *options, const char *name, const char *const *items, size_t count,
                              tn_option_source source);

/* Reads the command line after the program's and the command's name: --name value, --name=value, --flag, --no-flag, -x
 * value, arguments, and "--" after which everything is an argument. A separate value cannot start with "--". */
tn_status tn_options_parse(tn_options *options, int argc, char *const argv[]);

/* An error naming every required option that nobody gave. */
tn_status tn_options_check_required(const tn_options *options);

/* True when a flag or a run file gave the option. The name must exist. */
bool tn_options_given(const tn_options *options, const char *name);

/* Appends the current value: numbers as short as they read back, lists as a,b,c; nothing for an option without a value.
 * Needs a config. */
void tn_options_print_value(tn_buf *out, const tn_option_slot *slot);

/* True when nothing was given and the table has no default. */
bool tn_options_is_unset(const tn_option_slot *slot);

/* Appends "from 1 to 64", "at least 0 and below 1", ...; nothing when all values are allowed. */
void tn_option_print_range(tn_buf *out, const tn_option *option);

/* What stands for the value in help: "N", "FILE", "NAME,..."; NULL for a bool. */
const char *tn_option_value_name(const tn_option *option);

#endif
