/* Truth, equality, order, membership, length and iteration of values, as Python has them. */
#include <math.h>
#include <string.h>

#include "text/jinja.h"

const char *tn_jinja_type_name(jinja_type type) {
    static const char *const names[] = {
        [JINJA_ABSENT] = "missing",    [JINJA_UNDEFINED] = "Undefined",
        [JINJA_NONE] = "NoneType",     [JINJA_BOOL] = "bool",
        [JINJA_INT] = "int",           [JINJA_FLOAT] = "float",
        [JINJA_STRING] = "str",        [JINJA_LIST] = "list",
        [JINJA_TUPLE] = "tuple",       [JINJA_RANGE] = "range",
        [JINJA_VIEW] = "dict view",    [JINJA_ITERATOR] = "generator",
        [JINJA_DICT] = "dict",         [JINJA_NAMESPACE] = "Namespace",
        [JINJA_LOOP] = "LoopContext",  [JINJA_MACRO] = "Macro",
        [JINJA_FUNCTION] = "function", [JINJA_METHOD] = "method",
    };
    return names[type];
}

bool tn_jinja_truth(jinja_value value) {
    switch (value.type) {
    case JINJA_ABSENT:
    case JINJA_UNDEFINED:
    case JINJA_NONE: return false;
    case JINJA_BOOL: return value.as.boolean;
    case JINJA_INT: return value.as.integer != 0;
    case JINJA_FLOAT: return value.as.real != 0;
    case JINJA_STRING: return value.as.string->length != 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
    case JINJA_VIEW: return value.as.list->count != 0;
    case JINJA_DICT: return value.as.dict->count != 0;
    default: return true;
    }
}

static tn_status lists_equal(jinja_state *state, const jinja_list *a, const jinja_list *b, bool *equal) {
    *equal = a == b;
    if (*equal || a->count != b->count)
        return TN_OK;
    TN_TRY(tn_jinja_enter(state));
    *equal = true;
    for (size_t i = 0; i < a->count && *equal; i++)
        TN_TRY(tn_jinja_equals(state, a->items[i], b->items[i], equal));
    state->depth--;
    return TN_OK;
}

static tn_status dicts_equal(jinja_state *state, const jinja_dict *a, const jinja_dict *b, bool *equal) {
    *equal = a == b;
    if (*equal || a->count != b->count)
        return TN_OK;
    TN_TRY(tn_jinja_enter(state));
    *equal = true;
    for (size_t i = 0; i < a->count && *equal; i++) {
        const jinja_value *other;
        TN_TRY(tn_jinja_dict_get(state, b, a->pairs[i].key, &other));
        if (other)
            TN_TRY(tn_jinja_equals(state, a->pairs[i].value, *other, equal));
        else
            *equal = false;
    }
    state->depth--;
    return TN_OK;
}

tn_status tn_jinja_equals(jinja_state *state, jinja_value a, jinja_value b, bool *equal) {
    *equal = false;
    TN_TRY(tn_jinja_step(state, 1));
    if (tn_jinja_is_int(a) && tn_jinja_is_int(b))
        *equal = tn_jinja_as_int(a) == tn_jinja_as_int(b);
    else if (tn_jinja_is_number(a) && tn_jinja_is_number(b))
        *equal = tn_jinja_as_double(a) == tn_jinja_as_double(b);
    if (a.type != b.type || tn_jinja_is_number(a))
        return TN_OK;
    switch (a.type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE: *equal = true; return TN_OK;
    case JINJA_STRING:
        if (a.as.string->length != b.as.string->length)
            return TN_OK;
        *equal = memcmp(a.as.string->data, b.as.string->data, a.as.string->length) == 0;
        return tn_jinja_step(state, a.as.string->length / 64);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE: return lists_equal(state, a.as.list, b.as.list, equal);
    case JINJA_DICT: return dicts_equal(state, a.as.dict, b.as.dict, equal);
    case JINJA_METHOD:
        if (a.as.method->builtin == b.as.method->builtin)
            return tn_jinja_equals(state, a.as.method->self, b.as.method->self, equal);
        return TN_OK;
    default: *equal = memcmp(&a.as, &b.as, sizeof(void *)) == 0; return TN_OK;
    }
}

static tn_status compare_strings(jinja_state *state, const jinja_string *a, const jinja_string *b, int *order) {
    size_t shared = a->length < b->length ? a->length : b->length;
    *order = memcmp(a->data, b->data, shared);
    if (*order == 0)
        *order = (a->length > b->length) - (a->length < b->length);
    return tn_jinja_step(state, 1 + shared / 64);
}

/* By the first items that differ, then by length. */
static tn_status compare_lists(jinja_state *state, const jinja_list *a, const jinja_list *b, const char *op, int *order,
                               bool *ordered) {
    TN_TRY(tn_jinja_enter(state));
    *order = (a->count > b->count) - (a->count < b->count);
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        bool equal;
        TN_TRY(tn_jinja_equals(state, a->items[i], b->items[i], &equal));
        if (!equal) {
            TN_TRY(tn_jinja_compare(state, a->items[i], b->items[i], op, order, ordered));
            break;
        }
    }
    state->depth--;
    return TN_OK;
}

tn_status tn_jinja_compare(jinja_state *state, jinja_value a, jinja_value b, const char *op, int *order, bool *ordered) {
    *ordered = true;
    if (tn_jinja_is_int(a) && tn_jinja_is_int(b)) {
        int64_t x = tn_jinja_as_int(a), y = tn_jinja_as_int(b);
        *order = (x > y) - (x < y);
        return tn_jinja_step(state, 1);
    }
    if (tn_jinja_is_number(a) && tn_jinja_is_number(b)) {
        double x = tn_jinja_as_double(a), y = tn_jinja_as_double(b);
        *order = (x > y) - (x < y);
        *ordered = !isnan(x) && !isnan(y);
        return tn_jinja_step(state, 1);
    }
    if (a.type == JINJA_STRING && b.type == JINJA_STRING)
        return compare_strings(state, a.as.string, b.as.string, order);
    if (a.type == b.type && (a.type == JINJA_LIST || a.type == JINJA_TUPLE))
        return compare_lists(state, a.as.list, b.as.list, op, order, ordered);
    if (a.type == JINJA_UNDEFINED || b.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(a.type == JINJA_UNDEFINED ? a : b);
    return tn_fail(TN_ERROR_ARGUMENT, "'%s' not supported between instances of '%s' and '%s'", op,
                   tn_jinja_type_name(a.type), tn_jinja_type_name(b.type));
}

static tn_status string_contains(jinja_state *state, const jinja_string *text, jinja_value item, bool *found) {
    if (item.type != JINJA_STRING)
        return tn_fail(TN_ERROR_ARGUMENT, "'in <string>' requires string as left operand, not %s",
                       tn_jinja_type_name(item.type));
    *found = tn_jinja_find(text, item.as.string, 0) != SIZE_MAX;
    return tn_jinja_step(state, 1 + text->length / 64);
}

tn_status tn_jinja_contains(jinja_state *state, jinja_value container, jinja_value item, bool *found) {
    *found = false;
    if (container.type == JINJA_STRING)
        return string_contains(state, container.as.string, item, found);
    if (container.type == JINJA_DICT) {
        const jinja_value *value;
        TN_TRY(tn_jinja_dict_get(state, container.as.dict, item, &value));
        *found = value != NULL;
        return TN_OK;
    }
    const jinja_list *items;
    TN_TRY(tn_jinja_iterate(state, container, &items));
    for (size_t i = 0; i < items->count && !*found; i++)
        TN_TRY(tn_jinja_equals(state, items->items[i], item, found));
    return TN_OK;
}

/* The code points of a string, each a string. */
static tn_status characters(jinja_state *state, const jinja_string *text, jinja_list *list) {
    for (size_t at = 0; at < text->length;) {
        size_t size = tn_jinja_string_next(text, at);
        jinja_value item;
        TN_TRY(tn_jinja_string_refer(state, text->data + at, size, &item));
        TN_TRY(tn_jinja_list_push(state, list, item));
        at += size;
    }
    return TN_OK;
}

/* An iterator's items that nobody has taken yet; it is empty from now on. */
static tn_status drain(jinja_state *state, jinja_list *iterator, const jinja_list **out) {
    jinja_list *rest;
    TN_TRY(tn_jinja_list_new(state, 0, &rest));
    rest->items = iterator->items + iterator->cursor;
    rest->count = rest->capacity = iterator->count - iterator->cursor;
    iterator->cursor = iterator->count;
    *out = rest;
    return TN_OK;
}

tn_status tn_jinja_iterate(jinja_state *state, jinja_value value, const jinja_list **out) {
    jinja_list *list;
    switch (value.type) {
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
    case JINJA_VIEW: *out = value.as.list; return TN_OK;
    case JINJA_ITERATOR:
        if (value.as.list->cursor)
            return drain(state, value.as.list, out);
        value.as.list->cursor = value.as.list->count;
        *out = value.as.list;
        return TN_OK;
    case JINJA_UNDEFINED:
    case JINJA_STRING:
    case JINJA_DICT:
        TN_TRY(tn_jinja_list_new(state, value.type == JINJA_DICT ? value.as.dict->count : 0, &list));
        if (value.type == JINJA_STRING)
            TN_TRY(characters(state, value.as.string, list));
        for (size_t i = 0; value.type == JINJA_DICT && i < value.as.dict->count; i++)
            TN_TRY(tn_jinja_list_push(state, list, value.as.dict->pairs[i].key));
        *out = list;
        return TN_OK;
    default: return tn_fail(TN_ERROR_ARGUMENT, "'%s' object is not iterable", tn_jinja_type_name(value.type));
    }
}

tn_status tn_jinja_length(jinja_state *state, jinja_value value, int64_t *length) {
    switch (value.type) {
    case JINJA_UNDEFINED: *length = 0; return TN_OK;
    case JINJA_STRING:
        *length = (int64_t)tn_jinja_string_count(value.as.string);
        return tn_jinja_step(state, value.as.string->length / 16);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
    case JINJA_VIEW: *length = (int64_t)value.as.list->count; return TN_OK;
    case JINJA_DICT: *length = (int64_t)value.as.dict->count; return TN_OK;
    default: return tn_fail(TN_ERROR_ARGUMENT, "object of type '%s' has no len()", tn_jinja_type_name(value.type));
    }
}
