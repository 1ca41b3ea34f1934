/* Collecting modules and their errors. */
#include "session/low_rank_result.h"

#include <math.h>
#include <sys/stat.h>

/* 0 / 0 is no error at all. */
static double relative(double difference, double exact) {
    return difference == 0 ? 0 : difference / exact;
}

tn_status tn_low_rank_result_add(tn_low_rank_result *result, const tn_factor_module *module, double exact,
                                 double difference) {
    if (result->count == result->capacity) {
        size_t capacity = result->capacity ? result->capacity * 2 : 64;
        tn_factor_module *modules = tn_realloc_array(result->modules, capacity, sizeof *modules);
        result->modules = modules ? modules : result->modules;
        tn_low_rank_layer *layers = modules ? tn_realloc_array(result->layers, capacity, sizeof *layers) : NULL;
        if (!layers)
            return tn_fail_memory("the adapter");
        result->layers = layers;
        result->capacity = capacity;
    }
    const tn_factors *f = &module->factors;
    result->modules[result->count] = *module;
    result->layers[result->count++] =
        (tn_low_rank_layer){module->name, f->out, f->in, f->rank, exact, relative(difference, exact)};
    return TN_OK;
}

void tn_low_rank_result_free(tn_low_rank_result *result) {
    tn_free(result->modules);
    tn_free(result->layers);
    tn_arena_free(&result->arena);
    *result = (tn_low_rank_result){0};
}

static void sum_up(tn_low_rank_report *report) {
    double exact = 0, difference = 0;
    for (int64_t i = 0; i < report->layer_count; i++) {
        const tn_low_rank_layer *l = &report->layers[i];
        double wrong = isfinite(l->error) ? l->error * l->norm : INFINITY;
        exact += l->norm * l->norm;
        difference += wrong * wrong;
        report->parameters += l->rank * (l->out + l->in);
        report->lowest_rank = i && report->lowest_rank < l->rank ? report->lowest_rank : l->rank;
        report->highest_rank = report->highest_rank > l->rank ? report->highest_rank : l->rank;
        report->worst = l->error > report->layers[report->worst].error ? i : report->worst;
    }
    report->norm = sqrt(exact);
    report->error = relative(sqrt(difference), report->norm);
}

tn_status tn_low_rank_result_report(const tn_low_rank_result *result, const tn_rest_tensor *rest, size_t rest_count,
                                    tn_low_rank_report *report) {
    if (!report)
        return TN_OK;
    *report = (tn_low_rank_report){0};
    tn_arena *arena = tn_calloc(1, sizeof *arena);
    if (!arena)
        return tn_fail_memory("the report");
    report->memory = arena;
    report->layers = tn_arena_array(arena, result->count + 1, sizeof *report->layers);
    report->rest = tn_arena_array(arena, rest_count + 1, sizeof *report->rest);
    bool good = report->layers && report->rest;
    for (size_t i = 0; i < result->count && good; i++) {
        report->layers[i] = result->layers[i];
        report->layers[i].module = tn_arena_strdup(arena, result->layers[i].module);
        good = report->layers[i].module;
    }
    for (size_t i = 0; i < rest_count && good; i++) {
        report->rest[i] = rest[i];
        report->rest[i].name = tn_arena_strdup(arena, rest[i].name);
        good = report->rest[i].name;
    }
    if (!good) {
        tn_low_rank_report_free(report);
        return tn_fail_memory("the report");
    }
    report->layer_count = (int64_t)result->count;
    report->rest_count = (int64_t)rest_count;
    sum_up(report);
    return TN_OK;
}

void tn_low_rank_report_free(tn_low_rank_report *report) {
    if (report->memory)
        tn_arena_free(report->memory);
    tn_free(report->memory);
    *report = (tn_low_rank_report){0};
}

double tn_low_rank_energy(double error) {
    return fmax(0, 1 - error * error);
}

tn_status tn_check_other_folder(const char *out, const char *dir) {
    struct stat a, b;
    if (stat(out, &a) == 0 && stat(dir, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return tn_fail(TN_ERROR_ARGUMENT, "%s is read from and cannot be written to; give another folder", out);
    return TN_OK;
}
