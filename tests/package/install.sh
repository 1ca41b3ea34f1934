#!/bin/sh
# install.sh BUILD SANITIZERS COMPILER...: what `meson install` lays down is enough to build and run examples/finetune.c on a small
# model that the installed command makes.
set -eu
build=$1
sanitizers=$2
shift 2
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "$*"
    exit 1
}

DESTDIR=$work/root meson install -C "$build" --no-rebuild --quiet
pkg_config_file=$(find "$work/root" -name tenon.pc)
library_folder=$(dirname "$(dirname "$pkg_config_file")")
tenon=$(find "$work/root" -path '*/bin/tenon')
prefix=$(dirname "$(dirname "$tenon")")
[ -f "$prefix/include/tenon/tenon.h" ] || fail "no headers were installed"
[ -n "$(find "$prefix" -name tenon-train.1)" ] || fail "no manual pages were installed"

flags=$(PKG_CONFIG_PATH=$(dirname "$pkg_config_file") pkg-config --define-variable=prefix="$prefix" --cflags --libs tenon)
[ "$sanitizers" = none ] || flags="$flags -fsanitize=$sanitizers"
# shellcheck disable=SC2086 # flags separated by blanks
"$@" -std=c11 -Wall -Wextra -Wpedantic -Werror "$source/examples/finetune.c" $flags -o "$work/finetune"

# A model of random weights that has seen a few steps of the text.
mkdir "$work/new"
awk 'BEGIN {
    split("red green blue black white grey brown", colour)
    split("door cup car hat wall ship bird", thing)
    for (i = 1; i <= 7; i++)
        for (j = 1; j <= 7; j++)
            printf "{\"prompt\": \"The %s is\", \"completion\": \" %s.\"}\n", thing[i], colour[(i + j) % 7 + 1]
}' >"$work/data.jsonl"
cp "$work/data.jsonl" "$work/text.txt"
"$tenon" train-tokenizer --data "$work/text.txt" --vocab-size 300 --out "$work/new" >"$work/log"
cat >"$work/new/config.json" <<'END'
{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48,
 "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
 "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "float32"}
END
"$tenon" train --model "$work/new" --init random --method full --data "$work/data.jsonl" --out "$work/base" --steps 5 >>"$work/log" ||
    { cat "$work/log"; fail "the small model could not be made"; }

export LD_LIBRARY_PATH="$library_folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
"$work/finetune" "$work/base" "$work/data.jsonl" "The door is" "$work/out" >"$work/log" || { cat "$work/log"; fail "finetune failed"; }
grep -q '^before: The door is' "$work/log" || fail "nothing was generated before training"
grep -q '^after: The door is' "$work/log" || fail "nothing was generated after training"
for file in adapter_config.json adapter_model.safetensors metrics.jsonl merged/config.json merged/model.safetensors \
    merged/tokenizer.json; do
    [ -s "$work/out/$file" ] || fail "$file was not written"
done
"$work/finetune" nowhere "$work/data.jsonl" "The door is" "$work/out" 2>"$work/log" && fail "a missing model is no error"
grep -q '^finetune: .*nowhere' "$work/log" || { cat "$work/log"; fail "the error does not name the missing model"; }
