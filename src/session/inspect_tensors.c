/* The tensors of safetensors files: sizes by type, values, and a list in which repeated layers are one line. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "session/inspect_parts.h"
#include "tensor/quant.h"

typedef struct {
    int64_t count, nan, inf;
    double low, high, squares; /* of the finite ones */
} value_stats;

/* Tensors whose names differ in their first whole number only, of one type and shape. */
typedef struct {
    const tn_safetensors_entry *entry; /* the first one */
    size_t head, tail;                 /* bytes of its name before and behind the number */
    int64_t count, first, last;        /* the run of numbers that is open */
    tn_buf ranges;                     /* the runs before it: "0..3,5," */
    value_stats values;
} group;

typedef struct {
    const tn_safetensors_entry **entries; /* sorted by name, numbers by value */
    size_t count;
    group *groups;
    size_t group_count;
    tn_map by_pattern;
    value_stats values;
    const char *bad; /* first tensor with a value that is not finite */
} listing;

static double value_at(const tn_tensor *t, int64_t i) {
    switch (t->dtype) {
    case TN_DTYPE_F32: return (double)((const float *)t->data)[i];
    case TN_DTYPE_F16: return (double)tn_f16_to_f32(((const uint16_t *)t->data)[i]);
    case TN_DTYPE_BF16: return (double)tn_bf16_to_f32(((const uint16_t *)t->data)[i]);
    case TN_DTYPE_F64: return ((const double *)t->data)[i];
    case TN_DTYPE_I64: return (double)((const int64_t *)t->data)[i];
    case TN_DTYPE_I32: return (double)((const int32_t *)t->data)[i];
    case TN_DTYPE_I16: return (double)((const int16_t *)t->data)[i];
    case TN_DTYPE_I8: return (double)((const int8_t *)t->data)[i];
    default: return (double)((const uint8_t *)t->data)[i];
    }
}

static void count_value(value_stats *s, double value) {
    s->count++;
    if (isnan(value)) {
        s->nan++;
    } else if (isinf(value)) {
        s->inf++;
    } else {
        bool is_first = s->count - s->nan - s->inf == 1;
        s->low = is_first || value < s->low ? value : s->low;
        s->high = is_first || value > s->high ? value : s->high;
        s->squares += value * value;
    }
}

static void measure(value_stats *s, const tn_tensor *t) {
    enum { PIECE = 1024 };
    float values[PIECE];
    int64_t count = tn_tensor_count(t);
    if (t->dtype != TN_DTYPE_QUANTISED) {
        for (int64_t i = 0; i < count; i++)
            count_value(s, value_at(t, i));
        return;
    }
    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t n = count - at < PIECE ? count - at : PIECE;
        tn_tensor_read(values, t, at, n);
        for (int64_t i = 0; i < n; i++)
            count_value(s, (double)values[i]);
    }
}

static void join(value_stats *all, const value_stats *s) {
    int64_t had = all->count - all->nan - all->inf, has = s->count - s->nan - s->inf;
    if (has) {
        all->low = had ? fmin(all->low, s->low) : s->low;
        all->high = had ? fmax(all->high, s->high) : s->high;
    }
    all->count += s->count;
    all->nan += s->nan;
    all->inf += s->inf;
    all->squares += s->squares;
}

static void add_values(cJSON *out, const value_stats *s) {
    int64_t finite = s->count - s->nan - s->inf;
    cJSON_AddNumberToObject(out, "nan", (double)s->nan);
    cJSON_AddNumberToObject(out, "inf", (double)s->inf);
    if (!finite)
        return;
    cJSON_AddNumberToObject(out, "min", s->low);
    cJSON_AddNumberToObject(out, "max", s->high);
    cJSON_AddNumberToObject(out, "rms", sqrt(s->squares / (double)finite));
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* As strcmp, but "layers.2" before "layers.10". */
static int compare_names(const char *a, const char *b) {
    while (*a && *b) {
        if (is_digit(*a) && is_digit(*b)) {
            while (*a == '0' && is_digit(a[1]))
                a++;
            while (*b == '0' && is_digit(b[1]))
                b++;
            size_t m = strspn(a, "0123456789"), n = strspn(b, "0123456789");
            int order = m != n ? (m > n) - (m < n) : strncmp(a, b, m);
            if (order)
                return order;
            a += m;
            b += n;
        } else if (*a != *b) {
            break;
        } else {
            a++;
            b++;
        }
    }
    return (unsigned char)*a - (unsigned char)*b;
}

static int by_name(const void *a, const void *b) {
    const tn_safetensors_entry *const *x = a, *const *y = b;
    int order = compare_names((*x)->name, (*y)->name);
    return order ? order : strcmp((*x)->name, (*y)->name);
}

/* The first component of a dotted name that is a whole number; false when there is none. */
static bool find_number(const char *name, size_t *at, size_t *length, int64_t *number) {
    enum { MOST_DIGITS = 9 };
    const char *part = name;
    while (part) {
        size_t digits = strspn(part, "0123456789");
        if (digits && digits <= MOST_DIGITS && (part[digits] == '.' || part[digits] == 0) && (digits == 1 || *part != '0')) {
            *at = (size_t)(part - name);
            *length = digits;
            *number = strtol(part, NULL, 10);
            return true;
        }
        part = strchr(part, '.');
        part = part ? part + 1 : NULL;
    }
    return false;
}

/* The group that an entry belongs to, made when it is the first of its kind. */
static tn_status find_group(listing *l, const tn_safetensors_entry *entry, bool fold, group **out, int64_t *number) {
    char shape[TN_SHAPE_TEXT];
    size_t at = strlen(entry->name), length = 0;
    tn_buf key = {0};
    int64_t index = (int64_t)l->group_count;
    *number = -1;
    if (fold && find_number(entry->name, &at, &length, number)) {
        tn_buf_printf(&key, "%.*s{}%s %s %s", (int)at, entry->name, entry->name + at + length,
                      tn_tensor_type(&entry->tensor), tn_shape_text(&entry->tensor, shape));
        tn_status status = tn_buf_status(&key);
        if (status == TN_OK && !tn_map_get(&l->by_pattern, key.data, key.length, &index))
            status = tn_map_put(&l->by_pattern, key.data, key.length, index);
        tn_buf_free(&key);
        TN_TRY(status);
    }
    *out = &l->groups[index];
    if (index < (int64_t)l->group_count)
        return TN_OK;
    l->group_count++;
    **out = (group){.entry = entry, .head = at, .tail = at + length, .first = *number, .last = *number};
    return TN_OK;
}

static void close_run(group *g) {
    if (g->first == g->last)
        tn_buf_printf(&g->ranges, "%lld", (long long)g->first);
    else
        tn_buf_printf(&g->ranges, "%lld%s%lld", (long long)g->first, g->last == g->first + 1 ? "," : "..",
                      (long long)g->last);
}

static void add_to_group(group *g, int64_t number) {
    if (g->count++ && number > g->last + 1) {
        close_run(g);
        tn_buf_putc(&g->ranges, ',');
        g->first = number;
    }
    g->last = number;
}

static tn_status sort_into_groups(listing *l, const tn_inspect_options *options) {
    qsort(l->entries, l->count, sizeof *l->entries, by_name);
    for (size_t i = 0; i < l->count; i++) {
        group *g;
        int64_t number;
        value_stats values = {0};
        TN_TRY(find_group(l, l->entries[i], options->fold, &g, &number));
        add_to_group(g, number);
        if (!options->verify)
            continue;
        measure(&values, &l->entries[i]->tensor);
        if (values.nan + values.inf && !l->bad)
            l->bad = l->entries[i]->name;
        join(&g->values, &values);
        join(&l->values, &values);
    }
    return TN_OK;
}

static tn_status add_list(cJSON *out, listing *l, bool with_values) {
    cJSON *list = cJSON_AddArrayToObject(out, "list");
    tn_buf name = {0};
    for (size_t i = 0; i < l->group_count; i++) {
        group *g = &l->groups[i];
        const tn_tensor *t = &g->entry->tensor;
        cJSON *item = cJSON_CreateObject(), *shape;
        cJSON_AddItemToArray(list, item);
        tn_buf_clear(&name);
        if (g->count > 1) {
            close_run(g);
            tn_buf_printf(&name, "%.*s{%s}%s", (int)g->head, g->entry->name, tn_buf_text(&g->ranges),
                          g->entry->name + g->tail);
        } else {
            tn_buf_puts(&name, g->entry->name);
        }
        cJSON_AddStringToObject(item, "name", tn_buf_text(&name));
        shape = cJSON_AddArrayToObject(item, "shape");
        for (int d = 0; d < t->ndim; d++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->shape[d]));
        cJSON_AddStringToObject(item, "dtype", tn_tensor_type(t));
        cJSON_AddNumberToObject(item, "count", (double)g->count);
        if (with_values)
            add_values(item, &g->values);
        name.failed = name.failed || g->ranges.failed;
    }
    tn_status status = tn_buf_status(&name);
    tn_buf_free(&name);
    return status;
}

/* The tensors of one type, told by its name. */
static void add_type(cJSON *out, const listing *l, const char *type) {
    int64_t tensors = 0, elements = 0, bytes = 0;
    for (size_t i = 0; i < l->count; i++) {
        const tn_tensor *t = &l->entries[i]->tensor;
        if (strcmp(tn_tensor_type(t), type) != 0)
            continue;
        tensors++;
        elements += tn_tensor_count(t);
        bytes += tn_tensor_bytes(t);
    }
    if (!tensors)
        return;
    cJSON *one = cJSON_AddObjectToObject(out, type);
    cJSON_AddNumberToObject(one, "tensors", (double)tensors);
    cJSON_AddNumberToObject(one, "parameters", (double)elements);
    cJSON_AddNumberToObject(one, "bytes", (double)bytes);
}

static void add_sizes(cJSON *out, const listing *l) {
    int64_t all = 0, bytes = 0;
    for (size_t i = 0; i < l->count; i++) {
        all += tn_tensor_count(&l->entries[i]->tensor);
        bytes += tn_tensor_bytes(&l->entries[i]->tensor);
    }
    cJSON_AddNumberToObject(out, "tensors", (double)l->count);
    cJSON_AddNumberToObject(out, "parameters", (double)all);
    cJSON_AddNumberToObject(out, "bytes", (double)bytes);
    cJSON *dtypes = cJSON_AddObjectToObject(out, "dtypes");
    for (int d = 0; d < TN_DTYPE_COUNT; d++)
        add_type(dtypes, l, tn_dtype_name((tn_dtype)d));
    for (const tn_quant_codec *const *codec = tn_quant_codecs; *codec; codec++)
        add_type(dtypes, l, (*codec)->name);
}

static void add_verdict(cJSON *out, const listing *l) {
    char problem[600];
    cJSON *values = cJSON_AddObjectToObject(out, "values");
    add_values(values, &l->values);
    if (!cJSON_GetObjectItemCaseSensitive(out, "sound"))
        cJSON_AddTrueToObject(out, "sound");
    if (!l->bad)
        return;
    snprintf(problem, sizeof problem, "%lld values are NaN and %lld infinite; the first tensor that holds one is '%.400s'",
             (long long)l->values.nan, (long long)l->values.inf, l->bad);
    tn_inspect_add_problem(out, problem);
}

tn_status tn_inspect_tensors(cJSON *out, const tn_safetensors *files, size_t count, const tn_checkpoint *index, bool listed,
                             const tn_inspect_options *options) {
    size_t most = 1;
    tn_status status;
    for (size_t f = 0; f < count; f++)
        most += files[f].count;
    listing l = {.entries = tn_calloc(most, sizeof *l.entries), .groups = tn_calloc(most, sizeof *l.groups)};
    if (!l.entries || !l.groups) {
        status = tn_fail_memory("the list of tensors");
        goto fail;
    }
    for (size_t f = 0; f < count; f++)
        for (size_t e = 0; e < files[f].count; e++)
            if (!index || tn_checkpoint_find(index, files[f].entries[e].name) == &files[f].entries[e].tensor)
                l.entries[l.count++] = &files[f].entries[e];
    add_sizes(out, &l);
    TN_TRY_GOTO(sort_into_groups(&l, options));
    if (options->verify)
        add_verdict(out, &l);
    if (listed || options->tensors)
        status = add_list(out, &l, options->verify);
fail:
    for (size_t i = 0; i < l.group_count; i++)
        tn_buf_free(&l.groups[i].ranges);
    tn_map_free(&l.by_pattern);
    tn_free(l.entries);
    tn_free(l.groups);
    return status;
}
