/* Tokens to the syntax tree: statements. The grammar is that of jinja2/parser.py without inheritance, import and include. */
#include "text/jinja_parse.h"

#include <stdio.h>
#include <string.h>

tn_status tn_jinja_parse_fail(const jinja_parser *p, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return tn_fail(TN_ERROR_FORMAT, "%s line %d: %s", p->chat_template->source_name, p->token->line, text);
}

tn_status tn_jinja_expected(const jinja_parser *p, const char *what) {
    const jinja_token *token = p->token;
    switch (token->type) {
    case TOKEN_NAME:
        return tn_jinja_parse_fail(p, "expected %s, found \"%.*s\"", what, tn_jinja_shown(&token->text), token->text.data);
    case TOKEN_END: return tn_jinja_parse_fail(p, "expected %s, found the end of the template", what);
    case TOKEN_VARIABLE_END:
    case TOKEN_BLOCK_END: return tn_jinja_parse_fail(p, "expected %s, found the end of the tag", what);
    default: return tn_jinja_parse_fail(p, "expected %s, found another symbol", what);
    }
}

tn_status tn_jinja_node_new(const jinja_parser *p, jinja_node_type type, jinja_node **out) {
    jinja_node *node = tn_arena_alloc(&p->chat_template->arena, sizeof *node);
    if (!node)
        return tn_fail_memory("a chat template");
    node->type = type;
    node->line = p->token->line;
    *out = node;
    return TN_OK;
}

tn_status tn_jinja_name_id(const jinja_parser *p, const char *text, size_t length, int *id) {
    tn_chat_template *chat_template = p->chat_template;
    int64_t known;
    if (tn_map_get(&chat_template->ids, text, length, &known)) {
        *id = (int)known;
        return TN_OK;
    }
    TN_TRY(tn_map_put(&chat_template->ids, text, length, chat_template->id_count));
    *id = chat_template->id_count++;
    return TN_OK;
}

tn_status tn_jinja_token_string(const jinja_parser *p, const jinja_token *token, jinja_value *out) {
    jinja_string *string = tn_arena_alloc(&p->chat_template->arena, sizeof *string);
    if (!string)
        return tn_fail_memory("a chat template");
    *string = token->text;
    *out = JINJA_VALUE(JINJA_STRING, string, string);
    return TN_OK;
}

static bool token_is(const jinja_token *token, const char *name) {
    return token->type == TOKEN_NAME && tn_jinja_string_is(&token->text, name);
}

bool tn_jinja_at_name(const jinja_parser *p, const char *name) {
    return token_is(p->token, name);
}

bool tn_jinja_skip_name(jinja_parser *p, const char *name) {
    if (!tn_jinja_at_name(p, name))
        return false;
    p->token++;
    return true;
}

bool tn_jinja_skip(jinja_parser *p, jinja_token_type type) {
    if (p->token->type != type)
        return false;
    p->token++;
    return true;
}

tn_status tn_jinja_expect(jinja_parser *p, jinja_token_type type, const char *what) {
    return tn_jinja_skip(p, type) ? TN_OK : tn_jinja_expected(p, what);
}

tn_status tn_jinja_nest(jinja_parser *p) {
    if (p->depth >= JINJA_MAX_NESTING)
        return tn_jinja_parse_fail(p, "nested deeper than %d levels", JINJA_MAX_NESTING);
    p->depth++;
    return TN_OK;
}

static tn_status parse_statements(jinja_parser *p, const char *const *ends, jinja_node **out);

/* The block up to one of the tags `ends`, whose name is left as the next token. The tag that opened it is `opener`. */
static tn_status parse_body(jinja_parser *p, const char *const *ends, const jinja_token *opener, jinja_node **out) {
    tn_jinja_skip(p, TOKEN_COLON);
    TN_TRY(tn_jinja_expect(p, TOKEN_BLOCK_END, "the end of the tag"));
    TN_TRY(tn_jinja_nest(p));
    TN_TRY(parse_statements(p, ends, out));
    p->depth--;
    if (p->token->type == TOKEN_END)
        return tn_jinja_parse_fail(p, "the template ends, but the \"%.*s\" of line %d is not closed: \"%s\" is missing",
                                   tn_jinja_shown(&opener->text), opener->text.data, opener->line, ends[0]);
    return TN_OK;
}

/* The same for blocks with one end, which is read as well. */
static tn_status parse_closed_body(jinja_parser *p, const char *end, const jinja_token *opener, jinja_node **out) {
    TN_TRY(parse_body(p, (const char *const[]){end, NULL}, opener, out));
    p->token++;
    return TN_OK;
}

static tn_status parse_if(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    jinja_node_list branches = {0};
    p->soft++;
    for (bool more = true; more;) {
        jinja_node *branch = NULL;
        TN_TRY(tn_jinja_node_new(p, NODE_BRANCH, &branch));
        TN_TRY(tn_jinja_parse_tuple(p, false, NULL, &branch->a));
        TN_TRY(parse_body(p, (const char *const[]){"endif", "elif", "else", NULL}, opener, &branch->body));
        tn_jinja_nodes_add(&branches, branch);
        more = tn_jinja_at_name(p, "elif");
        if (tn_jinja_at_name(p, "else")) {
            p->token++;
            TN_TRY(tn_jinja_node_new(p, NODE_BRANCH, &branch));
            TN_TRY(parse_body(p, (const char *const[]){"endif", NULL}, opener, &branch->body));
            tn_jinja_nodes_add(&branches, branch);
        }
        p->token++;
    }
    p->soft--;
    node->list = branches.first;
    return TN_OK;
}

static tn_status parse_for(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    TN_TRY(tn_jinja_parse_target(p, false, &node->a));
    if (!tn_jinja_skip_name(p, "in"))
        return tn_jinja_expected(p, "\"in\"");
    TN_TRY(tn_jinja_parse_tuple(p, false, "recursive", &node->b));
    if (tn_jinja_skip_name(p, "if"))
        TN_TRY(tn_jinja_parse_expression(p, true, &node->c));
    node->flag = tn_jinja_skip_name(p, "recursive");
    p->loops++;
    TN_TRY(parse_body(p, (const char *const[]){"endfor", "else", NULL}, opener, &node->body));
    p->loops--;
    bool has_else = tn_jinja_at_name(p, "else");
    p->token++;
    return has_else ? parse_closed_body(p, "endfor", opener, &node->other) : TN_OK;
}

static tn_status parse_set(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    TN_TRY(tn_jinja_parse_target(p, true, &node->a));
    if (tn_jinja_skip(p, TOKEN_ASSIGN)) {
        node->type = NODE_SET;
        return tn_jinja_parse_tuple(p, true, NULL, &node->b);
    }
    node->type = NODE_SET_BLOCK;
    TN_TRY(tn_jinja_node_new(p, NODE_CAPTURED, &node->b));
    TN_TRY(tn_jinja_parse_filters(p, false, &node->b));
    return parse_closed_body(p, "endset", opener, &node->body);
}

static tn_status parse_with(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    jinja_node_list sets = {0};
    while (p->token->type != TOKEN_BLOCK_END) {
        jinja_node *set = NULL;
        if (sets.first)
            TN_TRY(tn_jinja_expect(p, TOKEN_COMMA, "a comma"));
        TN_TRY(tn_jinja_node_new(p, NODE_SET, &set));
        TN_TRY(tn_jinja_parse_name(p, NODE_NAME, &set->a));
        TN_TRY(tn_jinja_expect(p, TOKEN_ASSIGN, "\"=\""));
        TN_TRY(tn_jinja_parse_expression(p, true, &set->b));
        tn_jinja_nodes_add(&sets, set);
    }
    node->list = sets.first;
    return parse_closed_body(p, "endwith", opener, &node->body);
}

/* Parameters, when "(" comes, and body of a macro or call block. break and continue cannot leave it. */
static tn_status parse_macro_rest(jinja_parser *p, jinja_node *macro, const char *end, const jinja_token *opener) {
    int loops = p->loops;
    int collected = p->collected;
    p->loops = 0;
    p->collected = 0;
    TN_TRY(parse_closed_body(p, end, opener, &macro->body));
    macro->op = p->collected;
    p->collected = collected;
    p->loops = loops;
    return TN_OK;
}

static tn_status parse_macro(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    if (p->token->type != TOKEN_NAME)
        return tn_jinja_expected(p, "the macro's name");
    TN_TRY(tn_jinja_name_id(p, p->token->text.data, p->token->text.length, &node->name));
    TN_TRY(tn_jinja_token_string(p, p->token, &node->value));
    p->token++;
    TN_TRY(tn_jinja_expect(p, TOKEN_LPAREN, "\"(\""));
    TN_TRY(tn_jinja_parse_parameters(p, &node->list));
    return parse_macro_rest(p, node, "endmacro", opener);
}

static tn_status parse_call_block(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    TN_TRY(tn_jinja_node_new(p, NODE_MACRO, &node->b));
    node->b->name = -1;
    if (tn_jinja_skip(p, TOKEN_LPAREN))
        TN_TRY(tn_jinja_parse_parameters(p, &node->b->list));
    TN_TRY(tn_jinja_parse_expression(p, true, &node->a));
    if (node->a->type != NODE_CALL)
        return tn_jinja_parse_fail(p, "a call block needs a call, such as \"call macro()\"");
    return parse_macro_rest(p, node->b, "endcall", opener);
}

static tn_status parse_filter_block(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    TN_TRY(tn_jinja_node_new(p, NODE_CAPTURED, &node->b));
    TN_TRY(tn_jinja_parse_filters(p, true, &node->b));
    return parse_closed_body(p, "endfilter", opener, &node->body);
}

static tn_status parse_generation(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    int loops = p->loops;
    p->loops = 0;
    TN_TRY(parse_closed_body(p, "endgeneration", opener, &node->body));
    p->loops = loops;
    return TN_OK;
}

static tn_status parse_print(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    (void)opener;
    return tn_jinja_parse_expression(p, true, &node->a);
}

static tn_status parse_loop_control(jinja_parser *p, jinja_node *node, const jinja_token *opener) {
    (void)node;
    return p->loops ? TN_OK
                    : tn_jinja_parse_fail(p, "\"%.*s\" outside of a loop", tn_jinja_shown(&opener->text), opener->text.data);
}

static const struct {
    const char *tag;
    jinja_node_type type;
    tn_status (*parse)(jinja_parser *p, jinja_node *node, const jinja_token *opener);
} statements[] = {
    {"if", NODE_IF, parse_if},
    {"for", NODE_FOR, parse_for},
    {"set", NODE_SET, parse_set},
    {"with", NODE_WITH, parse_with},
    {"macro", NODE_MACRO, parse_macro},
    {"call", NODE_CALL_BLOCK, parse_call_block},
    {"filter", NODE_FILTER, parse_filter_block},
    {"generation", NODE_SCOPE, parse_generation},
    {"print", NODE_OUTPUT, parse_print},
    {"break", NODE_BREAK, parse_loop_control},
    {"continue", NODE_CONTINUE, parse_loop_control},
};

static const char *const unsupported[] = {"block", "extends", "include", "import", "from", "autoescape"};

static tn_status parse_statement(jinja_parser *p, jinja_node **out) {
    const jinja_token *opener = p->token;
    if (opener->type != TOKEN_NAME)
        return tn_jinja_expected(p, "the name of a tag");
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!token_is(opener, statements[i].tag))
            continue;
        TN_TRY(tn_jinja_node_new(p, statements[i].type, out));
        p->token++;
        TN_TRY(statements[i].parse(p, *out, opener));
        return tn_jinja_expect(p, TOKEN_BLOCK_END, "the end of the tag");
    }
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        if (token_is(opener, unsupported[i]))
            return tn_fail(TN_ERROR_UNSUPPORTED, "%s line %d: the tag \"%s\" is not supported in chat templates",
                           p->chat_template->source_name, opener->line, unsupported[i]);
    return tn_jinja_parse_fail(p, "unknown tag \"%.*s\", or one that closes nothing", tn_jinja_shown(&opener->text),
                               opener->text.data);
}

static tn_status parse_output(jinja_parser *p, jinja_node **out) {
    TN_TRY(tn_jinja_node_new(p, NODE_OUTPUT, out));
    TN_TRY(tn_jinja_parse_tuple(p, true, NULL, &(*out)->a));
    return tn_jinja_expect(p, TOKEN_VARIABLE_END, "\"}}\"");
}

/* Statements up to the end of the template or to a tag in `ends`, which is left as the next token. */
static tn_status parse_statements(jinja_parser *p, const char *const *ends, jinja_node **out) {
    jinja_node_list list = {0};
    while (p->token->type != TOKEN_END) {
        jinja_node *node = NULL;
        if (p->token->type == TOKEN_TEXT) {
            TN_TRY(tn_jinja_node_new(p, NODE_TEXT, &node));
            TN_TRY(tn_jinja_token_string(p, p->token, &node->value));
            p->token++;
        } else if (tn_jinja_skip(p, TOKEN_VARIABLE_BEGIN)) {
            TN_TRY(parse_output(p, &node));
        } else {
            TN_TRY(tn_jinja_expect(p, TOKEN_BLOCK_BEGIN, "a tag"));
            for (const char *const *end = ends; end && *end; end++)
                if (tn_jinja_at_name(p, *end)) {
                    *out = list.first;
                    return TN_OK;
                }
            TN_TRY(parse_statement(p, &node));
        }
        tn_jinja_nodes_add(&list, node);
    }
    *out = list.first;
    return TN_OK;
}

tn_status tn_jinja_parse(tn_chat_template *chat_template, const char *source) {
    jinja_token *tokens;
    TN_TRY(tn_jinja_lex(&chat_template->arena, source, chat_template->source_name, &tokens));
    jinja_parser p = {.chat_template = chat_template, .token = tokens};
    tn_status status = TN_OK;
    TN_TRY_GOTO(tn_jinja_name_id(&p, "loop", 4, &chat_template->id_loop));
    TN_TRY_GOTO(tn_jinja_name_id(&p, "caller", 6, &chat_template->id_caller));
    TN_TRY_GOTO(tn_jinja_name_id(&p, "varargs", 7, &chat_template->id_varargs));
    TN_TRY_GOTO(tn_jinja_name_id(&p, "kwargs", 6, &chat_template->id_kwargs));
    TN_TRY_GOTO(parse_statements(&p, NULL, &chat_template->body));
fail:
    tn_free(tokens);
    return status;
}
