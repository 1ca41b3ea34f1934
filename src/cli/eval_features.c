/* Evaluation of sequential models: loss, accuracy or r2, and which classes are taken for which. */
#include "cli/eval_features.h"

#include <math.h>
#include <stdio.h>

#include "cli/cli.h"
#include "format/json.h"

enum { WIDEST_MATRIX = 20 };

static void print_row(const char *name, const tn_feature_evaluation *e) {
    if (e->confusion)
        printf("%-8s %10.4f %9.2f %%\n", name, e->loss, 100 * e->accuracy);
    else
        printf("%-8s %10.4g %10.4f %11.4g\n", name, e->loss, e->r2, sqrt(e->loss));
}

static void print_confusion(const tn_feature_evaluation *e) {
    if (e->classes > WIDEST_MATRIX) {
        printf("\n%lld classes: --json prints the whole confusion matrix\n", (long long)e->classes);
        return;
    }
    printf("\nconfusion matrix: rows are the classes, columns what was predicted\n%6s", "");
    for (int64_t c = 0; c < e->classes; c++)
        printf(" %6lld", (long long)c);
    printf("\n");
    for (int64_t r = 0; r < e->classes; r++) {
        printf("%6lld", (long long)r);
        for (int64_t c = 0; c < e->classes; c++)
            printf(" %6lld", (long long)e->confusion[r * e->classes + c]);
        printf("\n");
    }
}

static void print_table(const tn_feature_evaluation *with, const char *name, const tn_feature_evaluation *base) {
    printf("%lld samples\n\n", (long long)with->samples);
    if (with->confusion)
        printf("%-8s %10s %11s\n", "", "loss", "accuracy");
    else
        printf("%-8s %10s %10s %11s\n", "", "loss", "r2", "root of it");
    print_row(name, with);
    if (base)
        print_row("base", base);
    if (with->confusion)
        print_confusion(with);
}

static cJSON *to_json(const tn_feature_evaluation *e) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "samples", (double)e->samples);
    cJSON_AddNumberToObject(json, "loss", e->loss);
    if (e->confusion) {
        cJSON_AddNumberToObject(json, "accuracy", e->accuracy);
        cJSON *matrix = cJSON_AddArrayToObject(json, "confusion_matrix");
        for (int64_t r = 0; r < e->classes; r++) {
            cJSON *row = cJSON_CreateArray();
            for (int64_t c = 0; c < e->classes; c++)
                cJSON_AddItemToArray(row, cJSON_CreateNumber((double)e->confusion[r * e->classes + c]));
            cJSON_AddItemToArray(matrix, row);
        }
    } else {
        cJSON_AddNumberToObject(json, "r2", e->r2);
    }
    cJSON_AddNumberToObject(json, "seconds", e->seconds);
    return json;
}

static tn_status print_json(const tn_feature_evaluation *with, const tn_feature_evaluation *base) {
    cJSON *json = to_json(with);
    tn_buf text = {0};
    if (base)
        cJSON_AddItemToObject(json, "base", to_json(base));
    tn_json_print(&text, json, false);
    tn_buf_putc(&text, '\n');
    cJSON_Delete(json);
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return status;
}

tn_status tn_cli_eval_features(tn_model *model, const tn_cli_feature_eval *o) {
    tn_feature_set set = {0};
    tn_feature_evaluation with = {0}, base = {0};
    tn_status status = tn_feature_set_load(model, o->data, TN_FEATURE_TEST, &o->features, &set);
    if (status != TN_OK)
        return status;
    tn_feature_set part = set;
    part.owner = NULL;
    part.count = o->limit && o->limit < set.count ? o->limit : set.count;
    TN_TRY_GOTO(tn_evaluate_features(model, &part, o->batch_size, &with));
    if (o->compare) {
        tn_model_enable_adapter(model, false);
        TN_TRY_GOTO(tn_evaluate_features(model, &part, o->batch_size, &base));
    }
    if (o->json) {
        status = print_json(&with, o->compare ? &base : NULL);
    } else {
        print_table(&with, o->name, o->compare ? &base : NULL);
        status = fflush(stdout) == 0 ? TN_OK : tn_fail(TN_ERROR_IO, "cannot write to standard output");
    }
fail:
    tn_feature_evaluation_free(&with);
    tn_feature_evaluation_free(&base);
    tn_feature_set_free(&set);
    return status;
}
