/* The training loop: micro-batches into gradients, gradients into a step, and what is saved between steps. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "train/state.h"
#include "train/trainer.h"

/* After this many steps some weight must have changed. */
enum { STEPS_BEFORE_DEAD = 20 };

typedef struct {
    tn_trainer t;
    tn_train_plan plan;
    tn_metrics metrics;
    tn_train_state state;
    uint64_t start_hash; /* of all trained values before the first step, of an earlier call when this one resumes */
    double started, valid_loss, valid_accuracy; /* of the last validation; NaN: none, or no classes */
    int64_t tokens;                             /* trained in this call */
    bool anew; /* checkpoints in the folder are of another run, kept until there is one of this */
} run;

static uint64_t hash_values(const tn_params *params) {
    return tn_hash(TN_HASH_START, params->values, (size_t)params->total * sizeof(float));
}

static tn_status run_step(run *r, int64_t step, tn_train_step *out) {
    tn_trainer *t = &r->t;
    const tn_train_options *o = t->options;
    int64_t first = (step - 1) * o->accumulate, terms = 0;
    double start = tn_seconds(), loss_sum = 0;
    *out = (tn_train_step){.step = step, .steps = t->steps, .valid_loss = NAN, .valid_accuracy = NAN};
    for (int64_t i = 0; i < o->accumulate; i++)
        terms += t->source->terms(t, first + i);
    tn_optimizer_zero_grad(&t->optimizer);
    tn_trainer_count_time(&r->t, TN_PHASE_OPTIMIZER, "zero gradients", start);
    for (int64_t i = 0; i < o->accumulate; i++)
        TN_TRY(t->source->run(t, first + i, step, 1.0f / (float)terms, &loss_sum, out));
    tn_adapter *adapter = t->model->adapter;
    const tn_peft_method *method = adapter->method;
    out->loss = loss_sum / (double)terms;
    double update = tn_seconds();
    out->loss += tn_adapter_penalty(adapter);
    out->grad_norm = tn_optimizer_grad_norm(&t->optimizer);
    out->lr = o->lr * tn_schedule_factor(t->schedule, step - 1, t->steps, o->warmup);
    if (!isfinite(out->grad_norm))
        return tn_fail(TN_ERROR_NUMERIC,
                       "the gradient is not finite at step %lld; the last checkpoint is kept; try a lower learning rate",
                       (long long)step);
    if (method && method->before_step)
        method->before_step(adapter);
    tn_optimizer_step(&t->optimizer, step, out->lr, out->grad_norm, o->grad_clip);
    if (method && method->after_step)
        method->after_step(adapter, step, t->steps, tn_optimizer_grad_scale(out->grad_norm, o->grad_clip));
    tn_trainer_count_time(&r->t, TN_PHASE_OPTIMIZER, tn_optimizer_names[t->optimizer_kind], update);
    out->epoch = (double)(first + o->accumulate) / (double)t->per_epoch;
    out->seconds = tn_seconds() - start;
    r->tokens += out->tokens;
    double elapsed = tn_seconds() - r->started;
    out->tokens_per_second = (double)out->tokens / fmax(out->seconds, 1e-9);
    out->seconds_left = elapsed / (double)(step - r->state.step) * (double)(t->steps - step);
    return TN_OK;
}

tn_status tn_trainer_validate(tn_trainer *t, tn_validation *out) {
    *out = (tn_validation){.loss = NAN, .accuracy = NAN};
    TN_TRY(t->source->validate(t, out));
    return isfinite(out->loss) ? TN_OK
                               : tn_fail(TN_ERROR_NUMERIC, "the validation loss is not finite; try a lower learning rate");
}

static tn_status validate(run *r, int64_t step, tn_train_step *event) {
    tn_validation found;
    TN_TRY(tn_trainer_validate(&r->t, &found));
    event->valid_loss = r->valid_loss = found.loss;
    event->valid_accuracy = r->valid_accuracy = found.accuracy;
    if (!(r->state.best_valid_loss <= found.loss)) {
        r->state.best_valid_loss = found.loss;
        r->state.best_valid_step = step;
    }
    return tn_metrics_validation(&r->metrics, step, found.loss, found.accuracy);
}

static tn_status save_checkpoint(run *r, int64_t step) {
    const tn_params *params = &r->t.model->adapter->params;
    tn_train_state state = r->state;
    state.step = step;
    if (!r->t.model->kernels->all_finite(params->values, params->total))
        return tn_fail(TN_ERROR_NUMERIC,
                       "a weight is not finite after step %lld; the last checkpoint is kept; try a lower learning rate",
                       (long long)step);
    TN_TRY(tn_metrics_sync(&r->metrics, &state.metrics_bytes));
    TN_TRY(tn_train_state_save(r->t.options->out, r->t.model->adapter, &r->t.optimizer, &state,
                               r->anew ? 0 : r->t.options->keep_checkpoints));
    r->anew = false;
    return TN_OK;
}

static void warn_of_broken(const run *r, bool found) {
    const tn_train_callbacks *c = r->t.callbacks;
    char text[160];
    snprintf(text, sizeof text, "%lld damaged checkpoint%s passed over; %s", (long long)r->state.broken,
             r->state.broken == 1 ? "" : "s", found ? "an older one is used" : "training begins at the beginning");
    if (r->state.broken && c->warning)
        c->warning(c->cookie, text);
}

static tn_status check_learning(const run *r, int64_t step) {
    if (hash_values(&r->t.model->adapter->params) != r->start_hash)
        return TN_OK;
    return tn_fail(TN_ERROR_NUMERIC,
                   "after %lld steps no weight has changed: nothing is being learned; check the learning rate (%g), the "
                   "targets and the labels",
                   (long long)step, r->t.options->lr);
}

static bool is_due(int64_t every, int64_t step, int64_t steps) {
    return step == steps || (every > 0 && step % every == 0);
}

static tn_status validate_and_save(run *r, int64_t step, tn_train_step *event) {
    const tn_train_options *o = r->t.options;
    double start = tn_seconds();
    if (r->t.has_valid && is_due(o->eval_every, step, r->t.steps)) {
        TN_TRY(validate(r, step, event));
        tn_trainer_count_time(&r->t, TN_PHASE_OTHER, "validation", start);
    }
    start = tn_seconds();
    event->saved = is_due(o->save_every, step, r->t.steps);
    if (event->saved) {
        TN_TRY(save_checkpoint(r, step));
        tn_trainer_count_time(&r->t, TN_PHASE_OTHER, "checkpoints", start);
    }
    return TN_OK;
}

static tn_status train_steps(run *r) {
    tn_trainer *t = &r->t;
    const tn_train_options *o = t->options;
    int64_t first = r->state.step + 1, saved = r->state.step;
    for (int64_t step = first; step <= t->steps; step++) {
        tn_train_step event;
        TN_TRY(run_step(r, step, &event));
        TN_TRY(tn_metrics_step(&r->metrics, &event, is_due(o->log_every, step, t->steps)));
        if (step == STEPS_BEFORE_DEAD || (step == t->steps && step > 1 && step < STEPS_BEFORE_DEAD))
            TN_TRY(check_learning(r, step));
        TN_TRY(validate_and_save(r, step, &event));
        saved = event.saved ? step : saved;
        bool go_on = !t->callbacks->step || t->callbacks->step(t->callbacks->cookie, &event);
        if (!go_on && step < t->steps) {
            if (saved != step)
                TN_TRY(save_checkpoint(r, step));
            return tn_fail(TN_ERROR_INTERRUPTED, "stopped after step %lld of %lld; the checkpoint is in %s", (long long)step,
                           (long long)t->steps, o->out);
        }
    }
    return TN_OK;
}

/* All that can fail for lack of space or rights, before any work. */
static tn_status check_output(const tn_trainer *t) {
    const tn_train_options *o = t->options;
    int64_t checkpoint = tn_train_state_bytes(t->model->adapter, t->optimizer_kind), there;
    int64_t model = t->model->adapter->method ? 0 : tn_network_bytes(t->model->network);
    if (!o->out)
        return tn_fail(TN_ERROR_ARGUMENT, "no output folder given");
    TN_TRY(tn_dir_create(o->out));
    TN_TRY(tn_dir_check_writable(o->out));
    TN_TRY(tn_adapter_check_folder(t->model->adapter, o->out));
    TN_TRY(tn_train_state_count(o->out, &there));
    int64_t more = o->keep_checkpoints + 2 - there;
    return tn_disk_check_free(o->out, (uint64_t)(checkpoint * (more > 1 ? more : 1) + model));
}

static tn_status prepare_output(const run *r) {
    const tn_train_options *o = r->t.options;
    char path[TN_PATH_MAX];
    TN_TRY(tn_path_join(path, o->out, "checkpoints"));
    TN_TRY(tn_dir_create(path));
    TN_TRY(tn_dir_check_writable(path));
    TN_TRY(tn_train_state_remove_leftovers(o->out));
    if (!o->run_config)
        return TN_OK;
    TN_TRY(tn_path_join(path, o->out, "config.yaml"));
    return tn_file_write(path, o->run_config, strlen(o->run_config));
}

static tn_status start(run *r) {
    tn_trainer *t = &r->t;
    const tn_train_options *o = t->options;
    bool found = false;
    TN_TRY(tn_trainer_load(t));
    TN_TRY(tn_trainer_plan(t, false, &r->plan));
    TN_TRY(prepare_output(r));
    TN_TRY(tn_optimizer_init(&t->optimizer, &t->model->adapter->params, t->model->kernels, t->optimizer_kind));
    t->optimizer.beta1 = o->beta1;
    t->optimizer.beta2 = o->beta2;
    t->optimizer.eps = o->eps;
    t->optimizer.weight_decay = o->weight_decay;
    r->state = (tn_train_state){
        .data_hash = t->data_hash, .best_valid_loss = NAN, .settings = t->settings, .config = o->run_config};
    r->start_hash = hash_values(&t->model->adapter->params);
    if (o->resume)
        TN_TRY(tn_train_state_load(o->out, t->model->adapter, &t->optimizer, o->resume_changed, &r->state, &found));
    r->anew = !found;
    warn_of_broken(r, found);
    TN_TRY(tn_metrics_open(&r->metrics, o->out, found ? r->state.metrics_bytes : 0));
    if (t->callbacks->start)
        t->callbacks->start(t->callbacks->cookie, &r->plan);
    if (found && t->callbacks->resumed)
        t->callbacks->resumed(t->callbacks->cookie, r->state.step);
    /* rehearsal placed every block of the largest pass; other shapes may fragment differently, and reserve costs nothing */
    return tn_tape_init(&t->tape, t->model->kernels, t->heap_bytes + t->heap_bytes / 2 + (1 << 20));
}

static tn_status copy_curve(const run *r, tn_train_result *result) {
    const tn_metrics *m = &r->metrics;
    double **arrays[] = {&result->curve_steps, &result->curve_losses, &result->valid_steps, &result->valid_losses};
    const double *from[] = {m->steps, m->losses, m->valid_steps, m->valid_losses};
    const int64_t counts[] = {m->count, m->count, m->valid_count, m->valid_count};
    for (int i = 0; i < 4; i++) {
        *arrays[i] = tn_malloc((size_t)(counts[i] + 1) * sizeof(double));
        if (!*arrays[i])
            return tn_fail_memory("the loss curve");
        if (counts[i])
            memcpy(*arrays[i], from[i], (size_t)counts[i] * sizeof(double));
    }
    result->curve_points = m->count;
    result->valid_points = m->valid_count;
    return TN_OK;
}

static tn_status note_method(const tn_adapter *adapter, tn_train_result *result) {
    tn_buf notes = {0};
    if (!adapter->method || !adapter->method->report)
        return TN_OK;
    adapter->method->report(adapter, &notes);
    result->notes = tn_buf_take(&notes);
    return result->notes ? TN_OK : tn_fail_memory("the result");
}

static tn_status finish(run *r, int64_t first_step, tn_train_result *result) {
    const tn_metrics *m = &r->metrics;
    double seconds = tn_seconds() - r->started;
    *result = (tn_train_result){
        .steps = r->state.step > r->t.steps ? r->state.step : r->t.steps,
        .first_step = first_step,
        .loss = m->count ? m->losses[m->count - 1] : NAN,
        .valid_loss = m->valid_count ? m->valid_losses[m->valid_count - 1] : NAN,
        .valid_accuracy = r->valid_accuracy,
        .best_valid_loss = r->state.best_valid_loss,
        .best_valid_step = r->state.best_valid_step,
        .seconds = seconds,
        .tokens_per_second = (double)r->tokens / fmax(seconds, 1e-9),
        .peak_bytes = (int64_t)tn_memory_peak(),
        .predicted_peak_bytes = r->plan.peak_bytes,
    };
    TN_TRY(copy_curve(r, result));
    TN_TRY(note_method(r->t.model->adapter, result));
    TN_TRY(tn_metrics_report(m, r->t.options->out, &r->plan, result, r->t.model->network->dir,
                             r->valid_accuracy >= 0 ? r->t.features.confusion : NULL));
    return tn_model_save_adapter(r->t.model, r->t.options->out);
}

void tn_train_result_free(tn_train_result *result) {
    tn_free(result->curve_steps);
    tn_free(result->curve_losses);
    tn_free(result->valid_steps);
    tn_free(result->valid_losses);
    tn_free(result->notes);
    *result = (tn_train_result){0};
}

tn_status tn_train(tn_model *model, const tn_train_options *options, const tn_train_callbacks *callbacks,
                   tn_train_result *result) {
    run r = {.valid_loss = NAN, .valid_accuracy = NAN};
    tn_train_result own = {0};
    tn_train_result *out = result ? result : &own;
    tn_status status = tn_trainer_init(&r.t, model, options, callbacks);
    *out = (tn_train_result){0};
    if (status == TN_OK)
        status = check_output(&r.t);
    if (status == TN_OK)
        status = start(&r);
    if (status == TN_OK) {
        int64_t first = r.state.step + 1;
        r.started = tn_seconds();
        status = train_steps(&r);
        if (options->profile)
            options->profile->seconds += tn_seconds() - r.started;
        if (status == TN_OK)
            status = finish(&r, first, out);
    }
    tn_metrics_free(&r.metrics);
    tn_trainer_free(&r.t);
    if (!result || status != TN_OK)
        tn_train_result_free(out);
    return status;
}
