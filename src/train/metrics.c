/* metrics.jsonl: a line for each logged step and each validation; and the report made from it. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/format.h"
#include "train/report.h"
#include "train/trainer.h"

static tn_status grow(double **array, int64_t capacity) {
    double *grown = tn_realloc_array(*array, (size_t)capacity, sizeof *grown);
    if (!grown)
        return tn_fail_memory("the metrics");
    *array = grown;
    return TN_OK;
}

static tn_status record_step(tn_metrics *m, double step, double loss, double rate, double norm) {
    if (m->count == m->capacity) {
        int64_t capacity = m->capacity ? m->capacity * 2 : 1024;
        TN_TRY(grow(&m->steps, capacity));
        TN_TRY(grow(&m->losses, capacity));
        TN_TRY(grow(&m->rates, capacity));
        TN_TRY(grow(&m->norms, capacity));
        m->capacity = capacity;
    }
    m->steps[m->count] = step;
    m->losses[m->count] = loss;
    m->rates[m->count] = rate;
    m->norms[m->count++] = norm;
    return TN_OK;
}

static tn_status record_validation(tn_metrics *m, double step, double loss) {
    if (m->valid_count == m->valid_capacity) {
        int64_t capacity = m->valid_capacity ? m->valid_capacity * 2 : 256;
        TN_TRY(grow(&m->valid_steps, capacity));
        TN_TRY(grow(&m->valid_losses, capacity));
        m->valid_capacity = capacity;
    }
    m->valid_steps[m->valid_count] = step;
    m->valid_losses[m->valid_count++] = loss;
    return TN_OK;
}

static double number(const cJSON *json, const char *key) {
    const cJSON *value = tn_json_get(json, key);
    return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

/* Lines of an earlier part of the run; they were written here, so a line that is none is skipped. */
static tn_status read_back(tn_metrics *m, const char *text, size_t length) {
    while (length > 0) {
        const char *end = memchr(text, '\n', length);
        size_t line = end ? (size_t)(end - text) : length;
        cJSON *json = cJSON_ParseWithLength(text, line);
        tn_status status = TN_OK;
        if (isfinite(number(json, "loss")))
            status =
                record_step(m, number(json, "step"), number(json, "loss"), number(json, "lr"), number(json, "grad_norm"));
        else if (isfinite(number(json, "valid_loss")))
            status = record_validation(m, number(json, "step"), number(json, "valid_loss"));
        cJSON_Delete(json);
        TN_TRY(status);
        line += end != NULL;
        text += line;
        length -= line;
    }
    return TN_OK;
}

tn_status tn_metrics_open(tn_metrics *m, const char *out_dir, int64_t bytes) {
    enum { METRICS_LIMIT = 1 << 30 };
    char path[TN_PATH_MAX];
    tn_buf text = {0};
    tn_status status = TN_OK;
    *m = (tn_metrics){0};
    TN_TRY(tn_path_join(path, out_dir, "metrics.jsonl"));
    if (bytes > 0 && tn_path_exists(path)) {
        TN_TRY_GOTO(tn_file_read(path, METRICS_LIMIT, &text));
        size_t kept = text.length < (size_t)bytes ? text.length : (size_t)bytes;
        TN_TRY_GOTO(read_back(m, tn_buf_text(&text), kept));
        if (truncate(path, (off_t)kept) != 0) {
            status = tn_fail(TN_ERROR_IO, "cannot shorten %s: %s", path, strerror(errno));
            goto fail;
        }
    }
    m->file = fopen(path, bytes > 0 ? "ab" : "wb");
    if (!m->file)
        status = tn_fail(TN_ERROR_IO, "cannot write %s: %s", path, strerror(errno));
fail:
    tn_buf_free(&text);
    return status;
}

enum { LINE_SIZE = 512 };

static tn_status put_line(tn_metrics *m, const char *line) {
    if (fputs(line, m->file) == EOF)
        return tn_fail(TN_ERROR_IO, "cannot write metrics.jsonl: %s", strerror(errno));
    return TN_OK;
}

/* %.9g reads back to the same float; seconds and norms need no more. */
tn_status tn_metrics_step(tn_metrics *m, const tn_train_step *s, bool logged) {
    char line[LINE_SIZE];
    TN_TRY(record_step(m, (double)s->step, s->loss, s->lr, s->grad_norm));
    if (!logged)
        return TN_OK;
    tn_format(line, sizeof line,
              "{\"step\": %lld, \"epoch\": %.6g, \"loss\": %.9g, \"lr\": %.9g, \"grad_norm\": %.9g, \"tokens\": %lld, "
              "\"labelled\": %lld, "
              "\"seconds\": %.6f, \"tokens_per_second\": %.6g}\n",
              (long long)s->step, s->epoch, s->loss, s->lr, s->grad_norm, (long long)s->tokens, (long long)s->labelled,
              s->seconds, s->tokens_per_second);
    return put_line(m, line);
}

tn_status tn_metrics_validation(tn_metrics *m, int64_t step, double loss, double accuracy) {
    char line[LINE_SIZE];
    TN_TRY(record_validation(m, (double)step, loss));
    if (isfinite(accuracy))
        tn_format(line, sizeof line, "{\"step\": %lld, \"valid_loss\": %.9g, \"valid_accuracy\": %.9g}\n", (long long)step,
                  loss, accuracy);
    else
        tn_format(line, sizeof line, "{\"step\": %lld, \"valid_loss\": %.9g}\n", (long long)step, loss);
    return put_line(m, line);
}

tn_status tn_metrics_sync(tn_metrics *m, int64_t *bytes) {
    if (fflush(m->file) != 0 || fsync(fileno(m->file)) != 0)
        return tn_fail(TN_ERROR_IO, "cannot write metrics.jsonl: %s", strerror(errno));
    *bytes = (int64_t)ftello(m->file);
    return TN_OK;
}

void tn_metrics_free(tn_metrics *m) {
    if (m->file)
        fclose(m->file);
    tn_free(m->steps);
    tn_free(m->losses);
    tn_free(m->rates);
    tn_free(m->norms);
    tn_free(m->valid_steps);
    tn_free(m->valid_losses);
    *m = (tn_metrics){0};
}

enum { VALUE_SIZE = 96 };

static void set_row(tn_report_row *rows, size_t *count, char (*values)[VALUE_SIZE], const char *key) {
    rows[*count] = (tn_report_row){key, values[*count]};
    (*count)++;
}

tn_status tn_metrics_report(const tn_metrics *m, const char *out_dir, const tn_train_plan *plan,
                            const tn_train_result *result, const char *model_dir, const int64_t *confusion) {
    char values[12][VALUE_SIZE], path[TN_PATH_MAX];
    tn_report_row rows[12];
    size_t count = 0;
    const char *slash = strrchr(model_dir, '/');
    snprintf(values[count], VALUE_SIZE, "%s", slash && slash[1] ? slash + 1 : model_dir);
    set_row(rows, &count, values, "Model");
    snprintf(values[count], VALUE_SIZE, "%lld", (long long)plan->parameters);
    set_row(rows, &count, values, "Parameters");
    snprintf(values[count], VALUE_SIZE, "%lld (%.3g %%)", (long long)plan->trainable,
             100.0 * (double)plan->trainable / (double)plan->parameters);
    set_row(rows, &count, values, "Trained");
    snprintf(values[count], VALUE_SIZE, "%lld training, %lld validation", (long long)plan->train_samples,
             (long long)plan->valid_samples);
    set_row(rows, &count, values, "Samples");
    snprintf(values[count], VALUE_SIZE, "%lld", (long long)result->steps);
    set_row(rows, &count, values, "Steps");
    snprintf(values[count], VALUE_SIZE, "%.4f", result->loss);
    set_row(rows, &count, values, "Last training loss");
    if (isfinite(result->best_valid_loss)) {
        snprintf(values[count], VALUE_SIZE, "%.4f at step %lld", result->best_valid_loss,
                 (long long)result->best_valid_step);
        set_row(rows, &count, values, "Best validation loss");
    }
    if (isfinite(result->valid_accuracy)) {
        snprintf(values[count], VALUE_SIZE, "%.2f %%", 100 * result->valid_accuracy);
        set_row(rows, &count, values, "Validation accuracy");
    }
    snprintf(values[count], VALUE_SIZE, "%.0f %s", result->tokens_per_second, plan->inputs ? "samples/s" : "tokens/s");
    set_row(rows, &count, values, "Speed");
    snprintf(values[count], VALUE_SIZE, "%.1f MB", (double)result->peak_bytes / 1e6);
    set_row(rows, &count, values, "Peak memory");
    tn_series loss[] = {{"training", m->steps, m->losses, (size_t)m->count},
                        {"validation", m->valid_steps, m->valid_losses, (size_t)m->valid_count}};
    tn_series rate = {"learning rate", m->steps, m->rates, (size_t)m->count},
              norm = {"gradient norm", m->steps, m->norms, (size_t)m->count};
    tn_plot plots[] = {{"Loss", loss, m->valid_count ? 2 : 1}, {"Learning rate", &rate, 1}, {"Gradient norm", &norm, 1}};
    const tn_report_matrix matrix = {"Classes (rows) and what was predicted, on the validation set", confusion,
                                     plan->outputs};
    const struct tn_report report = {.title = "Training report",
                                     .rows = rows,
                                     .row_count = count,
                                     .plots = plots,
                                     .plot_count = 3,
                                     .matrix = confusion ? &matrix : NULL};
    tn_buf html = {0};
    tn_status status = tn_report_html(&html, &report);
    if (status == TN_OK)
        status = tn_path_join(path, out_dir, "report.html");
    if (status == TN_OK)
        status = tn_file_write(path, html.data, html.length);
    tn_buf_free(&html);
    return status;
}

tn_status tn_train_curve(const tn_train_result *result, int width, int height, bool utf8, char **text) {
    tn_buf out = {0};
    tn_curve_draw(&out, result->curve_steps, result->curve_losses, (size_t)result->curve_points, result->valid_steps,
                  result->valid_losses, (size_t)result->valid_points, width, height, utf8);
    *text = tn_buf_take(&out);
    return *text ? TN_OK : tn_fail_memory("the loss curve");
}
