/* The parser's state, shared by its two files: statements (jinja_parse.c) and expressions (jinja_expr.c). */
#ifndef TN_TEXT_JINJA_PARSE_H
#define TN_TEXT_JINJA_PARSE_H

#include "text/jinja.h"

typedef struct jinja_parser {
    tn_chat_template *chat_template;
    const jinja_token *token; /* the next one; the last is TOKEN_END */
    int depth;                /* nesting of brackets and blocks */
    int soft;                 /* inside an if: unknown filters and tests fail only when they run, as in Jinja */
    int loops;                /* for statements around this point, within the macro */
    int collected;            /* JINJA_COLLECT_...: the macro reads varargs or kwargs, so takes more than its parameters */
} jinja_parser;

/* A list of nodes being appended to. */
typedef struct jinja_node_list {
    jinja_node *first, **end;
} jinja_node_list;

static inline void tn_jinja_nodes_add(jinja_node_list *list, jinja_node *node) {
    *(list->end ? list->end : &list->first) = node;
    list->end = &node->next;
}

/* tn_fail(TN_ERROR_FORMAT) with name and line of the next token in front. */
tn_status tn_jinja_parse_fail(const jinja_parser *p, const char *format, ...) TN_PRINTF(2, 3);
/* "expected %s, found ..." */
tn_status tn_jinja_expected(const jinja_parser *p, const char *what);

tn_status tn_jinja_node_new(const jinja_parser *p, jinja_node_type type, jinja_node **out);
/* The id of a variable's name. */
tn_status tn_jinja_name_id(const jinja_parser *p, const char *text, size_t length, int *id);
/* A string value in the template's arena that refers to the token's text. */
tn_status tn_jinja_token_string(const jinja_parser *p, const jinja_token *token, jinja_value *out);

bool tn_jinja_at_name(const jinja_parser *p, const char *name);
bool tn_jinja_skip_name(jinja_parser *p, const char *name);
bool tn_jinja_skip(jinja_parser *p, jinja_token_type type);
tn_status tn_jinja_expect(jinja_parser *p, jinja_token_type type, const char *what);

/* Nesting of blocks and brackets: an error beyond JINJA_MAX_NESTING. Leave with p->depth--. */
tn_status tn_jinja_nest(jinja_parser *p);

/* One expression; `conditional` allows "a if b else c". */
tn_status tn_jinja_parse_expression(jinja_parser *p, bool conditional, jinja_node **out);
/* An expression, or a tuple without brackets; `end` is a name that ends it, or NULL. */
tn_status tn_jinja_parse_tuple(jinja_parser *p, bool conditional, const char *end, jinja_node **out);
/* What can be assigned to: a name, a tuple of such, and with `namespaces` ns.name. */
tn_status tn_jinja_parse_target(jinja_parser *p, bool namespaces, jinja_node **out);
/* |filter|filter ..., applied to *node; `started` when the first "|" is not there to be read. */
tn_status tn_jinja_parse_filters(jinja_parser *p, bool started, jinja_node **node);
/* name [= default], ... ")" after "(": NODE_PARAMETER list. */
tn_status tn_jinja_parse_parameters(jinja_parser *p, jinja_node **list);
tn_status tn_jinja_parse_name(jinja_parser *p, jinja_node_type type, jinja_node **out);

#endif
