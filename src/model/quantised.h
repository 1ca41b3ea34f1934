/* Quantised weights of a network: those that its checkpoint holds, and those made on loading. */
#ifndef TN_MODEL_QUANTISED_H
#define TN_MODEL_QUANTISED_H

#include "model/network.h"

/* An array that lives as long as the network; NULL without memory. */
tn_quantised *tn_network_new_quantised(tn_network *network);

/* The weight that the checkpoint stores as `name` ("...q_proj.weight") in a quantised form, if it does: *found. The tensor
 * of `weight` has the shape that the architecture wants, and gets type and data. Forms (docs/formats.md):
 *   NAME u8, NAME.absmax, NAME.quant_map, [NAME.nested_absmax, NAME.nested_quant_map,] NAME.quant_state.bitsandbytes__nf4
 *   or __fp4 of bitsandbytes, NAME.quant_state.tenon__CODEC with NAME.absmax [and NAME.zeros] of our own;
 *   NAME i8 and MODULE.SCB of LLM.int8.
 * Fails with TN_ERROR_FORMAT or _MISMATCH, naming the tensor, for pieces that are missing or do not fit together. */
tn_status tn_network_find_quantised(tn_network *network, const char *name, tn_weight *weight, bool *found);

/* Whether the tensor `name` of a checkpoint is a piece of a quantised weight that the network uses. */
bool tn_network_is_quantised_piece(const tn_network *network, const char *name);

/* Replaces a module's weight by a quantised copy and lets the pages of the mapped original go. The words of errors begin
 * with the module's name. */
tn_status tn_network_quantise(tn_network *network, tn_module *module, const tn_quant_codec *codec,
                              const tn_quant_params *params);

#endif
