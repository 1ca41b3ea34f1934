/* A hand-written tokenizer whose ids can be read: byte b is token b, and four special tokens follow. */
#ifndef TN_TESTS_DATA_SMALL_TOKENIZER_H
#define TN_TESTS_DATA_SMALL_TOKENIZER_H

#include <stdio.h>

#include "base/file.h"
#include "base/utf8.h"
#include "format/json.h"
#include "text/tokenizer.h"

enum { BOS = 256, EOS, TURN_START, TURN_END, UNKNOWN, SPACE_SYMBOL, SMALL_VOCABULARY };

/* The symbol that byte-level BPE writes for a byte (GPT-2, bytes_to_unicode). */
static inline uint32_t small_symbol(int byte) {
    uint32_t next = 256;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        uint32_t symbol = printable ? (uint32_t)b : next++;
        if (b == byte)
            return symbol;
    }
    return 0;
}

/* As byte-level BPE without merges, or (`prefixes_space`) as SentencePiece BPE with byte fallback; `adds_bos` with a
 * template post-processor. */
static inline tn_status small_tokenizer(const char *dir, bool prefixes_space, bool adds_bos, tn_tokenizer **out) {
    static const char *const special[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>"};
    tn_buf text = {0};
    char path[TN_PATH_MAX], symbol[8];
    tn_buf_puts(&text, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [");
    for (int i = 0; i < 4; i++)
        tn_buf_printf(&text,
                      "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                      "\"normalized\": false, \"special\": true}",
                      i ? ", " : "", BOS + i, special[i]);
    if (prefixes_space)
        tn_buf_puts(&text,
                    "], \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": "
                    "\"\u2581\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\u2581\"}]}, "
                    "\"pre_tokenizer\": null, \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", "
                    "\"pattern\": {\"String\": \"\u2581\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": "
                    "\"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}, ");
    else
        tn_buf_puts(&text,
                    "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                    "\"trim_offsets\": true, \"use_regex\": true}, \"decoder\": {\"type\": \"ByteLevel\", "
                    "\"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}, ");
    if (adds_bos)
        tn_buf_puts(&text,
                    "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
                    "\"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [{\"Sequence\": "
                    "{\"id\": \"A\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], "
                    "\"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [256], \"tokens\": [\"<s>\"]}}}, ");
    tn_buf_printf(
        &text,
        "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": %s, \"continuing_subword_prefix\": null, "
        "\"end_of_word_suffix\": null, \"fuse_unk\": %s, \"byte_fallback\": %s, \"vocab\": {",
        prefixes_space ? "\"<unk>\"" : "null", prefixes_space ? "true" : "false", prefixes_space ? "true" : "false");
    for (int b = 0; b < 256; b++) {
        if (prefixes_space)
            snprintf(symbol, sizeof symbol, "<0x%02X>", (unsigned)b);
        size_t length = prefixes_space ? 6 : tn_utf8_encode(small_symbol(b), symbol);
        tn_json_print_string(&text, symbol, length);
        tn_buf_printf(&text, ": %d, ", b);
    }
    for (int i = 0; i < 4; i++)
        tn_buf_printf(&text, "\"%s\": %d, ", special[i], BOS + i);
    tn_buf_printf(&text, "\"<unk>\": %d, \"\u2581\": %d}, \"merges\": []}}", UNKNOWN, SPACE_SYMBOL);
    TN_TRY(tn_path_join(path, dir, "tokenizer.json"));
    TN_TRY(tn_file_write(path, tn_buf_text(&text), text.length));
    tn_buf_free(&text);
    TN_TRY(tn_path_join(path, dir, "tokenizer_config.json"));
    static const char config[] = "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}";
    TN_TRY(tn_file_write(path, config, sizeof config - 1));
    return tn_tokenizer_load(dir, out);
}

#endif
