/* A report on low-rank updates, as text and as JSON. */
#include "cli/low_rank_report.h"

#include <string.h>

#include "base/format.h"
#include "cli/cli.h"
#include "cli/output_files.h"
#include "format/json.h"

const tn_option tn_cli_low_rank_options[] = {
    {.name = "threads",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_low_rank, threads),
     .initial = "0",
     .low = 0,
     .high = 4096,
     .help = "threads to use; 0: one per core"},
    {.name = "out",
     .type = TN_OPTION_PATH,
     TN_FIELD(tn_cli_low_rank, out),
     .value_name = "DIR",
     .group = "Output",
     .help = "folder to write; it is created",
     .flags = TN_OPTION_REQUIRED},
    {.name = "json", .type = TN_OPTION_BOOL, TN_FIELD(tn_cli_low_rank, json), .help = "print one JSON object"},
    {0},
};

static void print_ranks(tn_buf *out, const tn_low_rank_report *r) {
    if (r->lowest_rank == r->highest_rank)
        tn_buf_printf(out, "rank %lld", (long long)r->lowest_rank);
    else
        tn_buf_printf(out, "ranks %lld to %lld", (long long)r->lowest_rank, (long long)r->highest_rank);
}

static void print_layers(tn_buf *out, const tn_low_rank_report *r) {
    enum { WIDEST = 80 };
    size_t width = 0;
    for (int64_t i = 0; i < r->layer_count; i++) {
        size_t length = strlen(r->layers[i].module);
        width = length > width && length <= WIDEST ? length : width;
    }
    for (int64_t i = 0; i < r->layer_count; i++) {
        const tn_low_rank_layer *l = &r->layers[i];
        size_t start = out->length;
        tn_buf_puts(out, "  ");
        tn_cli_print_text(out, l->module);
        while (out->length < start + width + 2 && !out->failed)
            tn_buf_putc(out, ' ');
        tn_buf_printf(out, "  [%lld, %lld]  rank %-4lld  |update| %-9.4g  energy kept %.6f\n", (long long)l->out,
                      (long long)l->in, (long long)l->rank, l->norm, tn_low_rank_energy(l->error));
    }
}

static void print_rest(tn_buf *out, const tn_low_rank_report *r) {
    if (!r->rest_count)
        return;
    tn_buf_printf(out, "%lld tensors differ and got no LoRA%s:\n", (long long)r->rest_count,
                  r->rest[0].kept ? "; they are kept whole" : "; THE ADAPTER IS WITHOUT THEM (--keep-rest keeps them)");
    for (int64_t i = 0; i < r->rest_count; i++) {
        tn_buf_puts(out, "  ");
        tn_cli_print_text(out, r->rest[i].name);
        tn_buf_printf(out, "  |difference| %.4g of |base| %.4g\n", r->rest[i].norm, r->rest[i].base_norm);
    }
}

static tn_status print_text(tn_buf *out, const char *title, const tn_low_rank_report *report, bool energy, const char *dir) {
    char count[TN_FORMAT_TEXT];
    tn_buf_printf(out, "%s: %lld modules, ", title, (long long)report->layer_count);
    print_ranks(out, report);
    tn_buf_printf(out, ", %s parameters\n", tn_format_count(count, (double)report->parameters));
    if (energy) {
        print_layers(out, report);
        tn_buf_printf(out, "energy kept over all modules: %.6f\n", tn_low_rank_energy(report->error));
    }
    tn_buf_printf(out, "relative error against the exact %s: %.3g; worst module: %.3g, ", energy ? "update" : "weighted sum",
                  report->error, report->layers[report->worst].error);
    tn_cli_print_text(out, report->layers[report->worst].module);
    tn_buf_putc(out, '\n');
    print_rest(out, report);
    return tn_cli_print_files(out, dir);
}

static void add_measure(cJSON *object, double norm, double error, bool energy) {
    cJSON_AddNumberToObject(object, "norm", norm);
    cJSON_AddNumberToObject(object, "relative_error", error);
    if (energy)
        cJSON_AddNumberToObject(object, "energy", tn_low_rank_energy(error));
}

static tn_status print_json(tn_buf *out, const tn_low_rank_report *report, bool energy) {
    cJSON *o = cJSON_CreateObject(), *layers, *rest;
    cJSON_AddNumberToObject(o, "modules", (double)report->layer_count);
    cJSON_AddNumberToObject(o, "lowest_rank", (double)report->lowest_rank);
    cJSON_AddNumberToObject(o, "highest_rank", (double)report->highest_rank);
    cJSON_AddNumberToObject(o, "parameters", (double)report->parameters);
    add_measure(o, report->norm, report->error, energy);
    cJSON_AddStringToObject(o, "worst_module", report->layers[report->worst].module);
    cJSON_AddNumberToObject(o, "worst_relative_error", report->layers[report->worst].error);
    layers = cJSON_AddArrayToObject(o, "layers");
    for (int64_t i = 0; i < report->layer_count; i++) {
        const tn_low_rank_layer *l = &report->layers[i];
        cJSON *layer = cJSON_CreateObject();
        cJSON_AddStringToObject(layer, "module", l->module);
        cJSON_AddNumberToObject(layer, "out", (double)l->out);
        cJSON_AddNumberToObject(layer, "in", (double)l->in);
        cJSON_AddNumberToObject(layer, "rank", (double)l->rank);
        add_measure(layer, l->norm, l->error, energy);
        cJSON_AddItemToArray(layers, layer);
    }
    rest = report->rest_count ? cJSON_AddArrayToObject(o, "rest") : NULL;
    for (int64_t i = 0; i < report->rest_count; i++) {
        cJSON *tensor = cJSON_CreateObject();
        cJSON_AddStringToObject(tensor, "name", report->rest[i].name);
        cJSON_AddNumberToObject(tensor, "norm", report->rest[i].norm);
        cJSON_AddNumberToObject(tensor, "base_norm", report->rest[i].base_norm);
        cJSON_AddBoolToObject(tensor, "kept", report->rest[i].kept);
        cJSON_AddItemToArray(rest, tensor);
    }
    tn_json_print(out, o, true);
    tn_buf_putc(out, '\n');
    cJSON_Delete(o);
    return tn_buf_status(out);
}

tn_status tn_cli_show_low_rank(const tn_cli_low_rank *options, const char *title, const tn_low_rank_report *report,
                               bool energy) {
    tn_buf text = {0};
    tn_status status =
        options->json ? print_json(&text, report, energy) : print_text(&text, title, report, energy, options->out);
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return status;
}
