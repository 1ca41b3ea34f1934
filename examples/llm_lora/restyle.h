/* Training data for a second adapter: the same prompts with completions in another style. */
#ifndef RESTYLE_H
#define RESTYLE_H

#include <stdbool.h>

/* Copies the JSON lines of `from` to `to` with every completion in lower case, but for what is in single quotes. Prints what
 * went wrong. */
bool restyle_file(const char *from, const char *to);

#endif
