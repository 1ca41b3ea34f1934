/* Values: memory and work limits, strings, lists, dicts, undefined values, and what JSON becomes. */
#include <math.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja.h"

void *tn_jinja_alloc(jinja_state *state, size_t count, size_t size) {
    if (count > JINJA_MAX_MEMORY / size || count * size > JINJA_MAX_MEMORY - state->memory) {
        state->failure = tn_fail(TN_ERROR_ARGUMENT, "rendering needs more than %d MB", JINJA_MAX_MEMORY >> 20);
        return NULL;
    }
    void *memory = tn_arena_alloc(&state->arena, count * size);
    if (!memory)
        state->failure = tn_fail_memory("a chat rendering");
    else
        state->memory += count * size;
    return memory;
}

tn_status tn_jinja_step(jinja_state *state, size_t steps) {
    if (steps > JINJA_MAX_STEPS - state->steps)
        return tn_fail(TN_ERROR_ARGUMENT, "rendering takes more than %d million steps", JINJA_MAX_STEPS / 1000000);
    state->steps += steps;
    return TN_OK;
}

tn_status tn_jinja_enter(jinja_state *state) {
    if (state->depth >= JINJA_MAX_DEPTH)
        return tn_fail(TN_ERROR_ARGUMENT, "evaluation is nested too deeply");
    state->depth++;
    return TN_OK;
}

/* ---- strings ---- */

tn_status tn_jinja_string_refer(jinja_state *state, const char *data, size_t length, jinja_value *out) {
    jinja_string *string = tn_jinja_alloc(state, 1, sizeof *string);
    if (!string)
        return state->failure;
    *string = (jinja_string){data, length};
    *out = JINJA_VALUE(JINJA_STRING, string, string);
    return TN_OK;
}

tn_status tn_jinja_string_copy(jinja_state *state, const char *data, size_t length, jinja_value *out) {
    if (length > JINJA_MAX_TEXT)
        return tn_fail(TN_ERROR_ARGUMENT, "a text is longer than %d MB", JINJA_MAX_TEXT >> 20);
    TN_TRY(tn_jinja_step(state, length / 64));
    char *copy = tn_jinja_alloc(state, length + 1, 1);
    if (!copy)
        return state->failure;
    if (length)
        memcpy(copy, data, length);
    return tn_jinja_string_refer(state, copy, length, out);
}

tn_status tn_jinja_string_take(jinja_state *state, tn_status status, tn_buf *buf, jinja_value *out) {
    if (status == TN_OK)
        status = tn_buf_status(buf);
    if (status == TN_OK)
        status = tn_jinja_string_copy(state, buf->data, buf->length, out);
    tn_buf_free(buf);
    return status;
}

tn_status tn_jinja_append(jinja_state *state, tn_buf *buf, const char *data, size_t length) {
    if (length > JINJA_MAX_TEXT || buf->length > JINJA_MAX_TEXT - length)
        return tn_fail(TN_ERROR_ARGUMENT, "a text is longer than %d MB", JINJA_MAX_TEXT >> 20);
    TN_TRY(tn_jinja_step(state, 1 + length / 64));
    tn_buf_append(buf, data, length);
    return tn_buf_status(buf);
}

bool tn_jinja_string_is(const jinja_string *string, const char *text) {
    return string->length == strlen(text) && memcmp(string->data, text, string->length) == 0;
}

size_t tn_jinja_string_next(const jinja_string *string, size_t at) {
    uint32_t code;
    size_t size = tn_utf8_decode(string->data + at, string->length - at, &code);
    return size ? size : 1;
}

size_t tn_jinja_string_count(const jinja_string *string) {
    size_t count = 0;
    for (size_t at = 0; at < string->length; count++)
        at += tn_jinja_string_next(string, at);
    return count;
}

size_t tn_jinja_string_offset(const jinja_string *string, size_t index) {
    size_t at = 0;
    while (index-- && at < string->length)
        at += tn_jinja_string_next(string, at);
    return at;
}

/* ---- lists ---- */

tn_status tn_jinja_list_new(jinja_state *state, size_t capacity, jinja_list **out) {
    jinja_list *list = tn_jinja_alloc(state, 1, sizeof *list);
    if (!list)
        return state->failure;
    if (capacity && !(list->items = tn_jinja_alloc(state, capacity, sizeof *list->items)))
        return state->failure;
    list->capacity = capacity;
    *out = list;
    return TN_OK;
}

tn_status tn_jinja_list_push(jinja_state *state, jinja_list *list, jinja_value item) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 8;
        jinja_value *items = tn_jinja_alloc(state, capacity, sizeof *items);
        if (!items)
            return state->failure;
        if (list->count)
            memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
    return tn_jinja_step(state, 1);
}

tn_status tn_jinja_pair_new(jinja_state *state, jinja_value first, jinja_value second, jinja_value *out) {
    jinja_list *pair = NULL;
    TN_TRY(tn_jinja_list_new(state, 2, &pair));
    pair->items[0] = first;
    pair->items[1] = second;
    pair->count = 2;
    *out = JINJA_VALUE(JINJA_TUPLE, list, pair);
    return TN_OK;
}

/* ---- dicts ---- */

enum { INDEX_FROM = 12 }; /* pairs below which a linear search is as fast */

/* Equal keys have equal hashes: 1, 1.0 and True are one key, as in Python. */
static tn_status hash_value(jinja_state *state, jinja_value value, uint64_t *hash) {
    switch (value.type) {
    case JINJA_STRING:
        *hash = tn_hash(TN_HASH_START, value.as.string->data, value.as.string->length);
        return tn_jinja_step(state, value.as.string->length / 64);
    case JINJA_NONE:
    case JINJA_UNDEFINED: *hash = value.type; return TN_OK;
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_FLOAT: {
        double number = tn_jinja_as_double(value);
        *hash = tn_hash(TN_HASH_START, &(double){number == 0 ? 0 : number}, sizeof number);
        return TN_OK;
    }
    case JINJA_TUPLE:
        TN_TRY(tn_jinja_enter(state));
        *hash = TN_HASH_START;
        for (size_t i = 0; i < value.as.list->count; i++) {
            uint64_t item;
            TN_TRY(tn_jinja_step(state, 1));
            TN_TRY(hash_value(state, value.as.list->items[i], &item));
            *hash = tn_hash(*hash, &item, sizeof item);
        }
        state->depth--;
        return TN_OK;
    case JINJA_LIST:
    case JINJA_DICT: return tn_fail(TN_ERROR_ARGUMENT, "unhashable type: '%s'", tn_jinja_type_name(value.type));
    default: *hash = tn_hash(TN_HASH_START, &value.as, sizeof value.as); return TN_OK;
    }
}

tn_status tn_jinja_dict_new(jinja_state *state, size_t capacity, jinja_dict **out) {
    jinja_dict *dict = tn_jinja_alloc(state, 1, sizeof *dict);
    if (!dict)
        return state->failure;
    if (capacity && !(dict->pairs = tn_jinja_alloc(state, capacity, sizeof *dict->pairs)))
        return state->failure;
    dict->capacity = capacity;
    *out = dict;
    return TN_OK;
}

/* The number of the pair with this key, or SIZE_MAX. */
static tn_status find_pair(jinja_state *state, const jinja_dict *dict, jinja_value key, uint64_t hash, size_t *found) {
    size_t at = dict->index ? hash & (dict->index_size - 1) : 0;
    for (*found = SIZE_MAX;; at = dict->index ? (at + 1) & (dict->index_size - 1) : at + 1) {
        if (dict->index ? !dict->index[at] : at >= dict->count)
            return TN_OK;
        size_t number = dict->index ? dict->index[at] - 1 : at;
        bool equal;
        TN_TRY(tn_jinja_equals(state, dict->pairs[number].key, key, &equal));
        if (equal) {
            *found = number;
            return TN_OK;
        }
    }
}

static void index_pair(jinja_dict *dict, size_t number, uint64_t hash) {
    size_t at = hash & (dict->index_size - 1);
    while (dict->index[at])
        at = (at + 1) & (dict->index_size - 1);
    dict->index[at] = (uint32_t)(number + 1);
}

/* Room for one more pair; the index stays at most half full. */
static tn_status grow_dict(jinja_state *state, jinja_dict *dict) {
    if (dict->count == dict->capacity) {
        size_t capacity = dict->capacity ? dict->capacity * 2 : 4;
        jinja_pair *pairs = tn_jinja_alloc(state, capacity, sizeof *pairs);
        if (!pairs)
            return state->failure;
        if (dict->count)
            memcpy(pairs, dict->pairs, dict->count * sizeof *pairs);
        dict->pairs = pairs;
        dict->capacity = capacity;
    }
    if (dict->count + 1 < INDEX_FROM || (dict->count + 1) * 2 <= dict->index_size)
        return TN_OK;
    size_t size = dict->index_size ? dict->index_size * 2 : 64;
    uint32_t *index = tn_jinja_alloc(state, size, sizeof *index);
    if (!index)
        return state->failure;
    dict->index = index;
    dict->index_size = size;
    for (size_t i = 0; i < dict->count; i++) {
        uint64_t hash = 0;
        TN_TRY(hash_value(state, dict->pairs[i].key, &hash));
        index_pair(dict, i, hash);
    }
    return TN_OK;
}

tn_status tn_jinja_dict_put(jinja_state *state, jinja_dict *dict, jinja_value key, jinja_value value) {
    uint64_t hash;
    size_t found;
    TN_TRY(tn_jinja_step(state, 1));
    TN_TRY(hash_value(state, key, &hash));
    TN_TRY(find_pair(state, dict, key, hash, &found));
    if (found != SIZE_MAX) {
        dict->pairs[found].value = value;
        return TN_OK;
    }
    TN_TRY(grow_dict(state, dict));
    dict->pairs[dict->count] = (jinja_pair){key, value};
    if (dict->index)
        index_pair(dict, dict->count, hash);
    dict->count++;
    return TN_OK;
}

tn_status tn_jinja_dict_get(jinja_state *state, const jinja_dict *dict, jinja_value key, const jinja_value **out) {
    uint64_t hash = 0;
    size_t found;
    TN_TRY(hash_value(state, key, &hash));
    TN_TRY(find_pair(state, dict, key, hash, &found));
    *out = found == SIZE_MAX ? NULL : &dict->pairs[found].value;
    return TN_OK;
}

/* ---- undefined ---- */

static tn_status make_missing(jinja_state *state, jinja_missing content, jinja_value *out) {
    jinja_missing *missing = tn_jinja_alloc(state, 1, sizeof *missing);
    if (!missing)
        return state->failure;
    *missing = content;
    *out = JINJA_VALUE(JINJA_UNDEFINED, missing, missing);
    return TN_OK;
}

tn_status tn_jinja_undefined(jinja_state *state, const jinja_string *name, jinja_type owner, jinja_value *out) {
    return make_missing(state, (jinja_missing){.name = name, .owner = owner}, out);
}

tn_status tn_jinja_undefined_hint(jinja_state *state, const char *hint, jinja_value *out) {
    return make_missing(state, (jinja_missing){.hint = hint}, out);
}

tn_status tn_jinja_fail_undefined(jinja_value value) {
    const jinja_missing *missing = value.as.missing;
    if (!missing || (!missing->name && !missing->hint))
        return tn_fail(TN_ERROR_ARGUMENT, "a value is undefined");
    if (missing->hint)
        return tn_fail(TN_ERROR_ARGUMENT, "%s", missing->hint);
    int length = missing->name->length < 200 ? (int)missing->name->length : 200;
    if (missing->owner == JINJA_ABSENT)
        return tn_fail(TN_ERROR_ARGUMENT, "'%.*s' is undefined", length, missing->name->data);
    return tn_fail(TN_ERROR_ARGUMENT, "'%s object' has no attribute '%.*s'", tn_jinja_type_name(missing->owner), length,
                   missing->name->data);
}

/* ---- JSON ---- */

/* cJSON keeps numbers as doubles, so 1 and 1.0 are the same: whole numbers within 2^53 become integers. */
static jinja_value from_number(double number) {
    if (fabs(number) <= 9007199254740992.0 && number == floor(number))
        return tn_jinja_int((int64_t)number);
    return tn_jinja_float(number);
}

static tn_status from_children(jinja_state *state, const cJSON *json, jinja_value *out) {
    jinja_value item, key;
    const cJSON *child;
    jinja_list *list = NULL;
    jinja_dict *dict = NULL;
    if (cJSON_IsArray(json)) {
        TN_TRY(tn_jinja_list_new(state, 0, &list));
        cJSON_ArrayForEach(child, json) {
            TN_TRY(tn_jinja_from_json(state, child, &item));
            TN_TRY(tn_jinja_list_push(state, list, item));
        }
        *out = JINJA_VALUE(JINJA_LIST, list, list);
        return TN_OK;
    }
    TN_TRY(tn_jinja_dict_new(state, 0, &dict));
    cJSON_ArrayForEach(child, json) {
        const char *name = child->string ? child->string : "";
        TN_TRY(tn_jinja_string_refer(state, name, strlen(name), &key));
        TN_TRY(tn_jinja_from_json(state, child, &item));
        TN_TRY(tn_jinja_dict_put(state, dict, key, item));
    }
    *out = JINJA_VALUE(JINJA_DICT, dict, dict);
    return TN_OK;
}

tn_status tn_jinja_from_json(jinja_state *state, const cJSON *json, jinja_value *out) {
    if (cJSON_IsString(json))
        return tn_jinja_string_refer(state, json->valuestring, strlen(json->valuestring), out);
    if (cJSON_IsNumber(json))
        *out = from_number(json->valuedouble);
    else if (cJSON_IsBool(json))
        *out = tn_jinja_bool(cJSON_IsTrue(json));
    else if (cJSON_IsArray(json) || cJSON_IsObject(json)) {
        if (state->depth >= JINJA_MAX_NESTING)
            return tn_fail(TN_ERROR_ARGUMENT, "JSON is nested deeper than %d levels", JINJA_MAX_NESTING);
        state->depth++;
        TN_TRY(from_children(state, json, out));
        state->depth--;
    } else
        *out = JINJA_NONE_VALUE;
    return TN_OK;
}
