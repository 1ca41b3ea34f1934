/* Template source to tokens: text between tags, with the white space that trim_blocks, lstrip_blocks, "-" and "+" take
 * away already gone, and the tokens inside {{ }} and {% %}. Rules as in jinja2/lexer.py. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja.h"

typedef struct lexer {
    tn_arena *arena;
    const char *name;
    const char *at, *end; /* of the source with line ends normalised */
    const char *start;
    int line;
    const char *counted; /* line ends before this are in `line` */
    jinja_token *tokens;
    size_t count, capacity;
    char brackets[JINJA_MAX_NESTING]; /* the closing ones awaited */
    int depth;
    bool line_starting; /* the last tag ended with a line end */
} lexer;

static void count_lines(lexer *lex, const char *upto) {
    for (; lex->counted < upto; lex->counted++)
        lex->line += *lex->counted == '\n';
}

#define LEX_FAIL(lex, ...) (tn_fail(TN_ERROR_FORMAT, __VA_ARGS__), lex_fail_line(lex))

static tn_status lex_fail_line(const lexer *lex) {
    return tn_fail_context(TN_ERROR_FORMAT, "%s line %d", lex->name, lex->line);
}

static tn_status push(lexer *lex, jinja_token token) {
    if (lex->count == lex->capacity) {
        size_t capacity = lex->capacity ? lex->capacity * 2 : 256;
        jinja_token *tokens = tn_realloc_array(lex->tokens, capacity, sizeof *tokens);
        if (!tokens)
            return tn_fail_memory("a chat template");
        lex->tokens = tokens;
        lex->capacity = capacity;
    }
    token.line = lex->line;
    lex->tokens[lex->count++] = token;
    return TN_OK;
}

static tn_status push_type(lexer *lex, jinja_token_type type) {
    return push(lex, (jinja_token){.type = type});
}

static bool looking_at(const char *at, const char *end, const char *text) {
    size_t length = strlen(text);
    return (size_t)(end - at) >= length && memcmp(at, text, length) == 0;
}

static const char *skip_space(const char *at, const char *end) {
    for (size_t size; at < end && (size = tn_jinja_space_at(at, (size_t)(end - at))) > 0;)
        at += size;
    return at;
}

/* Drops what a tag's sign and lstrip_blocks take from the end of the text before it. */
static const char *strip_before(const lexer *lex, const char *text, const char *text_end, char sign, bool variable) {
    if (sign == '-') {
        for (size_t size; text_end > text && (size = tn_jinja_space_before(text, (size_t)(text_end - text))) > 0;)
            text_end -= size;
        return text_end;
    }
    if (sign == '+' || variable)
        return text_end;
    const char *line = text_end;
    while (line > text && line[-1] != '\n')
        line--;
    if ((line > text || lex->line_starting) && skip_space(line, text_end) == text_end)
        return line;
    return text_end;
}

static tn_status push_text(lexer *lex, const char *text, const char *text_end) {
    if (text_end == text)
        return TN_OK;
    return push(lex, (jinja_token){.type = TOKEN_TEXT, .text = {text, (size_t)(text_end - text)}});
}

/* The end of a block tag, comment or endraw at `at` ("-%}" takes white space after it, "%}" one line end), or NULL. */
static const char *tag_end(const char *at, const char *end, const char *closing) {
    char sign = at < end ? *at : 0;
    const char *mark = sign == '-' || sign == '+' ? at + 1 : at;
    if (!looking_at(mark, end, closing))
        return NULL;
    mark += 2;
    if (sign == '-')
        return skip_space(mark, end);
    if (sign != '+' && mark < end && *mark == '\n')
        mark++;
    return mark;
}

static void finish_tag(lexer *lex, const char *after) {
    lex->line_starting = after > lex->start && after[-1] == '\n';
    lex->at = after;
    count_lines(lex, after);
}

static char sign_at(const char *at, const char *end) {
    return at < end && (*at == '-' || *at == '+') ? *at : 0;
}

static tn_status lex_comment(lexer *lex, const char *at) {
    for (; at < lex->end; at++) {
        const char *after = tag_end(at, lex->end, "#}");
        if (after) {
            finish_tag(lex, after);
            return TN_OK;
        }
    }
    return LEX_FAIL(lex, "a comment is not closed: \"#}\" is missing");
}

/* Where the body of a raw block begins when the tag at `at` (after "{%" and its sign) is one, else NULL. */
static const char *raw_begin(const char *at, const char *end) {
    at = skip_space(at, end);
    if (!looking_at(at, end, "raw"))
        return NULL;
    at = skip_space(at + 3, end);
    if (looking_at(at, end, "-%}"))
        return skip_space(at + 3, end);
    return looking_at(at, end, "%}") ? at + 2 : NULL;
}

static tn_status lex_raw(lexer *lex, const char *body) {
    finish_tag(lex, body);
    for (const char *at = body; at < lex->end; at++) {
        if (!looking_at(at, lex->end, "{%"))
            continue;
        char sign = sign_at(at + 2, lex->end);
        const char *inner = skip_space(at + 2 + (sign != 0), lex->end);
        if (!looking_at(inner, lex->end, "endraw"))
            continue;
        const char *after = tag_end(skip_space(inner + 6, lex->end), lex->end, "%}");
        if (!after)
            continue;
        TN_TRY(push_text(lex, body, strip_before(lex, body, at, sign, false)));
        finish_tag(lex, after);
        return TN_OK;
    }
    return LEX_FAIL(lex, "a raw block is not closed: \"{%% endraw %%}\" is missing");
}

/* ---- inside tags ---- */

static int hex_value(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 32) >= 'a' && (c | 32) <= 'f')
        return (c | 32) - 'a' + 10;
    return -1;
}

/* \xHH, \uHHHH, \UHHHHHHHH; `at` is after the letter. Writes UTF-8 and returns its length, 0 when malformed. */
static size_t unescape_hex(const char *at, const char *end, int digits, char out[4]) {
    uint32_t code = 0;
    if (end - at < digits)
        return 0;
    for (int i = 0; i < digits; i++) {
        int digit = hex_value(at[i]);
        if (digit < 0)
            return 0;
        code = code << 4 | (uint32_t)digit;
    }
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    return tn_utf8_encode(code, out);
}

/* One escape after a backslash; returns the source bytes it used, 0 when it is malformed. */
static size_t unescape(const char *at, const char *end, char *out, size_t *written) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *found = *at ? strchr(from, *at) : NULL;
    *written = 1;
    if (found) {
        *out = to[found - from];
        return 1;
    }
    if (*at == '\n') {
        *written = 0;
        return 1;
    }
    int digits = *at == 'x' ? 2 : *at == 'u' ? 4 : *at == 'U' ? 8 : 0;
    if (digits) {
        *written = unescape_hex(at + 1, end, digits, out);
        return *written ? (size_t)digits + 1 : 0;
    }
    if (*at >= '0' && *at <= '7') {
        uint32_t code = 0;
        size_t used = 0;
        while (used < 3 && at + used < end && at[used] >= '0' && at[used] <= '7')
            code = code * 8 + (uint32_t)(at[used++] - '0');
        *written = tn_utf8_encode(code, out);
        return used;
    }
    if (*at == 'N')
        return 0;
    out[0] = '\\';
    out[1] = *at;
    *written = 2;
    return 1;
}

static tn_status lex_string(lexer *lex) {
    char quote = *lex->at;
    const char *close = lex->at + 1;
    while (close < lex->end && *close != quote)
        close += *close == '\\' && close + 1 < lex->end ? 2 : 1;
    if (close >= lex->end)
        return LEX_FAIL(lex, "a string is not closed");
    /* An escape never grows: the longest output, 4 bytes, comes from \UHHHHHHHH; \377 gives 2. */
    char *text = tn_arena_alloc(lex->arena, (size_t)(close - lex->at) + 1);
    if (!text)
        return tn_fail_memory("a chat template");
    size_t length = 0;
    for (const char *at = lex->at + 1; at < close;) {
        if (*at != '\\') {
            text[length++] = *at++;
            continue;
        }
        char escaped[4];
        size_t written, used = unescape(at + 1, close, escaped, &written);
        if (!used)
            return LEX_FAIL(lex, "a string holds a malformed escape \"\\%c\"", at[1]);
        memcpy(text + length, escaped, written);
        length += written;
        at += 1 + used;
    }
    TN_TRY(push(lex, (jinja_token){.type = TOKEN_STRING, .text = {text, length}}));
    lex->at = close + 1;
    return TN_OK;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_name(char c) {
    return is_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' || (c & 0x80);
}

/* Digits of a base with single underscores between them, copied without these; returns where they end. */
static const char *take_digits(const lexer *lex, const char *at, int base, char *digits, size_t size, size_t *length) {
    while (at < lex->end) {
        const char *digit = *at == '_' && at + 1 < lex->end ? at + 1 : at;
        int value = hex_value(*digit);
        if (value < 0 || value >= base)
            break;
        if (*length + 1 < size)
            digits[(*length)++] = *digit;
        at = digit + 1;
    }
    return at;
}

/* A fraction and an exponent, each only when complete; true when there was either. */
static bool take_fraction(const lexer *lex, const char **at, char *digits, size_t size, size_t *length) {
    const char *next = *at;
    bool real = false;
    if (next + 1 < lex->end && *next == '.' && is_digit(next[1])) {
        digits[(*length)++] = '.';
        next = take_digits(lex, next + 1, 10, digits, size, length);
        real = true;
    }
    const char *power = next + 1;
    if (next < lex->end && (*next | 32) == 'e') {
        char sign = sign_at(power, lex->end);
        power += sign != 0;
        if (power < lex->end && is_digit(*power)) {
            digits[(*length)++] = 'e';
            if (sign)
                digits[(*length)++] = sign;
            next = take_digits(lex, power, 10, digits, size, length);
            real = true;
        }
    }
    *at = next;
    return real;
}

static tn_status lex_number(lexer *lex) {
    enum { SIZE = 512, ROOM = SIZE - 8 };
    char digits[SIZE];
    size_t length = 0;
    const char *at = lex->at;
    char prefix = at[0] == '0' && at + 1 < lex->end ? (char)(at[1] | 32) : 0;
    int base = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 10;
    jinja_token token = {.type = TOKEN_INT};
    at = take_digits(lex, base == 10 ? at : at + 2, base, digits, ROOM / 2, &length);
    bool after_dot = lex->at > lex->start && lex->at[-1] == '.';
    if (base == 10 && !after_dot && take_fraction(lex, &at, digits, ROOM, &length))
        token.type = TOKEN_FLOAT;
    digits[length] = 0;
    if (token.type == TOKEN_FLOAT) {
        if (!tn_jinja_parse_float(digits, length, &token.real))
            return LEX_FAIL(lex, "\"%s\" is not a number", digits);
    } else {
        errno = 0;
        long long value = strtoll(digits, NULL, base);
        if (errno || !length || (base == 10 && length > 1 && digits[0] == '0' && value))
            return LEX_FAIL(lex, "\"%s\" is not an integer of 64 bits", digits);
        token.integer = value;
    }
    lex->at = at;
    return push(lex, token);
}

static const struct {
    const char *text;
    jinja_token_type type;
} operators[] = {
    {"//", TOKEN_FLOORDIV}, {"**", TOKEN_POW},   {"==", TOKEN_EQ},      {"!=", TOKEN_NE},       {">=", TOKEN_GE},
    {"<=", TOKEN_LE},       {"+", TOKEN_ADD},    {"-", TOKEN_SUB},      {"*", TOKEN_MUL},       {"/", TOKEN_DIV},
    {"%", TOKEN_MOD},       {"~", TOKEN_TILDE},  {">", TOKEN_GT},       {"<", TOKEN_LT},        {"=", TOKEN_ASSIGN},
    {".", TOKEN_DOT},       {",", TOKEN_COMMA},  {":", TOKEN_COLON},    {";", TOKEN_SEMICOLON}, {"|", TOKEN_PIPE},
    {"(", TOKEN_LPAREN},    {")", TOKEN_RPAREN}, {"[", TOKEN_LBRACKET}, {"]", TOKEN_RBRACKET},  {"{", TOKEN_LBRACE},
    {"}", TOKEN_RBRACE},
};

static tn_status track_bracket(lexer *lex, char c) {
    const char *opening = strchr("([{", c), *closing = strchr(")]}", c);
    if (opening) {
        if (lex->depth == JINJA_MAX_NESTING)
            return LEX_FAIL(lex, "brackets are nested deeper than %d", JINJA_MAX_NESTING);
        lex->brackets[lex->depth++] = ")]}"[opening - "([{"];
    } else if (closing) {
        if (!lex->depth)
            return LEX_FAIL(lex, "unexpected '%c'", c);
        char expected = lex->brackets[--lex->depth];
        if (expected != c)
            return LEX_FAIL(lex, "unexpected '%c', expected '%c'", c, expected);
    }
    return TN_OK;
}

static tn_status lex_operator(lexer *lex) {
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (!looking_at(lex->at, lex->end, operators[i].text))
            continue;
        size_t length = strlen(operators[i].text);
        if (length == 1)
            TN_TRY(track_bracket(lex, *lex->at));
        lex->at += length;
        return push_type(lex, operators[i].type);
    }
    return LEX_FAIL(lex, "unexpected character '%c'", *lex->at);
}

static tn_status lex_name(lexer *lex) {
    const char *name = lex->at;
    while (lex->at < lex->end && is_name(*lex->at))
        lex->at++;
    return push(lex, (jinja_token){.type = TOKEN_NAME, .text = {name, (size_t)(lex->at - name)}});
}

/* The inside of a {{ }} or {% %}, to its end. */
static tn_status lex_tag(lexer *lex, bool variable) {
    lex->depth = 0;
    while (lex->at < lex->end) {
        count_lines(lex, lex->at);
        const char *after = NULL;
        if (!lex->depth && !variable)
            after = tag_end(lex->at, lex->end, "%}");
        else if (!lex->depth && looking_at(lex->at, lex->end, "}}"))
            after = lex->at + 2;
        else if (!lex->depth && looking_at(lex->at, lex->end, "-}}"))
            after = skip_space(lex->at + 3, lex->end);
        if (after) {
            TN_TRY(push_type(lex, variable ? TOKEN_VARIABLE_END : TOKEN_BLOCK_END));
            finish_tag(lex, after);
            return TN_OK;
        }
        const char *next = skip_space(lex->at, lex->end);
        if (next > lex->at)
            lex->at = next;
        else if (is_digit(*lex->at))
            TN_TRY(lex_number(lex));
        else if (is_name(*lex->at))
            TN_TRY(lex_name(lex));
        else if (*lex->at == '"' || *lex->at == '\'')
            TN_TRY(lex_string(lex));
        else
            TN_TRY(lex_operator(lex));
    }
    /* The parser knows what was to come and says so. */
    return TN_OK;
}

static const char *find_tag(const char *at, const char *end) {
    for (; at + 1 < end; at++)
        if (*at == '{' && (at[1] == '{' || at[1] == '%' || at[1] == '#'))
            return at;
    return NULL;
}

static tn_status lex_source(lexer *lex) {
    while (lex->at < lex->end) {
        const char *tag = find_tag(lex->at, lex->end);
        if (!tag)
            return push_text(lex, lex->at, lex->end);
        char sign = sign_at(tag + 2, lex->end);
        const char *text_end = strip_before(lex, lex->at, tag, sign, tag[1] == '{');
        TN_TRY(push_text(lex, lex->at, text_end));
        count_lines(lex, tag);
        const char *inner = tag + 2 + (sign != 0), *raw = tag[1] == '%' ? raw_begin(inner, lex->end) : NULL;
        if (tag[1] == '#') {
            TN_TRY(lex_comment(lex, inner));
        } else if (raw) {
            TN_TRY(lex_raw(lex, raw));
        } else {
            TN_TRY(push_type(lex, tag[1] == '{' ? TOKEN_VARIABLE_BEGIN : TOKEN_BLOCK_BEGIN));
            lex->at = inner;
            TN_TRY(lex_tag(lex, tag[1] == '{'));
        }
    }
    return TN_OK;
}

/* Line ends become \n and the last one goes, as with keep_trailing_newline off. */
static char *normalise(tn_arena *arena, const char *source, size_t *length) {
    char *text = tn_arena_alloc(arena, strlen(source) + 1);
    if (!text)
        return NULL;
    size_t n = 0;
    for (const char *at = source; *at; at++) {
        if (*at == '\r' && at[1] == '\n')
            continue;
        text[n++] = *at == '\r' ? '\n' : *at;
    }
    if (n && text[n - 1] == '\n')
        n--;
    text[n] = 0;
    *length = n;
    return text;
}

tn_status tn_jinja_lex(tn_arena *arena, const char *source, const char *name, jinja_token **tokens) {
    *tokens = NULL;
    size_t length = strnlen(source, JINJA_MAX_SOURCE + 1);
    if (length > JINJA_MAX_SOURCE)
        return tn_fail(TN_ERROR_FORMAT, "%s: the chat template is longer than %d bytes", name, JINJA_MAX_SOURCE);
    size_t valid = tn_utf8_valid_prefix(source, length);
    if (valid < length)
        return tn_fail(TN_ERROR_FORMAT, "%s: the chat template is not UTF-8 at byte %zu", name, valid);
    const char *text = normalise(arena, source, &length);
    if (!text)
        return tn_fail_memory("a chat template");
    lexer lex = {.arena = arena,
                 .name = name,
                 .start = text,
                 .at = text,
                 .end = text + length,
                 .counted = text,
                 .line = 1,
                 .line_starting = true};
    tn_status status = lex_source(&lex);
    if (status == TN_OK)
        status = push_type(&lex, TOKEN_END);
    if (status != TN_OK) {
        tn_free(lex.tokens);
        return status;
    }
    *tokens = lex.tokens;
    return TN_OK;
}
