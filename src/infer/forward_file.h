/* What the forms of tn_forward_file share: gradients in the output, by the keys of the adapter's file. */
#ifndef TN_INFER_FORWARD_FILE_H
#define TN_INFER_FORWARD_FILE_H

#include "session/session.h"

/* "grad.KEY" of every trained tensor of the adapters, declared and then written in the same order. */
tn_status tn_forward_declare_gradients(tn_safetensors_writer *writer, const tn_adapter *adapter);
tn_status tn_forward_write_gradients(tn_safetensors_writer *writer, const tn_adapter *adapter);

/* For sequential models: reads x [N, inputs] and target, [N] class ids or [N, outputs] numbers; writes logits [N, outputs],
 * with a target the loss, its mean over the rows, and with_grad the gradients. */
tn_status tn_forward_features(tn_model *model, const tn_safetensors *file, const char *output_path, bool with_grad);

#endif
