/* From the methods' own tables to the command line: one flag per name, whichever methods have it. */
#include "cli/method_options.h"

#include <string.h>

#include "peft/method.h"

tn_option tn_cli_setting_options[TN_CLI_MOST_SETTINGS + 1];
static char helps[TN_CLI_MOST_SETTINGS][160];

static size_t find(const char *name, size_t count) {
    size_t at = 0;
    while (at < count && strcmp(tn_cli_setting_options[at].name, name) != 0)
        at++;
    return at;
}

/* What one method takes may be more than another does: then it is any text here, and each method's own table checks it. */
static void widen(tn_option *row, const tn_option *other) {
    if (row->type == other->type && row->choices == other->choices && row->low == other->low && row->high == other->high)
        return;
    row->type = TN_OPTION_STRING;
    row->size = sizeof(const char *);
    row->choices = NULL;
    row->low = row->high = 0;
    row->flags = 0;
    row->value_name = "VALUE";
}

/* The row of the first method that has the option; more than one method shows in the help. */
static void add(const tn_peft_method *method, const tn_option *option, size_t *count) {
    size_t at = find(option->name, *count), used = strlen(helps[at]);
    if (at == TN_CLI_MOST_SETTINGS)
        return;
    if (at < *count) {
        widen(&tn_cli_setting_options[at], option);
        snprintf(helps[at] + used, sizeof helps[at] - used, ", %s", method->name);
        return;
    }
    tn_option *row = &tn_cli_setting_options[(*count)++];
    *row = *option;
    row->offset = at * sizeof(tn_cli_setting);
    row->group = at == 0 ? "Options of single methods" : NULL;
    row->initial = NULL; /* defaults are the method's affair */
    row->help = helps[at];
    snprintf(helps[at], sizeof helps[at], "%s; of %s", option->help, method->name);
}

void tn_cli_collect_settings(void) {
    size_t count = 0;
    for (const tn_peft_method *const *m = tn_peft_methods; *m; m++)
        for (const tn_option *o = (*m)->options; o && o->name; o++)
            add(*m, o, &count);
}

tn_status tn_cli_given_settings(const tn_options *options, tn_method_setting *settings, size_t *count) {
    *count = 0;
    for (const tn_option *o = tn_cli_setting_options; o->name; o++) {
        const tn_option_slot *slot = tn_options_find(options, o->name);
        tn_buf value = {0};
        if (!slot || slot->source == TN_SOURCE_INITIAL)
            continue;
        tn_options_print_value(&value, slot);
        char *text = tn_strdup(tn_buf_text(&value));
        tn_buf_free(&value);
        if (!text)
            return tn_fail_memory("the method's options");
        settings[(*count)++] = (tn_method_setting){.name = o->name, .value = text};
    }
    return TN_OK;
}

void tn_cli_free_settings(tn_method_setting *settings, size_t count) {
    for (size_t i = 0; i < count; i++)
        tn_free((char *)(uintptr_t)settings[i].value);
}
