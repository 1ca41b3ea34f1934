/* Little stories of two people in the world. */
#ifndef TN_GENERATE_STORY_H
#define TN_GENERATE_STORY_H

#include "base/buf.h"
#include "base/rng.h"

/* Appends a story of `sentences` sentences whose facts agree with each other. */
void tn_story_tell(tn_rng *rng, int sentences, tn_buf *out);

#endif
