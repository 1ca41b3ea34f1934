/* Writing a language model as one GGUF file. */
#ifndef TN_SESSION_GGUF_WRITE_H
#define TN_SESSION_GGUF_WRITE_H

#include "session/session.h"
#include "tensor/quant_ggml.h"

/* The ggml type to store a matrix in, by its name in GGUF ("blk.0.attn_q.weight"); `stored` is what it would be otherwise:
 * its own type. Rows must be whole blocks of the type. */
typedef uint32_t tn_gguf_type_chooser(void *context, const char *name, const tn_tensor *tensor, uint32_t stored);

/* Writes the base (an adapter on it is left out) with llama.cpp's names, metadata and order of rows, and its tokenizer when
 * it has one. `choose` NULL: every matrix in its own type. Vectors are F32. Families llama and qwen2; whatever of the
 * configuration or the tokenizer GGUF cannot say is TN_ERROR_UNSUPPORTED. The file appears whole or not at all. */
tn_status tn_session_write_gguf(const tn_model *model, const char *path, tn_gguf_type_chooser *choose, void *context);

#endif
