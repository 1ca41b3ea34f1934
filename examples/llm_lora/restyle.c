#include "restyle.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first character of the completion's text in a line of JSON, or NULL. */
static char *find_completion(char *line) {
    char *at = strstr(line, "\"completion\"");
    if (!at)
        return NULL;
    at += strlen("\"completion\"");
    at += strspn(at, " \t:");
    return *at == '"' ? at + 1 : NULL;
}

/* Up to the closing quote. An escaped character stays as it is. */
static void lower(char *text) {
    bool quoted = false;
    for (; *text && *text != '"'; text++) {
        if (*text == '\\' && text[1])
            text++;
        else if (*text == '\'')
            quoted = !quoted;
        else if (!quoted)
            *text = (char)tolower((unsigned char)*text);
    }
}

static bool restyle_lines(FILE *in, FILE *out, const char *from) {
    char *line = NULL;
    size_t capacity = 0;
    bool good = true;
    for (long number = 1; good && getline(&line, &capacity, in) >= 0; number++) {
        char *completion = find_completion(line);
        good = completion != NULL;
        if (!good) {
            fprintf(stderr, "llm_lora: %s, line %ld has no \"completion\"\n", from, number);
            break;
        }
        lower(completion);
        good = fputs(line, out) >= 0;
    }
    free(line);
    return good;
}

bool restyle_file(const char *from, const char *to) {
    FILE *in = fopen(from, "r"), *out = in ? fopen(to, "w") : NULL;
    bool good = in && out;
    if (!good)
        fprintf(stderr, "llm_lora: cannot open %s: %s\n", in ? to : from, strerror(errno));
    good = good && restyle_lines(in, out, from);
    if (out && fclose(out) != 0) {
        fprintf(stderr, "llm_lora: cannot write %s: %s\n", to, strerror(errno));
        good = false;
    }
    if (in)
        fclose(in);
    return good;
}
