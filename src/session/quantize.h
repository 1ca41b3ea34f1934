/* What quantising and merging into quantised bases share. */
#ifndef TN_SESSION_QUANTIZE_H
#define TN_SESSION_QUANTIZE_H

#include <tenon/quantize.h>

#include "tensor/tensor.h"

/* Fills all but the name: what became of `before` in `after`, tensors of the same elements. */
void tn_quantize_compare(tn_quantize_layer *out, const tn_tensor *before, const tn_tensor *after);

#endif
