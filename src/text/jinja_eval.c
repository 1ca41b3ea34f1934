/* Evaluation of expressions. */
#include <string.h>

#include "text/jinja.h"

/* ---- names ---- */

/* The variable in the innermost scope that has it; ABSENT when none does. */
static tn_status lookup(jinja_state *state, int name, jinja_value *out) {
    for (const jinja_scope *scope = state->scope; scope; scope = scope->parent) {
        const jinja_binding *binding;
        TN_TRY(tn_jinja_binding_find(state, scope, name, &binding));
        if (binding) {
            *out = binding->value;
            return TN_OK;
        }
    }
    *out = state->variables[name];
    return TN_OK;
}

static tn_status eval_name(jinja_state *state, const jinja_node *node, jinja_value *out) {
    TN_TRY(lookup(state, node->name, out));
    if (out->type == JINJA_ABSENT)
        return tn_jinja_undefined(state, node->value.as.string, JINJA_ABSENT, out);
    return TN_OK;
}

/* ---- collections ---- */

static tn_status eval_list(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_list *list;
    TN_TRY(tn_jinja_list_new(state, 0, &list));
    for (const jinja_node *item = node->list; item; item = item->next) {
        jinja_value value;
        TN_TRY(tn_jinja_eval(state, item, &value));
        TN_TRY(tn_jinja_list_push(state, list, value));
    }
    *out = JINJA_VALUE(node->type == NODE_LIST ? JINJA_LIST : JINJA_TUPLE, list, list);
    return TN_OK;
}

static tn_status eval_dict(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_dict *dict;
    TN_TRY(tn_jinja_dict_new(state, 0, &dict));
    for (const jinja_node *item = node->list; item; item = item->next->next) {
        jinja_value key, value;
        TN_TRY(tn_jinja_eval(state, item, &key));
        TN_TRY(tn_jinja_eval(state, item->next, &value));
        TN_TRY(tn_jinja_dict_put(state, dict, key, value));
    }
    *out = JINJA_VALUE(JINJA_DICT, dict, dict);
    return TN_OK;
}

static tn_status concat_into(jinja_state *state, tn_buf *buf, const jinja_node *node) {
    for (const jinja_node *item = node->list; item; item = item->next) {
        jinja_value value;
        TN_TRY(tn_jinja_eval(state, item, &value));
        TN_TRY(tn_jinja_print(state, buf, value));
    }
    return TN_OK;
}

static tn_status eval_concat(jinja_state *state, const jinja_node *node, jinja_value *out) {
    tn_buf buf = {0};
    tn_status status = concat_into(state, &buf, node);
    return tn_jinja_string_take(state, status, &buf, out);
}

/* ---- subscripts ---- */

static tn_status eval_item(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_value object, key;
    TN_TRY(tn_jinja_eval(state, node->a, &object));
    TN_TRY(tn_jinja_eval(state, node->b, &key));
    return tn_jinja_item(state, object, key, out);
}

static tn_status eval_attribute(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_value object;
    TN_TRY(tn_jinja_eval(state, node->a, &object));
    return tn_jinja_attribute(state, object, node->value.as.string, out);
}

/* One bound of a slice within [low, high], negative ones counted from the end. */
static tn_status slice_bound(jinja_state *state, const jinja_node *node, int64_t standard, int64_t count, int64_t low,
                             int64_t high, int64_t *out) {
    jinja_value value;
    *out = standard;
    if (!node)
        return TN_OK;
    TN_TRY(tn_jinja_eval(state, node, &value));
    if (value.type == JINJA_NONE)
        return TN_OK;
    if (!tn_jinja_is_int(value))
        return tn_fail(TN_ERROR_ARGUMENT, "slice indices must be integers or None");
    int64_t index = tn_jinja_as_int(value);
    if (index < 0)
        index = index < -count ? low : index + count;
    *out = index < low ? low : index > high ? high : index;
    return TN_OK;
}

static tn_status slice_string(jinja_state *state, const jinja_string *text, int64_t start, int64_t stop, int64_t step,
                              jinja_value *out) {
    static const jinja_string empty = {"", 0};
    const jinja_list *characters;
    jinja_list *kept;
    if (step == 1) {
        size_t from = tn_jinja_string_offset(text, (size_t)start), to = from;
        if (stop > start)
            to += tn_jinja_string_offset(&(jinja_string){text->data + from, text->length - from}, (size_t)(stop - start));
        return tn_jinja_string_refer(state, text->data + from, to - from, out);
    }
    TN_TRY(tn_jinja_iterate(state, JINJA_VALUE(JINJA_STRING, string, text), &characters));
    TN_TRY(tn_jinja_list_new(state, 0, &kept));
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step)
        TN_TRY(tn_jinja_list_push(state, kept, characters->items[i]));
    return tn_jinja_join(state, &empty, kept, true, out);
}

static tn_status eval_slice(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_value object, given = JINJA_NONE_VALUE;
    int64_t count, start, stop, step = 1;
    TN_TRY(tn_jinja_eval(state, node->a, &object));
    if (object.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(object);
    if (object.type != JINJA_STRING && !tn_jinja_is_sequence(object))
        return tn_fail(TN_ERROR_ARGUMENT, "'%s' object cannot be sliced", tn_jinja_type_name(object.type));
    TN_TRY(tn_jinja_length(state, object, &count));
    if (node->d)
        TN_TRY(tn_jinja_eval(state, node->d, &given));
    TN_TRY(tn_jinja_arg_int(given, "slice", 1, &step));
    if (!step)
        return tn_fail(TN_ERROR_ARGUMENT, "slice step cannot be zero");
    /* A step beyond the length takes one item; bounding it keeps the sums below in range. */
    step = step > count + 1 ? count + 1 : step < -count - 1 ? -count - 1 : step;
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? count - 1 : count;
    TN_TRY(slice_bound(state, node->b, step < 0 ? high : low, count, low, high, &start));
    TN_TRY(slice_bound(state, node->c, step < 0 ? low : high, count, low, high, &stop));
    if (object.type == JINJA_STRING)
        return slice_string(state, object.as.string, start, stop, step, out);
    jinja_list *list;
    TN_TRY(tn_jinja_list_new(state, 0, &list));
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step)
        TN_TRY(tn_jinja_list_push(state, list, object.as.list->items[i]));
    *out = JINJA_VALUE(object.type == JINJA_TUPLE ? JINJA_TUPLE : JINJA_LIST, list, list);
    return TN_OK;
}

/* ---- calls ---- */

typedef struct argument_list {
    jinja_list *items;
    jinja_pair *keywords;
    size_t keyword_count, keyword_capacity;
} argument_list;

static tn_status add_keyword(jinja_state *state, argument_list *list, jinja_value key, jinja_value value) {
    if (key.type != JINJA_STRING)
        return tn_fail(TN_ERROR_ARGUMENT, "keywords must be strings");
    for (size_t i = 0; i < list->keyword_count; i++) {
        bool equal;
        TN_TRY(tn_jinja_equals(state, list->keywords[i].key, key, &equal));
        if (equal)
            return tn_fail(TN_ERROR_ARGUMENT, "a keyword argument is given twice");
    }
    if (list->keyword_count == list->keyword_capacity) {
        size_t capacity = list->keyword_capacity ? list->keyword_capacity * 2 : 4;
        jinja_pair *keywords = tn_jinja_alloc(state, capacity, sizeof *keywords);
        if (!keywords)
            return state->failure;
        if (list->keyword_count)
            memcpy(keywords, list->keywords, list->keyword_count * sizeof *keywords);
        list->keywords = keywords;
        list->keyword_capacity = capacity;
    }
    list->keywords[list->keyword_count++] = (jinja_pair){key, value};
    return TN_OK;
}

static tn_status add_argument(jinja_state *state, argument_list *list, const jinja_node *argument) {
    jinja_value value;
    const jinja_list *items;
    TN_TRY(tn_jinja_eval(state, argument->a, &value));
    switch ((jinja_argument_kind)argument->op) {
    case ARGUMENT_POSITIONAL: return tn_jinja_list_push(state, list->items, value);
    case ARGUMENT_KEYWORD: return add_keyword(state, list, argument->value, value);
    case ARGUMENT_STAR:
        TN_TRY(tn_jinja_iterate(state, value, &items));
        for (size_t i = 0; i < items->count; i++)
            TN_TRY(tn_jinja_list_push(state, list->items, items->items[i]));
        return TN_OK;
    case ARGUMENT_STAR_STAR: break;
    }
    if (value.type != JINJA_DICT)
        return tn_fail(TN_ERROR_ARGUMENT, "argument after ** must be a mapping, not %s", tn_jinja_type_name(value.type));
    for (size_t i = 0; i < value.as.dict->count; i++)
        TN_TRY(add_keyword(state, list, value.as.dict->pairs[i].key, value.as.dict->pairs[i].value));
    return TN_OK;
}

static tn_status eval_arguments(jinja_state *state, const jinja_node *first, jinja_args *args) {
    argument_list list = {0};
    *args = (jinja_args){0};
    if (!first)
        return TN_OK;
    TN_TRY(tn_jinja_list_new(state, 0, &list.items));
    for (const jinja_node *argument = first; argument; argument = argument->next)
        TN_TRY(add_argument(state, &list, argument));
    *args = (jinja_args){list.items->items, list.items->count, list.keywords, list.keyword_count};
    return TN_OK;
}

tn_status tn_jinja_call(jinja_state *state, jinja_value callee, const jinja_args *args, jinja_value *out) {
    switch (callee.type) {
    case JINJA_FUNCTION: return tn_jinja_builtin_call(state, callee.as.function, callee, args, out);
    case JINJA_METHOD: return tn_jinja_builtin_call(state, callee.as.method->builtin, callee.as.method->self, args, out);
    case JINJA_MACRO: return tn_jinja_macro_call(state, callee.as.macro, args, out);
    case JINJA_LOOP:
        if (args->count != 1 || args->keyword_count)
            return tn_fail(TN_ERROR_ARGUMENT, "loop() takes the items to loop over");
        return tn_jinja_loop_call(state, callee.as.loop, args->items[0], out);
    case JINJA_UNDEFINED: return tn_jinja_fail_undefined(callee);
    default: return tn_fail(TN_ERROR_ARGUMENT, "'%s' object is not callable", tn_jinja_type_name(callee.type));
    }
}

static tn_status eval_call(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_value callee;
    jinja_args args;
    TN_TRY(tn_jinja_eval(state, node->a, &callee));
    TN_TRY(eval_arguments(state, node->list, &args));
    state->line = node->line;
    return tn_jinja_call(state, callee, &args, out);
}

/* A filter or a test. */
static tn_status eval_builtin(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_value subject;
    jinja_args args;
    if (!node->builtin)
        return tn_fail(TN_ERROR_ARGUMENT, "no %s named '%.*s'", node->type == NODE_TEST ? "test" : "filter",
                       tn_jinja_shown(node->value.as.string), node->value.as.string->data);
    TN_TRY(tn_jinja_eval(state, node->a, &subject));
    TN_TRY(eval_arguments(state, node->list, &args));
    state->line = node->line;
    TN_TRY(tn_jinja_builtin_call(state, node->builtin, subject, &args, out));
    if (node->type == NODE_TEST)
        *out = tn_jinja_bool(tn_jinja_truth(*out) != node->flag);
    return TN_OK;
}

/* ---- operators ---- */

static tn_status compare_once(jinja_state *state, jinja_token_type op, jinja_value a, jinja_value b, bool *holds) {
    static const char *const symbols[] = {"<", "<=", ">", ">="};
    int order;
    bool ordered;
    switch (op) {
    case TOKEN_EQ: return tn_jinja_equals(state, a, b, holds);
    case TOKEN_NE:
        TN_TRY(tn_jinja_equals(state, a, b, holds));
        *holds = !*holds;
        return TN_OK;
    case TOKEN_IN: return tn_jinja_contains(state, b, a, holds);
    case TOKEN_NOT_IN:
        TN_TRY(tn_jinja_contains(state, b, a, holds));
        *holds = !*holds;
        return TN_OK;
    default:
        TN_TRY(tn_jinja_compare(state, a, b, symbols[op - TOKEN_LT], &order, &ordered));
        *holds = ordered && (op == TOKEN_LT   ? order < 0
                             : op == TOKEN_LE ? order <= 0
                             : op == TOKEN_GT ? order > 0
                                              : order >= 0);
        return TN_OK;
    }
}

/* a < b < c: every neighbour pair, until one does not hold. */
static tn_status eval_compare(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_value left, right;
    bool holds = true;
    TN_TRY(tn_jinja_eval(state, node->a, &left));
    for (const jinja_node *operand = node->list; operand && holds; operand = operand->next) {
        TN_TRY(tn_jinja_eval(state, operand->a, &right));
        TN_TRY(compare_once(state, (jinja_token_type)operand->op, left, right, &holds));
        left = right;
    }
    *out = tn_jinja_bool(holds);
    return TN_OK;
}

static tn_status eval_binary(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_value left, right;
    TN_TRY(tn_jinja_eval(state, node->a, &left));
    TN_TRY(tn_jinja_eval(state, node->b, &right));
    state->line = node->line;
    return tn_jinja_binary(state, (jinja_token_type)node->op, left, right, out);
}

static tn_status eval_sign(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_value value;
    TN_TRY(tn_jinja_eval(state, node->a, &value));
    if (value.type != JINJA_UNDEFINED && !tn_jinja_is_number(value))
        return tn_fail(TN_ERROR_ARGUMENT, "bad operand type for unary %c: '%s'", node->type == NODE_NEGATE ? '-' : '+',
                       tn_jinja_type_name(value.type));
    if (value.type == JINJA_FLOAT) {
        *out = tn_jinja_float(node->type == NODE_NEGATE ? -value.as.real : value.as.real);
        return TN_OK;
    }
    return tn_jinja_binary(state, node->type == NODE_NEGATE ? TOKEN_SUB : TOKEN_ADD, tn_jinja_int(0), value, out);
}

static tn_status eval_logic(jinja_state *state, const jinja_node *node, jinja_value *out) {
    TN_TRY(tn_jinja_eval(state, node->a, out));
    bool truth = tn_jinja_truth(*out);
    if (node->type == NODE_NOT)
        *out = tn_jinja_bool(!truth);
    else if (truth == (node->type == NODE_AND))
        return tn_jinja_eval(state, node->b, out);
    return TN_OK;
}

static tn_status eval_condition(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_value test;
    TN_TRY(tn_jinja_eval(state, node->b, &test));
    if (tn_jinja_truth(test))
        return tn_jinja_eval(state, node->a, out);
    if (node->c)
        return tn_jinja_eval(state, node->c, out);
    return tn_jinja_undefined_hint(state, "an if expression without else evaluated to false, so its value is undefined",
                                   out);
}

static tn_status eval_node(jinja_state *state, const jinja_node *node, jinja_value *out) {
    switch (node->type) {
    case NODE_CONST: *out = node->value; return TN_OK;
    case NODE_CAPTURED: *out = state->captured; return TN_OK;
    case NODE_NAME: return eval_name(state, node, out);
    case NODE_TUPLE:
    case NODE_LIST: return eval_list(state, node, out);
    case NODE_DICT: return eval_dict(state, node, out);
    case NODE_ATTRIBUTE: return eval_attribute(state, node, out);
    case NODE_ITEM: return eval_item(state, node, out);
    case NODE_SLICE: return eval_slice(state, node, out);
    case NODE_CALL: return eval_call(state, node, out);
    case NODE_APPLY:
    case NODE_TEST: return eval_builtin(state, node, out);
    case NODE_NOT:
    case NODE_AND:
    case NODE_OR: return eval_logic(state, node, out);
    case NODE_NEGATE:
    case NODE_PLUS: return eval_sign(state, node, out);
    case NODE_BINARY: return eval_binary(state, node, out);
    case NODE_CONCAT: return eval_concat(state, node, out);
    case NODE_COMPARE: return eval_compare(state, node, out);
    case NODE_CONDITION: return eval_condition(state, node, out);
    default: return tn_fail(TN_ERROR_ARGUMENT, "a statement stands where an expression belongs");
    }
}

tn_status tn_jinja_eval(jinja_state *state, const jinja_node *node, jinja_value *out) {
    TN_TRY(tn_jinja_step(state, 1));
    TN_TRY(tn_jinja_enter(state));
    state->line = node->line;
    jinja_value result = {0};
    TN_TRY(eval_node(state, node, &result));
    *out = result;
    state->depth--;
    return TN_OK;
}
