#!/bin/sh
# exports.sh LIBRARY: the shared library exports exactly the functions that the public headers declare with TN_API.
set -eu
library=$(realpath "$1")
cd "$(dirname "$0")/../.."
declared=$(mktemp)
exported=$(mktemp)
trap 'rm -f "$declared" "$exported"' EXIT

awk '/^TN_API / && match($0, /[a-z0-9_]+\(/) { print substr($0, RSTART, RLENGTH - 1) }' include/tenon/*.h | sort >"$declared"
# A sanitizer adds symbols of its own, which begin with underscores.
nm -D --defined-only "$library" | awk '$3 !~ /^_/ { print $3 }' | sort >"$exported"
diff "$declared" "$exported" || { echo "declared (<) and exported (>) differ"; exit 1; }
