/* tenon inspect: what a path is and holds, as text or JSON. */
#include <string.h>

#include "base/format.h"
#include "cli/commands.h"
#include "cli/output_files.h"
#include "format/json.h"
#include "session/inspect.h"

typedef struct {
    const char *path;
    bool json, tensors, fold, verify;
} config;

static const tn_option options[] = {
    {.name = "path",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, path),
     .value_name = "PATH",
     .help = "a model, adapter, data set or run (their folders), a .safetensors, .gguf, .jsonl or .json file, or a "
             "tokenizer.json",
     .flags = TN_OPTION_POSITIONAL | TN_OPTION_REQUIRED},
    {.name = "json", .type = TN_OPTION_BOOL, TN_FIELD(config, json), .group = "Output", .help = "print one JSON object"},
    {.name = "tensors",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, tensors),
     .help = "list the tensors with their shapes and types"},
    {.name = "fold",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, fold),
     .initial = "true",
     .help = "show a tensor that every layer has as one line"},
    {.name = "verify",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, verify),
     .help = "read every value: NaN, infinities, smallest, largest, root mean square; and load a model"},
    {0},
};

static void print_number(tn_buf *out, const char *key, double value) {
    char text[TN_FORMAT_TEXT];
    bool is_bytes = strcmp(key, "bytes") == 0, is_count = strcmp(key, "parameters") == 0;
    if (is_bytes)
        tn_buf_puts(out, tn_format_bytes(text, value));
    else
        tn_json_print_number(out, value);
    if (is_count && value >= 1000)
        tn_buf_printf(out, " (%s)", tn_format_count(text, value));
}

static bool is_scalar(const cJSON *value) {
    return !cJSON_IsArray(value) && !cJSON_IsObject(value);
}

static void print_label(tn_buf *out, const char *key) {
    for (; *key; key++)
        tn_buf_putc(out, *key == '_' ? ' ' : *key);
}

static void print_inline(tn_buf *out, const char *key, const cJSON *value);

/* "a 1, b 2" or "1, 2". */
static void print_members(tn_buf *out, const cJSON *value) {
    const cJSON *item;
    cJSON_ArrayForEach(item, value) {
        if (item != value->child)
            tn_buf_puts(out, ", ");
        if (cJSON_IsObject(value)) {
            print_label(out, item->string);
            tn_buf_putc(out, ' ');
        }
        print_inline(out, item->string ? item->string : "", item);
    }
}

static void print_inline(tn_buf *out, const char *key, const cJSON *value) {
    if (cJSON_IsString(value)) {
        tn_cli_print_text(out, value->valuestring);
    } else if (cJSON_IsNumber(value)) {
        print_number(out, key, value->valuedouble);
    } else if (cJSON_IsBool(value)) {
        tn_buf_puts(out, cJSON_IsTrue(value) ? "yes" : "no");
    } else if (cJSON_IsArray(value)) {
        tn_buf_putc(out, '[');
        print_members(out, value);
        tn_buf_putc(out, ']');
    } else if (cJSON_IsObject(value)) {
        tn_buf_putc(out, '{');
        print_members(out, value);
        tn_buf_putc(out, '}');
    } else {
        tn_buf_puts(out, "none");
    }
}

/* Lines of "model.layers.{0..29}.self_attn.q_proj.weight  [576, 576]  BF16  x30", with values when they were read. */
static void print_tensors(tn_buf *out, const cJSON *list, int indent) {
    enum { WIDEST = 80 };
    size_t width = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        size_t length = strlen(cJSON_GetStringValue(tn_json_get(item, "name")));
        width = length > width && length <= WIDEST ? length : width;
    }
    cJSON_ArrayForEach(item, list) {
        size_t start = out->length;
        tn_buf_printf(out, "%*s", indent, "");
        tn_cli_print_text(out, cJSON_GetStringValue(tn_json_get(item, "name")));
        while (out->length < start + (size_t)indent + width && !out->failed)
            tn_buf_putc(out, ' ');
        tn_buf_puts(out, "  ");
        print_inline(out, "shape", tn_json_get(item, "shape"));
        tn_buf_printf(out, "  %s", cJSON_GetStringValue(tn_json_get(item, "dtype")));
        if (tn_json_get(item, "count")->valuedouble > 1)
            tn_buf_printf(out, "  x%.0f", tn_json_get(item, "count")->valuedouble);
        for (const cJSON *value = tn_json_get(item, "nan"); value; value = value->next)
            if (value->valuedouble != 0 || (strcmp(value->string, "nan") != 0 && strcmp(value->string, "inf") != 0))
                tn_buf_printf(out, "  %s %.4g", value->string, value->valuedouble);
        tn_buf_putc(out, '\n');
    }
}

/* One line per member; what has members of its own is indented below its name. Names that are the file's own keep their
 * underscores. */
static void print_tree(tn_buf *out, const cJSON *object, int indent) {
    enum { LABEL = 18 };
    const cJSON *item;
    bool foreign = object->string && (strcmp(object->string, "metadata") == 0 || strcmp(object->string, "dtypes") == 0);
    cJSON_ArrayForEach(item, object) {
        size_t start = out->length;
        bool is_table = cJSON_IsArray(item) && item->child && cJSON_IsObject(item->child);
        if (strcmp(item->string, "path") == 0 || strcmp(item->string, "kind") == 0 || (cJSON_IsObject(item) && !item->child))
            continue;
        tn_buf_printf(out, "%*s", indent, "");
        if (foreign)
            tn_cli_print_text(out, item->string);
        else
            print_label(out, item->string);
        if (!is_table && !cJSON_IsObject(item)) {
            while (out->length < start + (size_t)indent + LABEL && !out->failed)
                tn_buf_putc(out, ' ');
            tn_buf_putc(out, ' ');
            if (is_scalar(item))
                print_inline(out, item->string, item);
            else if (item->child)
                print_members(out, item);
            else
                tn_buf_puts(out, "none");
        }
        tn_buf_putc(out, '\n');
        if (cJSON_IsObject(item)) {
            print_tree(out, item, indent + 2);
        } else if (is_table && strcmp(item->string, "list") == 0) {
            print_tensors(out, item, indent + 2);
        } else if (is_table) {
            for (const cJSON *row = item->child; row; row = row->next) {
                tn_buf_printf(out, "%*s", indent + 2, "");
                print_members(out, row);
                tn_buf_putc(out, '\n');
            }
        }
    }
}

/* True when "sound" is false anywhere. */
static bool has_problem(const cJSON *tree) {
    const cJSON *item;
    cJSON_ArrayForEach(item, tree) {
        if (item->string && strcmp(item->string, "sound") == 0 && cJSON_IsFalse(item))
            return true;
        if (cJSON_IsObject(item) && has_problem(item))
            return true;
    }
    return false;
}

static int run(const tn_invocation *call) {
    const config *c = call->config;
    const tn_inspect_options wanted = {.tensors = c->tensors, .fold = c->fold, .verify = c->verify};
    cJSON *tree;
    tn_buf text = {0};
    tn_status status = tn_inspect(c->path, &wanted, &tree);
    if (status != TN_OK)
        return tn_cli_exit(status);
    if (c->json) {
        tn_json_print(&text, tree, true);
        tn_buf_putc(&text, '\n');
    } else {
        tn_cli_print_text(&text, c->path);
        tn_buf_printf(&text, ": %s\n", cJSON_GetStringValue(tn_json_get(tree, "kind")));
        print_tree(&text, tree, 2);
    }
    bool broken = c->verify && has_problem(tree);
    cJSON_Delete(tree);
    status = tn_cli_print(&text);
    tn_buf_free(&text);
    return status == TN_OK && broken ? TN_EXIT_REPORTED : tn_cli_exit(status);
}

const tn_command tn_command_inspect = {
    .name = "inspect",
    .summary = "say what a model, adapter, data set or file is and holds",
    .description =
        "Describes a path without running anything: model folders (family, sizes, types, tokenizer), adapter "
        "folders of PEFT with any method and of mlx-lm (settings, scaling, and whether this build can apply "
        "them), safetensors and GGUF files, data sets (kinds and lengths of rows), folders of runs (losses, checkpoints) "
        "and tokenizers.\n\n"
        "With --verify every value is read, and the exit code is 1 when one is NaN or infinite or when a model "
        "does not load.",
    .tables = (const tn_option_table[]){{options, 0}, {0}},
    .config_size = sizeof(config),
    .examples = (const tn_example[]){{"tenon inspect base", "what a model is"},
                                     {"tenon inspect out --tensors", "an adapter and its tensors"},
                                     {"tenon inspect train.jsonl --json", "a data set, for other programs"},
                                     {0}},
    .run = run,
};
