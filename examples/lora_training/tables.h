/* The tables of lora_training. */
#ifndef LORA_TRAINING_TABLES_H
#define LORA_TRAINING_TABLES_H

#include "fit.h"

/* Weights and trained parameters layer by layer, for the adapter that is on the model. */
bool print_layers(const tn_model *model, const layers *l);

/* An adapter of each rank 1, 2, 4 .. 64, and full fine-tuning, all trained from the base: what each trains, holds in memory
 * and reaches. */
bool print_ranks(const settings *s, const task *t, const layers *l, const char *base, const char *dir);

#endif
