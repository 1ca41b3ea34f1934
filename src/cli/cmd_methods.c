/* tenon methods: what can be trained, what it costs, and what single methods have to set. */
#include <tenon/methods.h>

#include <stdio.h>
#include <string.h>

#include "base/format.h"
#include "cli/commands.h"
#include "cli/quantize_options.h"
#include "format/json.h"

typedef struct {
    const char *name;
    int64_t rows, cols, rank;
    bool json;
} config;

static const tn_option options[] = {
    {.name = "name",
     .type = TN_OPTION_STRING,
     TN_FIELD(config, name),
     .value_name = "NAME",
     .help = "one of them, with all there is to say about it",
     .flags = TN_OPTION_POSITIONAL},
    {.name = "rows",
     .type = TN_OPTION_INT,
     TN_FIELD(config, rows),
     .initial = "4096",
     .low = 1,
     .high = 1e9,
     .value_name = "O",
     .group = "Layer",
     .help = "outputs of the linear layer that parameters are counted for"},
    {.name = "cols",
     .type = TN_OPTION_INT,
     TN_FIELD(config, cols),
     .initial = "4096",
     .low = 1,
     .high = 1e9,
     .value_name = "C",
     .help = "its inputs"},
    {.name = "rank",
     .type = TN_OPTION_INT,
     TN_FIELD(config, rank),
     .low = 1,
     .high = 1e9,
     .value_name = "R",
     .help = "rank of the methods that have one; by default each one's own"},
    {.name = "json", .type = TN_OPTION_BOOL, TN_FIELD(config, json), .group = "Output", .help = "print one JSON array"},
    {0},
};

static const char *const kinds[] = {"method", "preset", "way", "initialisation"};

/* What is counted for one entry; a rank that does not fit is no reason to hide the others. */
typedef struct {
    tn_method_info info;
    size_t index;
    tn_status counted;
    int64_t trained, frozen;
} row;

static tn_status look(const config *c, size_t index, row *out) {
    *out = (row){.index = index};
    TN_TRY(tn_method_describe(index, &out->info));
    out->counted = tn_method_parameters(index, c->rows, c->cols, c->rank, &out->trained, &out->frozen);
    return out->counted == TN_ERROR_MEMORY ? out->counted : TN_OK;
}

static void print_count(tn_buf *out, int64_t count) {
    char digits[32];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)count);
    for (int i = 0; i < length; i++)
        tn_buf_printf(out, "%s%c", i && (length - i) % 3 == 0 ? "," : "", digits[i]);
}

static double share(const config *c, const row *r) {
    return 100.0 * (double)r->trained / ((double)c->rows * (double)c->cols);
}

static const char *yes_or_no(bool value) {
    return value ? "yes" : "no";
}

static void print_line(tn_buf *out, const config *c, const row *r) {
    tn_buf count = {0};
    char percent[32] = "-";
    if (r->counted == TN_OK) {
        print_count(&count, r->trained);
        snprintf(percent, sizeof percent, "%.3g %%", share(c, r));
    }
    tn_buf_printf(out, "  %-14s %13s %9s  %-6s %-8s %-17s %s\n", r->info.name,
                  r->counted == TN_OK ? tn_buf_text(&count) : "-", percent, yes_or_no(r->info.mergeable),
                  yes_or_no(r->info.unmergeable), r->info.paper ? r->info.paper : "-", r->info.formula);
    tn_buf_free(&count);
}

static void print_heading(tn_buf *out, const config *c, tn_method_kind kind) {
    static const char *const titles[] = {"Methods (--method)", "Methods with some settings (--method)", "Ways of training",
                                         "Starting values of lora (--init)"};
    if (kind == TN_METHOD_OWN)
        tn_buf_printf(out, "Trained numbers of one linear layer of %lld x %lld, merging into it and out of it again\n",
                      (long long)c->rows, (long long)c->cols);
    tn_buf_printf(out, "\n%s\n  %-14s %13s %9s  %-6s %-8s %-17s %s\n", titles[kind], "name", "trained", "share", "merge",
                  "unmerge", "paper", "formula");
}

static tn_status print_list(tn_buf *out, const config *c) {
    for (int kind = TN_METHOD_OWN; kind <= TN_METHOD_INIT; kind++) {
        print_heading(out, c, (tn_method_kind)kind);
        for (size_t i = 0; i < tn_method_count(); i++) {
            row r;
            TN_TRY(look(c, i, &r));
            if ((int)r.info.kind == kind)
                print_line(out, c, &r);
        }
    }
    tn_memory_row table[TN_MEMORY_ROWS];
    TN_TRY(tn_memory_table_of_layer(c->rows, c->cols, c->rank, table));
    tn_buf_printf(out, "\nMemory of training this layer with AdamW, its base in f32 or in NF4 (--quantize nf4)\n");
    tn_cli_print_memory_table(out, table);
    tn_buf_puts(out, "\n`tenon methods NAME` says more about one of them.\n");
    return TN_OK;
}

static void print_sizes(tn_buf *out, const config *c, const row *r) {
    const tn_method_info *info = &r->info;
    tn_buf_printf(out, "%lld x %lld", (long long)c->rows, (long long)c->cols);
    if (info->rank)
        tn_buf_printf(out, ", rank %lld", (long long)(c->rank ? c->rank : info->rank));
    tn_buf_puts(out, ": ");
    print_count(out, r->trained);
    tn_buf_printf(out, " trained, %.3g %% of the layer", share(c, r));
    if (r->frozen) {
        tn_buf_puts(out, ", and ");
        print_count(out, r->frozen);
        tn_buf_puts(out, " frozen ones");
    }
    tn_buf_putc(out, '\n');
}

static void print_fields(tn_buf *out, const tn_method_info *info) {
    char alpha[TN_FORMAT_TEXT];
    tn_buf_printf(out, "formula   %s\n", info->formula);
    if (info->paper)
        tn_buf_printf(out, "paper     %s\n", info->paper);
    tn_buf_printf(out, "command   tenon train %s\n", info->flags);
    if (info->peft_type)
        tn_buf_printf(out, "file      peft_type %s\n", info->peft_type);
    if (info->rank_key)
        tn_buf_printf(out, "rank      --rank (%s), default %lld\n", info->rank_key, (long long)info->rank);
    if (info->alpha_key)
        tn_buf_printf(out, "alpha     --alpha (%s), default %s\n", info->alpha_key, tn_format_double(alpha, info->alpha));
    if (info->dropout_key)
        tn_buf_printf(out, "dropout   --dropout (%s), default 0\n", info->dropout_key);
    tn_buf_printf(out, "merge     %s, unmerge %s%s%s\n", yes_or_no(info->mergeable), yes_or_no(info->unmergeable),
                  *info->obstacle ? ": " : "", info->obstacle);
}

static void print_options(tn_buf *out, const row *r) {
    if (r->info.option_count)
        tn_buf_printf(out, "\nOptions of %s:\n", r->info.method);
    for (size_t i = 0; i < r->info.option_count; i++) {
        tn_method_option option;
        tn_method_describe_option(r->index, i, &option);
        tn_buf_printf(out, "  --%-18s %s (", option.name, option.help);
        if (*option.range)
            tn_buf_printf(out, "%s; ", option.range);
        if (option.initial)
            tn_buf_printf(out, "default %s; ", option.initial);
        tn_buf_printf(out, "key %s)\n", option.key);
    }
}

static tn_status print_one(tn_buf *out, const config *c) {
    size_t index;
    row r;
    TN_TRY(tn_method_find(c->name, &index));
    TN_TRY(look(c, index, &r));
    if (r.counted != TN_OK) /* again, for its words */
        return tn_method_parameters(index, c->rows, c->cols, c->rank, &r.trained, &r.frozen);
    tn_buf_printf(out, "%s: %s\n\n", r.info.name, r.info.summary);
    print_fields(out, &r.info);
    tn_buf_puts(out, "numbers   ");
    print_sizes(out, c, &r);
    print_options(out, &r);
    return TN_OK;
}

static void add_text(cJSON *object, const char *key, const char *text) {
    if (text)
        cJSON_AddStringToObject(object, key, text);
    else
        cJSON_AddNullToObject(object, key);
}

static void add_number(cJSON *object, const char *key, bool known, double value) {
    if (known)
        cJSON_AddNumberToObject(object, key, value);
    else
        cJSON_AddNullToObject(object, key);
}

static cJSON *describe_options(const row *r) {
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < r->info.option_count; i++) {
        tn_method_option option;
        cJSON *item = cJSON_CreateObject();
        tn_method_describe_option(r->index, i, &option);
        cJSON_AddStringToObject(item, "name", option.name);
        cJSON_AddStringToObject(item, "key", option.key);
        add_text(item, "default", option.initial);
        cJSON_AddStringToObject(item, "range", option.range);
        cJSON_AddStringToObject(item, "help", option.help);
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

static cJSON *describe(const config *c, const row *r) {
    const tn_method_info *info = &r->info;
    bool counted = r->counted == TN_OK;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", info->name);
    cJSON_AddStringToObject(o, "kind", kinds[info->kind]);
    cJSON_AddStringToObject(o, "method", info->method);
    cJSON_AddStringToObject(o, "flags", info->flags);
    cJSON_AddStringToObject(o, "summary", info->summary);
    cJSON_AddStringToObject(o, "formula", info->formula);
    add_text(o, "paper", info->paper);
    add_text(o, "peft_type", info->peft_type);
    cJSON_AddNumberToObject(o, "rows", (double)c->rows);
    cJSON_AddNumberToObject(o, "cols", (double)c->cols);
    add_number(o, "rank", info->rank > 0, (double)(c->rank ? c->rank : info->rank));
    add_number(o, "trained", counted, (double)r->trained);
    add_number(o, "frozen", counted, (double)r->frozen);
    cJSON_AddBoolToObject(o, "mergeable", info->mergeable);
    cJSON_AddBoolToObject(o, "unmergeable", info->unmergeable);
    add_text(o, "obstacle", *info->obstacle ? info->obstacle : NULL);
    cJSON_AddItemToObject(o, "options", describe_options(r));
    return o;
}

static tn_status print_json(tn_buf *out, const config *c) {
    size_t first = 0, end = tn_method_count();
    cJSON *list = cJSON_CreateArray();
    tn_status status = TN_OK;
    if (c->name) {
        status = tn_method_find(c->name, &first);
        end = first + 1;
    }
    for (size_t i = first; i < end && status == TN_OK; i++) {
        row r;
        status = look(c, i, &r);
        if (status == TN_OK)
            cJSON_AddItemToArray(list, describe(c, &r));
    }
    if (status == TN_OK)
        tn_json_print(out, list, true);
    tn_buf_putc(out, '\n');
    cJSON_Delete(list);
    return status;
}

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_buf text = {0};
    tn_status status = c->json ? print_json(&text, c) : c->name ? print_one(&text, c) : print_list(&text, c);
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return tn_cli_exit(status);
}

const tn_command tn_command_methods = {
    .name = "methods",
    .summary = "list what can be trained: formulas, parameters, options",
    .description =
        "Lists the methods that train takes, their variants and starting values: formula, paper, how many numbers "
        "each trains for a linear layer of the given size and rank, and whether it can be merged into the base "
        "and taken out of it again. With a name it says more, and lists the options that only this method has.",
    .tables = (const tn_option_table[]){{options, 0}, {0}},
    .config_size = sizeof(config),
    .examples = (const tn_example[]){{"tenon methods --rows 576 --cols 1536 --rank 16", "for a layer of another model"},
                                     {"tenon methods adalora", "one method and its options"},
                                     {0}},
    .run = run,
};
