/* What adapters cost: layer by layer, and rank by rank. */
#include "tables.h"

#include <stdio.h>
#include <string.h>

enum { MOST_TENSORS = 4 * MOST_LAYERS, MOST_RANK = 64 };

bool print_layers(const tn_model *model, const layers *l) {
    tn_trained_tensor tensors[MOST_TENSORS];
    size_t count = tn_model_list_trained(model, tensors, MOST_TENSORS);
    int64_t sum = 0;
    char weights[COUNT_TEXT], parameters[COUNT_TEXT], trained[COUNT_TEXT];
    if (count > MOST_TENSORS) {
        fprintf(stderr, "lora_training: the adapter has more than %d tensors\n", MOST_TENSORS);
        return false;
    }
    printf("%-7s %12s %12s %12s %9s\n", "layer", "weight", "parameters", "trained", "share");
    for (int i = 0; i < l->count; i++) {
        const layer *one = &l->items[i];
        int64_t own = 0;
        for (size_t j = 0; j < count; j++)
            own += strcmp(tensors[j].module, one->name) == 0 ? tensors[j].count : 0;
        snprintf(weights, sizeof weights, "%lld x %lld", (long long)one->out, (long long)one->in);
        printf("%-7s %12s %12s %12s %7.2f %%\n", one->name, weights, count_text(parameters, one->parameters),
               count_text(trained, own), 100.0 * (double)own / (double)one->parameters);
        sum += own;
    }
    printf("%-7s %12s %12s %12s %7.2f %%\n", "total", "", count_text(parameters, l->parameters), count_text(trained, sum),
           100.0 * (double)sum / (double)l->parameters);
    return true;
}

typedef struct row {
    int64_t trained, parameter_bytes, gradient_bytes, optimizer_bytes;
    double accuracy;
} row;

static int64_t bytes_of(const row *r) {
    return r->parameter_bytes + r->gradient_bytes + r->optimizer_bytes;
}

/* rank 0: full fine-tuning. The library's plan of the run has the bytes. */
static bool measure(const settings *s, const task *t, const layers *l, const char *base, const char *dir, int64_t rank,
                    row *out) {
    tn_adapter_options full = {0};
    tn_adapter_info info;
    tn_model *model;
    progress p;
    double loss;
    tn_adapter_options_default(&full);
    full.method = "full";
    if (!ok(tn_model_load(base, &model)))
        return false;
    /* alpha grows with the rank: the scaling stays that of the run above */
    bool good = rank ? add_lora(model, s, t, l, rank, s->alpha * (double)rank / (double)s->rank)
                     : ok(tn_model_add_adapter(model, &full, s->seed));
    good = good && fit(model, s, t, s->rank_epochs, 0, dir, &p, NULL) &&
           accuracy_of(model, &t->valid, &loss, &out->accuracy) && ok(tn_model_describe_adapter(model, &info));
    if (good) {
        out->trained = info.parameters;
        out->parameter_bytes = p.plan.adapter_bytes;
        out->gradient_bytes = p.plan.gradient_bytes;
        out->optimizer_bytes = p.plan.optimizer_bytes;
    }
    tn_model_free(model);
    return good;
}

static void print_row(const char *name, const row *r, const row *full) {
    char trained[COUNT_TEXT];
    printf("%5s %9s %7.2f %% %8.1f x %11.1f %10.1f %10.1f %9.1f %8.1f %% %8.1f %%\n", name, count_text(trained, r->trained),
           100.0 * (double)r->trained / (double)full->trained, (double)full->trained / (double)r->trained,
           (double)r->parameter_bytes / 1e3, (double)r->gradient_bytes / 1e3, (double)r->optimizer_bytes / 1e3,
           (double)bytes_of(r) / 1e3, 100.0 - 100.0 * (double)bytes_of(r) / (double)bytes_of(full), 100 * r->accuracy);
}

bool print_ranks(const settings *s, const task *t, const layers *l, const char *base, const char *dir) {
    row full, one;
    char path[PATH + NAME], name[COUNT_TEXT];
    printf("\nRanks, each trained for %lld epochs; kB of memory that training adds to the base\n",
           (long long)s->rank_epochs);
    printf("%5s %9s %9s %10s %11s %10s %10s %9s %10s %10s\n", "rank", "trained", "share", "compressed", "parameters",
           "gradients", "optimiser", "sum", "saved", "accuracy");
    snprintf(path, sizeof path, "%s/full", dir);
    if (!measure(s, t, l, base, path, 0, &full))
        return false;
    for (int64_t rank = 1; rank <= MOST_RANK; rank *= 2) {
        snprintf(name, sizeof name, "%lld", (long long)rank);
        snprintf(path, sizeof path, "%s/rank-%s", dir, name);
        if (!measure(s, t, l, base, path, rank, &one))
            return false;
        print_row(name, &one, &full);
    }
    print_row("full", &full, &full);
    for (int i = 0; i < l->count; i++) {
        int64_t most = l->items[i].out < l->items[i].in ? l->items[i].out : l->items[i].in;
        if (most < MOST_RANK)
            printf("%s is a matrix of rank %lld at most, so its update has no more than that.\n", l->items[i].name,
                   (long long)most);
    }
    return true;
}
