/* A model ready for use: weights, tokenizer, chat template and adapter, behind the public tn_model. */
#ifndef TN_SESSION_SESSION_H
#define TN_SESSION_SESSION_H

#include <tenon/adapters.h>
#include <tenon/features.h>

#include "data/batch.h"
#include "data/features.h"
#include "model/decoder.h"
#include "model/sequential.h"
#include "peft/adapter.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

struct tn_model {
    tn_network *network;             /* of whichever kind below */
    tn_decoder *decoder;             /* a language model; NULL: not one */
    tn_sequential *sequential;       /* a plain network on vectors or images; NULL: not one */
    tn_tokenizer *tokenizer;         /* NULL when the folder has none */
    tn_chat_template *chat_template; /* NULL when the folder has none */
    tn_adapter *adapter;             /* NULL: the base alone */
    const tn_kernels *kernels;
    const char *matmul_precision; /* "f32", or "bf16" with kernels that round to it */
    char *tokenizer_dir;          /* where the tokenizer's files are, to be copied beside saved models */
    char *adapter_dir;            /* where the adapter came from, or NULL */
};

/* Fails for models that are no language models; `what` needs one: "tenon generate". */
tn_status tn_session_need_decoder(const tn_model *model, const char *what);

/* The reverse. */
tn_status tn_session_need_sequential(const tn_model *model, const char *what);

/* Features for a sequential model, as tn_feature_set_load reads them; sets are checked against the model. */
tn_status tn_session_read_features(const tn_model *model, const char *path, tn_features_part part,
                                   const tn_feature_options *options, tn_features *out);
tn_status tn_session_read_both_features(const tn_model *model, const char *path, const tn_feature_options *options,
                                        tn_features *train, tn_features *test);

/* Sizes, labels and targets are what the model takes; `where` begins errors. */
tn_status tn_session_check_features(const tn_model *model, const tn_features *features, const char *where);

/* Sequences that use different adapters: weights [sequences][adapters]. */
typedef struct tn_row_mixes {
    size_t sequences, adapters;
    const float *weights;
} tn_row_mixes;

/* One packed batch with its labels, as views that must outlive the pass. */
typedef struct tn_pass {
    tn_tokens tokens;
    const int32_t *label_rows, *label_ids; /* [labelled] */
    int64_t labelled;
} tn_pass;

/* The configuration that options of a method other than "full" describe; the caller's, also to free. */
tn_status tn_session_adapter_config(const tn_model *model, const tn_adapter_options *options, tn_peft_config *config);

/* adapters.c: the weight of each adapter of the list by a mix, NULL: those in use; weights [adapters]. */
tn_status tn_session_mix_weights(const tn_model *model, const tn_adapter_mix *mix, float *weights);

/* Who acts on which of `rows` rows, owners[i] being the sequence of row i, on the tape's storage. */
const tn_routing *tn_session_routing(tn_tape *tape, const tn_row_mixes *mixes, const int32_t *owners, int64_t rows);

/* Spans of a packed batch without cache into spans [sequences]; fills `pass` from `batch`. */
void tn_pass_from_batch(const tn_batch *batch, tn_span *spans, tn_pass *pass);

/* Hidden states and loss of one pass on an empty tape. losses and correct [labelled]; with tape->recording the gradients of
 * grad_scale * sum(losses) are added to the adapter's store. */
void tn_pass_loss(tn_model *model, const tn_forward *forward, const tn_pass *pass, tn_checkpointing checkpointing,
                  float grad_scale, float *losses, uint8_t *correct);

/* What a pass of given sizes needs: bytes of the tape's heap and FLOPs, by rehearsal. One sequence length per sequence. */
typedef struct tn_pass_cost {
    int64_t heap_bytes;
    double flops;
} tn_pass_cost;
tn_status tn_pass_rehearse(tn_model *model, const int64_t *starts, int64_t sequences, int64_t labelled, bool recording,
                           tn_checkpointing checkpointing, tn_pass_cost *out);

/* Logits [count, V] of the given positions of one pass without gradients. `rows` NULL: all positions, in order. Written
 * piece by piece through `sink`; a failing sink ends the pass. */
typedef tn_status (*tn_logits_sink)(void *cookie, int64_t first_row, int64_t rows, const float *logits);
tn_status tn_pass_logits(tn_model *model, tn_tape *tape, const tn_tokens *tokens, const int32_t *rows, int64_t count,
                         tn_logits_sink sink, void *cookie);

/* Rows for a sequential model, as views that must outlive the pass. */
typedef struct tn_feature_pass {
    const float *x; /* [count, inputs] */
    int64_t count;
    const int32_t *labels; /* [count] classes below the model's outputs; of a classification */
    const float *targets;  /* [count, outputs]; of a regression */
} tn_feature_pass;

/* Losses [count] of one pass on an empty tape: cross-entropy, or the mean squared error over the outputs. With
 * tape->recording the gradients of grad_scale * sum(losses) are added to the adapter's store. predicted [count] gets the
 * most likely classes of a classification; NULL: nobody asks. */
void tn_pass_features(tn_model *model, const tn_forward *forward, const tn_feature_pass *pass, float grad_scale,
                      float *losses, int32_t *predicted);

/* What a pass of `count` rows needs, by rehearsal. */
tn_status tn_pass_rehearse_features(tn_model *model, int64_t count, bool recording, tn_pass_cost *out);

/* Logits [count, outputs] of rows x [count, inputs] without gradients; nothing is written in a rehearsal. */
tn_status tn_pass_feature_logits(tn_model *model, tn_tape *tape, const float *x, int64_t count, float *logits);

/* tn_session_probe_logits for sequential models: their probe is rows of normal numbers. */
tn_status tn_session_probe_features(tn_model *model, float **logits, int64_t *floats);

/* The same for rows that use different adapters: owners [tokens->count] is the sequence of each row in `mixes`. */
tn_status tn_pass_mixed_logits(tn_model *model, tn_tape *tape, const tn_tokens *tokens, const tn_row_mixes *mixes,
                               const int32_t *owners, const int32_t *rows, int64_t count, tn_logits_sink sink, void *cookie);

/* Largest difference between the logits with the adapter on and off (or merged), over a short probe of token ids. */
tn_status tn_session_probe(tn_model *model, double *largest_difference);

/* Logits of the probe's last tokens [count, V], or of its rows, f32; free with tn_free. */
tn_status tn_session_probe_logits(tn_model *model, float **logits, int64_t *floats);

#endif
