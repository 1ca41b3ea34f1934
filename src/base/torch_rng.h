/* PyTorch's generator on the CPU: MT19937 (Matsumoto & Nishimura, ACM TOMACS 1998). For tensors that adapters of PEFT name
 * by their seed alone. All other random numbers come from base/rng.h. */
#ifndef TN_BASE_TORCH_RNG_H
#define TN_BASE_TORCH_RNG_H

#include <stddef.h>
#include <stdint.h>

enum { TN_MT19937_WORDS = 624 };

typedef struct tn_torch_rng {
    uint32_t words[TN_MT19937_WORDS];
    int used; /* of the words */
} tn_torch_rng;

/* torch.Generator().manual_seed(seed), which takes the seed's low 32 bits. */
void tn_torch_rng_seed(tn_torch_rng *rng, uint64_t seed);
uint32_t tn_torch_rng_u32(tn_torch_rng *rng);

/* tensor.uniform_(low, high, generator=...) of an f32 tensor: [low, high), 24 bits, elements in memory's order. */
void tn_torch_fill_uniform(tn_torch_rng *rng, float *out, size_t count, float low, float high);

#endif
