/* The tests of "is": defined, string, in, divisibleby, ... */
#include <string.h>

#include "text/jinja.h"

#define TEST(name) static tn_status name(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out)

/* A test that only looks at the subject. */
#define PREDICATE(name, condition)                                                                                          \
    TEST(name) {                                                                                                            \
        (void)state;                                                                                                        \
        (void)self;                                                                                                         \
        (void)args;                                                                                                         \
        *out = tn_jinja_bool(condition);                                                                                    \
        return TN_OK;                                                                                                       \
    }

PREDICATE(is_defined, self.type != JINJA_UNDEFINED)
PREDICATE(is_undefined, self.type == JINJA_UNDEFINED)
PREDICATE(is_none, self.type == JINJA_NONE)
PREDICATE(is_boolean, self.type == JINJA_BOOL)
PREDICATE(is_true, self.type == JINJA_BOOL && self.as.boolean)
PREDICATE(is_false, self.type == JINJA_BOOL && !self.as.boolean)
PREDICATE(is_integer, self.type == JINJA_INT)
PREDICATE(is_float, self.type == JINJA_FLOAT)
PREDICATE(is_number, tn_jinja_is_number(self))
PREDICATE(is_string, self.type == JINJA_STRING)
PREDICATE(is_mapping, self.type == JINJA_DICT)
PREDICATE(is_callable, self.type >= JINJA_MACRO || self.type == JINJA_UNDEFINED || self.type == JINJA_LOOP)
PREDICATE(is_iterable,
          (self.type >= JINJA_STRING && self.type <= JINJA_DICT) || self.type == JINJA_UNDEFINED || self.type == JINJA_LOOP)
PREDICATE(is_sequence,
          (self.type >= JINJA_STRING && self.type <= JINJA_RANGE) || self.type == JINJA_DICT || self.type == JINJA_UNDEFINED)
PREDICATE(is_escaped, false)

static tn_status remainder_is(jinja_state *state, jinja_value number, jinja_value divisor, int64_t wanted,
                              jinja_value *out) {
    jinja_value remainder;
    bool equal;
    TN_TRY(tn_jinja_binary(state, TOKEN_MOD, number, divisor, &remainder));
    TN_TRY(tn_jinja_equals(state, remainder, tn_jinja_int(wanted), &equal));
    *out = tn_jinja_bool(equal);
    return TN_OK;
}

TEST(is_odd) {
    (void)args;
    return remainder_is(state, self, tn_jinja_int(2), 1, out);
}

TEST(is_even) {
    (void)args;
    return remainder_is(state, self, tn_jinja_int(2), 0, out);
}

TEST(is_divisible) {
    return remainder_is(state, self, args->items[0], 0, out);
}

TEST(is_equal) {
    bool equal;
    TN_TRY(tn_jinja_equals(state, self, args->items[0], &equal));
    *out = tn_jinja_bool(equal);
    return TN_OK;
}

TEST(is_unequal) {
    TN_TRY(is_equal(state, self, args, out));
    out->as.boolean = !out->as.boolean;
    return TN_OK;
}

/* The same object: for values without identity, equal ones of one type. */
TEST(is_same) {
    TN_TRY(is_equal(state, self, args, out));
    out->as.boolean = out->as.boolean && self.type == args->items[0].type;
    return TN_OK;
}

static tn_status ordered(jinja_state *state, jinja_value self, const jinja_args *args, const char *op, jinja_value *out) {
    int order;
    bool comparable;
    TN_TRY(tn_jinja_compare(state, self, args->items[0], op, &order, &comparable));
    bool holds = (op[1] == '=' && order == 0) || (op[0] == '<' ? order < 0 : order > 0);
    *out = tn_jinja_bool(comparable && holds);
    return TN_OK;
}

TEST(is_less) {
    return ordered(state, self, args, "<", out);
}

TEST(is_less_or_equal) {
    return ordered(state, self, args, "<=", out);
}

TEST(is_greater) {
    return ordered(state, self, args, ">", out);
}

TEST(is_greater_or_equal) {
    return ordered(state, self, args, ">=", out);
}

TEST(is_in) {
    bool found;
    TN_TRY(tn_jinja_contains(state, args->items[0], self, &found));
    *out = tn_jinja_bool(found);
    return TN_OK;
}

/* str(value).islower() or .isupper(): all cased letters are of one case, and there is one. */
static tn_status has_case(jinja_state *state, jinja_value self, const char *method, jinja_value *out) {
    const jinja_string *text;
    TN_TRY(tn_jinja_to_string(state, self, &text));
    jinja_string name = {method, strlen(method)};
    return tn_jinja_builtin_call(state, tn_jinja_find_method(JINJA_STRING, &name), JINJA_VALUE(JINJA_STRING, string, text),
                                 &(jinja_args){0}, out);
}

TEST(is_lower) {
    (void)args;
    return has_case(state, self, "islower", out);
}

TEST(is_upper) {
    (void)args;
    return has_case(state, self, "isupper", out);
}

static tn_status is_name_of(jinja_state *state, jinja_value self,
                            const jinja_builtin *(*find)(const char *name, size_t length), jinja_value *out) {
    const jinja_string *name;
    TN_TRY(tn_jinja_to_string(state, self, &name));
    *out = tn_jinja_bool(find(name->data, name->length) != NULL);
    return TN_OK;
}

TEST(is_filter) {
    (void)args;
    return is_name_of(state, self, tn_jinja_find_filter, out);
}

TEST(is_test) {
    (void)args;
    return is_name_of(state, self, tn_jinja_find_test, out);
}

const jinja_builtin tn_jinja_tests[] = {
    {"defined", is_defined, ""},
    {"undefined", is_undefined, ""},
    {"none", is_none, ""},
    {"boolean", is_boolean, ""},
    {"true", is_true, ""},
    {"false", is_false, ""},
    {"integer", is_integer, ""},
    {"float", is_float, ""},
    {"number", is_number, ""},
    {"string", is_string, ""},
    {"mapping", is_mapping, ""},
    {"callable", is_callable, ""},
    {"iterable", is_iterable, ""},
    {"sequence", is_sequence, ""},
    {"escaped", is_escaped, ""},
    {"odd", is_odd, ""},
    {"even", is_even, ""},
    {"divisibleby", is_divisible, "num"},
    {"sameas", is_same, "other"},
    {"equalto", is_equal, "other"},
    {"eq", is_equal, "other"},
    {"==", is_equal, "other"},
    {"ne", is_unequal, "other"},
    {"!=", is_unequal, "other"},
    {"lt", is_less, "other"},
    {"lessthan", is_less, "other"},
    {"<", is_less, "other"},
    {"le", is_less_or_equal, "other"},
    {"<=", is_less_or_equal, "other"},
    {"gt", is_greater, "other"},
    {"greaterthan", is_greater, "other"},
    {">", is_greater, "other"},
    {"ge", is_greater_or_equal, "other"},
    {">=", is_greater_or_equal, "other"},
    {"in", is_in, "seq"},
    {"lower", is_lower, ""},
    {"upper", is_upper, ""},
    {"filter", is_filter, ""},
    {"test", is_test, ""},
    {0},
};
