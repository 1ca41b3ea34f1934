/* Every supported type comes down to ids before and ids after; a Sequence wraps the outcome of each in the next. */
#include "text/post_process.h"

#include <string.h>

#include "format/json.h"

enum { DEPTH_MAX = 16 };

static const char supported[] = "TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing, Sequence";

static tn_status check_id(const cJSON *id, const char *where, const tn_vocab *vocab) {
    if (!cJSON_IsNumber(id) || id->valuedouble != (double)id->valueint || !tn_vocab_token(vocab, id->valueint, NULL))
        return tn_fail(TN_ERROR_FORMAT, "%s: the post-processor names an id that no token has", where);
    return TN_OK;
}

/* Appends the ids that special_tokens gives for a name of the template. */
static tn_status append_special(const cJSON *special, const cJSON *tokens, const char *where, const tn_vocab *vocab,
                                tn_ids *out) {
    const char *name = NULL;
    TN_TRY(tn_json_get_string(special, "id", where, &name));
    const cJSON *ids = name ? tn_json_get(tn_json_get(tokens, name), "ids") : NULL, *id;
    if (!cJSON_IsArray(ids))
        return tn_fail(TN_ERROR_FORMAT, "%s: the post-processor's template uses '%.100s', which its \"special_tokens\" lack",
                       where, name ? name : "");
    cJSON_ArrayForEach(id, ids) {
        TN_TRY(check_id(id, where, vocab));
        TN_TRY(tn_ids_push(out, id->valueint));
    }
    return TN_OK;
}

static tn_status parse_template(const cJSON *json, const char *where, const tn_vocab *vocab, tn_post_processor *out) {
    const cJSON *single = tn_json_get(json, "single"), *tokens = tn_json_get(json, "special_tokens"), *piece;
    int sequences = 0;
    if (!cJSON_IsArray(single))
        return tn_fail(TN_ERROR_FORMAT, "%s: a TemplateProcessing needs a list \"single\"", where);
    cJSON_ArrayForEach(piece, single) {
        const cJSON *special = tn_json_get(piece, "SpecialToken");
        if (special)
            TN_TRY(append_special(special, tokens, where, vocab, sequences ? &out->after : &out->before));
        else if (tn_json_get(piece, "Sequence"))
            sequences++;
        else
            return tn_fail(TN_ERROR_FORMAT, "%s: \"single\" may hold only SpecialToken and Sequence objects", where);
    }
    if (sequences != 1)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: a template with %d texts in \"single\" is not supported, only with one",
                       where, sequences);
    return TN_OK;
}

static tn_status parse_pair(const cJSON *json, const char *key, const char *where, const tn_vocab *vocab, tn_ids *out) {
    const cJSON *pair = tn_json_get(json, key), *id = cJSON_IsArray(pair) && pair->child ? pair->child->next : NULL;
    TN_TRY(check_id(id, where, vocab));
    return tn_ids_push(out, id->valueint);
}

/* outer.before + inner.before, inner.after + outer.after, into inner. */
static tn_status wrap(tn_post_processor *inner, tn_post_processor *outer) {
    TN_TRY(tn_ids_append(&outer->before, inner->before.data, inner->before.count));
    TN_TRY(tn_ids_append(&inner->after, outer->after.data, outer->after.count));
    tn_ids before = inner->before;
    inner->before = outer->before;
    outer->before = before;
    return TN_OK;
}

static tn_status parse_nested(const cJSON *json, const char *where, const tn_vocab *vocab, int depth,
                              tn_post_processor *out);

static tn_status parse_sequence(const cJSON *json, const char *where, const tn_vocab *vocab, int depth,
                                tn_post_processor *out) {
    const cJSON *list = tn_json_get(json, "processors"), *item;
    tn_status status = TN_OK;
    if (!cJSON_IsArray(list) || depth >= DEPTH_MAX)
        return tn_fail(TN_ERROR_FORMAT, "%s: a post-processor Sequence needs \"processors\", at most %d deep", where,
                       DEPTH_MAX);
    cJSON_ArrayForEach(item, list) {
        tn_post_processor outer = {0};
        status = parse_nested(item, where, vocab, depth + 1, &outer);
        if (status == TN_OK)
            status = wrap(out, &outer);
        tn_post_processor_free(&outer);
        if (status != TN_OK)
            break;
    }
    return status;
}

static tn_status parse_nested(const cJSON *json, const char *where, const tn_vocab *vocab, int depth,
                              tn_post_processor *out) {
    const char *type = NULL;
    TN_TRY(tn_json_get_string(json, "type", where, &type));
    if (!type)
        return tn_fail(TN_ERROR_FORMAT, "%s: a post-processor must be an object with a \"type\"", where);
    if (strcmp(type, "Sequence") == 0)
        return parse_sequence(json, where, vocab, depth, out);
    if (strcmp(type, "ByteLevel") == 0) /* only moves offsets, which nobody asks for here */
        return TN_OK;
    if (strcmp(type, "TemplateProcessing") == 0)
        return parse_template(json, where, vocab, out);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        TN_TRY(parse_pair(json, "cls", where, vocab, &out->before));
        return parse_pair(json, "sep", where, vocab, &out->after);
    }
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s: post-processor type '%.100s' is not supported (supported: %s)", where, type,
                   supported);
}

tn_status tn_post_processor_parse(const cJSON *json, const char *where, const tn_vocab *vocab, tn_post_processor *out) {
    *out = (tn_post_processor){0};
    return json ? parse_nested(json, where, vocab, 0, out) : TN_OK;
}

void tn_post_processor_free(tn_post_processor *post_processor) {
    tn_ids_free(&post_processor->before);
    tn_ids_free(&post_processor->after);
}
