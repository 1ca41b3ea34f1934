/* mnist infer: the saved adapter on its base, one digit at a time and on the whole test set; and what it gets wrong. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "mnist.h"

enum { PICTURE_COLUMNS = 10, MOST_IN_PICTURE = 100 };

typedef struct {
    int32_t digit;
    double probability;
} answer;

/* The most likely class of each row of logits, by softmax. */
static void read_logits(const float *logits, int64_t count, answer *answers) {
    for (int64_t i = 0; i < count; i++, logits += DIGITS) {
        int32_t best = 0;
        double sum = 0;
        for (int32_t k = 1; k < DIGITS; k++)
            best = logits[k] > logits[best] ? k : best;
        for (int k = 0; k < DIGITS; k++)
            sum += exp((double)logits[k] - logits[best]);
        answers[i] = (answer){best, 1 / sum};
    }
}

static double accuracy(const tn_feature_set *test, const answer *answers) {
    int64_t right = 0;
    for (int64_t i = 0; i < test->count; i++)
        right += answers[i].digit == test->labels[i];
    return (double)right / (double)test->count;
}

static void print_samples(const tn_feature_set *test, const answer *answers, int64_t count) {
    for (int64_t i = 0; i < count && i < test->count; i++) {
        bool right = answers[i].digit == test->labels[i];
        printf("%s  sample %lld is a %d, taken for a %d (%.1f %% sure)\n", right ? "\xe2\x9c\x93" : "\xe2\x9c\x97",
               (long long)i, test->labels[i], answers[i].digit, 100 * answers[i].probability);
    }
}

/* Some in the terminal, more in the picture. */
static bool show_wrong(const settings *s, const char *path, const tn_feature_set *test, const answer *answers) {
    const float *images[MOST_IN_PICTURE];
    int64_t places[MOST_IN_PICTURE], count = 0, wrong = 0;
    for (int64_t i = 0; i < test->count; i++) {
        if (answers[i].digit == test->labels[i])
            continue;
        if (count < MOST_IN_PICTURE) {
            images[count] = test->x + i * PIXELS;
            places[count++] = i;
        }
        wrong++;
    }
    printf("wrong: %lld of %lld\n", (long long)wrong, (long long)test->count);
    if (!count)
        return true;
    for (int64_t i = 0; i < s->shown && i < count; i += 3) {
        int64_t beside = s->shown - i < 3 ? s->shown - i : 3;
        beside = count - i < beside ? count - i : beside;
        print_digits(images + i, beside);
        for (int64_t j = i; j < i + beside; j++)
            printf("   sample %-7lld%d taken for %d ", (long long)places[j], test->labels[places[j]],
                   answers[places[j]].digit);
        printf("\n");
    }
    if (!write_digits(path, images, count, PICTURE_COLUMNS))
        return false;
    printf("%s: the first %lld of them, row by row (digit>answer)", path, (long long)count);
    for (int64_t i = 0; i < count; i++)
        printf("%s%d>%d", i % PICTURE_COLUMNS ? " " : "\n   ", test->labels[places[i]], answers[places[i]].digit);
    printf("\n");
    return true;
}

/* Room for the answers is the caller's. */
static bool predict(tn_model *model, const tn_feature_set *test, float *logits, answer *answers) {
    if (!ok(tn_predict(model, test->x, test->count, logits)))
        return false;
    read_logits(logits, test->count, answers);
    return true;
}

static bool use_model(const settings *s, tn_model *model, const tn_feature_set *test) {
    char path[PATH];
    float *logits = malloc((size_t)test->count * DIGITS * sizeof *logits);
    answer *answers = malloc((size_t)test->count * sizeof *answers);
    bool done = logits && answers;
    if (!done)
        fprintf(stderr, "mnist: memory is too small for %lld answers\n", (long long)test->count);
    tn_model_enable_adapter(model, false);
    done = done && predict(model, test, logits, answers);
    double base = done ? accuracy(test, answers) : 0;
    tn_model_enable_adapter(model, true);
    done = done && predict(model, test, logits, answers) && (s->picture || join(path, s->out, "wrong.pgm"));
    if (done) {
        print_samples(test, answers, s->samples);
        printf("\naccuracy: %.2f %% of %lld (the base alone: %.2f %%)\n", 100 * accuracy(test, answers),
               (long long)test->count, 100 * base);
        done = show_wrong(s, s->picture ? s->picture : path, test, answers);
    }
    free(logits);
    free(answers);
    return done;
}

bool infer(const settings *s) {
    char base[PATH], adapter[PATH];
    tn_feature_set test = {0};
    tn_model *model = NULL;
    bool done = join(base, s->out, "base") && join(adapter, s->out, "adapter") && ok(tn_model_load(base, &model)) &&
                ok(tn_model_load_adapter(model, adapter, false, false)) &&
                load_digits(model, s, TN_FEATURE_TEST, false, 0, &test) && use_model(s, model, &test);
    tn_feature_set_free(&test);
    tn_model_free(model);
    return done;
}
