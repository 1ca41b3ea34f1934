/* LoRA, DoRA and LoRA+ on the same task, from the same seed, at the same learning rate. */
#include <math.h>
#include <stdio.h>

#include "tour.h"

enum { METHODS = 4 };
static const double FASTER = 4; /* more of it for a LoRA of its own, since LoRA+ is no more than another rate for B */

static int64_t steps_until(const tn_train_result *r, double loss) {
    for (int64_t i = 0; i < r->valid_points; i++)
        if (r->valid_losses[i] <= loss)
            return (int64_t)r->valid_steps[i];
    return -1;
}

static bool try_method(const tour *t, const recipe *how, tn_train_result *result) {
    tn_model *model = NULL;
    tn_adapter_info info;
    double lr = how->lr > 0 ? how->lr : t->s.lr;
    bool good = train_adapter(t, &t->tasks[TURNED], how, &model, result) && ok(tn_model_describe_adapter(model, &info));
    if (good) {
        double accuracy = accuracy_of(model, &t->tasks[TURNED]);
        good = !isnan(accuracy);
        printf("  %-11s %7g %7g %8lld %10.4f %10.4f %8.1f %%", how->name, lr, lr * (how->ratio > 0 ? how->ratio : 1),
               (long long)info.parameters, result->loss, result->valid_loss, 100 * accuracy);
    }
    tn_model_free(model);
    return good;
}

bool compare_methods(const tour *t) {
    const recipe recipes[METHODS] = {{.name = "LoRA"},
                                     {.name = "LoRA-faster", .lr = FASTER * t->s.lr},
                                     {.name = "DoRA", .method = "dora"},
                                     {.name = "LoRA+", .ratio = t->s.ratio}};
    static const char marks[METHODS] = {'o', 'f', 'd', '+'};
    tn_train_result results[METHODS] = {{0}};
    curve curves[METHODS];
    bool good = true;
    printf("\n== LoRA, DoRA, LoRA+: rank %lld on digits turned by 90 degrees\n\n", (long long)t->s.rank);
    printf("  %-11s %7s %7s %8s %10s %10s %10s   %s\n", "method", "lr", "lr of B", "trained", "train loss", "test loss",
           "accuracy", "steps to LoRA's last test loss");
    for (int i = 0; i < METHODS && good; i++) {
        good = try_method(t, &recipes[i], &results[i]);
        if (!good)
            break;
        int64_t steps = steps_until(&results[i], results[0].valid_loss);
        if (steps < 0)
            printf("   not within %lld\n", (long long)results[i].steps);
        else
            printf("   %lld of %lld\n", (long long)steps, (long long)results[i].steps);
        curves[i] =
            (curve){recipes[i].name, marks[i], results[i].valid_steps, results[i].valid_losses, results[i].valid_points};
    }
    if (good) {
        printf("\n");
        draw_curves(curves, METHODS, "steps", "test loss");
    }
    for (int i = 0; i < METHODS; i++)
        tn_train_result_free(&results[i]);
    return good;
}
