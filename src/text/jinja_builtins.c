/* How builtins are found and their arguments bound; the global functions; methods of lists, dicts and loops. */
#include <stdio.h>
#include <string.h>

#include "text/jinja.h"

/* ---- finding ---- */

static const jinja_builtin *find(const jinja_builtin *table, const char *name, size_t length) {
    for (; table->name; table++)
        if (strlen(table->name) == length && memcmp(table->name, name, length) == 0)
            return table;
    return NULL;
}

const jinja_builtin *tn_jinja_find_filter(const char *name, size_t length) {
    const jinja_builtin *found = find(tn_jinja_filters, name, length);
    return found ? found : find(tn_jinja_sequence_filters, name, length);
}

const jinja_builtin *tn_jinja_find_test(const char *name, size_t length) {
    return find(tn_jinja_tests, name, length);
}

/* ---- arguments ---- */

tn_status tn_jinja_arg_int(jinja_value arg, const char *what, int64_t standard, int64_t *out) {
    if (arg.type == JINJA_ABSENT || arg.type == JINJA_NONE)
        *out = standard;
    else if (tn_jinja_is_int(arg))
        *out = tn_jinja_as_int(arg);
    else if (arg.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(arg);
    else
        return tn_fail(TN_ERROR_ARGUMENT, "%s: '%s' object cannot be interpreted as an integer", what,
                       tn_jinja_type_name(arg.type));
    return TN_OK;
}

tn_status tn_jinja_arg_string(jinja_value arg, const char *what, const jinja_string **out) {
    if (arg.type != JINJA_STRING)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: argument must be str, not %s", what, tn_jinja_type_name(arg.type));
    *out = arg.as.string;
    return TN_OK;
}

/* Puts a keyword argument into the slot of its parameter. */
static tn_status bind_keyword(const jinja_builtin *builtin, const jinja_pair *keyword, jinja_value *slots) {
    const jinja_string *name = keyword->key.as.string;
    const char *at = builtin->parameters;
    for (size_t i = 0; *at; i++) {
        size_t length = strcspn(at, " ?");
        if (length == name->length && memcmp(at, name->data, length) == 0) {
            if (slots[i].type != JINJA_ABSENT)
                return tn_fail(TN_ERROR_ARGUMENT, "%s() got two values for the argument '%.*s'", builtin->name, (int)length,
                               at);
            slots[i] = keyword->value;
            return TN_OK;
        }
        at += length;
        at += strspn(at, " ?");
    }
    return tn_fail(TN_ERROR_ARGUMENT, "%s() got an unexpected keyword argument '%.*s'", builtin->name, tn_jinja_shown(name),
                   name->data);
}

tn_status tn_jinja_builtin_call(jinja_state *state, const jinja_builtin *builtin, jinja_value self, const jinja_args *args,
                                jinja_value *out) {
    TN_TRY(tn_jinja_step(state, 1));
    if (!builtin->parameters)
        return builtin->call(state, self, args, out);
    jinja_value slots[JINJA_MAX_PARAMETERS] = {0};
    size_t count = 0, required = 0;
    for (const char *at = builtin->parameters; *at; count++) {
        at += strcspn(at, " ?");
        required += *at != '?';
        at += strspn(at, " ?");
    }
    if (args->count > count)
        return tn_fail(TN_ERROR_ARGUMENT, "%s() takes at most %zu argument%s (%zu given)", builtin->name, count,
                       count == 1 ? "" : "s", args->count);
    for (size_t i = 0; i < args->count; i++)
        slots[i] = args->items[i];
    for (size_t i = 0; i < args->keyword_count; i++)
        TN_TRY(bind_keyword(builtin, &args->keywords[i], slots));
    for (size_t i = 0; i < required; i++)
        if (slots[i].type == JINJA_ABSENT)
            return tn_fail(TN_ERROR_ARGUMENT, "%s() misses an argument: it takes (%s)", builtin->name, builtin->parameters);
    return builtin->call(state, self, &(jinja_args){.items = slots, .count = count}, out);
}

/* ---- global functions ---- */

/* start, start + step, ... before stop. */
static tn_status make_range(jinja_state *state, int64_t start, int64_t stop, int64_t step, jinja_value *out) {
    jinja_list *list;
    uint64_t distance = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step;
    uint64_t count = (step > 0 ? start < stop : start > stop) ? (distance - 1) / stride + 1 : 0;
    if (count > JINJA_MAX_RANGE)
        return tn_fail(TN_ERROR_ARGUMENT, "Range too big. The sandbox blocks ranges larger than %d.", JINJA_MAX_RANGE);
    char label[96];
    int length = step == 1 ? snprintf(label, sizeof label, "range(%lld, %lld)", (long long)start, (long long)stop)
                           : snprintf(label, sizeof label, "range(%lld, %lld, %lld)", (long long)start, (long long)stop,
                                      (long long)step);
    TN_TRY(tn_jinja_list_new(state, (size_t)count, &list));
    char *text = tn_jinja_alloc(state, (size_t)length + 1, 1);
    if (!text)
        return state->failure;
    memcpy(text, label, (size_t)length);
    list->label = text;
    for (uint64_t i = 0; i < count; i++)
        TN_TRY(tn_jinja_list_push(state, list, tn_jinja_int((int64_t)((uint64_t)start + i * (uint64_t)step))));
    *out = JINJA_VALUE(JINJA_RANGE, list, list);
    return TN_OK;
}

static tn_status global_range(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    (void)self;
    int64_t bounds[3] = {0, 0, 1};
    for (size_t i = 0; i < 3; i++) {
        if (i && args->items[i].type == JINJA_ABSENT)
            continue;
        if (!tn_jinja_is_int(args->items[i]))
            return tn_fail(TN_ERROR_ARGUMENT, "'%s' object cannot be interpreted as an integer",
                           tn_jinja_type_name(args->items[i].type));
        bounds[i] = tn_jinja_as_int(args->items[i]);
    }
    if (!bounds[2])
        return tn_fail(TN_ERROR_ARGUMENT, "range() arg 3 must not be zero");
    if (args->items[1].type == JINJA_ABSENT)
        return make_range(state, 0, bounds[0], 1, out);
    return make_range(state, bounds[0], bounds[1], bounds[2], out);
}

/* dict(mapping or pairs, key=value, ...), also what namespace() begins with. */
static tn_status make_dict(jinja_state *state, const jinja_args *args, jinja_dict **out) {
    TN_TRY(tn_jinja_dict_new(state, args->keyword_count, out));
    if (args->count > 1)
        return tn_fail(TN_ERROR_ARGUMENT, "dict expected at most 1 argument, got %zu", args->count);
    if (args->count && args->items[0].type == JINJA_DICT) {
        const jinja_dict *from = args->items[0].as.dict;
        for (size_t i = 0; i < from->count; i++)
            TN_TRY(tn_jinja_dict_put(state, *out, from->pairs[i].key, from->pairs[i].value));
    } else if (args->count) {
        const jinja_list *pairs, *pair;
        TN_TRY(tn_jinja_iterate(state, args->items[0], &pairs));
        for (size_t i = 0; i < pairs->count; i++) {
            TN_TRY(tn_jinja_iterate(state, pairs->items[i], &pair));
            if (pair->count != 2)
                return tn_fail(TN_ERROR_ARGUMENT, "dictionary update sequence element #%zu has length %zu; 2 is required", i,
                               pair->count);
            TN_TRY(tn_jinja_dict_put(state, *out, pair->items[0], pair->items[1]));
        }
    }
    for (size_t i = 0; i < args->keyword_count; i++)
        TN_TRY(tn_jinja_dict_put(state, *out, args->keywords[i].key, args->keywords[i].value));
    return TN_OK;
}

static tn_status global_dict(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    (void)self;
    jinja_dict *dict;
    TN_TRY(make_dict(state, args, &dict));
    *out = JINJA_VALUE(JINJA_DICT, dict, dict);
    return TN_OK;
}

static tn_status global_namespace(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    TN_TRY(global_dict(state, self, args, out));
    out->type = JINJA_NAMESPACE;
    return TN_OK;
}

static tn_status global_raise(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    (void)self;
    (void)out;
    const jinja_string *message;
    TN_TRY(tn_jinja_to_string(state, args->items[0], &message));
    return tn_fail(TN_ERROR_ARGUMENT, "%.*s", (int)(message->length < 1000 ? message->length : 1000), message->data);
}

static tn_status global_strftime_now(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    (void)self;
    const jinja_string *format = NULL;
    TN_TRY(tn_jinja_arg_string(args->items[0], "strftime_now()", &format));
    return tn_jinja_strftime(state, format, out);
}

const jinja_builtin tn_jinja_globals[] = {
    {"range", global_range, "start stop? step?"},    {"dict", global_dict, NULL},
    {"namespace", global_namespace, NULL},           {"raise_exception", global_raise, "message"},
    {"strftime_now", global_strftime_now, "format"}, {0},
};

/* ---- methods of lists, tuples and ranges ---- */

static tn_status list_index(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    const jinja_list *list = self.as.list;
    for (size_t i = 0; i < list->count; i++) {
        bool equal;
        TN_TRY(tn_jinja_equals(state, list->items[i], args->items[0], &equal));
        if (equal) {
            *out = tn_jinja_int((int64_t)i);
            return TN_OK;
        }
    }
    return tn_fail(TN_ERROR_ARGUMENT, "index(): the value is not in the %s", tn_jinja_type_name(self.type));
}

static tn_status list_count(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    const jinja_list *list = self.as.list;
    int64_t count = 0;
    for (size_t i = 0; i < list->count; i++) {
        bool equal;
        TN_TRY(tn_jinja_equals(state, list->items[i], args->items[0], &equal));
        count += equal;
    }
    *out = tn_jinja_int(count);
    return TN_OK;
}

/* Values never change, so that a copy is the value. */
static tn_status copy(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    (void)state;
    (void)args;
    *out = self;
    return TN_OK;
}

static const jinja_builtin list_methods[] = {
    {"index", list_index, "value"}, {"count", list_count, "value"}, {"copy", copy, ""}, {0}};

/* ---- methods of dicts ---- */

static tn_status dict_get(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    const jinja_value *found;
    TN_TRY(tn_jinja_dict_get(state, self.as.dict, args->items[0], &found));
    *out = found ? *found : args->items[1].type == JINJA_ABSENT ? JINJA_NONE_VALUE : args->items[1];
    return TN_OK;
}

typedef enum dict_part { KEYS, VALUES, ITEMS } dict_part;

static tn_status make_view(jinja_state *state, const jinja_dict *dict, dict_part part, jinja_value *out) {
    static const char *const labels[] = {"dict_keys", "dict_values", "dict_items"};
    jinja_list *list;
    TN_TRY(tn_jinja_list_new(state, dict->count, &list));
    list->label = labels[part];
    for (size_t i = 0; i < dict->count; i++) {
        jinja_value item = part == KEYS ? dict->pairs[i].key : dict->pairs[i].value;
        if (part == ITEMS)
            TN_TRY(tn_jinja_pair_new(state, dict->pairs[i].key, dict->pairs[i].value, &item));
        TN_TRY(tn_jinja_list_push(state, list, item));
    }
    *out = JINJA_VALUE(JINJA_VIEW, list, list);
    return TN_OK;
}

static tn_status dict_keys(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    (void)args;
    return make_view(state, self.as.dict, KEYS, out);
}

static tn_status dict_values(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    (void)args;
    return make_view(state, self.as.dict, VALUES, out);
}

static tn_status dict_items(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    (void)args;
    return make_view(state, self.as.dict, ITEMS, out);
}

static const jinja_builtin dict_methods[] = {
    {"get", dict_get, "key default?"}, {"keys", dict_keys, ""}, {"values", dict_values, ""},
    {"items", dict_items, ""},         {"copy", copy, ""},      {0},
};

/* ---- methods of loop ---- */

static tn_status loop_cycle(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    (void)state;
    if (!args->count)
        return tn_fail(TN_ERROR_ARGUMENT, "no items for cycling given");
    *out = args->items[self.as.loop->index0 % args->count];
    return TN_OK;
}

static tn_status loop_changed(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    jinja_list *values;
    bool equal = false;
    TN_TRY(tn_jinja_list_new(state, args->count, &values));
    for (size_t i = 0; i < args->count; i++)
        TN_TRY(tn_jinja_list_push(state, values, args->items[i]));
    jinja_value now = JINJA_VALUE(JINJA_TUPLE, list, values);
    if (self.as.loop->changed.type != JINJA_ABSENT)
        TN_TRY(tn_jinja_equals(state, self.as.loop->changed, now, &equal));
    self.as.loop->changed = now;
    *out = tn_jinja_bool(!equal);
    return TN_OK;
}

static const jinja_builtin loop_methods[] = {{"cycle", loop_cycle, NULL}, {"changed", loop_changed, NULL}, {0}};

const jinja_builtin *tn_jinja_find_method(jinja_type type, const jinja_string *name) {
    switch (type) {
    case JINJA_STRING: return find(tn_jinja_str_methods, name->data, name->length);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE: return find(list_methods, name->data, name->length);
    case JINJA_DICT: return find(dict_methods, name->data, name->length);
    case JINJA_LOOP: return find(loop_methods, name->data, name->length);
    default: return NULL;
    }
}
