/* Filters on sequences and mappings: map, select, sort, join, ... */
#include <string.h>

#include "text/jinja.h"

#define FILTER(name) static tn_status name(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out)

static jinja_value as_iterator(jinja_list *list) {
    list->label = "generator";
    return JINJA_VALUE(JINJA_ITERATOR, list, list);
}

/* ---- attribute paths: "a.0.b" ---- */

static tn_status path_part(jinja_state *state, const jinja_string *path, size_t start, size_t end, jinja_value *part) {
    int64_t index = 0;
    size_t digits = start;
    while (digits < end && digits - start < 18 && path->data[digits] >= '0' && path->data[digits] <= '9')
        index = index * 10 + (path->data[digits++] - '0');
    *part = tn_jinja_int(index);
    return digits == end && end > start ? TN_OK : tn_jinja_string_refer(state, path->data + start, end - start, part);
}

/* The item itself when the path is ABSENT or NONE. */
static tn_status follow_path(jinja_state *state, jinja_value path, jinja_value item, jinja_value *out) {
    *out = item;
    if (path.type == JINJA_ABSENT || path.type == JINJA_NONE)
        return TN_OK;
    if (path.type != JINJA_STRING)
        return tn_jinja_item(state, item, path, out);
    const jinja_string *text = path.as.string;
    for (size_t start = 0; start <= text->length;) {
        const char *dot = memchr(text->data + start, '.', text->length - start);
        size_t end = dot ? (size_t)(dot - text->data) : text->length;
        jinja_value part;
        TN_TRY(path_part(state, text, start, end, &part));
        TN_TRY(tn_jinja_item(state, *out, part, out));
        start = end + 1;
    }
    return TN_OK;
}

static tn_status fold_case(jinja_state *state, bool sensitive, jinja_value *value) {
    if (!sensitive && value->type == JINJA_STRING)
        return tn_jinja_recase(state, value->as.string, JINJA_LOWER, value);
    return TN_OK;
}

/* What to sort an item by; paths separated by commas give a list. */
static tn_status sort_key(jinja_state *state, jinja_value path, bool sensitive, jinja_value item, jinja_value *out) {
    if (path.type != JINJA_STRING || !memchr(path.as.string->data, ',', path.as.string->length)) {
        TN_TRY(follow_path(state, path, item, out));
        return fold_case(state, sensitive, out);
    }
    jinja_list *keys;
    const jinja_string *text = path.as.string;
    TN_TRY(tn_jinja_list_new(state, 0, &keys));
    for (size_t start = 0; start <= text->length;) {
        const char *comma = memchr(text->data + start, ',', text->length - start);
        size_t end = comma ? (size_t)(comma - text->data) : text->length;
        jinja_value part, key;
        TN_TRY(tn_jinja_string_refer(state, text->data + start, end - start, &part));
        TN_TRY(follow_path(state, part, item, &key));
        TN_TRY(fold_case(state, sensitive, &key));
        TN_TRY(tn_jinja_list_push(state, keys, key));
        start = end + 1;
    }
    *out = JINJA_VALUE(JINJA_LIST, list, keys);
    return TN_OK;
}

/* ---- sorting ---- */

/* Merges from[low..middle) and from[middle..high) into `to`; equal keys keep their order, reversed or not. */
static tn_status merge(jinja_state *state, const jinja_pair *from, jinja_pair *to, size_t low, size_t middle, size_t high,
                       bool reverse) {
    size_t left = low, right = middle;
    for (size_t at = low; at < high; at++) {
        int order = 0;
        bool ordered;
        if (left < middle && right < high)
            TN_TRY(tn_jinja_compare(state, from[right].key, from[left].key, "<", &order, &ordered));
        bool take_right = right < high && (left == middle || (reverse ? order > 0 : order < 0));
        to[at] = take_right ? from[right++] : from[left++];
    }
    return TN_OK;
}

/* Sorts pairs by their keys; the result is in *pairs. */
static tn_status sort_pairs(jinja_state *state, jinja_pair **pairs, size_t count, bool reverse) {
    jinja_pair *other = tn_jinja_alloc(state, count ? count : 1, sizeof *other);
    if (!other)
        return state->failure;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t low = 0; low < count; low += 2 * width) {
            size_t middle = low + width < count ? low + width : count;
            size_t high = middle + width < count ? middle + width : count;
            TN_TRY(merge(state, *pairs, other, low, middle, high, reverse));
        }
        jinja_pair *swap = *pairs;
        *pairs = other;
        other = swap;
    }
    return TN_OK;
}

/* The values of the pairs, as a list. */
static tn_status values_of(jinja_state *state, const jinja_pair *pairs, size_t count, jinja_value *out) {
    jinja_list *list;
    TN_TRY(tn_jinja_list_new(state, count, &list));
    for (size_t i = 0; i < count; i++)
        TN_TRY(tn_jinja_list_push(state, list, pairs[i].value));
    *out = JINJA_VALUE(JINJA_LIST, list, list);
    return TN_OK;
}

/* The items with their keys, sorted. */
static tn_status sort_by(jinja_state *state, jinja_value self, jinja_value path, bool sensitive, bool reverse,
                         jinja_pair **pairs, size_t *count) {
    const jinja_list *items;
    TN_TRY(tn_jinja_iterate(state, self, &items));
    *count = items->count;
    *pairs = tn_jinja_alloc(state, items->count ? items->count : 1, sizeof **pairs);
    if (!*pairs)
        return state->failure;
    for (size_t i = 0; i < items->count; i++) {
        (*pairs)[i].value = items->items[i];
        TN_TRY(sort_key(state, path, sensitive, items->items[i], &(*pairs)[i].key));
    }
    return sort_pairs(state, pairs, *count, reverse);
}

FILTER(filter_sort) {
    jinja_pair *pairs;
    size_t count;
    TN_TRY(sort_by(state, self, args->items[2], tn_jinja_truth(args->items[1]), tn_jinja_truth(args->items[0]), &pairs,
                   &count));
    return values_of(state, pairs, count, out);
}

FILTER(filter_dictsort) {
    bool sensitive = tn_jinja_truth(args->items[0]), by_value = false;
    if (self.type != JINJA_DICT)
        return tn_fail(TN_ERROR_ARGUMENT, "dictsort() takes a mapping, not %s", tn_jinja_type_name(self.type));
    if (args->items[1].type != JINJA_ABSENT) {
        const jinja_string *by;
        TN_TRY(tn_jinja_arg_string(args->items[1], "dictsort()", &by));
        by_value = tn_jinja_string_is(by, "value");
        if (!by_value && !tn_jinja_string_is(by, "key"))
            return tn_fail(TN_ERROR_ARGUMENT, "You can only sort by either \"key\" or \"value\"");
    }
    const jinja_dict *dict = self.as.dict;
    jinja_pair *pairs = tn_jinja_alloc(state, dict->count ? dict->count : 1, sizeof *pairs);
    if (!pairs)
        return state->failure;
    for (size_t i = 0; i < dict->count; i++) {
        pairs[i].key = by_value ? dict->pairs[i].value : dict->pairs[i].key;
        TN_TRY(fold_case(state, sensitive, &pairs[i].key));
        TN_TRY(tn_jinja_pair_new(state, dict->pairs[i].key, dict->pairs[i].value, &pairs[i].value));
    }
    TN_TRY(sort_pairs(state, &pairs, dict->count, tn_jinja_truth(args->items[2])));
    return values_of(state, pairs, dict->count, out);
}

/* (grouper, list) tuples; the grouper is spelled as in the first item of its group. */
FILTER(filter_groupby) {
    jinja_pair *pairs;
    size_t count;
    jinja_list *groups, *members = NULL;
    bool sensitive = tn_jinja_truth(args->items[2]), same = false;
    TN_TRY(sort_by(state, self, args->items[0], sensitive, false, &pairs, &count));
    TN_TRY(tn_jinja_list_new(state, 0, &groups));
    for (size_t i = 0; i < count; i++) {
        if (i)
            TN_TRY(tn_jinja_equals(state, pairs[i].key, pairs[i - 1].key, &same));
        if (!same) {
            jinja_value grouper, group;
            TN_TRY(follow_path(state, args->items[0], pairs[i].value, &grouper));
            if (grouper.type == JINJA_UNDEFINED && args->items[1].type != JINJA_ABSENT)
                grouper = args->items[1];
            TN_TRY(tn_jinja_list_new(state, 0, &members));
            TN_TRY(tn_jinja_pair_new(state, grouper, JINJA_VALUE(JINJA_LIST, list, members), &group));
            group.as.list->label = "group";
            TN_TRY(tn_jinja_list_push(state, groups, group));
        }
        TN_TRY(tn_jinja_list_push(state, members, pairs[i].value));
    }
    *out = JINJA_VALUE(JINJA_LIST, list, groups);
    return TN_OK;
}

FILTER(filter_unique) {
    const jinja_list *items;
    jinja_list *list;
    jinja_dict *seen;
    TN_TRY(tn_jinja_iterate(state, self, &items));
    TN_TRY(tn_jinja_list_new(state, 0, &list));
    TN_TRY(tn_jinja_dict_new(state, 0, &seen));
    for (size_t i = 0; i < items->count; i++) {
        jinja_value key;
        TN_TRY(follow_path(state, args->items[1], items->items[i], &key));
        TN_TRY(fold_case(state, tn_jinja_truth(args->items[0]), &key));
        size_t before = seen->count;
        TN_TRY(tn_jinja_dict_put(state, seen, key, tn_jinja_bool(true)));
        if (seen->count > before)
            TN_TRY(tn_jinja_list_push(state, list, items->items[i]));
    }
    *out = as_iterator(list);
    return TN_OK;
}

static tn_status extreme(jinja_state *state, jinja_value self, const jinja_args *args, int sign, jinja_value *out) {
    const jinja_list *items;
    jinja_value best = {0}, key;
    TN_TRY(tn_jinja_iterate(state, self, &items));
    if (!items->count)
        return tn_jinja_undefined_hint(state, "No aggregated item, sequence was empty.", out);
    for (size_t i = 0; i < items->count; i++) {
        int order = 1;
        bool ordered = true;
        TN_TRY(follow_path(state, args->items[1], items->items[i], &key));
        TN_TRY(fold_case(state, tn_jinja_truth(args->items[0]), &key));
        if (i)
            TN_TRY(tn_jinja_compare(state, key, best, sign > 0 ? ">" : "<", &order, &ordered));
        if (!i || (ordered && order * sign > 0)) {
            best = key;
            *out = items->items[i];
        }
    }
    return TN_OK;
}

FILTER(filter_min) {
    return extreme(state, self, args, -1, out);
}

FILTER(filter_max) {
    return extreme(state, self, args, 1, out);
}

/* ---- choosing and mapping ---- */

/* The arguments after the first `count`. */
static jinja_args rest_of(const jinja_args *args, size_t count) {
    jinja_args rest = *args;
    rest.items += count;
    rest.count -= count;
    return rest;
}

static const jinja_value *keyword(const jinja_args *args, const char *name) {
    for (size_t i = 0; i < args->keyword_count; i++)
        if (tn_jinja_string_is(args->keywords[i].key.as.string, name))
            return &args->keywords[i].value;
    return NULL;
}

static tn_status find_by_name(jinja_value name, const jinja_builtin *(*find)(const char *name, size_t length),
                              const char *kind, const jinja_builtin **found) {
    const jinja_string *text;
    TN_TRY(tn_jinja_arg_string(name, kind, &text));
    *found = find(text->data, text->length);
    return *found ? TN_OK : tn_fail(TN_ERROR_ARGUMENT, "No %s named '%.*s'.", kind, tn_jinja_shown(text), text->data);
}

static tn_status map_attribute(jinja_state *state, const jinja_list *items, const jinja_args *args, jinja_list *list) {
    const jinja_value *path = keyword(args, "attribute"), *standard = keyword(args, "default");
    for (size_t i = 0; i < items->count; i++) {
        jinja_value item;
        TN_TRY(follow_path(state, *path, items->items[i], &item));
        if (standard && standard->type != JINJA_NONE && item.type == JINJA_UNDEFINED)
            item = *standard;
        TN_TRY(tn_jinja_list_push(state, list, item));
    }
    return TN_OK;
}

FILTER(filter_map) {
    const jinja_builtin *filter;
    const jinja_list *items;
    jinja_list *list;
    TN_TRY(tn_jinja_list_new(state, 0, &list));
    *out = as_iterator(list);
    if (!tn_jinja_truth(self))
        return TN_OK;
    TN_TRY(tn_jinja_iterate(state, self, &items));
    if (!args->count && keyword(args, "attribute"))
        return map_attribute(state, items, args, list);
    if (!args->count)
        return tn_fail(TN_ERROR_ARGUMENT, "map requires a filter argument");
    TN_TRY(find_by_name(args->items[0], tn_jinja_find_filter, "filter", &filter));
    jinja_args rest = rest_of(args, 1);
    for (size_t i = 0; i < items->count; i++) {
        jinja_value item;
        TN_TRY(tn_jinja_builtin_call(state, filter, items->items[i], &rest, &item));
        TN_TRY(tn_jinja_list_push(state, list, item));
    }
    return TN_OK;
}

/* Keeps the items (by_attribute: those whose attribute, the first argument) that pass the test, or that do not. Without a
 * test truth decides. */
static tn_status choose(jinja_state *state, jinja_value self, const jinja_args *args, bool wanted, bool by_attribute,
                        jinja_value *out) {
    const jinja_builtin *test = NULL;
    const jinja_list *items;
    jinja_list *list;
    size_t used = by_attribute ? 1 : 0;
    TN_TRY(tn_jinja_list_new(state, 0, &list));
    *out = as_iterator(list);
    if (!tn_jinja_truth(self))
        return TN_OK;
    TN_TRY(tn_jinja_iterate(state, self, &items));
    if (args->count < used)
        return tn_fail(TN_ERROR_ARGUMENT, "Missing parameter for attribute name");
    if (args->count > used)
        TN_TRY(find_by_name(args->items[used], tn_jinja_find_test, "test", &test));
    jinja_args rest = test ? rest_of(args, used + 1) : (jinja_args){0};
    for (size_t i = 0; i < items->count; i++) {
        jinja_value subject = items->items[i], passed;
        if (by_attribute)
            TN_TRY(follow_path(state, args->items[0], subject, &subject));
        passed = subject;
        if (test)
            TN_TRY(tn_jinja_builtin_call(state, test, subject, &rest, &passed));
        if (tn_jinja_truth(passed) == wanted)
            TN_TRY(tn_jinja_list_push(state, list, items->items[i]));
    }
    return TN_OK;
}

FILTER(filter_select) {
    return choose(state, self, args, true, false, out);
}

FILTER(filter_reject) {
    return choose(state, self, args, false, false, out);
}

FILTER(filter_selectattr) {
    return choose(state, self, args, true, true, out);
}

FILTER(filter_rejectattr) {
    return choose(state, self, args, false, true, out);
}

/* ---- others ---- */

FILTER(filter_join) {
    static const jinja_string empty = {"", 0};
    const jinja_string *separator = &empty;
    const jinja_list *items;
    if (args->items[0].type != JINJA_ABSENT)
        TN_TRY(tn_jinja_to_string(state, args->items[0], &separator));
    TN_TRY(tn_jinja_iterate(state, self, &items));
    if (args->items[1].type != JINJA_ABSENT && args->items[1].type != JINJA_NONE) {
        jinja_list *mapped;
        TN_TRY(tn_jinja_list_new(state, items->count, &mapped));
        for (size_t i = 0; i < items->count; i++) {
            jinja_value item;
            TN_TRY(follow_path(state, args->items[1], items->items[i], &item));
            TN_TRY(tn_jinja_list_push(state, mapped, item));
        }
        items = mapped;
    }
    return tn_jinja_join(state, separator, items, false, out);
}

FILTER(filter_first) {
    (void)args;
    const jinja_list *items;
    if (self.type == JINJA_ITERATOR) {
        jinja_list *list = self.as.list;
        if (list->cursor == list->count)
            return tn_jinja_undefined_hint(state, "No first item, sequence was empty.", out);
        *out = list->items[list->cursor++];
        return TN_OK;
    }
    TN_TRY(tn_jinja_iterate(state, self, &items));
    if (!items->count)
        return tn_jinja_undefined_hint(state, "No first item, sequence was empty.", out);
    *out = items->items[0];
    return TN_OK;
}

FILTER(filter_last) {
    (void)args;
    const jinja_list *items;
    if (self.type == JINJA_ITERATOR)
        return tn_fail(TN_ERROR_ARGUMENT, "last(): 'generator' object is not reversible");
    TN_TRY(tn_jinja_iterate(state, self, &items));
    if (!items->count)
        return tn_jinja_undefined_hint(state, "No last item, sequence was empty.", out);
    *out = items->items[items->count - 1];
    return TN_OK;
}

static tn_status copy_list(jinja_state *state, jinja_value self, jinja_list **out) {
    const jinja_list *items;
    TN_TRY(tn_jinja_iterate(state, self, &items));
    TN_TRY(tn_jinja_list_new(state, items->count, out));
    for (size_t i = 0; i < items->count; i++)
        TN_TRY(tn_jinja_list_push(state, *out, items->items[i]));
    return TN_OK;
}

FILTER(filter_list) {
    (void)args;
    jinja_list *list;
    TN_TRY(copy_list(state, self, &list));
    *out = JINJA_VALUE(JINJA_LIST, list, list);
    return TN_OK;
}

FILTER(filter_reverse) {
    (void)args;
    static const jinja_string empty = {"", 0};
    jinja_list *list;
    TN_TRY(copy_list(state, self, &list));
    for (size_t i = 0; i < list->count / 2; i++) {
        jinja_value swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
    if (self.type == JINJA_STRING)
        return tn_jinja_join(state, &empty, list, true, out);
    *out = self.type == JINJA_ITERATOR ? JINJA_VALUE(JINJA_LIST, list, list) : as_iterator(list);
    return TN_OK;
}

FILTER(filter_items) {
    static const jinja_string name = {"items", 5};
    (void)args;
    jinja_list *none;
    if (self.type == JINJA_UNDEFINED) {
        TN_TRY(tn_jinja_list_new(state, 0, &none));
        *out = as_iterator(none);
        return TN_OK;
    }
    if (self.type != JINJA_DICT)
        return tn_fail(TN_ERROR_ARGUMENT, "Can only get item pairs from a mapping.");
    TN_TRY(tn_jinja_builtin_call(state, tn_jinja_find_method(JINJA_DICT, &name), self, &(jinja_args){0}, out));
    *out = as_iterator(out->as.list);
    return TN_OK;
}

FILTER(filter_sum) {
    const jinja_list *items;
    TN_TRY(tn_jinja_iterate(state, self, &items));
    *out = args->items[1].type == JINJA_ABSENT ? tn_jinja_int(0) : args->items[1];
    if (out->type == JINJA_STRING)
        return tn_fail(TN_ERROR_ARGUMENT, "sum() can't sum strings, use join instead");
    for (size_t i = 0; i < items->count; i++) {
        jinja_value item;
        TN_TRY(follow_path(state, args->items[0], items->items[i], &item));
        TN_TRY(tn_jinja_binary(state, TOKEN_ADD, *out, item, out));
    }
    return TN_OK;
}

FILTER(filter_batch) {
    const jinja_list *items;
    jinja_list *batches, *batch = NULL;
    int64_t size;
    TN_TRY(tn_jinja_arg_int(args->items[0], "batch()", 0, &size));
    if (size < 1)
        return tn_fail(TN_ERROR_ARGUMENT, "batch(): linecount must be at least 1");
    TN_TRY(tn_jinja_iterate(state, self, &items));
    TN_TRY(tn_jinja_list_new(state, 0, &batches));
    for (size_t i = 0; i < items->count; i++) {
        if (!batch || (int64_t)batch->count == size) {
            TN_TRY(tn_jinja_list_new(state, 0, &batch));
            TN_TRY(tn_jinja_list_push(state, batches, JINJA_VALUE(JINJA_LIST, list, batch)));
        }
        TN_TRY(tn_jinja_list_push(state, batch, items->items[i]));
    }
    bool fill = args->items[1].type != JINJA_ABSENT && args->items[1].type != JINJA_NONE;
    while (fill && batch && (int64_t)batch->count < size)
        TN_TRY(tn_jinja_list_push(state, batch, args->items[1]));
    *out = as_iterator(batches);
    return TN_OK;
}

FILTER(filter_slice) {
    const jinja_list *items;
    jinja_list *slices, *slice;
    int64_t count;
    size_t at = 0;
    TN_TRY(tn_jinja_arg_int(args->items[0], "slice()", 0, &count));
    if (count < 1)
        return tn_fail(TN_ERROR_ARGUMENT, "slice(): slices must be at least 1");
    TN_TRY(tn_jinja_iterate(state, self, &items));
    TN_TRY(tn_jinja_list_new(state, 0, &slices));
    bool fill = args->items[1].type != JINJA_ABSENT && args->items[1].type != JINJA_NONE;
    size_t size = items->count / (size_t)count, longer = items->count % (size_t)count;
    for (size_t i = 0; i < (size_t)count; i++) {
        TN_TRY(tn_jinja_list_new(state, 0, &slice));
        for (size_t n = size + (i < longer); n; n--)
            TN_TRY(tn_jinja_list_push(state, slice, items->items[at++]));
        if (fill && i >= longer)
            TN_TRY(tn_jinja_list_push(state, slice, args->items[1]));
        TN_TRY(tn_jinja_list_push(state, slices, JINJA_VALUE(JINJA_LIST, list, slice)));
    }
    *out = as_iterator(slices);
    return TN_OK;
}

const jinja_builtin tn_jinja_sequence_filters[] = {
    {"batch", filter_batch, "linecount fill_with?"},
    {"dictsort", filter_dictsort, "case_sensitive? by? reverse?"},
    {"first", filter_first, ""},
    {"groupby", filter_groupby, "attribute default? case_sensitive?"},
    {"items", filter_items, ""},
    {"join", filter_join, "d? attribute?"},
    {"last", filter_last, ""},
    {"list", filter_list, ""},
    {"map", filter_map, NULL},
    {"max", filter_max, "case_sensitive? attribute?"},
    {"min", filter_min, "case_sensitive? attribute?"},
    {"reject", filter_reject, NULL},
    {"rejectattr", filter_rejectattr, NULL},
    {"reverse", filter_reverse, ""},
    {"select", filter_select, NULL},
    {"selectattr", filter_selectattr, NULL},
    {"slice", filter_slice, "slices fill_with?"},
    {"sort", filter_sort, "reverse? case_sensitive? attribute?"},
    {"sum", filter_sum, "attribute? start?"},
    {"unique", filter_unique, "case_sensitive? attribute?"},
    {0},
};
