/* Run files: YAML mappings from option names to values, read with the checks of the command line and written back. */
#include <math.h>
#include <string.h>

#include "base/format.h"
#include "cli/cli.h"
#include "format/json.h"
#if __has_include("format/yaml.h")
#include "format/yaml.h"
#else
static tn_status tn_yaml_read(const char *path, size_t limit, cJSON **out) {
    (void)limit;
    *out = NULL;
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s: this build cannot read YAML", path);
}
#endif

enum { RUN_FILE_LIMIT = 1 << 20 };

/* Below this every whole number has a double of its own. */
static const double EXACT_WHOLE = 9007199254740992.0;

/* A scalar as the text that would be given on the command line; NULL when the option cannot take it as it stands. */
static const char *scalar_text(char out[TN_FORMAT_TEXT], const tn_option *option, const cJSON *item) {
    bool texts = option->type == TN_OPTION_STRING || option->type == TN_OPTION_PATH || option->type == TN_OPTION_LIST;
    if (cJSON_IsString(item))
        return item->valuestring;
    if (texts)
        return NULL;
    if (cJSON_IsBool(item) && option->type == TN_OPTION_BOOL)
        return cJSON_IsTrue(item) ? "true" : "false";
    if (!cJSON_IsNumber(item))
        return NULL;
    double number = item->valuedouble;
    if (option->type != TN_OPTION_INT || number != floor(number))
        return tn_format_double(out, number);
    if (fabs(number) >= EXACT_WHOLE)
        return NULL;
    tn_format(out, TN_FORMAT_TEXT, "%.0f", number);
    return out;
}

static tn_status fail_kind(const tn_option *option, const cJSON *item) {
    if (cJSON_IsObject(item))
        return tn_fail(TN_ERROR_ARGUMENT, "%s: options are not nested", option->name);
    return tn_fail(TN_ERROR_ARGUMENT, "%s: the value cannot be read without loss; put it in quotes", option->name);
}

static tn_status set_from_list(tn_options *options, const tn_option *option, const cJSON *array) {
    if (option->type != TN_OPTION_LIST)
        return tn_options_set_list(options, option->name, NULL, 0, TN_SOURCE_FILE);
    size_t count = (size_t)cJSON_GetArraySize(array), at = 0;
    const char **items = tn_arena_array(&options->arena, count, sizeof *items);
    if (!items)
        return tn_fail_memory("a list of option values");
    for (const cJSON *item = array->child; item; item = item->next) {
        if (!cJSON_IsString(item))
            return fail_kind(option, item);
        items[at++] = item->valuestring;
    }
    return tn_options_set_list(options, option->name, items, count, TN_SOURCE_FILE);
}

static tn_status set_from_item(tn_options *options, const cJSON *item) {
    char text[TN_FORMAT_TEXT];
    const tn_option_slot *slot = tn_options_find(options, item->string);
    if (!slot)
        return tn_options_fail_unknown(options, item->string, TN_SOURCE_FILE);
    const tn_option *option = slot->option;
    if (option->flags & TN_OPTION_RUN_FILE)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: a run file cannot name another", option->name);
    if (slot->source == TN_SOURCE_FILE)
        return tn_fail(TN_ERROR_ARGUMENT, "%s is set twice", option->name);
    if (cJSON_IsNull(item))
        return TN_OK;
    if (cJSON_IsArray(item))
        return set_from_list(options, option, item);
    const char *value = scalar_text(text, option, item);
    return value ? tn_options_set(options, option->name, value, TN_SOURCE_FILE) : fail_kind(option, item);
}

tn_status tn_cli_read_run_file(tn_options *options, const char *path) {
    cJSON *root = NULL;
    TN_TRY(tn_yaml_read(path, RUN_FILE_LIMIT, &root));
    tn_status status = TN_OK;
    /* A file of comments only holds no value, or null. */
    if (root && !cJSON_IsNull(root) && !cJSON_IsObject(root))
        status = tn_fail(TN_ERROR_ARGUMENT, "each line must be an option: value pair");
    for (const cJSON *item = cJSON_IsObject(root) ? root->child : NULL; item && status == TN_OK; item = item->next)
        status = set_from_item(options, item);
    if (status != TN_OK)
        tn_fail_context(status, "%s", path);
    cJSON_Delete(root);
    return status;
}

/* Words that YAML 1.1 or 1.2 would not read as text. */
static bool is_reserved(const char *text) {
    static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(text, words[i]) == 0)
            return true;
    return false;
}

static bool is_plain(const char *text) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    static const char later[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-";
    return *text && strchr(letters, *text) && !text[strspn(text, later)] && !is_reserved(text);
}

static void put_yaml_text(tn_buf *out, const char *text) {
    if (is_plain(text)) {
        tn_buf_puts(out, text);
        return;
    }
    tn_buf_putc(out, '"');
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\')
            tn_buf_printf(out, "\\%c", c);
        else if (c < ' ' || c == 0x7f)
            tn_buf_printf(out, "\\x%02x", c);
        else
            tn_buf_putc(out, *p);
    }
    tn_buf_putc(out, '"');
}

static void put_yaml_value(tn_buf *out, const tn_option_slot *slot) {
    tn_option_type type = slot->option->type;
    if (tn_options_is_unset(slot)) {
        tn_buf_puts(out, "null");
    } else if (type == TN_OPTION_LIST) {
        const tn_text_list *list = slot->field;
        tn_buf_putc(out, '[');
        for (size_t i = 0; i < list->count; i++) {
            tn_buf_puts(out, i ? ", " : "");
            put_yaml_text(out, list->items[i]);
        }
        tn_buf_putc(out, ']');
    } else if (type == TN_OPTION_STRING || type == TN_OPTION_PATH) {
        put_yaml_text(out, *(const char *const *)slot->field);
    } else {
        tn_buf text = {0};
        int64_t number = 0;
        tn_options_print_value(&text, slot);
        bool large = tn_parse_int(tn_buf_text(&text), &number) && fabs((double)number) >= EXACT_WHOLE;
        if (type == TN_OPTION_CHOICE || large)
            put_yaml_text(out, tn_buf_text(&text));
        else
            tn_buf_puts(out, tn_buf_text(&text));
        out->failed |= text.failed;
        tn_buf_free(&text);
    }
}

void tn_cli_effective_config(tn_buf *out, const tn_options *options) {
    const char *group = NULL;
    for (size_t i = 0; i < options->count; i++) {
        const tn_option_slot *slot = &options->slots[i];
        if (slot->option->flags & TN_OPTION_RUN_FILE)
            continue;
        if (!group || strcmp(group, slot->group) != 0)
            tn_buf_printf(out, "%s# %s\n", group ? "\n" : "", slot->group);
        group = slot->group;
        tn_buf_printf(out, "%s: ", slot->option->name);
        put_yaml_value(out, slot);
        tn_buf_putc(out, '\n');
    }
}
