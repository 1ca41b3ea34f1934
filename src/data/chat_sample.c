/* Conversations: which bytes of the rendered text are assistant turns.
 *
 *     whole          <user> Hi <end> <assistant> Hello <end> <user> ...
 *     opening(i)     <user> Hi <end> <assistant>                           messages before i, add_generation_prompt
 *     closing(i)     <user> Hi <end> <assistant> Hello <end>               messages up to i
 *
 * The turn is what closing(i) has beyond opening(i). Templates that render a message otherwise once more follow (dropping
 * the reasoning of earlier turns) break that chain; there the turn is found by rendering with a marker in the message's
 * place. */
#include <limits.h>
#include <string.h>

#include "base/memory.h"
#include "data/sample.h"
#include "format/json.h"

/* One render per assistant turn makes the work quadratic. */
enum { MOST_MESSAGES = 4096 };

/* Control characters at both ends: no content shares them, no template trims or capitalises them. */
static const char marker[] = "\x01tenon-turn\x01";

typedef struct conversation {
    const tn_dataset_options *options;
    const char *where;
    cJSON *messages;    /* own copy, contents flattened to strings */
    const cJSON *tools; /* of the row, or NULL */
    tn_buf whole, opening, closing, marked;
    tn_span *turns;
    size_t turn_count;
} conversation;

static void conversation_free(conversation *chat) {
    cJSON_Delete(chat->messages);
    tn_buf_free(&chat->whole);
    tn_buf_free(&chat->opening);
    tn_buf_free(&chat->closing);
    tn_buf_free(&chat->marked);
    tn_free(chat->turns);
}

static tn_status set_content(cJSON *message, const char *text) {
    cJSON *content = cJSON_CreateString(text);
    bool had_one = cJSON_GetObjectItemCaseSensitive(message, "content") != NULL;
    if (content && had_one && cJSON_ReplaceItemInObjectCaseSensitive(message, "content", content))
        return TN_OK;
    if (content && !had_one && cJSON_AddItemToObject(message, "content", content))
        return TN_OK;
    cJSON_Delete(content);
    return tn_fail_memory("a conversation");
}

/* Text parts become one string: text templates join strings and know nothing of lists. */
static tn_status flatten_content(cJSON *message, const char *where, int index) {
    const cJSON *content = tn_json_get(message, "content"), *part;
    if (!content || cJSON_IsString(content))
        return TN_OK;
    if (!cJSON_IsArray(content))
        return tn_fail(TN_ERROR_FORMAT, "%s: \"content\" of message %d must be a string or a list of text parts", where,
                       index);
    tn_buf text = {0};
    cJSON_ArrayForEach(part, content) {
        const cJSON *type = tn_json_get(part, "type"), *words = tn_json_get(part, "text");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0 || !cJSON_IsString(words)) {
            tn_buf_free(&text);
            return tn_fail(
                TN_ERROR_FORMAT,
                "%s: a part of \"content\" of message %d is not {\"type\": \"text\", \"text\": \"...\"}; only text "
                "can be trained on",
                where, index);
        }
        tn_buf_puts(&text, words->valuestring);
    }
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK)
        status = set_content(message, tn_buf_text(&text));
    tn_buf_free(&text);
    return status;
}

static tn_status take_messages(conversation *chat, const cJSON *row) {
    const cJSON *messages = tn_json_get(row, "messages");
    if (!cJSON_IsArray(messages) || !messages->child)
        return tn_fail(TN_ERROR_FORMAT, "%s: \"messages\" must be a list of {\"role\": ..., \"content\": ...}", chat->where);
    chat->tools = tn_json_get(row, "tools");
    if (chat->tools && !cJSON_IsArray(chat->tools))
        return tn_fail(TN_ERROR_FORMAT, "%s: \"tools\" must be a list", chat->where);
    int count = cJSON_GetArraySize(messages), index = 0;
    if (count > MOST_MESSAGES)
        return tn_fail(TN_ERROR_FORMAT, "%s: %d messages; a conversation may have at most %d", chat->where, count,
                       MOST_MESSAGES);
    chat->messages = cJSON_Duplicate(messages, true);
    chat->turns = tn_calloc((size_t)count, sizeof *chat->turns);
    if (!chat->messages || !chat->turns)
        return tn_fail_memory("a conversation");
    cJSON *message;
    cJSON_ArrayForEach(message, chat->messages) {
        if (!cJSON_IsString(tn_json_get(message, "role")))
            return tn_fail(TN_ERROR_FORMAT, "%s: message %d has no \"role\"", chat->where, index);
        TN_TRY(flatten_content(message, chat->where, index++));
    }
    return TN_OK;
}

/* Renders the first `count` messages, with `other` (or NULL) in place of the one numbered `at`. */
static tn_status render(const conversation *chat, int count, int at, cJSON *other, bool add_generation_prompt, tn_buf *out) {
    cJSON *list = cJSON_CreateArray(), *message;
    tn_status status = list ? TN_OK : tn_fail_memory("a conversation");
    int index = 0;
    cJSON_ArrayForEach(message, chat->messages) {
        if (status != TN_OK || index == count)
            break;
        if (!cJSON_AddItemReferenceToArray(list, other && index == at ? other : message))
            status = tn_fail_memory("a conversation");
        index++;
    }
    tn_chat_render request = {
        .messages = list, .tools = chat->tools, .add_generation_prompt = add_generation_prompt, .now = chat->options->now};
    tn_buf_clear(out);
    if (status == TN_OK)
        status = tn_chat_template_render(chat->options->chat_template, &request, out);
    cJSON_Delete(list);
    return status == TN_OK ? tn_buf_status(out) : status;
}

/* Renders the first `count` messages; *begins tells whether the whole conversation begins with them. Some templates refuse
 * to render a part, and then it does not. */
static tn_status render_beginning(const conversation *chat, int count, bool add_generation_prompt, tn_buf *out,
                                  bool *begins) {
    tn_status status = render(chat, count, 0, NULL, add_generation_prompt, out);
    if (status == TN_ERROR_MEMORY)
        return status;
    *begins = status == TN_OK && out->length <= chat->whole.length &&
              memcmp(tn_buf_text(out), tn_buf_text(&chat->whole), out->length) == 0;
    return TN_OK;
}

static size_t common_prefix(const char *a, const char *b) {
    size_t n = 0;
    while (a[n] && a[n] == b[n])
        n++;
    return n;
}

static size_t common_suffix(const tn_buf *a, const tn_buf *b) {
    size_t n = 0;
    while (n < a->length && n < b->length && a->data[a->length - 1 - n] == b->data[b->length - 1 - n])
        n++;
    return n;
}

/* Shortens text[0, *length) until it is whole tokens of the text: what two endings share may stop inside a special token
 * that they do not share. */
static tn_status back_to_token(const tn_tokenizer *tokenizer, const char *text, size_t *length) {
    enum { LOOKAHEAD = 64, MOST_STEPS = 64 };
    tn_ids all = {0}, some = {0};
    size_t longest = *length, end = longest + strnlen(text + longest, LOOKAHEAD);
    tn_status status = tn_tokenizer_encode(tokenizer, text, end, false, &all);
    for (bool whole = false; status == TN_OK && !whole && *length > 0;) {
        some.count = 0;
        status = tn_tokenizer_encode(tokenizer, text, *length, false, &some);
        whole = status == TN_OK && some.count > 0 && some.count <= all.count &&
                memcmp(some.data, all.data, some.count * sizeof *some.data) == 0;
        if (!whole)
            *length = longest - *length < MOST_STEPS ? *length - 1 : 0;
    }
    tn_ids_free(&some);
    tn_ids_free(&all);
    return status;
}

/* Finds where the content of message `index` stands in the whole, and behind it the end of its turn. */
static tn_status find_by_marker(conversation *chat, int index, const cJSON *message, tn_span *turn, bool *found) {
    *found = false;
    cJSON *copy = cJSON_Duplicate(message, true);
    tn_status status = copy ? set_content(copy, marker) : tn_fail_memory("a conversation");
    if (status == TN_OK)
        status = render(chat, INT_MAX, index, copy, false, &chat->marked);
    if (status == TN_OK)
        status = render(chat, index + 1, index, copy, false, &chat->closing);
    cJSON_Delete(copy);
    if (status != TN_OK)
        return status == TN_ERROR_MEMORY ? status : TN_OK;
    const char *whole = tn_buf_text(&chat->whole), *tail = NULL;
    for (const char *p = tn_buf_text(&chat->closing); (p = strstr(p, marker)); tail = p)
        p += sizeof marker - 1;
    turn->start = common_prefix(whole, tn_buf_text(&chat->marked));
    /* May lie before the start when there is no content and what stands on both sides of the marker is alike. */
    size_t content_end = chat->whole.length - common_suffix(&chat->whole, &chat->marked);
    if (!tail)
        return TN_OK;
    size_t ending = common_prefix(whole + content_end, tail);
    status = back_to_token(chat->options->tokenizer, whole + content_end, &ending);
    turn->end = content_end + ending;
    *found = true;
    return status;
}

static tn_status find_turn(conversation *chat, int index, const cJSON *message) {
    tn_span turn = {0, 0};
    bool opens, closes, found = true;
    TN_TRY(render_beginning(chat, index, true, &chat->opening, &opens));
    TN_TRY(render_beginning(chat, index + 1, false, &chat->closing, &closes));
    size_t opening_end = chat->opening.length;
    if (opens && closes)
        turn = (tn_span){opening_end, chat->closing.length};
    else
        TN_TRY(find_by_marker(chat, index, message, &turn, &found));
    if (opens)
        turn.start = opening_end;
    size_t previous_end = chat->turn_count ? chat->turns[chat->turn_count - 1].end : 0;
    if (!found || turn.start < previous_end || turn.end <= turn.start)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: the turn of message %d cannot be found in what the chat template renders, so that it cannot be "
                       "trained on alone; use rows of \"prompt\" and \"completion\" with the rendered text",
                       chat->where, index);
    chat->turns[chat->turn_count++] = turn;
    return TN_OK;
}

static tn_status encode_conversation(conversation *chat, tn_sample_maker *maker, const cJSON *row) {
    TN_TRY(take_messages(chat, row));
    tn_status status = render(chat, INT_MAX, 0, NULL, false, &chat->whole);
    if (status != TN_OK)
        return tn_fail_context(status, "%s", chat->where);
    int index = 0;
    const cJSON *message;
    cJSON_ArrayForEach(message, chat->messages) {
        if (strcmp(tn_json_get(message, "role")->valuestring, "assistant") == 0)
            TN_TRY(find_turn(chat, index, message));
        index++;
    }
    return tn_sample_encode(maker, tn_buf_text(&chat->whole), chat->whole.length, chat->turns, chat->turn_count, false);
}

tn_status tn_sample_from_messages(tn_sample_maker *maker, const cJSON *row, const char *where) {
    if (!maker->options->chat_template)
        return tn_fail(
            TN_ERROR_ARGUMENT,
            "%s: rows of \"messages\" need a chat template, and the model folder has neither chat_template.jinja nor "
            "\"chat_template\" in tokenizer_config.json; add one, or use rows of \"prompt\" and \"completion\"",
            where);
    conversation chat = {.options = maker->options, .where = where};
    tn_status status = encode_conversation(&chat, maker, row);
    conversation_free(&chat);
    return status;
}
