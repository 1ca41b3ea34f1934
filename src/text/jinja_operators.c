/* Arithmetic, subscripts, slices and attributes. */
#include <math.h>
#include <string.h>

#include "text/jinja.h"

/* ---- arithmetic ---- */

static const char *symbol_of(jinja_token_type op) {
    static const char *const symbols[] = {"+", "-", "*", "/", "//", "%", "**"};
    return symbols[op - TOKEN_ADD];
}

static tn_status overflow(void) {
    return tn_fail(TN_ERROR_ARGUMENT, "an integer needs more than 64 bits");
}

static tn_status int_power(int64_t base, int64_t exponent, jinja_value *out) {
    int64_t result = 1;
    if (exponent < 0) {
        if (!base)
            return tn_fail(TN_ERROR_ARGUMENT, "0.0 cannot be raised to a negative power");
        *out = tn_jinja_float(pow((double)base, (double)exponent));
        return TN_OK;
    }
    /* Beyond 64 doublings only 0, 1 and -1 stay within 64 bits. */
    if (base >= -1 && base <= 1)
        exponent = exponent ? 2 - (exponent & 1) : 0;
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(result, base, &result))
            return overflow();
    *out = tn_jinja_int(result);
    return TN_OK;
}

static tn_status int_binary(jinja_token_type op, int64_t a, int64_t b, jinja_value *out) {
    int64_t result = 0;
    bool overflowed = false;
    if ((op == TOKEN_FLOORDIV || op == TOKEN_MOD || op == TOKEN_DIV) && b == 0)
        return tn_fail(TN_ERROR_ARGUMENT, "division by zero");
    switch (op) {
    case TOKEN_ADD: overflowed = __builtin_add_overflow(a, b, &result); break;
    case TOKEN_SUB: overflowed = __builtin_sub_overflow(a, b, &result); break;
    case TOKEN_MUL: overflowed = __builtin_mul_overflow(a, b, &result); break;
    case TOKEN_DIV: *out = tn_jinja_float((double)a / (double)b); return TN_OK;
    case TOKEN_POW: return int_power(a, b, out);
    default:
        /* Python rounds down, C towards zero; INT64_MIN by -1 does not fit. */
        if (b == -1) {
            overflowed = op == TOKEN_FLOORDIV && __builtin_sub_overflow(0, a, &result);
            break;
        }
        bool adjust = a % b != 0 && (a % b < 0) != (b < 0);
        result = op == TOKEN_FLOORDIV ? a / b - adjust : a % b + (adjust ? b : 0);
    }
    *out = tn_jinja_int(result);
    return overflowed ? overflow() : TN_OK;
}

static tn_status float_binary(jinja_token_type op, double a, double b, jinja_value *out) {
    double result = 0;
    if ((op == TOKEN_FLOORDIV || op == TOKEN_MOD || op == TOKEN_DIV) && b == 0)
        return tn_fail(TN_ERROR_ARGUMENT, "float division by zero");
    switch (op) {
    case TOKEN_ADD: result = a + b; break;
    case TOKEN_SUB: result = a - b; break;
    case TOKEN_MUL: result = a * b; break;
    case TOKEN_DIV: result = a / b; break;
    case TOKEN_POW:
        if (a == 0 && b < 0)
            return tn_fail(TN_ERROR_ARGUMENT, "0.0 cannot be raised to a negative power");
        result = pow(a, b);
        break;
    default: {
        double rest = fmod(a, b);
        if (rest != 0 && (rest < 0) != (b < 0))
            rest += b;
        result = op == TOKEN_MOD ? rest : rint((a - rest) / b);
    }
    }
    *out = tn_jinja_float(result);
    return TN_OK;
}

static tn_status concat_strings(jinja_state *state, const jinja_string *a, const jinja_string *b, jinja_value *out) {
    size_t length = a->length + b->length;
    if (length > JINJA_MAX_TEXT)
        return tn_fail(TN_ERROR_ARGUMENT, "a text is longer than %d MB", JINJA_MAX_TEXT >> 20);
    TN_TRY(tn_jinja_step(state, length / 64));
    char *text = tn_jinja_alloc(state, length + 1, 1);
    if (!text)
        return state->failure;
    if (a->length)
        memcpy(text, a->data, a->length);
    if (b->length)
        memcpy(text + a->length, b->data, b->length);
    return tn_jinja_string_refer(state, text, length, out);
}

static tn_status concat_lists(jinja_state *state, jinja_value a, jinja_value b, jinja_value *out) {
    const jinja_list *left = a.as.list, *right = b.as.list;
    jinja_list *list;
    TN_TRY(tn_jinja_step(state, left->count + right->count));
    TN_TRY(tn_jinja_list_new(state, left->count + right->count, &list));
    if (left->count)
        memcpy(list->items, left->items, left->count * sizeof *list->items);
    if (right->count)
        memcpy(list->items + left->count, right->items, right->count * sizeof *list->items);
    list->count = left->count + right->count;
    *out = JINJA_VALUE(a.type, list, list);
    return TN_OK;
}

/* sequence * count */
static tn_status repeat(jinja_state *state, jinja_value value, int64_t count, jinja_value *out) {
    if (value.type == JINJA_STRING)
        return tn_jinja_repeat(state, value.as.string, count, out);
    jinja_list *list;
    TN_TRY(tn_jinja_list_new(state, 0, &list));
    for (int64_t i = 0; i < count && value.as.list->count; i++)
        for (size_t n = 0; n < value.as.list->count; n++)
            TN_TRY(tn_jinja_list_push(state, list, value.as.list->items[n]));
    *out = JINJA_VALUE(value.type, list, list);
    return TN_OK;
}

static bool can_repeat(jinja_value value) {
    return value.type == JINJA_STRING || value.type == JINJA_LIST || value.type == JINJA_TUPLE;
}

tn_status tn_jinja_binary(jinja_state *state, jinja_token_type op, jinja_value a, jinja_value b, jinja_value *out) {
    if (op == TOKEN_MOD && a.type == JINJA_STRING)
        return tn_jinja_percent(state, a.as.string, b, out);
    if (a.type == JINJA_UNDEFINED || b.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(a.type == JINJA_UNDEFINED ? a : b);
    if (tn_jinja_is_int(a) && tn_jinja_is_int(b))
        return int_binary(op, tn_jinja_as_int(a), tn_jinja_as_int(b), out);
    if (tn_jinja_is_number(a) && tn_jinja_is_number(b))
        return float_binary(op, tn_jinja_as_double(a), tn_jinja_as_double(b), out);
    if (op == TOKEN_ADD && a.type == JINJA_STRING && b.type == JINJA_STRING)
        return concat_strings(state, a.as.string, b.as.string, out);
    if (op == TOKEN_ADD && a.type == b.type && (a.type == JINJA_LIST || a.type == JINJA_TUPLE))
        return concat_lists(state, a, b, out);
    if (op == TOKEN_MUL && can_repeat(a) && tn_jinja_is_int(b))
        return repeat(state, a, tn_jinja_as_int(b), out);
    if (op == TOKEN_MUL && can_repeat(b) && tn_jinja_is_int(a))
        return repeat(state, b, tn_jinja_as_int(a), out);
    if (op == TOKEN_ADD && a.type == JINJA_STRING)
        return tn_fail(TN_ERROR_ARGUMENT, "can only concatenate str (not \"%s\") to str", tn_jinja_type_name(b.type));
    return tn_fail(TN_ERROR_ARGUMENT, "unsupported operand type(s) for %s: '%s' and '%s'", symbol_of(op),
                   tn_jinja_type_name(a.type), tn_jinja_type_name(b.type));
}

/* ---- subscripts ---- */

/* An item by position, counted from the end when negative; false when it is out of range. */
static bool position(int64_t index, size_t count, size_t *at) {
    if (index < 0)
        index += (int64_t)count;
    *at = (size_t)index;
    return index >= 0 && index < (int64_t)count;
}

static tn_status string_item(jinja_state *state, const jinja_string *text, int64_t index, bool *found, jinja_value *out) {
    size_t at, count = tn_jinja_string_count(text);
    TN_TRY(tn_jinja_step(state, text->length / 16));
    *found = position(index, count, &at);
    if (!*found)
        return TN_OK;
    size_t start = tn_jinja_string_offset(text, at);
    return tn_jinja_string_refer(state, text->data + start, tn_jinja_string_next(text, start), out);
}

/* object[key] in Python; *found false where Python raises a LookupError or TypeError. */
static tn_status get_item(jinja_state *state, jinja_value object, jinja_value key, bool *found, jinja_value *out) {
    *found = false;
    if (object.type == JINJA_DICT) {
        const jinja_value *value;
        if (key.type == JINJA_LIST || key.type == JINJA_DICT)
            return TN_OK;
        TN_TRY(tn_jinja_dict_get(state, object.as.dict, key, &value));
        *found = value != NULL;
        if (value)
            *out = *value;
    } else if (tn_jinja_is_sequence(object) && tn_jinja_is_int(key)) {
        size_t at;
        *found = position(tn_jinja_as_int(key), object.as.list->count, &at);
        if (*found)
            *out = object.as.list->items[at];
    } else if (object.type == JINJA_STRING && tn_jinja_is_int(key)) {
        return string_item(state, object.as.string, tn_jinja_as_int(key), found, out);
    }
    return TN_OK;
}

/* ---- attributes ---- */

static tn_status loop_attribute(jinja_state *state, const jinja_loop *loop, const jinja_string *name, bool *found,
                                jinja_value *out) {
    int64_t index = (int64_t)loop->index0, count = (int64_t)loop->items->count;
    const struct {
        const char *name;
        jinja_value value;
    } numbers[] = {
        {"index", tn_jinja_int(index + 1)},
        {"index0", tn_jinja_int(index)},
        {"revindex", tn_jinja_int(count - index)},
        {"revindex0", tn_jinja_int(count - index - 1)},
        {"length", tn_jinja_int(count)},
        {"depth", tn_jinja_int((int64_t)loop->depth0 + 1)},
        {"depth0", tn_jinja_int((int64_t)loop->depth0)},
        {"first", tn_jinja_bool(index == 0)},
        {"last", tn_jinja_bool(index + 1 == count)},
    };
    *found = true;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (tn_jinja_string_is(name, numbers[i].name)) {
            *out = numbers[i].value;
            return TN_OK;
        }
    bool previous = tn_jinja_string_is(name, "previtem"), next = tn_jinja_string_is(name, "nextitem");
    *found = previous || next;
    if (!*found)
        return TN_OK;
    if (previous ? index == 0 : index + 1 == count)
        return tn_jinja_undefined_hint(state, previous ? "there is no previous item" : "there is no next item", out);
    *out = loop->items->items[previous ? index - 1 : index + 1];
    return TN_OK;
}

/* Methods that would change their object; the sandbox keeps them from being called. */
static bool is_mutator(jinja_type type, const jinja_string *name) {
    static const char *const of_lists[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
    static const char *const of_dicts[] = {"clear", "pop", "popitem", "setdefault", "update"};
    const char *const *names = type == JINJA_LIST ? of_lists : of_dicts;
    size_t count = type == JINJA_LIST ? 8 : type == JINJA_DICT ? 5 : 0;
    for (size_t i = 0; i < count; i++)
        if (tn_jinja_string_is(name, names[i]))
            return true;
    return false;
}

/* getattr(object, name) in Python; *found false where it raises an AttributeError. */
static tn_status get_attribute(jinja_state *state, jinja_value object, const jinja_string *name, bool *found,
                               jinja_value *out) {
    const jinja_builtin *builtin = tn_jinja_find_method(object.type, name);
    *found = true;
    if (builtin) {
        jinja_method *method = tn_jinja_alloc(state, 1, sizeof *method);
        if (!method)
            return state->failure;
        *method = (jinja_method){object, builtin};
        *out = JINJA_VALUE(JINJA_METHOD, method, method);
        return TN_OK;
    }
    if (is_mutator(object.type, name))
        return tn_jinja_undefined_hint(state, "a template may not change lists or dicts: use namespace() or +", out);
    if (object.type == JINJA_LOOP)
        return loop_attribute(state, object.as.loop, name, found, out);
    if (object.type == JINJA_NAMESPACE) {
        const jinja_value *value;
        TN_TRY(tn_jinja_dict_get(state, object.as.dict, JINJA_VALUE(JINJA_STRING, string, name), &value));
        *found = value != NULL;
        if (value)
            *out = *value;
        return TN_OK;
    }
    bool group = object.type == JINJA_TUPLE && object.as.list->label, second = tn_jinja_string_is(name, "list");
    if (group && (second || tn_jinja_string_is(name, "grouper")))
        *out = object.as.list->items[second];
    else if (object.type == JINJA_MACRO && tn_jinja_string_is(name, "name"))
        *out = object.as.macro->node->value;
    else
        *found = false;
    return TN_OK;
}

tn_status tn_jinja_attribute(jinja_state *state, jinja_value object, const jinja_string *name, jinja_value *out) {
    bool found;
    if (object.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(object);
    jinja_value result = {0};
    TN_TRY(get_attribute(state, object, name, &found, &result));
    if (!found)
        TN_TRY(get_item(state, object, JINJA_VALUE(JINJA_STRING, string, name), &found, &result));
    if (!found)
        return tn_jinja_undefined(state, name, object.type, out);
    *out = result;
    return TN_OK;
}

tn_status tn_jinja_item(jinja_state *state, jinja_value object, jinja_value key, jinja_value *out) {
    bool found;
    const jinja_string *name;
    if (object.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(object);
    jinja_value result = {0};
    TN_TRY(get_item(state, object, key, &found, &result));
    if (!found && key.type == JINJA_STRING)
        TN_TRY(get_attribute(state, object, key.as.string, &found, &result));
    if (found) {
        *out = result;
        return TN_OK;
    }
    TN_TRY(tn_jinja_to_string(state, key, &name));
    return tn_jinja_undefined(state, name, object.type, out);
}
