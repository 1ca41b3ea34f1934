#!/bin/sh
# fuzz.sh BUILD SECONDS: builds every fuzz target with libFuzzer and runs each for that long, starting from its seeds.
# What makes a target fail is left in BUILD/findings.
set -eu
build=$1
seconds=$2
findings=$build/findings

[ -f "$build/build.ninja" ] || CC=${CC:-clang} meson setup -Dfuzz=true --buildtype=debugoptimized "$build"
ninja -C "$build"
mkdir -p "$findings"

for target in "$build"/tests/fuzz/fuzz_*; do
    [ -f "$target" ] || continue
    name=${target##*/fuzz_}
    mkdir -p "$findings/corpus/$name"
    echo "fuzzing $name for $seconds s"
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$findings/$name-" -verbosity=0 \
        "$findings/corpus/$name" "tests/fuzz/corpus/$name" >"$findings/$name.log" 2>&1 ||
        { cat "$findings/$name.log"; exit 1; }
done
