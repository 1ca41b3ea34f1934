/* Execution of statements: output, conditions, loops, assignments, macros. */
#include <string.h>

#include "text/jinja.h"

/* ---- scopes ---- */

tn_status tn_jinja_scope_push(jinja_state *state, jinja_scope *parent) {
    jinja_scope *scope = tn_jinja_alloc(state, 1, sizeof *scope);
    if (!scope)
        return state->failure;
    scope->parent = parent;
    state->scope = scope;
    return TN_OK;
}

tn_status tn_jinja_binding_find(jinja_state *state, const jinja_scope *scope, int name, const jinja_binding **out) {
    size_t i = 0;
    while (i < scope->count && scope->bindings[i].name != name)
        i++;
    *out = i < scope->count ? &scope->bindings[i] : NULL;
    return tn_jinja_step(state, i / 8);
}

tn_status tn_jinja_assign(jinja_state *state, int name, jinja_value value) {
    jinja_scope *scope = state->scope;
    const jinja_binding *known;
    if (!scope) {
        state->variables[name] = value;
        return TN_OK;
    }
    TN_TRY(tn_jinja_binding_find(state, scope, name, &known));
    if (known) {
        scope->bindings[known - scope->bindings].value = value;
        return TN_OK;
    }
    if (scope->count == scope->capacity) {
        size_t capacity = scope->capacity ? scope->capacity * 2 : 4;
        jinja_binding *bindings = tn_jinja_alloc(state, capacity, sizeof *bindings);
        if (!bindings)
            return state->failure;
        if (scope->count)
            memcpy(bindings, scope->bindings, scope->count * sizeof *bindings);
        scope->bindings = bindings;
        scope->capacity = capacity;
    }
    scope->bindings[scope->count++] = (jinja_binding){name, value};
    return TN_OK;
}

static tn_status assign_attribute(jinja_state *state, const jinja_node *target, jinja_value value) {
    jinja_value object;
    TN_TRY(tn_jinja_eval(state, target->a, &object));
    if (object.type != JINJA_NAMESPACE)
        return tn_fail(TN_ERROR_ARGUMENT, "cannot assign attribute on non-namespace object");
    return tn_jinja_dict_put(state, object.as.dict, target->value, value);
}

static tn_status assign_target(jinja_state *state, const jinja_node *target, jinja_value value) {
    if (target->type == NODE_NAME)
        return tn_jinja_assign(state, target->name, value);
    if (target->type == NODE_NS_REF)
        return assign_attribute(state, target, value);
    const jinja_list *items;
    size_t expected = 0, i = 0;
    for (const jinja_node *part = target->list; part; part = part->next)
        expected++;
    if (value.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(value);
    TN_TRY(tn_jinja_iterate(state, value, &items));
    if (items->count > expected)
        return tn_fail(TN_ERROR_ARGUMENT, "too many values to unpack (expected %zu)", expected);
    if (items->count < expected)
        return tn_fail(TN_ERROR_ARGUMENT, "not enough values to unpack (expected %zu, got %zu)", expected, items->count);
    TN_TRY(tn_jinja_enter(state));
    for (const jinja_node *part = target->list; part; part = part->next)
        TN_TRY(assign_target(state, part, items->items[i++]));
    state->depth--;
    return TN_OK;
}

/* Runs statements with their output going into a string. */
static tn_status capture(jinja_state *state, const jinja_node *body, jinja_value *out) {
    tn_buf buf = {0}, *outer = state->out;
    state->out = &buf;
    tn_status status = tn_jinja_exec(state, body);
    state->out = outer;
    return tn_jinja_string_take(state, status, &buf, out);
}

/* The same in a scope of its own, inside the current one. */
static tn_status capture_scoped(jinja_state *state, const jinja_node *body, jinja_value *out) {
    jinja_scope *outer = state->scope;
    TN_TRY(tn_jinja_scope_push(state, outer));
    TN_TRY(capture(state, body, out));
    state->scope = outer;
    return TN_OK;
}

/* The captured text after its filters, which are evaluated in the scope around. */
static tn_status filter_captured(jinja_state *state, const jinja_node *filters, jinja_value text, jinja_value *out) {
    jinja_value outer = state->captured;
    state->captured = text;
    TN_TRY(tn_jinja_eval(state, filters, out));
    state->captured = outer;
    return TN_OK;
}

/* ---- loops ---- */

/* The items of a loop that pass its condition. */
static tn_status filter_items(jinja_state *state, const jinja_node *node, const jinja_list **items) {
    jinja_scope *outer = state->scope;
    jinja_list *kept;
    TN_TRY(tn_jinja_list_new(state, 0, &kept));
    TN_TRY(tn_jinja_scope_push(state, outer));
    for (size_t i = 0; i < (*items)->count; i++) {
        jinja_value passed;
        TN_TRY(assign_target(state, node->a, (*items)->items[i]));
        TN_TRY(tn_jinja_eval(state, node->c, &passed));
        if (tn_jinja_truth(passed))
            TN_TRY(tn_jinja_list_push(state, kept, (*items)->items[i]));
    }
    state->scope = outer;
    *items = kept;
    return TN_OK;
}

/* An empty scope for the next turn; the old one is used again unless a macro holds on to it. */
static tn_status renew_scope(jinja_state *state, jinja_scope *outer) {
    if (state->scope->captured)
        return tn_jinja_scope_push(state, outer);
    state->scope->count = 0;
    return TN_OK;
}

static tn_status run_loop(jinja_state *state, const jinja_node *node, jinja_value iterable, size_t depth) {
    const jinja_list *items;
    jinja_scope *outer = state->scope;
    TN_TRY(tn_jinja_iterate(state, iterable, &items));
    if (node->c)
        TN_TRY(filter_items(state, node, &items));
    jinja_loop *loop = tn_jinja_alloc(state, 1, sizeof *loop);
    if (!loop)
        return state->failure;
    *loop = (jinja_loop){.items = items, .depth0 = depth, .node = node, .scope = outer};
    TN_TRY(tn_jinja_scope_push(state, outer));
    for (size_t i = 0; i < items->count; i++) {
        loop->index0 = i;
        TN_TRY(tn_jinja_step(state, 1));
        TN_TRY(renew_scope(state, outer));
        TN_TRY(tn_jinja_assign(state, state->chat_template->id_loop, JINJA_VALUE(JINJA_LOOP, loop, loop)));
        TN_TRY(assign_target(state, node->a, items->items[i]));
        TN_TRY(tn_jinja_exec(state, node->body));
        bool stop = state->flow == FLOW_BREAK;
        state->flow = FLOW_ON;
        if (stop)
            break;
    }
    if (!items->count) {
        TN_TRY(renew_scope(state, outer));
        TN_TRY(tn_jinja_exec(state, node->other));
    }
    state->scope = outer;
    return TN_OK;
}

static tn_status exec_for(jinja_state *state, const jinja_node *node) {
    jinja_value iterable;
    TN_TRY(tn_jinja_eval(state, node->b, &iterable));
    return run_loop(state, node, iterable, 0);
}

/* ---- macros ---- */

static tn_status enter_call(jinja_state *state) {
    if (state->calls >= JINJA_MAX_CALLS)
        return tn_fail(TN_ERROR_ARGUMENT, "macros call each other deeper than %d levels", JINJA_MAX_CALLS);
    state->calls++;
    return TN_OK;
}

tn_status tn_jinja_loop_call(jinja_state *state, const jinja_loop *loop, jinja_value items, jinja_value *out) {
    if (!loop->node->flag)
        return tn_fail(TN_ERROR_ARGUMENT, "loop() is only for loops that are marked recursive");
    tn_buf buf = {0}, *outer_out = state->out;
    jinja_scope *outer = state->scope;
    TN_TRY(enter_call(state));
    state->out = &buf;
    state->scope = loop->scope;
    tn_status status = run_loop(state, loop->node, items, loop->depth0 + 1);
    state->out = outer_out;
    state->scope = outer;
    state->calls--;
    return tn_jinja_string_take(state, status, &buf, out);
}

static tn_status make_macro(jinja_state *state, const jinja_node *node, jinja_value *out) {
    jinja_macro *macro = tn_jinja_alloc(state, 1, sizeof *macro);
    if (!macro)
        return state->failure;
    macro->node = node;
    macro->scope = state->scope;
    for (jinja_scope *scope = state->scope; scope; scope = scope->parent)
        scope->captured = true;
    *out = JINJA_VALUE(JINJA_MACRO, macro, macro);
    return TN_OK;
}

/* Takes the keyword with this name out of `rest`; ABSENT when there is none. */
static jinja_value take_keyword(jinja_dict *rest, const jinja_string *name) {
    for (size_t i = 0; i < rest->count; i++) {
        const jinja_string *key = rest->pairs[i].key.as.string;
        if (key->length == name->length && memcmp(key->data, name->data, key->length) == 0) {
            jinja_value value = rest->pairs[i].value;
            memmove(rest->pairs + i, rest->pairs + i + 1, (rest->count - i - 1) * sizeof *rest->pairs);
            rest->count--;
            return value;
        }
    }
    return (jinja_value){0};
}

/* Positional arguments beyond the parameters, and keywords that name none of them. */
static tn_status bind_rest(jinja_state *state, const jinja_node *node, const jinja_args *args, size_t used,
                           const jinja_dict *left) {
    const tn_chat_template *chat_template = state->chat_template;
    const jinja_string *name = node->value.as.string;
    jinja_list *varargs;
    jinja_dict *kwargs;
    if (args->count > used && !(node->op & JINJA_COLLECT_VARARGS))
        return tn_fail(TN_ERROR_ARGUMENT, "macro '%.*s' takes not more than %zu argument(s)", tn_jinja_shown(name),
                       name->data, used);
    const jinja_string *keyword = left->count ? left->pairs[0].key.as.string : NULL;
    if (keyword && !(node->op & JINJA_COLLECT_KWARGS))
        return tn_fail(TN_ERROR_ARGUMENT, "macro '%.*s' takes no keyword argument '%.*s'", tn_jinja_shown(name), name->data,
                       tn_jinja_shown(keyword), keyword->data);
    if (node->op & JINJA_COLLECT_VARARGS) {
        TN_TRY(tn_jinja_list_new(state, 0, &varargs));
        for (size_t i = used; i < args->count; i++)
            TN_TRY(tn_jinja_list_push(state, varargs, args->items[i]));
        TN_TRY(tn_jinja_assign(state, chat_template->id_varargs, JINJA_VALUE(JINJA_TUPLE, list, varargs)));
    }
    if (node->op & JINJA_COLLECT_KWARGS) {
        TN_TRY(tn_jinja_dict_new(state, left->count, &kwargs));
        for (size_t i = 0; i < left->count; i++)
            TN_TRY(tn_jinja_dict_put(state, kwargs, left->pairs[i].key, left->pairs[i].value));
        TN_TRY(tn_jinja_assign(state, chat_template->id_kwargs, JINJA_VALUE(JINJA_DICT, dict, kwargs)));
    }
    return TN_OK;
}

static tn_status bind_parameters(jinja_state *state, const jinja_macro *macro, const jinja_args *args) {
    jinja_dict left = {.count = args->keyword_count};
    size_t used = 0;
    if (left.count) {
        left.pairs = tn_jinja_alloc(state, left.count, sizeof *left.pairs);
        if (!left.pairs)
            return state->failure;
        memcpy(left.pairs, args->keywords, left.count * sizeof *left.pairs);
    }
    for (const jinja_node *parameter = macro->node->list; parameter; parameter = parameter->next, used++) {
        TN_TRY(tn_jinja_step(state, 1 + left.count / 8));
        jinja_value value = used < args->count ? args->items[used] : take_keyword(&left, parameter->value.as.string);
        if (value.type == JINJA_ABSENT && parameter->a)
            TN_TRY(tn_jinja_eval(state, parameter->a, &value));
        else if (value.type == JINJA_ABSENT)
            TN_TRY(tn_jinja_undefined(state, parameter->value.as.string, JINJA_ABSENT, &value));
        TN_TRY(tn_jinja_assign(state, parameter->name, value));
    }
    return bind_rest(state, macro->node, args, used, &left);
}

tn_status tn_jinja_macro_call(jinja_state *state, const jinja_macro *macro, const jinja_args *args, jinja_value *out) {
    jinja_scope *outer = state->scope;
    jinja_value caller = macro->caller;
    TN_TRY(enter_call(state));
    TN_TRY(tn_jinja_scope_push(state, macro->scope));
    if (caller.type != JINJA_ABSENT)
        TN_TRY(tn_jinja_assign(state, state->chat_template->id_caller, caller));
    TN_TRY(bind_parameters(state, macro, args));
    TN_TRY(capture(state, macro->node->body, out));
    state->scope = outer;
    state->calls--;
    return TN_OK;
}

/* Calls a macro with `caller` bound to the block's body. */
static tn_status exec_call_block(jinja_state *state, const jinja_node *node) {
    jinja_value callee, text, caller;
    TN_TRY(tn_jinja_eval(state, node->a->a, &callee));
    if (callee.type != JINJA_MACRO)
        return tn_fail(TN_ERROR_ARGUMENT, "a call block can only call a macro, not '%s'", tn_jinja_type_name(callee.type));
    TN_TRY(make_macro(state, node->b, &caller));
    jinja_macro *macro = tn_jinja_alloc(state, 1, sizeof *macro);
    if (!macro)
        return state->failure;
    *macro = *callee.as.macro;
    macro->caller = caller;
    /* The arguments are evaluated by the call node itself, on the macro that knows its caller. */
    jinja_node bound = {.type = NODE_CONST, .line = node->line, .value = JINJA_VALUE(JINJA_MACRO, macro, macro)};
    jinja_node call = *node->a;
    call.a = &bound;
    TN_TRY(tn_jinja_eval(state, &call, &text));
    return tn_jinja_print(state, state->out, text);
}

/* ---- statements ---- */

static tn_status exec_output(jinja_state *state, const jinja_node *node) {
    jinja_value value;
    TN_TRY(tn_jinja_eval(state, node->a, &value));
    return tn_jinja_print(state, state->out, value);
}

static tn_status exec_if(jinja_state *state, const jinja_node *node) {
    for (const jinja_node *branch = node->list; branch; branch = branch->next) {
        jinja_value test = tn_jinja_bool(true);
        if (branch->a)
            TN_TRY(tn_jinja_eval(state, branch->a, &test));
        if (tn_jinja_truth(test))
            return tn_jinja_exec(state, branch->body);
    }
    return TN_OK;
}

static tn_status exec_set(jinja_state *state, const jinja_node *node) {
    jinja_value value;
    TN_TRY(tn_jinja_eval(state, node->b, &value));
    return assign_target(state, node->a, value);
}

static tn_status exec_set_block(jinja_state *state, const jinja_node *node) {
    jinja_value value;
    TN_TRY(capture_scoped(state, node->body, &value));
    TN_TRY(filter_captured(state, node->b, value, &value));
    return assign_target(state, node->a, value);
}

static tn_status exec_filter(jinja_state *state, const jinja_node *node) {
    jinja_value value;
    TN_TRY(capture_scoped(state, node->body, &value));
    TN_TRY(filter_captured(state, node->b, value, &value));
    return tn_jinja_print(state, state->out, value);
}

/* The values are those of the scope around: none of the new names is seen by another's value. */
static tn_status exec_with(jinja_state *state, const jinja_node *node) {
    jinja_scope *outer = state->scope, *inner;
    TN_TRY(tn_jinja_scope_push(state, outer));
    inner = state->scope;
    for (const jinja_node *set = node->list; set; set = set->next) {
        jinja_value value;
        state->scope = outer;
        TN_TRY(tn_jinja_eval(state, set->b, &value));
        state->scope = inner;
        TN_TRY(tn_jinja_assign(state, set->a->name, value));
    }
    TN_TRY(tn_jinja_exec(state, node->body));
    state->scope = outer;
    return TN_OK;
}

static tn_status exec_scope(jinja_state *state, const jinja_node *node) {
    jinja_scope *outer = state->scope;
    TN_TRY(tn_jinja_scope_push(state, outer));
    TN_TRY(tn_jinja_exec(state, node->body));
    state->scope = outer;
    return TN_OK;
}

static tn_status exec_macro(jinja_state *state, const jinja_node *node) {
    jinja_value macro;
    TN_TRY(make_macro(state, node, &macro));
    return tn_jinja_assign(state, node->name, macro);
}

static tn_status exec_node(jinja_state *state, const jinja_node *node) {
    switch (node->type) {
    case NODE_TEXT: return tn_jinja_print(state, state->out, node->value);
    case NODE_OUTPUT: return exec_output(state, node);
    case NODE_IF: return exec_if(state, node);
    case NODE_FOR: return exec_for(state, node);
    case NODE_SET: return exec_set(state, node);
    case NODE_SET_BLOCK: return exec_set_block(state, node);
    case NODE_FILTER: return exec_filter(state, node);
    case NODE_WITH: return exec_with(state, node);
    case NODE_MACRO: return exec_macro(state, node);
    case NODE_CALL_BLOCK: return exec_call_block(state, node);
    case NODE_SCOPE: return exec_scope(state, node);
    case NODE_BREAK: state->flow = FLOW_BREAK; return TN_OK;
    case NODE_CONTINUE: state->flow = FLOW_CONTINUE; return TN_OK;
    default: return tn_fail(TN_ERROR_ARGUMENT, "an expression stands where a statement belongs");
    }
}

tn_status tn_jinja_exec(jinja_state *state, const jinja_node *first) {
    TN_TRY(tn_jinja_enter(state));
    for (const jinja_node *node = first; node && state->flow == FLOW_ON; node = node->next) {
        TN_TRY(tn_jinja_step(state, 1));
        state->line = node->line;
        TN_TRY(exec_node(state, node));
    }
    state->depth--;
    return TN_OK;
}
