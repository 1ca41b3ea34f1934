/* Inside of the chat template engine: tokens, syntax tree, values and the functions between its files. The language is
 * Jinja2 3.1 as transformers configures it (sandboxed, immutable, trim_blocks, lstrip_blocks, loop controls); where Python
 * shows through (str, repr, slices, comparison), Python 3 is followed. Integers have 64 bits; overflow is an error.
 *
 * Ownership: the syntax tree lives in the template's arena, every value in the arena of its rendering. Values are immutable
 * once built, except namespaces, iterators (they are consumed) and loops. Nothing is freed singly. */
#ifndef TN_TEXT_JINJA_H
#define TN_TEXT_JINJA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/map.h"
#include "base/memory.h"
#include "text/chat_template.h"

enum {
    JINJA_MAX_SOURCE = 1 << 20,   /* bytes of a template */
    JINJA_MAX_TEXT = 64 << 20,    /* bytes of the output and of any one string */
    JINJA_MAX_MEMORY = 512 << 20, /* bytes of values in one rendering */
    JINJA_MAX_STEPS = 10000000,   /* nodes evaluated, items visited, and 64-byte pieces of text copied */
    JINJA_MAX_CALLS = 200,        /* macros within macros */
    JINJA_MAX_NESTING = 200,      /* brackets and blocks in the source; levels of a JSON value */
    JINJA_MAX_DEPTH = 2000,       /* levels of evaluation: bounds the C stack */
    JINJA_MAX_RANGE = 100000,     /* items of a range(), as in Jinja's sandbox */
    JINJA_MAX_PARAMETERS = 6,     /* of a builtin */
};

/* ---- values (jinja_value.c) ---- */

typedef enum jinja_type {
    JINJA_ABSENT, /* an optional argument that was not given */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_RANGE,
    JINJA_VIEW,     /* dict.items() and its like: countable, not indexable */
    JINJA_ITERATOR, /* what map, select and others give: can be walked once */
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_FUNCTION,
    JINJA_METHOD,
} jinja_type;

typedef struct jinja_state jinja_state;
typedef struct jinja_node jinja_node;
typedef struct jinja_scope jinja_scope;
typedef struct jinja_list jinja_list;
typedef struct jinja_dict jinja_dict;
typedef struct jinja_loop jinja_loop;
typedef struct jinja_macro jinja_macro;
typedef struct jinja_method jinja_method;
typedef struct jinja_missing jinja_missing;
typedef struct jinja_builtin jinja_builtin;

/* UTF-8; may hold NUL bytes. */
typedef struct jinja_string {
    const char *data;
    size_t length;
} jinja_string;

typedef struct jinja_value {
    jinja_type type;
    union {
        bool boolean;
        int64_t integer;
        double real;
        const jinja_string *string;
        jinja_list *list; /* LIST, TUPLE, RANGE, VIEW, ITERATOR */
        jinja_dict *dict; /* DICT, NAMESPACE */
        jinja_loop *loop;
        const jinja_macro *macro;
        const jinja_builtin *function;
        const jinja_method *method;
        const jinja_missing *missing; /* UNDEFINED; may be NULL */
    } as;
} jinja_value;

struct jinja_list {
    jinja_value *items;
    size_t count, capacity;
    size_t cursor;     /* ITERATOR: items already taken */
    const char *label; /* "dict_items", "generator"; the text of a range */
};

typedef struct jinja_pair {
    jinja_value key, value;
} jinja_pair;

/* In order of insertion; `index` is a hash table of pair numbers + 1, present above a few pairs. */
struct jinja_dict {
    jinja_pair *pairs;
    size_t count, capacity;
    uint32_t *index;
    size_t index_size;
};

struct jinja_loop {
    const jinja_list *items;
    size_t index0, depth0;
    const jinja_node *node; /* the for statement */
    jinja_scope *scope;     /* the one around it, for recursive loops */
    jinja_value changed;    /* the last argument of loop.changed(); ABSENT before */
};

struct jinja_macro {
    const jinja_node *node;
    jinja_scope *scope;
    jinja_value caller; /* ABSENT unless invoked by a call block */
};

struct jinja_method {
    jinja_value self;
    const jinja_builtin *builtin;
};

/* Why a value is undefined. */
struct jinja_missing {
    const jinja_string *name; /* NULL: `hint` says all */
    jinja_type owner;         /* ABSENT for a variable */
    const char *hint;
};

typedef struct jinja_args {
    const jinja_value *items;
    size_t count;
    const jinja_pair *keywords; /* keys are strings */
    size_t keyword_count;
} jinja_args;

/* A filter, test, method or global function. `parameters` names what comes after the subject, "old new count?", with ? for
 * those that may be left out; the function then finds exactly these in args->items (ABSENT when not given). With NULL the
 * arguments come as written. */
struct jinja_builtin {
    const char *name;
    tn_status (*call)(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out);
    const char *parameters;
};

#define JINJA_VALUE(kind, field, content) ((jinja_value){.type = (kind), .as.field = (content)})
#define JINJA_NONE_VALUE ((jinja_value){.type = JINJA_NONE})

static inline jinja_value tn_jinja_bool(bool truth) {
    return JINJA_VALUE(JINJA_BOOL, boolean, truth);
}
static inline jinja_value tn_jinja_int(int64_t integer) {
    return JINJA_VALUE(JINJA_INT, integer, integer);
}
static inline jinja_value tn_jinja_float(double real) {
    return JINJA_VALUE(JINJA_FLOAT, real, real);
}

/* For "%.*s": as much of a text as a message should quote. */
static inline int tn_jinja_shown(const jinja_string *text) {
    return text->length < 60 ? (int)text->length : 60;
}

/* INT or BOOL: what Python takes as an int. */
static inline bool tn_jinja_is_int(jinja_value value) {
    return value.type == JINJA_INT || value.type == JINJA_BOOL;
}
static inline int64_t tn_jinja_as_int(jinja_value value) {
    return value.type == JINJA_BOOL ? value.as.boolean : value.as.integer;
}
static inline bool tn_jinja_is_number(jinja_value value) {
    return tn_jinja_is_int(value) || value.type == JINJA_FLOAT;
}
static inline double tn_jinja_as_double(jinja_value value) {
    return value.type == JINJA_FLOAT ? value.as.real : (double)tn_jinja_as_int(value);
}
/* LIST, TUPLE or RANGE: can be indexed. */
static inline bool tn_jinja_is_sequence(jinja_value value) {
    return value.type == JINJA_LIST || value.type == JINJA_TUPLE || value.type == JINJA_RANGE;
}

/* Zeroed memory of the rendering; NULL, with state->failure saying why, when it or JINJA_MAX_MEMORY is exhausted. */
void *tn_jinja_alloc(jinja_state *state, size_t count, size_t size);

/* Charges work; an error beyond JINJA_MAX_STEPS. */
tn_status tn_jinja_step(jinja_state *state, size_t steps);

/* Around every recursion over values or the tree: an error beyond JINJA_MAX_DEPTH. Leave with state->depth--. */
tn_status tn_jinja_enter(jinja_state *state);

/* A string: a copy of bytes, or a reference to bytes that outlive the rendering. */
tn_status tn_jinja_string_copy(jinja_state *state, const char *data, size_t length, jinja_value *out);
tn_status tn_jinja_string_refer(jinja_state *state, const char *data, size_t length, jinja_value *out);
/* The contents of a buffer, which is freed in every case; `status` is that of filling it, and returned when it failed. */
tn_status tn_jinja_string_take(jinja_state *state, tn_status status, tn_buf *buf, jinja_value *out);
/* Appends within JINJA_MAX_TEXT, charging steps. */
tn_status tn_jinja_append(jinja_state *state, tn_buf *buf, const char *data, size_t length);

/* Lists: an empty one with room for `capacity` items (it grows as needed), and its value of the given type. */
tn_status tn_jinja_list_new(jinja_state *state, size_t capacity, jinja_list **out);
tn_status tn_jinja_list_push(jinja_state *state, jinja_list *list, jinja_value item);
/* A tuple of two. */
tn_status tn_jinja_pair_new(jinja_state *state, jinja_value first, jinja_value second, jinja_value *out);

/* Dicts. put replaces; an unhashable key is an error. get gives NULL in *out when the key is absent. */
tn_status tn_jinja_dict_new(jinja_state *state, size_t capacity, jinja_dict **out);
tn_status tn_jinja_dict_put(jinja_state *state, jinja_dict *dict, jinja_value key, jinja_value value);
tn_status tn_jinja_dict_get(jinja_state *state, const jinja_dict *dict, jinja_value key, const jinja_value **out);

/* An undefined value that remembers what was looked for, and the error of using one. */
tn_status tn_jinja_undefined(jinja_state *state, const jinja_string *name, jinja_type owner, jinja_value *out);
tn_status tn_jinja_undefined_hint(jinja_state *state, const char *hint, jinja_value *out);
tn_status tn_jinja_fail_undefined(jinja_value value);

const char *tn_jinja_type_name(jinja_type type); /* as Python names it: "str", "dict", ... */
bool tn_jinja_truth(jinja_value value);
bool tn_jinja_string_is(const jinja_string *string, const char *text);
size_t tn_jinja_string_count(const jinja_string *string); /* code points */
/* Byte offset of a code point index, at most the length. */
size_t tn_jinja_string_offset(const jinja_string *string, size_t index);
/* Bytes of the code point that starts at `at` (1 for an invalid byte). */
size_t tn_jinja_string_next(const jinja_string *string, size_t at);

tn_status tn_jinja_equals(jinja_state *state, jinja_value a, jinja_value b, bool *equal);
/* *order < 0, 0, > 0; *ordered false when a NaN is involved. Values of different kinds are an error naming `op`. */
tn_status tn_jinja_compare(jinja_state *state, jinja_value a, jinja_value b, const char *op, int *order, bool *ordered);
/* item in container */
tn_status tn_jinja_contains(jinja_state *state, jinja_value container, jinja_value item, bool *found);
/* What iterating over a value gives, as a list that must not be changed; an iterator is consumed. */
tn_status tn_jinja_iterate(jinja_state *state, jinja_value value, const jinja_list **out);
tn_status tn_jinja_length(jinja_state *state, jinja_value value, int64_t *length);

/* value from a JSON tree, whose strings are referred to, not copied. */
tn_status tn_jinja_from_json(jinja_state *state, const cJSON *json, jinja_value *out);

/* ---- text of values (jinja_format.c) ---- */

/* Appends str(value) or repr(value). */
tn_status tn_jinja_print(jinja_state *state, tn_buf *buf, jinja_value value);
tn_status tn_jinja_repr(jinja_state *state, tn_buf *buf, jinja_value value);
/* str(value) as a string value. */
tn_status tn_jinja_to_string(jinja_state *state, jinja_value value, const jinja_string **out);

typedef struct jinja_json_style {
    const jinja_string *indent; /* NULL: on one line */
    jinja_string item_separator, key_separator;
    bool ensure_ascii, sort_keys;
} jinja_json_style;

/* json.dumps */
tn_status tn_jinja_to_json(jinja_state *state, tn_buf *buf, jinja_value value, const jinja_json_style *style);
/* repr of a float, as Python and json.dumps write it (NaN and infinities as repr writes them). */
void tn_jinja_float_repr(double value, char out[32]);
/* A decimal floating point number of exactly these bytes; false when they are none. */
bool tn_jinja_parse_float(const char *text, size_t length, double *out);

/* ---- formatting (jinja_printf.c) ---- */

/* format % values, where `values` is a tuple, a dict or a single value. */
tn_status tn_jinja_percent(jinja_state *state, const jinja_string *format, jinja_value values, jinja_value *out);
/* str.format */
tn_status tn_jinja_str_format(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out);
/* datetime.strftime of state->now */
tn_status tn_jinja_strftime(jinja_state *state, const jinja_string *format, jinja_value *out);

/* ---- text functions shared by methods and filters (jinja_text.c) ---- */

/* Bytes of the white space (as Python sees it) at the start or the end of text; 0 when there is none. */
size_t tn_jinja_space_at(const char *text, size_t length);
size_t tn_jinja_space_before(const char *text, size_t length);
enum { JINJA_STRIP_LEFT = 1, JINJA_STRIP_RIGHT = 2 };
/* chars ABSENT or NONE: white space. */
tn_status tn_jinja_strip(jinja_state *state, const jinja_string *text, jinja_value chars, int sides, jinja_value *out);
tn_status tn_jinja_replace(jinja_state *state, const jinja_string *text, const jinja_string *old, const jinja_string *new,
                           int64_t count, jinja_value *out);
typedef enum jinja_casing {
    JINJA_LOWER,
    JINJA_UPPER,
    JINJA_CAPITALIZE,  /* first letter */
    JINJA_TITLE,       /* first letter of every run of letters: str.title() */
    JINJA_TITLE_WORDS, /* after white space and opening brackets: the filter */
    JINJA_SWAPCASE,
} jinja_casing;
tn_status tn_jinja_recase(jinja_state *state, const jinja_string *text, jinja_casing casing, jinja_value *out);
tn_status tn_jinja_join(jinja_state *state, const jinja_string *separator, const jinja_list *items, bool strings_only,
                        jinja_value *out);
tn_status tn_jinja_splitlines(jinja_state *state, const jinja_string *text, bool keep_ends, jinja_value *out);
/* The first occurrence of `needle` at or after byte `from`: its byte offset, or SIZE_MAX. */
size_t tn_jinja_find(const jinja_string *text, const jinja_string *needle, size_t from);
/* The last occurrence that ends at or before byte `end`. */
tn_status tn_jinja_find_last(jinja_state *state, const jinja_string *text, const jinja_string *needle, size_t end,
                             size_t *found);
/* text * count */
tn_status tn_jinja_repeat(jinja_state *state, const jinja_string *text, int64_t count, jinja_value *out);
enum { JINJA_PAD_LEFT = 1, JINJA_PAD_RIGHT = 2 };
/* Pads with copies of `fill` to `width` code points on the given sides (both: centred). */
tn_status tn_jinja_pad(jinja_state *state, const jinja_string *text, int64_t width, const jinja_string *fill, int sides,
                       jinja_value *out);

/* ---- builtins (jinja_filters.c, jinja_tests.c, jinja_methods.c, jinja_builtins.c) ---- */

/* Tables, ended by a NULL name. */
extern const jinja_builtin tn_jinja_filters[], tn_jinja_sequence_filters[], tn_jinja_tests[], tn_jinja_globals[];
extern const jinja_builtin tn_jinja_str_methods[];

const jinja_builtin *tn_jinja_find_filter(const char *name, size_t length); /* NULL when there is none */
const jinja_builtin *tn_jinja_find_test(const char *name, size_t length);
const jinja_builtin *tn_jinja_find_method(jinja_type type, const jinja_string *name);
/* Binds the arguments to the parameters and calls. */
tn_status tn_jinja_builtin_call(jinja_state *state, const jinja_builtin *builtin, jinja_value self, const jinja_args *args,
                                jinja_value *out);

/* Typed arguments; an error naming `what` when the type does not fit. int: ABSENT and NONE give `standard`. */
tn_status tn_jinja_arg_int(jinja_value arg, const char *what, int64_t standard, int64_t *out);
tn_status tn_jinja_arg_string(jinja_value arg, const char *what, const jinja_string **out);

/* ---- source (jinja_lex.c, jinja_parse.c) ---- */

typedef enum jinja_token_type {
    TOKEN_END,
    TOKEN_TEXT,
    TOKEN_VARIABLE_BEGIN,
    TOKEN_VARIABLE_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INT,
    TOKEN_FLOAT,
    TOKEN_ADD,
    TOKEN_SUB,
    TOKEN_MUL,
    TOKEN_DIV,
    TOKEN_FLOORDIV,
    TOKEN_MOD,
    TOKEN_POW,
    TOKEN_TILDE,
    TOKEN_EQ,
    TOKEN_NE,
    TOKEN_LT,
    TOKEN_LE,
    TOKEN_GT,
    TOKEN_GE,
    TOKEN_IN,     /* `in`, made by the parser */
    TOKEN_NOT_IN, /* `not in`, made by the parser */
    TOKEN_ASSIGN,
    TOKEN_DOT,
    TOKEN_COMMA,
    TOKEN_COLON,
    TOKEN_SEMICOLON,
    TOKEN_PIPE,
    TOKEN_LPAREN,
    TOKEN_RPAREN,
    TOKEN_LBRACKET,
    TOKEN_RBRACKET,
    TOKEN_LBRACE,
    TOKEN_RBRACE,
} jinja_token_type;

typedef struct jinja_token {
    jinja_token_type type;
    int line;
    jinja_string text; /* TEXT and STRING: after stripping and unescaping */
    int64_t integer;
    double real;
} jinja_token;

/* All tokens of a source, ended by TOKEN_END; texts live in the arena, *tokens is freed with tn_free. */
tn_status tn_jinja_lex(tn_arena *arena, const char *source, const char *name, jinja_token **tokens);

typedef enum jinja_node_type {
    /* statements; lists of them are linked by `next` */
    NODE_TEXT,       /* value */
    NODE_OUTPUT,     /* a: expression */
    NODE_IF,         /* list: NODE_BRANCH ... */
    NODE_BRANCH,     /* a: condition, NULL for else; body */
    NODE_FOR,        /* a: target, b: iterable, c: condition or NULL; body; other: else; flag: recursive */
    NODE_SET,        /* a: target, b: expression */
    NODE_SET_BLOCK,  /* a: target, b: filters over NODE_CAPTURED or NULL; body */
    NODE_FILTER,     /* b: filters over NODE_CAPTURED; body (a filter block) */
    NODE_WITH,       /* list: NODE_SET ...; body */
    NODE_MACRO,      /* name, value: its text; list: NODE_PARAMETER ...; body; op: JINJA_COLLECT_... */
    NODE_CALL_BLOCK, /* a: NODE_CALL, b: anonymous NODE_MACRO */
    NODE_SCOPE,      /* body: a generation block */
    NODE_BREAK,
    NODE_CONTINUE,
    /* expressions */
    NODE_PARAMETER, /* name, value: its text; a: default or NULL */
    NODE_CONST,     /* value */
    NODE_NAME,      /* name, value: its text; also as a target */
    NODE_NS_REF,    /* a: NODE_NAME, value: attribute; only as a target */
    NODE_TUPLE,     /* list; also as a target */
    NODE_LIST,      /* list */
    NODE_DICT,      /* list: key, value, key, value, ... */
    NODE_CAPTURED,  /* the text a block captured */
    NODE_ATTRIBUTE, /* a: object, value: name */
    NODE_ITEM,      /* a: object, b: subscript */
    NODE_SLICE,     /* a: object; b, c, d: start, stop, step or NULL */
    NODE_CALL,      /* a: callee, list: NODE_ARGUMENT ... */
    NODE_ARGUMENT,  /* op: jinja_argument_kind, a: expression, value: keyword */
    NODE_APPLY,     /* a: subject, builtin, list: NODE_ARGUMENT ...; a filter; value: its name */
    NODE_TEST,      /* the same for a test; flag: negated */
    NODE_NOT,       /* a */
    NODE_NEGATE,    /* a */
    NODE_PLUS,      /* a */
    NODE_AND,       /* a, b */
    NODE_OR,        /* a, b */
    NODE_BINARY,    /* op: token type; a, b */
    NODE_CONCAT,    /* list */
    NODE_COMPARE,   /* a, list: NODE_OPERAND ... */
    NODE_OPERAND,   /* op: token type, a */
    NODE_CONDITION, /* a if b else c (NULL: undefined) */
} jinja_node_type;

enum { JINJA_COLLECT_VARARGS = 1, JINJA_COLLECT_KWARGS = 2 };

typedef enum jinja_argument_kind {
    ARGUMENT_POSITIONAL,
    ARGUMENT_KEYWORD,
    ARGUMENT_STAR,
    ARGUMENT_STAR_STAR
} jinja_argument_kind;

struct jinja_node {
    jinja_node_type type;
    int line;
    int op;
    int name; /* index into the template's names */
    bool flag;
    jinja_value value;
    jinja_node *a, *b, *c, *d;
    jinja_node *list, *body, *other;
    const jinja_builtin *builtin;
    jinja_node *next;
};

struct tn_chat_template {
    tn_arena arena;
    char *source_name;
    jinja_node *body;
    tn_map ids; /* name of a variable -> id */
    int id_count;
    int id_loop, id_caller, id_varargs, id_kwargs;
    char *bos_token, *eos_token; /* NULL when unknown */
};

/* Fills body and ids. */
tn_status tn_jinja_parse(tn_chat_template *chat_template, const char *source);

/* ---- evaluation (jinja_eval.c expressions, jinja_exec.c statements) ---- */

typedef struct jinja_binding {
    int name;
    jinja_value value;
} jinja_binding;

struct jinja_scope {
    jinja_scope *parent;
    jinja_binding *bindings;
    size_t count, capacity;
    bool captured; /* by a macro: must outlive the block */
};

typedef enum jinja_flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } jinja_flow;

struct jinja_state {
    const tn_chat_template *chat_template;
    tn_arena arena;
    size_t memory;
    size_t steps;
    int depth, calls;
    int line;
    jinja_value *variables; /* of the outermost scope, by name id; ABSENT when never set */
    jinja_scope *scope;     /* NULL in the outermost */
    jinja_value captured;   /* what NODE_CAPTURED stands for */
    jinja_flow flow;
    tn_status failure; /* of the last tn_jinja_alloc */
    tn_buf *out;
    const char *now;
};

tn_status tn_jinja_eval(jinja_state *state, const jinja_node *node, jinja_value *out);
tn_status tn_jinja_binary(jinja_state *state, jinja_token_type op, jinja_value a, jinja_value b, jinja_value *out);
/* object.name and object[key] as Jinja looks them up: absent gives an undefined value. */
tn_status tn_jinja_attribute(jinja_state *state, jinja_value object, const jinja_string *name, jinja_value *out);
tn_status tn_jinja_item(jinja_state *state, jinja_value object, jinja_value key, jinja_value *out);
tn_status tn_jinja_call(jinja_state *state, jinja_value callee, const jinja_args *args, jinja_value *out);

/* Runs a list of statements, writing to state->out. */
tn_status tn_jinja_exec(jinja_state *state, const jinja_node *first);
tn_status tn_jinja_macro_call(jinja_state *state, const jinja_macro *macro, const jinja_args *args, jinja_value *out);
/* loop(items) of a recursive loop. */
tn_status tn_jinja_loop_call(jinja_state *state, const jinja_loop *loop, jinja_value items, jinja_value *out);
/* A variable of this very scope, NULL when it has none of the name. */
tn_status tn_jinja_binding_find(jinja_state *state, const jinja_scope *scope, int name, const jinja_binding **out);
/* Opens a scope inside the current one; assigning always writes to the innermost. */
tn_status tn_jinja_scope_push(jinja_state *state, jinja_scope *parent);
tn_status tn_jinja_assign(jinja_state *state, int name, jinja_value value);

#endif
