/* The table and the JSON of `tenon bench`: a language model's work is counted in tokens, a sequential one's in samples. */
#include "cli/bench_report.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/format.h"
#include "format/json.h"

static bool has_tokens(const tn_model_info *info) {
    return info->vocab_size > 0;
}

static void print_row(const tn_bench_row *row) {
    printf("%-8s %-14s %10.1f %10.3f %10.3f", row->weights, row->work, (double)row->tokens / row->seconds,
           1e3 * row->seconds, 1e3 * row->best_seconds);
    if (row->bytes > 0)
        printf(" %8.1f GB/s   ", row->bytes / row->seconds / 1e9);
    else if (row->flops > 0)
        printf(" %8.1f GFLOP/s", row->flops / row->seconds / 1e9);
    else
        printf("%17s", "");
    if (row->share > 0)
        printf(" %6.1f %% %6.1f %%", 100 * row->share, 100 * row->median_share);
    printf("\n");
}

static void print_model(const tn_model_info *info) {
    char parameters[TN_FORMAT_TEXT];
    tn_format_count(parameters, (double)info->parameters);
    printf("model      %s, %s parameters (%s), %lld layers", info->family, parameters, info->dtype, (long long)info->layers);
    if (has_tokens(info))
        printf(" of %lld, vocabulary %lld", (long long)info->hidden_size, (long long)info->vocab_size);
    printf("\n");
}

static void print_work(const tn_bench_options *o, const tn_model_info *info, const tn_bench_result *r) {
    if (!has_tokens(info)) {
        printf("work       batches of %lld samples\n", (long long)r->batch_size);
        return;
    }
    const bool in_8bit = strcmp(o->checkpointing, "8bit") == 0;
    printf("work       training %lld x %lld tokens, %.3g %% labelled%s; prompt of %lld tokens, %lld more generated\n",
           (long long)r->batch_size, (long long)o->length, 100 * o->labelled,
           r->recomputed ? ", activations recomputed"
           : in_8bit     ? ", activations kept in 8 bits"
                         : "",
           (long long)o->prompt_tokens, (long long)o->tokens);
}

static const char *size_text(char text[TN_FORMAT_TEXT], int64_t bytes) {
    tn_format_bytes(text, (double)bytes);
    return text;
}

static void print_memory(const tn_bench_result *r) {
    char count[TN_FORMAT_TEXT], texts[5][TN_FORMAT_TEXT];
    if (!r->memory_count)
        return;
    printf("\n%-8s %10s %12s %12s %12s %12s %12s\n", "training", "trained", "parameters", "gradients", "optimiser",
           "activations", "in all");
    for (int64_t i = 0; i < r->memory_count; i++) {
        const tn_bench_memory *m = &r->memory[i];
        tn_format_count(count, (double)m->trained);
        printf("%-8s %10s %12s %12s %12s %12s %12s\n", m->weights, count, size_text(texts[0], m->parameter_bytes),
               size_text(texts[1], m->gradient_bytes), size_text(texts[2], m->optimizer_bytes),
               size_text(texts[3], m->activation_bytes),
               size_text(texts[4], m->parameter_bytes + m->gradient_bytes + m->optimizer_bytes + m->activation_bytes));
    }
    printf("beside the base, which takes %s\n", size_text(texts[0], r->base_bytes));
}

void tn_cli_print_bench(const tn_bench_options *options, const tn_model_info *info, const tn_bench_result *r) {
    print_model(info);
    print_work(options, info, r);
    printf("machine    %d threads, %s; sgemm %.1f GFLOP/s at best, %.1f over all shapes of a layer; reads %.1f GB/s\n\n",
           r->threads, r->kernels, r->limits.sgemm_flops / 1e9, r->limits.sgemm_mix_flops / 1e9,
           r->limits.read_bandwidth / 1e9);
    printf("%-8s %-14s %10s %10s %10s %16s %8s %8s\n", "weights", "work", has_tokens(info) ? "tokens/s" : "samples/s", "ms",
           "best ms", "rate", "share", "median");
    for (int64_t i = 0; i < r->count; i++)
        print_row(&r->rows[i]);
    printf("\nshare: the best time against the best of sgemm%s; median: against the limit of the same round%s\n",
           has_tokens(info) ? " (decode: of reading memory)" : "", has_tokens(info) ? " (decode: between the tokens)" : "");
    print_memory(r);
}

static cJSON *row_to_json(const tn_bench_row *row, bool tokens) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "weights", row->weights);
    cJSON_AddStringToObject(json, "work", row->work);
    cJSON_AddNumberToObject(json, tokens ? "tokens" : "samples", (double)row->tokens);
    cJSON_AddNumberToObject(json, "seconds", row->seconds);
    cJSON_AddNumberToObject(json, "best_seconds", row->best_seconds);
    cJSON_AddNumberToObject(json, tokens ? "tokens_per_second" : "samples_per_second", (double)row->tokens / row->seconds);
    cJSON_AddNumberToObject(json, "flops", row->flops);
    if (tokens)
        cJSON_AddNumberToObject(json, "bytes", row->bytes);
    if (row->share > 0) {
        cJSON_AddNumberToObject(json, "share", row->share);
        cJSON_AddNumberToObject(json, "median_share", row->median_share);
    }
    return json;
}

static void add_options(cJSON *json, const tn_bench_options *o, const tn_model_info *info, const tn_bench_result *r) {
    cJSON_AddNumberToObject(json, "batch_size", (double)r->batch_size);
    if (has_tokens(info)) {
        cJSON_AddNumberToObject(json, "max_length", (double)o->length);
        cJSON_AddNumberToObject(json, "labelled", o->labelled);
        cJSON_AddNumberToObject(json, "prompt", (double)o->prompt_tokens);
        cJSON_AddNumberToObject(json, "tokens", (double)o->tokens);
        cJSON_AddStringToObject(json, "checkpointing", o->checkpointing);
        cJSON_AddBoolToObject(json, "recomputed", r->recomputed);
    }
    cJSON_AddNumberToObject(json, "rounds", (double)o->rounds);
}

static void add_memory(cJSON *json, const tn_bench_result *r) {
    cJSON *list = cJSON_AddArrayToObject(json, "memory");
    for (int64_t i = 0; i < r->memory_count; i++) {
        const tn_bench_memory *m = &r->memory[i];
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToArray(list, one);
        cJSON_AddStringToObject(one, "weights", m->weights);
        cJSON_AddNumberToObject(one, "trained", (double)m->trained);
        cJSON_AddNumberToObject(one, "parameter_bytes", (double)m->parameter_bytes);
        cJSON_AddNumberToObject(one, "gradient_bytes", (double)m->gradient_bytes);
        cJSON_AddNumberToObject(one, "optimizer_bytes", (double)m->optimizer_bytes);
        cJSON_AddNumberToObject(one, "activation_bytes", (double)m->activation_bytes);
    }
}

tn_status tn_cli_write_bench(const char *path, const char *model, const tn_bench_options *options, const tn_model_info *info,
                             const tn_bench_result *r) {
    cJSON *json = cJSON_CreateObject();
    tn_buf text = {0};
    cJSON_AddStringToObject(json, "model", model);
    cJSON_AddStringToObject(json, "family", info->family);
    cJSON_AddStringToObject(json, "dtype", info->dtype);
    cJSON_AddNumberToObject(json, "parameters", (double)info->parameters);
    cJSON_AddNumberToObject(json, "base_bytes", (double)r->base_bytes);
    add_options(json, options, info, r);
    cJSON_AddNumberToObject(json, "threads", r->threads);
    cJSON_AddStringToObject(json, "kernels", r->kernels);
    cJSON *limits = cJSON_AddObjectToObject(json, "limits");
    cJSON_AddNumberToObject(limits, "sgemm_flops_per_second", r->limits.sgemm_flops);
    cJSON_AddNumberToObject(limits, "sgemm_mix_flops_per_second", r->limits.sgemm_mix_flops);
    cJSON_AddNumberToObject(limits, "read_bytes_per_second", r->limits.read_bandwidth);
    cJSON *rows = cJSON_AddArrayToObject(json, "rows");
    for (int64_t i = 0; i < r->count; i++)
        cJSON_AddItemToArray(rows, row_to_json(&r->rows[i], has_tokens(info)));
    add_memory(json, r);
    tn_json_print(&text, json, true);
    tn_buf_putc(&text, '\n');
    cJSON_Delete(json);
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK)
        status = tn_file_write(path, tn_buf_text(&text), text.length);
    tn_buf_free(&text);
    return status;
}
