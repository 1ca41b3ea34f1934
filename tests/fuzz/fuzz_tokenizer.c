/* A tokenizer.json, a NUL, and a text: what loads must encode the text, decode its ids again, and stream the same. Then a
 * vocabulary is trained on the text, which must give the text back. */
#include "base/utf8.h"
#include "fuzz.h"
#include "text/tokenizer.h"
#include "text/tokenizer_train.h"
#include "text/unicode.h"

enum { TEXT_MAX = 512 };

static bool is_refusal(tn_status status) {
    return status == TN_ERROR_FORMAT || status == TN_ERROR_UNSUPPORTED;
}

static void decode_both_ways(const tn_tokenizer *tokenizer, const tn_ids *ids, bool skip_special) {
    tn_buf whole = {0}, streamed = {0};
    tn_decode_stream *stream = NULL;
    tn_status status = tn_tokenizer_decode(tokenizer, ids->data, ids->count, skip_special, &whole);
    if (status != TN_OK) { /* a decoder's regular expression may give up */
        fuzz_require(is_refusal(status));
    } else {
        fuzz_require(tn_decode_stream_new(tokenizer, skip_special, &stream) == TN_OK);
        for (size_t i = 0; i < ids->count; i++)
            fuzz_require(tn_decode_stream_push(stream, ids->data[i], &streamed) == TN_OK);
        fuzz_require(tn_decode_stream_finish(stream, &streamed) == TN_OK);
        fuzz_require(whole.length == streamed.length);
        fuzz_require(whole.length == 0 || memcmp(whole.data, streamed.data, whole.length) == 0);
        fuzz_require(tn_utf8_valid_prefix(tn_buf_text(&whole), whole.length) == whole.length);
    }
    tn_decode_stream_free(stream);
    tn_buf_free(&whole);
    tn_buf_free(&streamed);
}

static void use(const tn_tokenizer *tokenizer, const char *text, size_t length) {
    tn_ids ids = {0};
    tn_status status = tn_tokenizer_encode(tokenizer, text, length, length % 2, &ids);
    fuzz_require(status == TN_OK || is_refusal(status));
    for (size_t i = 0; i < ids.count; i++)
        fuzz_require(tn_tokenizer_token(tokenizer, ids.data[i]));
    if (status == TN_OK) {
        decode_both_ways(tokenizer, &ids, false);
        decode_both_ways(tokenizer, &ids, true);
    }
    tn_ids_free(&ids);
}

static void train(const char *text, size_t length) {
    static const char *const specials[] = {"<|end|>"};
    tn_buf json = {0}, expected = {0}, back = {0};
    tn_tokenizer *tokenizer = NULL;
    tn_ids ids = {0};
    fuzz_require(tn_tokenizer_train(text, length, 300, specials, 1, &json) == TN_OK);
    fuzz_require(tn_tokenizer_parse(json.data, json.length, "trained", &tokenizer) == TN_OK);
    fuzz_require(tn_tokenizer_encode(tokenizer, text, length, false, &ids) == TN_OK);
    fuzz_require(tn_tokenizer_decode(tokenizer, ids.data, ids.count, false, &back) == TN_OK);
    tn_utf8_append_lossy(&expected, text, length, true);
    fuzz_require(back.length == expected.length);
    fuzz_require(back.length == 0 || memcmp(back.data, expected.data, back.length) == 0);
    tn_tokenizer_free(tokenizer);
    tn_ids_free(&ids);
    tn_buf_free(&json);
    tn_buf_free(&expected);
    tn_buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t json_length = nul ? (size_t)(nul - data) : size, skipped = nul ? json_length + 1 : 0;
    const char *text = (const char *)data + skipped;
    size_t length = size - skipped < TEXT_MAX ? size - skipped : TEXT_MAX;
    tn_tokenizer *tokenizer = NULL;
    tn_status status = tn_tokenizer_parse((const char *)data, json_length, "input", &tokenizer);
    fuzz_require(status == TN_OK ? tokenizer != NULL : is_refusal(status) && !tokenizer);
    if (tokenizer)
        use(tokenizer, text, length);
    tn_tokenizer_free(tokenizer);
    if (nul)
        train(text, length);
    return 0;
}
