#!/bin/sh
# The main job on the bundled model: fine-tune it with LoRA to write SQL, and show before, after and merged.
# usage: scripts/demo.sh [BUILD_DIR] [OUT_DIR]
set -eu
tenon=${1:-build}/tenon
out=${2:-out/demo}
model=assets/base-model
data=assets/sql
rm -rf "$out"
mkdir -p "$out"

step() { printf '\n== %s\n\n' "$1"; }

step "1. Before: the base model has never seen this task (questions about a table, to be answered in SQL)"
"$tenon" eval --model "$model" --data "$data/test.jsonl" --exact-match --max-tokens 48 --show 3

step "2. Fine-tuning with LoRA"
"$tenon" train --model "$model" --data "$data" --out "$out/adapter" --target-modules all-linear --rank 16 --alpha 32 \
  --lr 4e-3 --warmup 20 --batch-size 16 --steps 1000 --eval-every 250 --save-every 250 --log-every 5 --seed 1

step "3. After: the same held-out prompts, about tables that are not in the training data"
"$tenon" eval --model "$model" --adapter "$out/adapter" --data "$data/test.jsonl" --exact-match --max-tokens 48 --show 3

step "4. Merged into a checkpoint of its own: it must agree with base + adapter"
"$tenon" merge --model "$model" --adapter "$out/adapter" --out "$out/merged"
"$tenon" eval --model "$out/merged" --data "$data/test.jsonl" --exact-match --max-tokens 48

step "5. Where things are"
printf 'adapter (Hugging Face PEFT)  %s/adapter\n' "$out"
printf 'loss curves                  %s/adapter/report.html\n' "$out"
printf 'merged checkpoint            %s/merged\n' "$out"
printf 'try it                       %s generate --model %s --adapter %s/adapter \\\n' "$tenon" "$model" "$out"
cat <<'EOF'
                               --prompt 'Table: boats (name, city, price)
Question: Which boats are in Oslo?
SQL:'
EOF
