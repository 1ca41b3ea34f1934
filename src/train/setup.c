/* From options to a run that is ready: data, order, settings, memory. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "train/trainer.h"

void tn_train_options_default(tn_train_options *options) {
    *options = (tn_train_options){
        .batch_size = 8,
        .accumulate = 1,
        .epochs = 3,
        .pass_tokens = 512,
        .max_length = 1024,
        .shuffle = true,
        .valid_fraction = 0.05,
        .lr = 1e-4,
        .optimizer = "adamw",
        .beta1 = 0.9,
        .beta2 = 0.999,
        .eps = 1e-8,
        .weight_decay = 0.01,
        .grad_clip = 1,
        .lora_plus_ratio = 1,
        .schedule = "cosine",
        .checkpointing = "auto",
        .log_every = 1,
        .eval_every = 100,
        .save_every = 100,
        .keep_checkpoints = 2,
    };
}

static tn_status check_number(const char *name, double value, double low, double high) {
    if (value >= low && value <= high)
        return TN_OK;
    return tn_fail(TN_ERROR_ARGUMENT, "%s is %g; it must be from %g to %g", name, value, low, high);
}

static tn_status check_options(const tn_train_options *o) {
    if (!o->data && !o->train_set)
        return tn_fail(TN_ERROR_ARGUMENT, "no training data given");
    TN_TRY(check_number("batch_size", (double)o->batch_size, 1, 1e9));
    TN_TRY(check_number("accumulate", (double)o->accumulate, 1, 1e9));
    TN_TRY(check_number("pass_tokens", (double)o->pass_tokens, 0, 1e9));
    TN_TRY(check_number("steps", (double)o->steps, 0, 1e12));
    TN_TRY(check_number("epochs", o->epochs, 0, 1e9));
    TN_TRY(check_number("max_length", (double)o->max_length, 0, 1e9));
    TN_TRY(check_number("valid_fraction", o->valid_fraction, 0, 0.9));
    TN_TRY(check_number("lr", o->lr, 0, 1e6));
    if (!(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1))
        return tn_fail(TN_ERROR_ARGUMENT, "beta1 is %g and beta2 is %g; both must be at least 0 and below 1", o->beta1,
                       o->beta2);
    TN_TRY(check_number("eps", o->eps, 0, 1));
    TN_TRY(check_number("weight_decay", o->weight_decay, 0, 1e6));
    TN_TRY(check_number("grad_clip", o->grad_clip, 0, 1e12));
    TN_TRY(check_number("lora_plus_ratio", o->lora_plus_ratio, 0, 1e6));
    TN_TRY(check_number("warmup", (double)o->warmup, 0, 1e12));
    TN_TRY(check_number("log_every", (double)o->log_every, 1, 1e12));
    TN_TRY(check_number("eval_every", (double)o->eval_every, 0, 1e12));
    TN_TRY(check_number("save_every", (double)o->save_every, 0, 1e12));
    return check_number("keep_checkpoints", (double)o->keep_checkpoints, 1, 1e9);
}

static bool is_lora_b(const char *name) {
    const char *at = strstr(name, ".lora_B");
    return (at && (at[7] == '.' || !at[7])) || strstr(name, ".lora_embedding_B");
}

/* Groups overrule LoRA+. */
static tn_status apply_groups(tn_trainer *t) {
    tn_params *params = &t->model->adapter->params;
    for (int64_t i = 0; i < params->count; i++) {
        if (is_lora_b(params->entries[i].name))
            params->entries[i].lr_scale = (float)t->options->lora_plus_ratio;
        for (size_t g = 0; g < t->options->group_count; g++) {
            const tn_lr_group *group = &t->options->groups[g];
            bool matches;
            TN_TRY(tn_peft_full_match(group->pattern, params->entries[i].name, "learning-rate group", &matches));
            if (!matches)
                continue;
            params->entries[i].lr_scale = (float)group->lr_scale;
            params->entries[i].decay = params->entries[i].decay && !group->no_decay;
            break;
        }
    }
    return TN_OK;
}

/* Tells another base from this one: the beginnings of all frozen weights. What is trained stands in the checkpoint. */
static void print_fingerprint(const tn_network *model, char text[static 24]) {
    enum { BYTES_OF_EACH = 4096 };
    float decoded[BYTES_OF_EACH / sizeof(float)];
    uint64_t hash = TN_HASH_START;
    for (int64_t i = 0; i < model->module_count; i++) {
        const tn_weight *weight = &model->modules[i].weight;
        int64_t bytes = tn_tensor_bytes(&weight->tensor);
        if (weight->tensor.dtype == TN_DTYPE_QUANTISED) {
            int64_t count = tn_tensor_count(&weight->tensor), most = sizeof decoded / sizeof *decoded;
            count = count < most ? count : most;
            tn_tensor_read(decoded, &weight->tensor, 0, count);
            hash = tn_hash(hash, decoded, (size_t)count * sizeof *decoded);
        } else if (weight->tensor.data && !weight->trainable)
            hash = tn_hash(hash, weight->tensor.data, (size_t)(bytes < BYTES_OF_EACH ? bytes : BYTES_OF_EACH));
    }
    snprintf(text, 24, "%016llx", (unsigned long long)hash);
}

static void describe_groups(const tn_train_options *o, cJSON *settings) {
    cJSON *groups = cJSON_AddArrayToObject(settings, "groups");
    for (size_t g = 0; g < o->group_count; g++) {
        cJSON *group = cJSON_CreateObject();
        cJSON_AddStringToObject(group, "pattern", o->groups[g].pattern);
        cJSON_AddNumberToObject(group, "lr-scale", o->groups[g].lr_scale);
        cJSON_AddBoolToObject(group, "no-decay", o->groups[g].no_decay);
        cJSON_AddItemToArray(groups, group);
    }
}

/* Everything that changes the course of a run, but not where it is written or how often it reports. On resuming the first
 * that differs is named, so causes stand before their effects. */
static tn_status describe_settings(tn_trainer *t) {
    const tn_train_options *o = t->options;
    const tn_adapter *adapter = t->model->adapter;
    cJSON *s = cJSON_CreateObject();
    tn_buf text = {0}, config = {0};
    char number[24];
    tn_status status = TN_OK;
    cJSON_AddStringToObject(s, "family", t->model->network->family);
    cJSON_AddNumberToObject(s, "parameters", (double)tn_network_parameters(t->model->network));
    cJSON_AddStringToObject(s, "matmul-precision", t->model->matmul_precision);
    cJSON_AddNumberToObject(s, "batch-size", (double)o->batch_size);
    cJSON_AddNumberToObject(s, "accumulate", (double)o->accumulate);
    cJSON_AddNumberToObject(s, "pass-tokens", (double)o->pass_tokens);
    cJSON_AddNumberToObject(s, "steps", (double)t->steps);
    cJSON_AddBoolToObject(s, "shuffle", o->shuffle);
    cJSON_AddNumberToObject(s, "lr", o->lr);
    if (strcmp(o->checkpointing, "8bit") == 0)
        cJSON_AddStringToObject(s, "checkpointing", o->checkpointing);
    cJSON_AddStringToObject(s, "optimizer", o->optimizer);
    cJSON_AddNumberToObject(s, "beta1", o->beta1);
    cJSON_AddNumberToObject(s, "beta2", o->beta2);
    cJSON_AddNumberToObject(s, "eps", o->eps);
    cJSON_AddNumberToObject(s, "weight-decay", o->weight_decay);
    cJSON_AddNumberToObject(s, "grad-clip", o->grad_clip);
    cJSON_AddStringToObject(s, "schedule", o->schedule);
    cJSON_AddNumberToObject(s, "warmup", (double)o->warmup);
    snprintf(number, sizeof number, "%llu", (unsigned long long)o->seed);
    cJSON_AddStringToObject(s, "seed", number);
    cJSON_AddNumberToObject(s, "lora-plus-ratio", o->lora_plus_ratio);
    describe_groups(o, s);
    cJSON_AddStringToObject(s, "method", adapter->method ? adapter->method->name : "full");
    if (adapter->method) {
        status = tn_peft_config_print(&adapter->config, &config);
        cJSON *json = cJSON_Parse(tn_buf_text(&config));
        cJSON_DeleteItemFromObjectCaseSensitive(json, "base_model_name_or_path");
        cJSON_AddItemToObject(s, "adapter", json ? json : cJSON_CreateNull());
    }
    cJSON_AddNumberToObject(s, "trainable", (double)adapter->params.total);
    print_fingerprint(t->model->network, number);
    cJSON_AddStringToObject(s, "base", number);
    tn_json_print(&text, s, false);
    cJSON_Delete(s);
    tn_buf_free(&config);
    if (status == TN_OK && !(t->settings = tn_buf_take(&text)))
        status = tn_fail_memory("the settings");
    tn_buf_free(&text);
    return status;
}

void tn_trainer_set_steps(tn_trainer *t, int64_t per_epoch) {
    const tn_train_options *o = t->options;
    double steps = o->steps ? (double)o->steps : ceil(o->epochs * (double)per_epoch / (double)o->accumulate);
    t->steps = steps < 1 ? 1 : (int64_t)steps;
    t->per_epoch = per_epoch;
}

void tn_trainer_count_time(const tn_trainer *t, tn_phase phase, const char *op, double since) {
    if (t->options->profile)
        tn_profile_add(t->options->profile, phase, op, tn_seconds() - since, 0);
}

uint64_t tn_trainer_dropout_seed(const tn_trainer *t, int64_t micro_batch, int64_t part) {
    uint64_t draw = (uint64_t)micro_batch * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)part * UINT64_C(0xd1342543de82ef95);
    return t->options->seed ^ draw;
}

tn_status tn_trainer_init(tn_trainer *t, tn_model *model, const tn_train_options *options,
                          const tn_train_callbacks *callbacks) {
    static const tn_train_callbacks none;
    *t = (tn_trainer){.model = model, .options = options, .callbacks = callbacks ? callbacks : &none};
    if (!model->adapter || !model->adapter->params.grads)
        return tn_fail(TN_ERROR_ARGUMENT, "the model has nothing to train: add an adapter first, or load one as trainable");
    if (model->adapter->next)
        return tn_fail(TN_ERROR_ARGUMENT, "%s holds several adapters; train one of them, such as the one in %s/%s",
                       model->adapter_dir, model->adapter_dir, model->adapter->next->name);
    TN_TRY(check_options(options));
    TN_TRY(tn_optimizer_from_name(options->optimizer, &t->optimizer_kind));
    t->source = model->sequential ? &tn_feature_source : &tn_text_source;
    return tn_schedule_from_name(options->schedule, &t->schedule);
}

tn_status tn_trainer_load(tn_trainer *t) {
    const tn_train_options *options = t->options;
    TN_TRY(t->source->load(t));
    const tn_peft_method *method = t->model->adapter->method;
    if (method && method->start_training)
        TN_TRY(method->start_training(t->model->adapter, t->steps));
    TN_TRY(apply_groups(t));
    TN_TRY(describe_settings(t));
    if (options->warmup >= t->steps && t->steps > 1 && t->callbacks->warning) {
        char text[160];
        snprintf(text, sizeof text,
                 "warmup of %lld steps is not shorter than the run of %lld: the full learning rate is never reached",
                 (long long)options->warmup, (long long)t->steps);
        t->callbacks->warning(t->callbacks->cookie, text);
    }
    return TN_OK;
}

void tn_trainer_free(tn_trainer *t) {
    tn_tape_free(&t->tape);
    tn_optimizer_free(&t->optimizer);
    if (t->source)
        t->source->free(t);
    tn_buf_free(&t->sample);
    tn_free(t->settings);
    *t = (tn_trainer){0};
}
