/* What the parts of the program share. Functions that return false have said on standard error why. */
#ifndef LLM_LORA_H
#define LLM_LORA_H

#include <tenon/tenon.h>

enum { PATH = 1024 };

typedef struct settings {
    const char *model, *data, *out, *prompt;
    int64_t rank, steps, style_steps, warmup, batch, samples;
    double alpha, lr, clip;
    uint64_t seed;
} settings;

/* Prints the library's message when there is one to print. */
bool ok(tn_status status);

/* -1 to go on, else the program's exit code. What is out of range for the library is its to say. */
int read_options(int argc, char **argv, settings *s);

/* swap.c: both adapters on one model, chosen for all, for single prompts of a batch, and in the middle of an answer. */
bool swap_adapters(const settings *s, const char *sql_dir, const char *lower_dir);

#endif
