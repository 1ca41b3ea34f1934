#!/bin/sh
# run-tests.sh BUILD: runs the tests of a build folder. Ends with one line: test functions passed, failed and skipped in all
# programs. A program that ends badly without a failed function (a crash, a leak, a time limit) counts as one failure.
set -u
build=${1:-build}
log=$build/meson-logs/testlog.txt

rm -f "$log"
meson test -C "$build" --print-errorlogs
if [ ! -f "$log" ]; then
    echo "run-tests.sh: no tests were run in $build" >&2
    exit 1
fi

awk '
function count(kind, what) {
    counts[kind]++
    if (kind != "passed") list[kind] = list[kind] sprintf("%-8s %s\n", kind, what)
}
function after(mark) {
    return substr($0, index($0, mark) + length(mark))
}
# A section of the log is one program; those that are not made with cmocka count as one function.
function finish() {
    if (name == "") return
    if (result == "exit status 0") { if (!functions) count("passed") }
    else if (result == "exit status 77" && !functions) count("skipped", name)
    else if (!failed_here) count("failed", name " (" result ")")
    name = ""
}
/^=+ [0-9]+\/[0-9]+ =+$/ { finish(); name = "?"; result = ""; functions = failed_here = in_group = 0; next }
name == "?" && /^test: / { name = $NF; next }
result == "" && /^result: / { result = $0; sub(/^result: +/, "", result); next }

# cmocka says on standard output how each function ended, and repeats failures on standard error, after the group.
/^\[==========\] Running [0-9]+ test/ { in_group = 1 }
/^\[==========\] [0-9]+ test\(s\) run/ { in_group = 0 }
in_group && /\[       OK \] / { functions++; count("passed") }
in_group && /\[  FAILED  \] / { functions++; failed_here++; count("failed", name ": " after("[  FAILED  ] ")) }
/^\[  ERROR   \] [a-z]/ { failed_here++; count("failed", name ": " after("[  ERROR   ] ") " (set-up)") }
in_group && /\[  SKIPPED \] / { functions++; count("skipped", name ": " after("[  SKIPPED ] ")) }
END {
    finish()
    printf "%s%s", list["skipped"], list["failed"]
    printf "%d passed, %d failed, %d skipped\n", counts["passed"], counts["failed"], counts["skipped"]
    exit counts["failed"] > 0 || counts["passed"] == 0
}' "$log"
