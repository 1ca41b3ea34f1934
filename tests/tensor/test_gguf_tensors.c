/* Names and order of rows of GGUF tensors against those of Hugging Face, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tensor/checkpoint.h"
#include "tensor/gguf_tensors.h"

static const char *scratch(void) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/tenon-gguf-tensors-%d.gguf", (int)getpid());
    return path;
}

static int remove_scratch(void **state) {
    (void)state;
    unlink(scratch());
    return 0;
}

static void assert_fails(tn_status status, tn_status want, const char *words) {
    if (status != want || !strstr(tn_error_message(), words))
        fail_msg("wanted '%s', got %s '%s'", words, tn_status_name(status), tn_error_message());
}

static void name_maps_to_hugging_face_and_back(void **state) {
    static const char *const pairs[][2] = {
        {"token_embd.weight", "model.embed_tokens.weight"},
        {"output_norm.weight", "model.norm.weight"},
        {"output.weight", "lm_head.weight"},
        {"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"},
        {"blk.10.attn_k.bias", "model.layers.10.self_attn.k_proj.bias"},
        {"blk.7.attn_v.weight", "model.layers.7.self_attn.v_proj.weight"},
        {"blk.7.attn_output.weight", "model.layers.7.self_attn.o_proj.weight"},
        {"blk.7.attn_norm.weight", "model.layers.7.input_layernorm.weight"},
        {"blk.7.ffn_norm.weight", "model.layers.7.post_attention_layernorm.weight"},
        {"blk.7.ffn_gate.weight", "model.layers.7.mlp.gate_proj.weight"},
        {"blk.7.ffn_up.weight", "model.layers.7.mlp.up_proj.weight"},
        {"blk.99999.ffn_down.weight", "model.layers.99999.mlp.down_proj.weight"},
    };
    char hf[TN_GGUF_HF_NAME], gguf[TN_GGUF_NAME_LIMIT];
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        assert_true(tn_gguf_name_to_hf(pairs[i][0], hf));
        assert_string_equal(hf, pairs[i][1]);
        assert_true(tn_gguf_name_from_hf(pairs[i][1], gguf));
        assert_string_equal(gguf, pairs[i][0]);
    }
}

static void foreign_name_maps_to_nothing(void **state) {
    static const char *const names[] = {"",
                                        "rope_freqs.weight",
                                        "token_embd",
                                        "token_embd.scales",
                                        "blk.0.attn_q",
                                        "blk..attn_q.weight",
                                        "blk.01.attn_q.weight",
                                        "blk.100000.attn_q.weight",
                                        "blk.-1.attn_q.weight",
                                        "blk.0.attn_qkv.weight",
                                        "blk.0.weight",
                                        "blk.0.",
                                        "blk.0.token_embd.weight",
                                        "attn_q.weight"};
    char out[TN_GGUF_HF_NAME], back[TN_GGUF_NAME_LIMIT];
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_false(tn_gguf_name_to_hf(names[i], out));
    assert_false(tn_gguf_name_from_hf("model.layers.0.self_attn.qkv.weight", back));
    assert_false(tn_gguf_name_from_hf("model.embed_tokens.weight.absmax", back));
}

static void rows_are_interleaved_within_heads(void **state) {
    /* two heads of six rows: row 2j + i of the file is row j + 3i */
    static const uint16_t file[] = {0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
    uint16_t hf[12], back[12];
    (void)state;
    tn_gguf_rows_to_hf(hf, file, 12, sizeof *file, 2);
    for (uint16_t i = 0; i < 12; i++)
        assert_int_equal(hf[i], i);
    tn_gguf_rows_from_hf(back, hf, 12, sizeof *file, 2);
    assert_memory_equal(back, file, sizeof file);
}

/* A file with one tensor of rows 0, 1, 2, ... of 32 equal values. */
typedef struct sample {
    const char *architecture, *name;
    uint32_t type;
    int64_t rows, heads, parts;
} sample;

static void write_sample(const sample *s) {
    tn_gguf_writer *writer;
    const int64_t shape[] = {s->rows, 32};
    char key[64];
    float values[32];
    uint8_t bytes[256];
    int64_t size;
    snprintf(key, sizeof key, "%s.attention.head_count", s->architecture);
    assert_int_equal(tn_gguf_writer_new(&writer, scratch()), TN_OK);
    assert_int_equal(tn_gguf_writer_string(writer, "general.architecture", s->architecture), TN_OK);
    assert_int_equal(tn_gguf_writer_integer(writer, key, TN_GGUF_I32, s->heads), TN_OK);
    if (s->parts)
        assert_int_equal(tn_gguf_writer_integer(writer, "split.count", TN_GGUF_U16, s->parts), TN_OK);
    assert_int_equal(tn_gguf_writer_declare(writer, s->name, s->type, 2, shape), TN_OK);
    assert_int_equal(tn_gguf_writer_begin(writer), TN_OK);
    assert_int_equal(tn_ggml_bytes(s->type, 1, 32, &size), TN_OK);
    for (int64_t row = 0; row < s->rows; row++) {
        for (int i = 0; i < 32; i++)
            values[i] = (float)row;
        memset(bytes, 0, sizeof bytes);
        if (tn_ggml_type_info(s->type)->plain || tn_ggml_type_info(s->type)->encode)
            assert_int_equal(tn_ggml_encode(s->type, bytes, values, 1, 32), TN_OK);
        assert_int_equal(tn_gguf_writer_data(writer, bytes, size), TN_OK);
    }
    assert_int_equal(tn_gguf_writer_finish(writer), TN_OK);
}

static void check_rows(const sample *s, const char *hf_name, const float *first) {
    tn_checkpoint checkpoint;
    float value;
    write_sample(s);
    if (tn_checkpoint_open(scratch(), &checkpoint) != TN_OK)
        fail_msg("%s", tn_error_message());
    const tn_tensor *t = tn_checkpoint_find(&checkpoint, hf_name);
    assert_non_null(t);
    assert_int_equal(t->shape[0], s->rows);
    assert_int_equal(t->shape[1], 32);
    for (int64_t row = 0; row < s->rows; row++) {
        tn_tensor_read(&value, t, row * 32 + 31, 1);
        assert_float_equal(value, first[row], 0.01); /* a scale of Q8_0 is rounded */
    }
    tn_checkpoint_close(&checkpoint);
}

static void checkpoint_gives_rows_in_hugging_face_order(void **state) {
    static const float plain[] = {0, 1, 2, 3, 4, 5, 6, 7}, ordered[] = {0, 2, 1, 3, 4, 6, 5, 7};
    static const uint32_t types[] = {TN_GGML_F32, TN_GGML_F16, TN_GGML_BF16, TN_GGML_Q8_0, TN_GGML_Q4_0};
    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const sample q = {"llama", "blk.0.attn_q.weight", types[i], 8, 2, 0};
        const sample v = {"llama", "blk.0.attn_v.weight", types[i], 8, 2, 1};
        const sample qwen = {"qwen2", "blk.0.attn_q.weight", types[i], 8, 2, 0};
        check_rows(&q, "model.layers.0.self_attn.q_proj.weight", ordered);
        check_rows(&v, "model.layers.0.self_attn.v_proj.weight", plain);
        check_rows(&qwen, "model.layers.0.self_attn.q_proj.weight", plain);
    }
}

static void check_refused(const sample *s, tn_status status, const char *words) {
    tn_checkpoint checkpoint;
    write_sample(s);
    assert_fails(tn_checkpoint_open(scratch(), &checkpoint), status, words);
}

static void file_that_cannot_be_a_checkpoint_is_refused(void **state) {
    enum { Q8_1 = 9 };
    (void)state;
    check_refused(&(sample){"gemma", "output.weight", TN_GGML_F32, 4, 2, 0}, TN_ERROR_UNSUPPORTED, "llama and qwen2");
    check_refused(&(sample){"llama", "output.weight", TN_GGML_F32, 4, 2, 3}, TN_ERROR_UNSUPPORTED, "3 parts");
    check_refused(&(sample){"llama", "blk.0.attn_q.weight", TN_GGML_F32, 6, 2, 0}, TN_ERROR_FORMAT, "even size");
    check_refused(&(sample){"llama", "blk.0.attn_q.weight", TN_GGML_F32, 8, 3, 0}, TN_ERROR_FORMAT, "3 heads");
    check_refused(&(sample){"llama", "blk.0.attn_q.weight", TN_GGML_F32, 8, -2, 0}, TN_ERROR_FORMAT, "-2 heads");
    check_refused(&(sample){"llama", "output.weight", TN_GGML_Q4_0, 0, 2, 0}, TN_ERROR_FORMAT, "no values");
    check_refused(&(sample){"llama", "output.weight", Q8_1, 4, 2, 0}, TN_ERROR_UNSUPPORTED, "Q8_1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(name_maps_to_hugging_face_and_back),
        cmocka_unit_test(foreign_name_maps_to_nothing),
        cmocka_unit_test(rows_are_interleaved_within_heads),
        cmocka_unit_test(checkpoint_gives_rows_in_hugging_face_order),
        cmocka_unit_test(file_that_cannot_be_a_checkpoint_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, remove_scratch);
}
