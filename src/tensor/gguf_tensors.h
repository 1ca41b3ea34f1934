/* The tensors of a GGUF model as those of a Hugging Face checkpoint: other names, and for the llama family another order of
 * the rows of q and k, which llama.cpp keeps interleaved: row 2j + i of a head is row j + i D/2 in Hugging Face's order. */
#ifndef TN_TENSOR_GGUF_TENSORS_H
#define TN_TENSOR_GGUF_TENSORS_H

#include "format/gguf.h"
#include "format/safetensors.h"

enum { TN_GGUF_HF_NAME = 128 };

/* "blk.0.attn_q.weight" to "model.layers.0.self_attn.q_proj.weight" and back; false for names that the decoder families do
 * not have. */
bool tn_gguf_name_to_hf(const char *name, char out[TN_GGUF_HF_NAME]);
bool tn_gguf_name_from_hf(const char *name, char out[TN_GGUF_NAME_LIMIT]);

/* Whether the file's architecture interleaves the rows of q and k. */
bool tn_gguf_interleaves(const char *architecture);

/* Copies rows of `bytes` each, rows in all, from llama.cpp's order to Hugging Face's, or back. Heads have an even number of
 * rows. */
void tn_gguf_rows_to_hf(void *out, const void *in, int64_t rows, int64_t bytes, int64_t heads);
void tn_gguf_rows_from_hf(void *out, const void *in, int64_t rows, int64_t bytes, int64_t heads);

/* The tensors as entries of one file, whose data points into the mapping of `gguf` where it can, else into the arena of
 * `out`. as_hf: renamed and in Hugging Face's order, for the families llama and qwen2; tensors without a name there keep
 * theirs. Fails with TN_ERROR_UNSUPPORTED for types that cannot be decoded. Close with tn_safetensors_close, before `gguf`.
 */
tn_status tn_gguf_tensors(tn_gguf *gguf, bool as_hf, tn_safetensors *out);

#endif
