/* A CSV file as features: numbers, and one column of labels or targets. Answers are kept as text until the last row is seen,
 * for only then is it known whether they are numbers or names. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/format.h"
#include "base/map.h"
#include "data/features_parts.h"
#include "format/csv.h"

typedef struct answer {
    size_t text;    /* into table.texts */
    double number;  /* when is_number */
    int32_t line;   /* of the record */
    bool is_number; /* the text is a finite number */
} answer;

typedef struct table {
    tn_csv csv;
    const tn_features_options *options;
    tn_features *out; /* x, count, width */
    answer *answers;  /* [count] */
    tn_buf texts;
    int64_t capacity, columns, target; /* target: the column of the answers, from 0 */
} table;

/* Short whole numbers, which most data consists of, need no strtod. */
static bool parse_number(const char *text, double *out) {
    enum { EXACT_DIGITS = 15 };
    int64_t value = 0;
    int digits = 0;
    for (; digits < EXACT_DIGITS && text[digits] >= '0' && text[digits] <= '9'; digits++)
        value = value * 10 + (text[digits] - '0');
    if (digits == 0 || text[digits])
        return tn_parse_double(text, out);
    *out = (double)value;
    return true;
}

static bool is_number(const char *text) {
    double number;
    return parse_number(text, &number);
}

/* The column named `name`, or -1. */
static int64_t find_column(const tn_csv *csv, const char *name, bool any_case) {
    for (int64_t i = 0; i < csv->columns; i++)
        if (any_case ? strcasecmp(tn_csv_field(csv, i), name) == 0 : strcmp(tn_csv_field(csv, i), name) == 0)
            return i;
    return -1;
}

/* options->target as a column number counted from 0; -1 when it is none. */
static int64_t numbered_target(const table *t) {
    int64_t number;
    if (!t->options->target || !tn_parse_int(t->options->target, &number) || number < 1 || number > t->columns)
        return -1;
    return number - 1;
}

/* Whether the first record is a header; its features must agree about that. */
static tn_status detect_header(const table *t, bool *header) {
    *header = t->options->header == TN_HEADER_PRESENT;
    if (t->options->header != TN_HEADER_AUTO)
        return TN_OK;
    int64_t target = numbered_target(t), named = t->options->target && target < 0, texts = 0;
    int64_t likely = target < 0 ? t->columns - 1 : target, first = -1;
    for (int64_t i = 0; i < t->columns; i++)
        if ((i != likely || t->columns == 1) && !is_number(tn_csv_field(&t->csv, i))) {
            first = first < 0 ? i : first;
            texts++;
        }
    *header = named || texts > 0;
    if (!named && texts > 0 && texts < t->columns - 1)
        return tn_csv_fail(
            &t->csv, first,
            "'%.40s' is not a number, but others of this first row are; say whether it is a header, and which "
            "column is to be predicted",
            tn_csv_field(&t->csv, first));
    return TN_OK;
}

static tn_status choose_target(table *t, bool header) {
    static const char *const usual[] = {"label", "labels", "class", "target", "targets", "y"};
    const char *wanted = t->options->target;
    t->target = header && wanted ? find_column(&t->csv, wanted, false) : -1;
    if (t->target < 0)
        t->target = numbered_target(t);
    if (t->target < 0 && wanted)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: there is no column '%s' to be predicted among its %lld%s", t->csv.path,
                       wanted, (long long)t->columns, header ? "" : ", and no header");
    for (size_t i = 0; header && t->target < 0 && i < sizeof usual / sizeof *usual; i++)
        t->target = find_column(&t->csv, usual[i], true);
    if (t->target < 0)
        t->target = t->columns - 1;
    return TN_OK;
}

/* Reads the first row to be used, and settles what the columns are. */
static tn_status begin(table *t) {
    bool header;
    TN_TRY(tn_csv_next(&t->csv));
    t->columns = t->csv.columns;
    if (t->columns == 0)
        return tn_fail(TN_ERROR_FORMAT, "%s has no rows", t->csv.path);
    TN_TRY(detect_header(t, &header));
    TN_TRY(choose_target(t, header));
    if (t->columns == 1)
        return tn_csv_fail(&t->csv, 0, "a single column; features and one to be predicted are needed, separated by '%c'",
                           t->csv.separator);
    t->out->width = t->out->shape[0] = t->columns - 1;
    t->out->ndim = 1;
    return header ? tn_csv_next(&t->csv) : TN_OK;
}

static tn_status reserve_row(table *t) {
    if (t->out->count < t->capacity)
        return TN_OK;
    if (t->out->count == INT32_MAX)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: more than %d samples", t->csv.path, INT32_MAX);
    int64_t capacity = t->capacity ? 2 * t->capacity : 64, values;
    if (!tn_mul_i64(capacity, t->out->width, &values))
        return tn_fail_memory("the rows of a CSV file");
    float *x = tn_realloc_array(t->out->x, (size_t)values, sizeof *x);
    t->out->x = x ? x : t->out->x;
    answer *answers = tn_realloc_array(t->answers, (size_t)capacity, sizeof *answers);
    t->answers = answers ? answers : t->answers;
    if (!x || !answers)
        return tn_fail_memory("the rows of a CSV file");
    t->capacity = capacity;
    return TN_OK;
}

static tn_status add_answer(table *t) {
    const char *text = tn_csv_field(&t->csv, t->target);
    if (!*text)
        return tn_csv_fail(&t->csv, t->target, "the value to be predicted is missing");
    if (t->csv.line > INT32_MAX)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: more than %d lines", t->csv.path, INT32_MAX);
    answer *a = &t->answers[t->out->count];
    *a = (answer){.text = t->texts.length, .line = (int32_t)t->csv.line};
    a->is_number = parse_number(text, &a->number);
    tn_buf_append(&t->texts, text, strlen(text) + 1);
    return tn_buf_status(&t->texts);
}

static tn_status add_row(table *t) {
    if (t->csv.columns != t->columns)
        return tn_fail(TN_ERROR_FORMAT, "%s line %lld: %lld columns; the first row has %lld", t->csv.path,
                       (long long)t->csv.line, (long long)t->csv.columns, (long long)t->columns);
    TN_TRY(reserve_row(t));
    float *x = t->out->x + t->out->count * t->out->width;
    for (int64_t i = 0; i < t->columns; i++) {
        const char *text = tn_csv_field(&t->csv, i);
        double number;
        if (i == t->target)
            continue;
        if (!*text)
            return tn_csv_fail(&t->csv, i, "the value is missing");
        if (!parse_number(text, &number) || !isfinite((float)number))
            return tn_csv_fail(&t->csv, i, "'%.40s' is not a finite number", text);
        *x++ = (float)number;
    }
    TN_TRY(add_answer(t));
    t->out->count++;
    return TN_OK;
}

static tn_status fail_answer(table *t, int64_t row, const char *why) {
    t->csv.line = t->answers[row].line;
    return tn_csv_fail(&t->csv, t->target, "'%.40s' %s", t->texts.data + t->answers[row].text, why);
}

static tn_status fail_class(table *t, int64_t row) {
    char why[80];
    snprintf(why, sizeof why, "is out of range; there are %lld classes, counted from 0", (long long)t->options->classes);
    return fail_answer(t, row, why);
}

static tn_status make_targets(table *t) {
    tn_features *out = t->out;
    out->outputs = 1;
    out->targets = tn_malloc((size_t)out->count * sizeof *out->targets);
    if (!out->targets)
        return tn_fail_memory("targets");
    for (int64_t i = 0; i < out->count; i++) {
        out->targets[i] = t->answers[i].is_number ? (float)t->answers[i].number : NAN;
        if (!isfinite(out->targets[i]))
            return fail_answer(t, i, "is not a finite number");
    }
    return TN_OK;
}

static tn_status number_labels(table *t) {
    tn_features *out = t->out;
    int64_t largest = 0;
    for (int64_t i = 0; i < out->count; i++) {
        double label = t->answers[i].number;
        if (!(label >= 0 && label < INT32_MAX) || label != floor(label))
            return fail_answer(t, i, "is no class; classes are whole numbers from 0, or text");
        if (t->options->classes && label >= (double)t->options->classes)
            return fail_class(t, i);
        out->labels[i] = (int32_t)label;
        largest = out->labels[i] > largest ? out->labels[i] : largest;
    }
    return tn_count_classes(largest, t->options, t->csv.path, &out->classes);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct answers in the order of their bytes. */
static tn_status collect_names(table *t, char ***names, int64_t *count) {
    tn_map seen = {0};
    tn_status status = TN_OK;
    const char **found = tn_calloc((size_t)t->out->count, sizeof *found);
    *count = 0;
    for (int64_t i = 0; found && status == TN_OK && i < t->out->count; i++) {
        const char *text = t->texts.data + t->answers[i].text;
        if (tn_map_get_text(&seen, text, NULL))
            continue;
        status = tn_map_put_text(&seen, text, 0);
        found[(*count)++] = text;
    }
    if (found && status == TN_OK)
        qsort(found, (size_t)*count, sizeof *found, compare_names);
    *names = found && status == TN_OK ? tn_class_names_copy(found, *count) : NULL;
    tn_free(found);
    tn_map_free(&seen);
    return *names ? TN_OK : tn_fail_memory("class names");
}

static tn_status name_labels(table *t) {
    tn_features *out = t->out;
    const tn_features_options *options = t->options;
    int64_t count = options->classes;
    char **names = options->class_names ? tn_class_names_copy(options->class_names, count) : NULL;
    if (options->class_names && !names)
        return tn_fail_memory("class names");
    if (!names)
        TN_TRY(collect_names(t, &names, &count));
    out->class_names = names;
    out->classes = count;
    if (options->classes && options->classes != count)
        return tn_fail(TN_ERROR_MISMATCH, "%s: its labels are %lld different texts; there should be %lld classes",
                       t->csv.path, (long long)count, (long long)options->classes);
    tn_map numbers = {0};
    tn_status status = TN_OK;
    for (int64_t i = 0; i < count; i++)
        TN_TRY_GOTO(tn_map_put_text(&numbers, names[i], i));
    for (int64_t i = 0; i < out->count; i++) {
        int64_t label;
        if (!tn_map_get_text(&numbers, t->texts.data + t->answers[i].text, &label))
            TN_TRY_GOTO(fail_answer(t, i, "is none of the classes given"));
        out->labels[i] = (int32_t)label;
    }
fail:
    tn_map_free(&numbers);
    return status;
}

static tn_status finish(table *t) {
    const tn_features_options *options = t->options;
    bool numbers = true, whole = true, some = false;
    int64_t text = -1; /* the first answer that is no number */
    if (t->out->count == 0)
        return tn_fail(TN_ERROR_FORMAT, "%s has a header and no rows", t->csv.path);
    for (int64_t i = 0; i < t->out->count; i++) {
        const answer *a = &t->answers[i];
        numbers = numbers && a->is_number;
        whole = whole && a->number == floor(a->number);
        some = some || a->is_number;
        text = text < 0 && !a->is_number ? i : text;
    }
    if (options->task == TN_FEATURES_AUTO && !options->class_names && some && !numbers)
        return fail_answer(t, text,
                           "is no number as others of its column are; say classification if all are names of classes");
    if (options->task == TN_FEATURES_TARGETS || (options->task == TN_FEATURES_AUTO && numbers && !whole))
        return make_targets(t);
    t->out->labels = tn_malloc((size_t)t->out->count * sizeof *t->out->labels);
    if (!t->out->labels)
        return tn_fail_memory("labels");
    return numbers && !options->class_names ? number_labels(t) : name_labels(t);
}

tn_status tn_features_read_csv(const char *path, const tn_features_options *options, tn_features *out) {
    table t = {.options = options, .out = out};
    tn_status status;
    *out = (tn_features){0};
    TN_TRY(tn_csv_open(&t.csv, path, options->separator));
    TN_TRY_GOTO(begin(&t));
    while (t.csv.columns) {
        TN_TRY_GOTO(add_row(&t));
        TN_TRY_GOTO(tn_csv_next(&t.csv));
    }
    TN_TRY_GOTO(finish(&t));
fail:
    tn_csv_close(&t.csv);
    tn_buf_free(&t.texts);
    tn_free(t.answers);
    if (status != TN_OK)
        tn_features_free(out);
    return status;
}
