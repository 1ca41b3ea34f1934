/* How llama.cpp names the ways in which byte-level BPE tokenizers cut text into words (tokenizer.ggml.pre), with the
 * expressions of the tokenizers they stand for. Those of families that cannot be loaded anyway are left out. */
#include <string.h>

#include "text/gguf_tokenizer.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define AFTER_DIGITS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" AFTER_DIGITS
#define QWEN2 CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" AFTER_DIGITS
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN                                                                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER                                     \
    "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* U+4E00-9FA5, U+0800-4E00 and U+AC00-D7FF; U+4E00-9FA5, U+3040-309F and U+30A0-30FF */
#define DEEPSEEK_CJK "[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+"
#define DEEPSEEK3_CJK "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+"
#define DEEPSEEK3                                                                                                           \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "                     \
    "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"

static const tn_gguf_pre known[] = {
    {.names = {"default"}, .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3"},
     .patterns = {LLAMA3},
     .ignores_merges = true,
     .adds_bos = true},
    {.names = {"smaug-bpe", "dbrx"}, .patterns = {LLAMA3}},
    {.names = {"qwen2", "megrez"}, .patterns = {QWEN2}, .composes = true},
    {.names = {"deepseek-r1-qwen", "stablelm2"}, .patterns = {QWEN2}},
    {.names = {"gpt-2", "phi-2", "mpt", "olmo"}, .patterns = {GPT2}},
    {.names = {"smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"}, .patterns = {"\\p{N}", GPT2}},
    {.names = {"deepseek-coder"}, .patterns = {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}},
    {.names = {"deepseek-v3"}, .patterns = {"\\p{N}{1,3}", DEEPSEEK3_CJK, DEEPSEEK3}},
    {.names = {"tekken"}, .patterns = {TEKKEN}, .ignores_merges = true, .adds_bos = true},
};
enum { KNOWN_COUNT = sizeof known / sizeof *known, NAMES = sizeof known->names / sizeof *known->names };
enum { PATTERNS = sizeof known->patterns / sizeof *known->patterns };

const tn_gguf_pre *tn_gguf_pre_find(const char *name) {
    for (int i = 0; i < KNOWN_COUNT; i++)
        for (int n = 0; n < NAMES && known[i].names[n]; n++)
            if (strcmp(known[i].names[n], name) == 0)
                return &known[i];
    return NULL;
}

static bool same_patterns(const tn_gguf_pre *pre, const char *const *patterns, int count) {
    int i = 0;
    for (; i < PATTERNS && pre->patterns[i]; i++)
        if (i >= count || strcmp(pre->patterns[i], patterns[i]) != 0)
            return false;
    return i == count;
}

const tn_gguf_pre *tn_gguf_pre_match(const char *const *patterns, int count, bool ignores_merges, bool composes) {
    for (int i = 0; i < KNOWN_COUNT; i++)
        if (same_patterns(&known[i], patterns, count) && known[i].ignores_merges == ignores_merges &&
            known[i].composes == composes)
            return &known[i];
    return NULL;
}

const char *tn_gguf_pre_words(void) {
    return GPT2;
}

void tn_gguf_pre_list(tn_buf *out) {
    for (int i = 0; i < KNOWN_COUNT; i++)
        for (int n = 0; n < NAMES && known[i].names[n]; n++)
            tn_buf_printf(out, "%s%s", i || n ? ", " : "", known[i].names[n]);
}
