#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llm_lora.h"

enum { NEW_TOKENS = 48, FIRST_TOKENS = 4, ROWS = 4 };

static const char *const sql_only[] = {"sql"}, *const lower_only[] = {"lower"}, *const both[] = {"sql", "lower"};
static const double halves[] = {0.5, 0.5};

/* What the model writes with each of these, from nothing at all to half of each. */
static const tn_adapter_mix mixes[ROWS] = {{NULL, NULL, 0}, {sql_only, NULL, 1}, {lower_only, NULL, 1}, {both, halves, 2}};
static const char *const mix_names[ROWS] = {"base", "sql", "lower", "0.5 sql + 0.5 lower"};

static void greedy(tn_generate_options *options, int64_t tokens) {
    static const char *const line_end[] = {"\n"};
    *options = (tn_generate_options){0};
    tn_generate_options_default(options);
    options->max_tokens = tokens;
    options->stop = line_end;
    options->stop_count = 1;
}

/* One after another: the adapters in use are changed between two calls, and the base stays where it is. */
static bool swap_for_all(tn_model *model, const int32_t *ids, size_t count, char *texts[ROWS]) {
    tn_generate_options options;
    greedy(&options, NEW_TOKENS);
    for (int i = 0; i < ROWS; i++) {
        tn_generate_result result;
        if (!ok(tn_model_use_adapters(model, &mixes[i])) ||
            !ok(tn_generate(model, ids, count, &options, NULL, NULL, &result)))
            return false;
        printf("  %-20s%s\n", mix_names[i], result.text);
        texts[i] = strdup(result.text);
        tn_generate_result_free(&result);
        if (!texts[i])
            return fprintf(stderr, "llm_lora: out of memory\n"), false;
    }
    return true;
}

typedef struct comparison {
    char *const *texts;
    int same;
} comparison;

static bool compare_row(void *cookie, size_t index, const tn_generate_result *result) {
    comparison *c = cookie;
    c->same += strcmp(c->texts[index], result->text) == 0;
    printf("  row %zu, %-13s%s\n", index, mix_names[index][0] == '0' ? "half of each" : mix_names[index], result->text);
    return true;
}

/* The same at once: each row of a batch has adapters of its own. */
static bool swap_by_row(tn_model *model, const int32_t *ids, size_t count, char *const texts[ROWS]) {
    tn_prompt prompts[ROWS];
    tn_generate_options options;
    comparison c = {texts, 0};
    greedy(&options, NEW_TOKENS);
    for (int i = 0; i < ROWS; i++)
        prompts[i] = (tn_prompt){ids, count, &mixes[i]};
    if (!ok(tn_generate_many(model, prompts, ROWS, ROWS, &options, compare_row, &c)))
        return false;
    printf("  the same as one by one: %d of %d\n", c.same, ROWS);
    return true;
}

/* Some tokens by one adapter, the rest by the other. */
static bool swap_midway(tn_model *model, const int32_t *ids, size_t count) {
    tn_generate_options options;
    tn_generate_result first, rest;
    greedy(&options, FIRST_TOKENS);
    if (!ok(tn_model_use_adapters(model, &mixes[1])) || !ok(tn_generate(model, ids, count, &options, NULL, NULL, &first)))
        return false;
    int32_t *longer = malloc((count + first.count) * sizeof *longer);
    bool good = longer != NULL;
    if (good) {
        memcpy(longer, ids, count * sizeof *ids);
        memcpy(longer + count, first.ids, first.count * sizeof *ids);
        greedy(&options, NEW_TOKENS);
        good = ok(tn_model_use_adapters(model, &mixes[2])) &&
               ok(tn_generate(model, longer, count + first.count, &options, NULL, NULL, &rest));
    } else {
        fprintf(stderr, "llm_lora: out of memory\n");
    }
    if (good) {
        printf("  %s |%s\n", first.text, rest.text);
        tn_generate_result_free(&rest);
    }
    tn_generate_result_free(&first);
    free(longer);
    return good;
}

bool swap_adapters(const settings *s, const char *sql_dir, const char *lower_dir) {
    tn_model *model = NULL;
    int32_t *ids = NULL;
    size_t count = 0;
    char *texts[ROWS] = {NULL};
    bool good = ok(tn_model_load(s->model, &model)) && ok(tn_model_attach_adapter(model, sql_dir, "sql")) &&
                ok(tn_model_attach_adapter(model, lower_dir, "lower")) &&
                ok(tn_model_encode(model, s->prompt, strlen(s->prompt), true, &ids, &count));
    if (good) {
        printf("\nTwo adapters on one base, swapped between answers:\n%s\n", s->prompt);
        good = swap_for_all(model, ids, count, texts);
    }
    if (good) {
        printf("The same prompt four times in one batch, each row with its own:\n");
        good = swap_by_row(model, ids, count, texts);
    }
    if (good) {
        printf("Swapped within an answer, after %d tokens (at the bar):\n", FIRST_TOKENS);
        good = swap_midway(model, ids, count);
    }
    for (int i = 0; i < ROWS; i++)
        free(texts[i]);
    tn_free_ids(ids);
    tn_model_free(model);
    return good;
}
