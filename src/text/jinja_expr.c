/* Tokens to the syntax tree: expressions, by recursive descent. From loose to tight: if-else, or, and, not, comparison,
 * + -, ~, * / // %, **, unary, then subscripts, calls, filters and tests. */
#include <string.h>

#include "text/jinja_parse.h"

static tn_status parse_unary(jinja_parser *p, bool with_filters, jinja_node **out);

static tn_status wrap(const jinja_parser *p, jinja_node_type type, jinja_node *a, jinja_node *b, jinja_node **out) {
    TN_TRY(tn_jinja_node_new(p, type, out));
    (*out)->a = a;
    (*out)->b = b;
    return TN_OK;
}

tn_status tn_jinja_parse_name(jinja_parser *p, jinja_node_type type, jinja_node **out) {
    if (p->token->type != TOKEN_NAME)
        return tn_jinja_expected(p, "a name");
    TN_TRY(tn_jinja_node_new(p, type, out));
    TN_TRY(tn_jinja_name_id(p, p->token->text.data, p->token->text.length, &(*out)->name));
    TN_TRY(tn_jinja_token_string(p, p->token, &(*out)->value));
    int id = (*out)->name;
    if (id == p->chat_template->id_varargs)
        p->collected |= JINJA_COLLECT_VARARGS;
    if (id == p->chat_template->id_kwargs)
        p->collected |= JINJA_COLLECT_KWARGS;
    p->token++;
    return TN_OK;
}

static tn_status parse_adjacent_strings(jinja_parser *p, jinja_node **out) {
    TN_TRY(tn_jinja_node_new(p, NODE_CONST, out));
    size_t length = 0, count = 0;
    for (; p->token[count].type == TOKEN_STRING; count++)
        length += p->token[count].text.length;
    jinja_token joined = p->token[0];
    if (count > 1) {
        char *text = tn_arena_alloc(&p->chat_template->arena, length + 1);
        if (!text)
            return tn_fail_memory("a chat template");
        joined.text = (jinja_string){text, length};
        for (size_t i = 0; i < count; text += p->token[i++].text.length)
            if (p->token[i].text.length)
                memcpy(text, p->token[i].text.data, p->token[i].text.length);
    }
    p->token += count;
    return tn_jinja_token_string(p, &joined, &(*out)->value);
}

/* Expressions up to `close`, which is read; a comma may come last. `pairs`: "key: value". */
static tn_status parse_items(jinja_parser *p, jinja_token_type close, bool pairs, jinja_node **list) {
    jinja_node_list items = {0};
    while (!tn_jinja_skip(p, close)) {
        jinja_node *item;
        if (items.first) {
            TN_TRY(tn_jinja_expect(p, TOKEN_COMMA, "a comma"));
            if (tn_jinja_skip(p, close))
                break;
        }
        TN_TRY(tn_jinja_parse_expression(p, true, &item));
        tn_jinja_nodes_add(&items, item);
        if (pairs) {
            TN_TRY(tn_jinja_expect(p, TOKEN_COLON, "\":\""));
            TN_TRY(tn_jinja_parse_expression(p, true, &item));
            tn_jinja_nodes_add(&items, item);
        }
    }
    *list = items.first;
    return TN_OK;
}

static tn_status parse_constant(jinja_parser *p, jinja_value value, jinja_node **out) {
    TN_TRY(tn_jinja_node_new(p, NODE_CONST, out));
    (*out)->value = value;
    p->token++;
    return TN_OK;
}

static bool is_tuple_end(const jinja_parser *p, const char *end) {
    jinja_token_type type = p->token->type;
    return type == TOKEN_VARIABLE_END || type == TOKEN_BLOCK_END || type == TOKEN_RPAREN ||
           (end && tn_jinja_at_name(p, end));
}

typedef tn_status (*parse_part)(jinja_parser *p, bool flag, jinja_node **out);

/* part, part, ...: the part itself, or a tuple when there is a comma. `empty`: () is allowed. */
static tn_status parse_comma_list(jinja_parser *p, parse_part part, bool flag, const char *end, bool empty,
                                  jinja_node **out) {
    jinja_node_list items = {0};
    jinja_node *tuple, *item;
    bool comma = false;
    TN_TRY(tn_jinja_node_new(p, NODE_TUPLE, &tuple));
    while (!is_tuple_end(p, end)) {
        TN_TRY(part(p, flag, &item));
        tn_jinja_nodes_add(&items, item);
        if (!tn_jinja_skip(p, TOKEN_COMMA))
            break;
        comma = true;
    }
    if (!items.first && !empty)
        return tn_jinja_expected(p, "an expression");
    tuple->list = items.first;
    *out = comma || !items.first ? tuple : items.first;
    return TN_OK;
}

tn_status tn_jinja_parse_tuple(jinja_parser *p, bool conditional, const char *end, jinja_node **out) {
    return parse_comma_list(p, tn_jinja_parse_expression, conditional, end, false, out);
}

static tn_status parse_bracketed(jinja_parser *p, jinja_node **out) {
    jinja_token_type open = p->token->type;
    TN_TRY(tn_jinja_nest(p));
    if (open == TOKEN_LPAREN) {
        p->token++;
        TN_TRY(parse_comma_list(p, tn_jinja_parse_expression, true, NULL, true, out));
        TN_TRY(tn_jinja_expect(p, TOKEN_RPAREN, "\")\""));
    } else {
        TN_TRY(tn_jinja_node_new(p, open == TOKEN_LBRACKET ? NODE_LIST : NODE_DICT, out));
        p->token++;
        TN_TRY(parse_items(p, open == TOKEN_LBRACKET ? TOKEN_RBRACKET : TOKEN_RBRACE, open == TOKEN_LBRACE, &(*out)->list));
    }
    p->depth--;
    return TN_OK;
}

static tn_status parse_primary(jinja_parser *p, jinja_node **out) {
    switch (p->token->type) {
    case TOKEN_NAME:
        if (tn_jinja_at_name(p, "true") || tn_jinja_at_name(p, "True"))
            return parse_constant(p, tn_jinja_bool(true), out);
        if (tn_jinja_at_name(p, "false") || tn_jinja_at_name(p, "False"))
            return parse_constant(p, tn_jinja_bool(false), out);
        if (tn_jinja_at_name(p, "none") || tn_jinja_at_name(p, "None"))
            return parse_constant(p, JINJA_NONE_VALUE, out);
        return tn_jinja_parse_name(p, NODE_NAME, out);
    case TOKEN_STRING: return parse_adjacent_strings(p, out);
    case TOKEN_INT: return parse_constant(p, tn_jinja_int(p->token->integer), out);
    case TOKEN_FLOAT: return parse_constant(p, tn_jinja_float(p->token->real), out);
    case TOKEN_LPAREN:
    case TOKEN_LBRACKET:
    case TOKEN_LBRACE: return parse_bracketed(p, out);
    default: return tn_jinja_expected(p, "an expression");
    }
}

static tn_status parse_target_part(jinja_parser *p, bool namespaces, jinja_node **out) {
    static const char *const reserved[] = {"true", "false", "none", "True", "False", "None", "not",
                                           "and",  "or",    "if",   "else", "in",    "is"};
    if (tn_jinja_skip(p, TOKEN_LPAREN)) {
        TN_TRY(tn_jinja_nest(p));
        TN_TRY(parse_comma_list(p, parse_target_part, namespaces, NULL, false, out));
        p->depth--;
        return tn_jinja_expect(p, TOKEN_RPAREN, "\")\"");
    }
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (tn_jinja_at_name(p, reserved[i]))
            return tn_jinja_parse_fail(p, "cannot assign to \"%s\"", reserved[i]);
    TN_TRY(tn_jinja_parse_name(p, NODE_NAME, out));
    if (!namespaces || !tn_jinja_skip(p, TOKEN_DOT))
        return TN_OK;
    TN_TRY(wrap(p, NODE_NS_REF, *out, NULL, out));
    if (p->token->type != TOKEN_NAME)
        return tn_jinja_expected(p, "a name");
    TN_TRY(tn_jinja_token_string(p, p->token, &(*out)->value));
    p->token++;
    return TN_OK;
}

tn_status tn_jinja_parse_target(jinja_parser *p, bool namespaces, jinja_node **out) {
    return parse_comma_list(p, parse_target_part, namespaces, "in", false, out);
}

tn_status tn_jinja_parse_parameters(jinja_parser *p, jinja_node **list) {
    jinja_node_list parameters = {0};
    bool defaults = false;
    while (!tn_jinja_skip(p, TOKEN_RPAREN)) {
        jinja_node *parameter;
        if (parameters.first)
            TN_TRY(tn_jinja_expect(p, TOKEN_COMMA, "a comma"));
        TN_TRY(tn_jinja_parse_name(p, NODE_PARAMETER, &parameter));
        if (tn_jinja_skip(p, TOKEN_ASSIGN)) {
            defaults = true;
            TN_TRY(tn_jinja_parse_expression(p, true, &parameter->a));
        } else if (defaults) {
            return tn_jinja_parse_fail(p, "a parameter without a default follows one with a default");
        }
        tn_jinja_nodes_add(&parameters, parameter);
    }
    *list = parameters.first;
    return TN_OK;
}

static tn_status parse_argument(jinja_parser *p, jinja_node **out) {
    TN_TRY(tn_jinja_node_new(p, NODE_ARGUMENT, out));
    if (tn_jinja_skip(p, TOKEN_MUL)) {
        (*out)->op = ARGUMENT_STAR;
    } else if (tn_jinja_skip(p, TOKEN_POW)) {
        (*out)->op = ARGUMENT_STAR_STAR;
    } else if (p->token->type == TOKEN_NAME && p->token[1].type == TOKEN_ASSIGN) {
        (*out)->op = ARGUMENT_KEYWORD;
        TN_TRY(tn_jinja_token_string(p, p->token, &(*out)->value));
        p->token += 2;
    }
    return tn_jinja_parse_expression(p, true, &(*out)->a);
}

/* Arguments after "(", up to and with ")". Positional ones come first, then *, keywords and **. */
static tn_status parse_arguments(jinja_parser *p, jinja_node **list) {
    jinja_node_list arguments = {0};
    int latest = ARGUMENT_POSITIONAL;
    TN_TRY(tn_jinja_nest(p));
    while (!tn_jinja_skip(p, TOKEN_RPAREN)) {
        jinja_node *argument;
        if (arguments.first) {
            TN_TRY(tn_jinja_expect(p, TOKEN_COMMA, "a comma or \")\""));
            if (tn_jinja_skip(p, TOKEN_RPAREN))
                break;
        }
        TN_TRY(parse_argument(p, &argument));
        bool keyword_after_star = latest == ARGUMENT_STAR && argument->op == ARGUMENT_KEYWORD;
        bool star_after_keyword = latest == ARGUMENT_KEYWORD && argument->op == ARGUMENT_STAR;
        if ((argument->op < latest && !star_after_keyword && !keyword_after_star) || latest == ARGUMENT_STAR_STAR)
            return tn_jinja_parse_fail(p, "invalid order of the arguments of a call");
        latest = argument->op;
        tn_jinja_nodes_add(&arguments, argument);
    }
    p->depth--;
    *list = arguments.first;
    return TN_OK;
}

static bool at_slice_end(const jinja_parser *p) {
    return p->token->type == TOKEN_COLON || p->token->type == TOKEN_RBRACKET;
}

/* [index] or [start:stop:step], after "[". */
static tn_status parse_subscript(jinja_parser *p, jinja_node **node) {
    jinja_node *first = NULL, *subscript;
    TN_TRY(tn_jinja_nest(p));
    if (p->token->type != TOKEN_COLON)
        TN_TRY(tn_jinja_parse_tuple(p, true, NULL, &first));
    if (tn_jinja_skip(p, TOKEN_COLON)) {
        TN_TRY(wrap(p, NODE_SLICE, *node, first, &subscript));
        if (!at_slice_end(p))
            TN_TRY(tn_jinja_parse_expression(p, true, &subscript->c));
        if (tn_jinja_skip(p, TOKEN_COLON) && !at_slice_end(p))
            TN_TRY(tn_jinja_parse_expression(p, true, &subscript->d));
    } else {
        TN_TRY(wrap(p, NODE_ITEM, *node, first, &subscript));
    }
    p->depth--;
    *node = subscript;
    return tn_jinja_expect(p, TOKEN_RBRACKET, "\"]\"");
}

static tn_status parse_dot(jinja_parser *p, jinja_node **node) {
    jinja_node *access;
    if (p->token->type == TOKEN_INT) {
        jinja_node *index;
        TN_TRY(parse_constant(p, tn_jinja_int(p->token->integer), &index));
        return wrap(p, NODE_ITEM, *node, index, node);
    }
    if (p->token->type != TOKEN_NAME)
        return tn_jinja_expected(p, "a name or number");
    TN_TRY(wrap(p, NODE_ATTRIBUTE, *node, NULL, &access));
    TN_TRY(tn_jinja_token_string(p, p->token, &access->value));
    p->token++;
    *node = access;
    return TN_OK;
}

static tn_status parse_call(jinja_parser *p, jinja_node **node) {
    TN_TRY(wrap(p, NODE_CALL, *node, NULL, node));
    return parse_arguments(p, &(*node)->list);
}

static tn_status parse_postfix(jinja_parser *p, jinja_node **node) {
    for (;;) {
        if (tn_jinja_skip(p, TOKEN_DOT))
            TN_TRY(parse_dot(p, node));
        else if (tn_jinja_skip(p, TOKEN_LBRACKET))
            TN_TRY(parse_subscript(p, node));
        else if (tn_jinja_skip(p, TOKEN_LPAREN))
            TN_TRY(parse_call(p, node));
        else
            return TN_OK;
    }
}

/* The name of a filter or test, dots included, and what it stands for. */
static tn_status parse_builtin_name(jinja_parser *p, const char *kind, jinja_node *node) {
    if (p->token->type != TOKEN_NAME)
        return tn_jinja_expected(p, "the name of a filter or test");
    const jinja_string *name = &p->token->text;
    node->builtin = node->type == NODE_TEST ? tn_jinja_find_test(name->data, name->length)
                                            : tn_jinja_find_filter(name->data, name->length);
    if (!node->builtin && !p->soft)
        return tn_jinja_parse_fail(p, "no %s named \"%.*s\"", kind, tn_jinja_shown(name), name->data);
    TN_TRY(tn_jinja_token_string(p, p->token, &node->value));
    p->token++;
    return TN_OK;
}

static tn_status parse_filter(jinja_parser *p, jinja_node **node) {
    TN_TRY(wrap(p, NODE_APPLY, *node, NULL, node));
    TN_TRY(parse_builtin_name(p, "filter", *node));
    return tn_jinja_skip(p, TOKEN_LPAREN) ? parse_arguments(p, &(*node)->list) : TN_OK;
}

tn_status tn_jinja_parse_filters(jinja_parser *p, bool started, jinja_node **node) {
    while (started || tn_jinja_skip(p, TOKEN_PIPE)) {
        started = false;
        TN_TRY(parse_filter(p, node));
    }
    return TN_OK;
}

/* Can the next token begin the argument of a test without brackets ("is divisibleby 3")? */
static bool at_bare_argument(const jinja_parser *p) {
    switch (p->token->type) {
    case TOKEN_NAME: return !tn_jinja_at_name(p, "else") && !tn_jinja_at_name(p, "or") && !tn_jinja_at_name(p, "and");
    case TOKEN_STRING:
    case TOKEN_INT:
    case TOKEN_FLOAT:
    case TOKEN_LBRACKET:
    case TOKEN_LBRACE: return true;
    default: return false;
    }
}

static tn_status parse_test(jinja_parser *p, jinja_node **node) {
    TN_TRY(wrap(p, NODE_TEST, *node, NULL, node));
    (*node)->flag = tn_jinja_skip_name(p, "not");
    TN_TRY(parse_builtin_name(p, "test", *node));
    if (tn_jinja_skip(p, TOKEN_LPAREN))
        return parse_arguments(p, &(*node)->list);
    if (!at_bare_argument(p))
        return TN_OK;
    if (tn_jinja_at_name(p, "is"))
        return tn_jinja_parse_fail(p, "tests cannot be chained with \"is\"");
    TN_TRY(tn_jinja_node_new(p, NODE_ARGUMENT, &(*node)->list));
    TN_TRY(parse_primary(p, &(*node)->list->a));
    return parse_postfix(p, &(*node)->list->a);
}

static tn_status parse_filter_chain(jinja_parser *p, jinja_node **node) {
    for (;;) {
        if (tn_jinja_skip(p, TOKEN_PIPE))
            TN_TRY(parse_filter(p, node));
        else if (tn_jinja_skip_name(p, "is"))
            TN_TRY(parse_test(p, node));
        else if (tn_jinja_skip(p, TOKEN_LPAREN))
            TN_TRY(parse_call(p, node));
        else
            return TN_OK;
    }
}

static tn_status parse_unary(jinja_parser *p, bool with_filters, jinja_node **out) {
    jinja_token_type sign = p->token->type;
    if (sign == TOKEN_SUB || sign == TOKEN_ADD) {
        p->token++;
        TN_TRY(tn_jinja_nest(p));
        TN_TRY(parse_unary(p, false, out));
        p->depth--;
        TN_TRY(wrap(p, sign == TOKEN_SUB ? NODE_NEGATE : NODE_PLUS, *out, NULL, out));
    } else {
        TN_TRY(parse_primary(p, out));
    }
    TN_TRY(parse_postfix(p, out));
    return with_filters ? parse_filter_chain(p, out) : TN_OK;
}

static tn_status parse_binary(jinja_parser *p, int level, jinja_node **out);

/* a ~ b ~ c as one node. */
static tn_status parse_concat(jinja_parser *p, jinja_node **out) {
    jinja_node_list parts = {0};
    jinja_node *concat;
    TN_TRY(parse_binary(p, 1, out));
    if (p->token->type != TOKEN_TILDE)
        return TN_OK;
    TN_TRY(tn_jinja_node_new(p, NODE_CONCAT, &concat));
    tn_jinja_nodes_add(&parts, *out);
    while (tn_jinja_skip(p, TOKEN_TILDE)) {
        TN_TRY(parse_binary(p, 1, out));
        tn_jinja_nodes_add(&parts, *out);
    }
    concat->list = parts.first;
    *out = concat;
    return TN_OK;
}

/* Level 0: + -, over ~; level 1: * / // %; level 2: **. All are left-associative, even **. */
static tn_status parse_binary(jinja_parser *p, int level, jinja_node **out) {
    static const jinja_token_type first[] = {TOKEN_ADD, TOKEN_MUL, TOKEN_POW}, last[] = {TOKEN_SUB, TOKEN_MOD, TOKEN_POW};
    jinja_node *right;
    for (bool more = false;; more = true) {
        jinja_node **operand = more ? &right : out;
        jinja_token_type op = more ? p->token[-1].type : TOKEN_END;
        TN_TRY(level == 0   ? parse_concat(p, operand)
               : level == 1 ? parse_binary(p, 2, operand)
                            : parse_unary(p, true, operand));
        if (more) {
            TN_TRY(wrap(p, NODE_BINARY, *out, right, out));
            (*out)->op = op;
        }
        if (p->token->type < first[level] || p->token->type > last[level])
            return TN_OK;
        p->token++;
    }
}

static tn_status parse_compare(jinja_parser *p, jinja_node **out) {
    jinja_node_list operands = {0};
    jinja_node *compare, *operand;
    TN_TRY(parse_binary(p, 0, out));
    TN_TRY(tn_jinja_node_new(p, NODE_COMPARE, &compare));
    for (;;) {
        jinja_token_type op = p->token->type;
        if (tn_jinja_at_name(p, "in"))
            op = TOKEN_IN;
        else if (tn_jinja_at_name(p, "not") && p->token[1].type == TOKEN_NAME && tn_jinja_string_is(&p->token[1].text, "in"))
            op = TOKEN_NOT_IN;
        if (op < TOKEN_EQ || op > TOKEN_NOT_IN)
            break;
        p->token += op == TOKEN_NOT_IN ? 2 : 1;
        TN_TRY(tn_jinja_node_new(p, NODE_OPERAND, &operand));
        operand->op = op;
        TN_TRY(parse_binary(p, 0, &operand->a));
        tn_jinja_nodes_add(&operands, operand);
    }
    if (!operands.first)
        return TN_OK;
    compare->a = *out;
    compare->list = operands.first;
    *out = compare;
    return TN_OK;
}

static tn_status parse_not(jinja_parser *p, jinja_node **out) {
    bool negate = false, any = false;
    while (tn_jinja_skip_name(p, "not")) {
        negate = !negate;
        any = true;
    }
    TN_TRY(parse_compare(p, out));
    if (!any)
        return TN_OK;
    TN_TRY(wrap(p, NODE_NOT, *out, NULL, out));
    return negate ? TN_OK : wrap(p, NODE_NOT, *out, NULL, out);
}

static tn_status parse_and(jinja_parser *p, jinja_node **out) {
    TN_TRY(parse_not(p, out));
    while (tn_jinja_skip_name(p, "and")) {
        jinja_node *right;
        TN_TRY(parse_not(p, &right));
        TN_TRY(wrap(p, NODE_AND, *out, right, out));
    }
    return TN_OK;
}

static tn_status parse_or(jinja_parser *p, jinja_node **out) {
    TN_TRY(parse_and(p, out));
    while (tn_jinja_skip_name(p, "or")) {
        jinja_node *right;
        TN_TRY(parse_and(p, &right));
        TN_TRY(wrap(p, NODE_OR, *out, right, out));
    }
    return TN_OK;
}

tn_status tn_jinja_parse_expression(jinja_parser *p, bool conditional, jinja_node **out) {
    TN_TRY(parse_or(p, out));
    while (conditional && tn_jinja_skip_name(p, "if")) {
        jinja_node *test, *other = NULL;
        TN_TRY(parse_or(p, &test));
        if (tn_jinja_skip_name(p, "else")) {
            TN_TRY(tn_jinja_nest(p));
            TN_TRY(tn_jinja_parse_expression(p, true, &other));
            p->depth--;
        }
        TN_TRY(wrap(p, NODE_CONDITION, *out, test, out));
        (*out)->c = other;
    }
    return TN_OK;
}
