/* tenon chat: a conversation in the terminal, one line per message. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tenon/tenon.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/generation.h"
#include "cli/model_options.h"

typedef struct {
    tn_cli_model model;
    tn_cli_sampling sampling;
    const char *system;
} config;

static const tn_option options[] = {
    {.name = "system",
     .type = TN_OPTION_STRING,
     TN_FIELD(config, system),
     .value_name = "TEXT",
     .group = "Conversation",
     .help = "system message that the conversation begins with"},
    {0},
};

static volatile sig_atomic_t interrupted;

/* The first Ctrl-C stops an answer at its next token; a second one before that ends the program. */
static void on_interrupt(int number) {
    if (interrupted)
        _exit(128 + number);
    interrupted = 1;
}

/* Without SA_RESTART, so that a Ctrl-C ends the reading of a line too. */
static void catch_interrupts(void) {
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

typedef struct {
    tn_model *model;
    const config *config;
    tn_generate_options how;
    cJSON *messages;
    bool terminal;
    bool begun; /* the answer has shown more than blanks */
    bool failed;
} conversation;

static void reset(conversation *chat) {
    cJSON_Delete(chat->messages);
    chat->messages = cJSON_CreateArray();
    if (chat->config->system)
        tn_cli_add_message(chat->messages, "system", chat->config->system);
}

/* Some tokenizers put a blank before every first word. */
static bool write_token(void *cookie, int32_t id, const char *text, size_t length) {
    conversation *chat = cookie;
    (void)id;
    while (!chat->begun && length && strchr(" \n", *text)) {
        text++;
        length--;
    }
    chat->begun = chat->begun || length > 0;
    chat->failed = !tn_cli_write_out(text, length);
    return !chat->failed && !interrupted;
}

static void forget_last(conversation *chat) {
    cJSON_DeleteItemFromArray(chat->messages, cJSON_GetArraySize(chat->messages) - 1);
}

/* Generates the answer to the last message and keeps it, even when it was interrupted. */
static tn_status answer(conversation *chat) {
    tn_generate_result result = {0};
    int32_t *ids;
    size_t count;
    TN_TRY(tn_cli_encode_messages(chat->model, chat->messages, &ids, &count));
    chat->begun = false;
    interrupted = 0;
    tn_status status = tn_generate(chat->model, ids, count, &chat->how, write_token, chat, &result);
    interrupted = 0;
    if (chat->failed || (status == TN_OK && !tn_cli_write_out(chat->terminal ? "\n\n" : "\n", chat->terminal ? 2 : 1)))
        status = tn_fail(TN_ERROR_IO, "cannot write to standard output");
    if (status == TN_OK) {
        tn_cli_add_message(chat->messages, "assistant", result.text + strspn(result.text, " \n"));
        if (result.reason == TN_STOP_LENGTH || result.reason == TN_STOP_CONTEXT)
            fprintf(stderr, "(cut off: %s)\n",
                    result.reason == TN_STOP_LENGTH ? "--max-tokens" : "the model's positions end here; /reset starts anew");
    }
    tn_generate_result_free(&result);
    tn_free_ids(ids);
    return status;
}

/* False at the end of input. A line that Ctrl-C cut short is empty. */
static bool read_line(const conversation *chat, char **line, size_t *capacity) {
    if (chat->terminal) {
        fputs("> ", stdout);
        fflush(stdout);
    }
    interrupted = 0;
    errno = 0;
    ssize_t length = getline(line, capacity, stdin);
    if (length < 0 && errno == EINTR) {
        clearerr(stdin);
        fputs("\n", stdout);
        (*line)[0] = '\0';
        return true;
    }
    while (length > 0 && strchr("\r\n", (*line)[length - 1]))
        (*line)[--length] = '\0';
    return length >= 0;
}

/* What was said last is taken back when there is no answer to it. */
static tn_status say(conversation *chat, const char *text) {
    tn_cli_add_message(chat->messages, "user", text);
    tn_status status = answer(chat);
    if (status != TN_ERROR_ARGUMENT)
        return status;
    fprintf(stderr, "tenon: %s\n", tn_error_message());
    fprintf(stderr, "(this message was left out; /reset starts a new conversation)\n");
    forget_last(chat);
    return TN_OK;
}

static tn_status talk(conversation *chat) {
    char *line = NULL;
    size_t capacity = 0;
    tn_status status = TN_OK;
    while (status == TN_OK && read_line(chat, &line, &capacity)) {
        if (strcmp(line, "/exit") == 0)
            break;
        if (strcmp(line, "/reset") == 0)
            reset(chat);
        else if (line[0] == '/' && chat->terminal)
            fprintf(stderr, "there are /reset and /exit\n");
        else if (line[0])
            status = say(chat, line);
    }
    if (chat->terminal && status == TN_OK)
        fputs("\n", stdout);
    free(line);
    return status;
}

/* Said before anything is typed. */
static tn_status need_template(const tn_model *model) {
    tn_model_info info;
    tn_model_describe(model, &info);
    if (info.has_chat_template)
        return TN_OK;
    if (!info.vocab_size)
        return tn_fail(TN_ERROR_UNSUPPORTED, "this is a %s model; a conversation needs a language model", info.family);
    return tn_fail(TN_ERROR_UNSUPPORTED,
                   "this model has no chat template (chat_template.jinja, or chat_template in "
                   "tokenizer_config.json), so how it holds a conversation is not known; 'tenon generate' continues "
                   "plain text");
}

static int run(const tn_invocation *call) {
    conversation chat = {.config = call->config, .terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    tn_cli_sampling_fill(&chat.config->sampling, &chat.how);
    tn_status status = tn_cli_load_model(&chat.config->model, false, &chat.model);
    if (status == TN_OK)
        status = need_template(chat.model);
    if (status == TN_OK) {
        reset(&chat);
        catch_interrupts();
        if (chat.terminal)
            fprintf(stderr, "One line is one message. Ctrl-C stops an answer, /reset starts anew, /exit or Ctrl-D ends.\n");
        status = talk(&chat);
    }
    cJSON_Delete(chat.messages);
    tn_model_free(chat.model);
    return tn_cli_exit(status);
}

const tn_command tn_command_chat = {
    .name = "chat",
    .summary = "talk with a chat model",
    .description =
        "Reads messages from the terminal, one per line, and streams the model's answers, formatted by the model's own "
        "chat template. The whole conversation is kept, until /reset.\n\n"
        "Ctrl-C stops the answer, /exit or Ctrl-D ends. When standard input is no terminal, its lines are the messages and "
        "standard output holds the answers alone.",
    .tables = (const tn_option_table[]){{tn_cli_model_options, offsetof(config, model)},
                                        {tn_cli_precision_options, offsetof(config, model)},
                                        {tn_cli_load_quantized_options, offsetof(config, model.quantize)},
                                        {tn_cli_adapter_options, offsetof(config, model)},
                                        {options, 0},
                                        {tn_cli_sampling_options, offsetof(config, sampling)},
                                        {0}},
    .config_size = sizeof(config),
    .examples =
        (const tn_example[]){{"tenon chat --model base --adapter out --system 'Answer briefly.'", "talk with a tuned model"},
                             {0}},
    .run = run,
};
