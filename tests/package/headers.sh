#!/bin/sh
# headers.sh COMPILER...: every public header compiles alone, as C11 and as C++17 where the compiler speaks that.
set -eu
cd "$(dirname "$0")/../.."

languages='c:c11'
if echo 'int f();' | "$@" -x c++ -std=c++17 -fsyntax-only - 2>/dev/null; then
    languages="$languages c++:c++17"
fi

for header in include/tenon/*.h; do
    for language in $languages; do
        echo "#include <tenon/${header##*/}>" |
            "$@" -x "${language%:*}" "-std=${language#*:}" -Wall -Wextra -Wpedantic -Wshadow -Werror -fsyntax-only -Iinclude - ||
            { echo "$header does not compile alone as ${language#*:}"; exit 1; }
    done
done
