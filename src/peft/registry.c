/* The list of methods. A new one is a new file and a line here; so is a name for a method with some of its settings. */
#include <string.h>

#include "peft/lora.h"
#include "peft/methods.h"

const tn_peft_method *const tn_peft_methods[] = {
    &tn_lora, &tn_adalora, &tn_ia3, &tn_loha, &tn_lokr, &tn_vera, NULL,
};

static void use_dora(tn_peft_config *config) {
    config->use_dora = true;
}

static void freeze_a(tn_peft_config *config) {
    config->freeze_a = true;
}

const tn_peft_preset tn_peft_presets[] = {
    {.name = "dora",
     .method = &tn_lora,
     .summary = "LoRA for the direction of each row of the weight, a trained number for its norm",
     .formula = "y = m / |W + s B A| * (W + s B A) x",
     .paper = "arXiv:2402.09353",
     .apply = use_dora},
    {.name = "lora-fa",
     .method = &tn_lora,
     .summary = "LoRA that trains B alone, along the gradient of the weight seen through the frozen A",
     .formula = "y = W x + alpha/r B A x, A fixed",
     .paper = "arXiv:2308.03303",
     .apply = freeze_a,
     .training_only = true},
    {0},
};

static void scale_by_root(tn_peft_config *config) {
    config->use_rslora = true;
}

const tn_peft_preset tn_peft_ways[] = {
    {.name = "rslora",
     .method = &tn_lora,
     .flags = "--rslora",
     .summary = "LoRA scaled so that high ranks learn as fast as low ones",
     .formula = "y = W x + alpha/sqrt(r) B A x",
     .paper = "arXiv:2312.03732",
     .apply = scale_by_root},
    {.name = "lora+",
     .method = &tn_lora,
     .flags = "--lora-plus-ratio 16",
     .summary = "B learns at a multiple of A's rate",
     .formula = "lr(B) = ratio lr(A)",
     .paper = "arXiv:2402.12354"},
    {0},
};

const tn_peft_method *tn_peft_method_by_type(const char *peft_type) {
    for (const tn_peft_method *const *method = tn_peft_methods; *method; method++)
        if (strcmp((*method)->peft_type, peft_type) == 0)
            return *method;
    return NULL;
}

static tn_status fail_unknown(const char *name) {
    tn_buf list = {0};
    for (const tn_peft_method *const *m = tn_peft_methods; *m; m++)
        tn_buf_printf(&list, "%s, ", (*m)->name);
    for (const tn_peft_preset *p = tn_peft_presets; p->name; p++)
        tn_buf_printf(&list, "%s, ", p->name);
    tn_status status = tn_fail(TN_ERROR_ARGUMENT, "there is no method '%s'; there are %sand full", name, tn_buf_text(&list));
    tn_buf_free(&list);
    return status;
}

tn_status tn_peft_method_by_name(const char *name, const tn_peft_method **method, const tn_peft_preset **preset) {
    *method = NULL;
    *preset = NULL;
    for (const tn_peft_method *const *m = tn_peft_methods; *m && !*method; m++)
        if (strcmp((*m)->name, name) == 0)
            *method = *m;
    for (const tn_peft_preset *p = tn_peft_presets; p->name && !*method; p++) {
        if (strcmp(p->name, name) == 0) {
            *method = p->method;
            *preset = p;
        }
    }
    return *method ? TN_OK : fail_unknown(name);
}
