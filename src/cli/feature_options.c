/* Flags for the data of sequential models. */
#include "cli/feature_options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const turns[] = {"0", "90", "180", "270", NULL};

const tn_option tn_cli_feature_options[] = {
    {.name = "classes",
     .type = TN_OPTION_LIST,
     TN_FIELD(tn_cli_features, classes),
     .value_name = "N,...",
     .group = "Data of sequential models",
     .help = "only samples of these classes"},
    {.name = "invert", .type = TN_OPTION_BOOL, TN_FIELD(tn_cli_features, invert), .help = "x becomes 1 - x"},
    {.name = "rotate",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(tn_cli_features, rotate),
     .initial = "0",
     .choices = turns,
     .value_name = "DEGREES",
     .help = "turn images counter-clockwise"},
    {.name = "mean",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_features, mean),
     .initial = "0",
     .low = -INFINITY,
     .high = INFINITY,
     .value_name = "X",
     .help = "subtracted from x, when --std is given"},
    {.name = "std",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_features, std),
     .initial = "0",
     .low = 0,
     .high = INFINITY,
     .value_name = "X",
     .help = "x is divided by it; 0: not"},
    {.name = "target-column",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_features, target_column),
     .value_name = "NAME",
     .help = "CSV: the column to be predicted, by name or number from 1"},
    {0},
};

tn_status tn_cli_feature_choice(const tn_cli_features *flags, int32_t *classes, tn_feature_options *out) {
    *out = (tn_feature_options){.invert = flags->invert,
                                .quarter_turns = flags->rotate,
                                .mean = flags->mean,
                                .std = flags->std,
                                .target_column = flags->target_column};
    if (flags->mean != 0 && flags->std == 0)
        return tn_fail(TN_ERROR_ARGUMENT, "--mean does nothing without --std");
    if (flags->classes.count > TN_CLI_MOST_CLASSES)
        return tn_fail(TN_ERROR_ARGUMENT, "--classes names more than %d classes", TN_CLI_MOST_CLASSES);
    for (size_t i = 0; i < flags->classes.count; i++) {
        char *end;
        errno = 0;
        long value = strtol(flags->classes.items[i], &end, 10);
        if (*end || end == flags->classes.items[i] || errno || value < 0 || value > INT32_MAX)
            return tn_fail(TN_ERROR_ARGUMENT, "--classes: '%s' is no class number", flags->classes.items[i]);
        classes[i] = (int32_t)value;
    }
    out->keep_classes = flags->classes.count ? classes : NULL;
    out->keep_count = flags->classes.count;
    return TN_OK;
}

/* Run files may hold every option at its default. */
static bool is_changed(const tn_option_slot *slot) {
    tn_buf value = {0};
    if (!slot) /* this command has no such option */
        return false;
    const char *initial = slot->option->initial ? slot->option->initial : "false";
    tn_options_print_value(&value, slot);
    bool changed = !tn_options_is_unset(slot) && value.length > 0 && strcmp(tn_buf_text(&value), initial) != 0;
    tn_buf_free(&value);
    return changed;
}

tn_status tn_cli_check_data_options(const tn_options *options, const tn_model *model, const char *const *words) {
    tn_model_info info;
    tn_model_describe(model, &info);
    for (const tn_option *o = tn_cli_feature_options; !info.inputs && o->name; o++)
        if (is_changed(tn_options_find(options, o->name)))
            return tn_fail(TN_ERROR_ARGUMENT, "--%s is for sequential models, and a %s model is none; leave it out", o->name,
                           info.family);
    for (; info.inputs && *words; words++)
        if (is_changed(tn_options_find(options, *words)))
            return tn_fail(TN_ERROR_ARGUMENT, "--%s is for language models, and this is a sequential model; leave it out",
                           *words);
    return TN_OK;
}
