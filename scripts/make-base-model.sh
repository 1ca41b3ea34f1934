#!/bin/sh
# Makes the bundled base model and the demo's data from seeds: corpus, tokenizer, weights, question-to-SQL rows.
# usage: scripts/make-base-model.sh [BUILD_DIR] [OUT_DIR]    about ten minutes on two cores
set -eu
build=${1:-build}
out=${2:-assets}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$build/assets/tenon-make-data" corpus --seed 1 --bytes 6000000 --out "$work/corpus"
"$build/assets/tenon-make-data" sql --seed 1 --train 6000 --valid 200 --test 200 --out "$out/sql"
"$build/tenon" train-tokenizer --data "$work/corpus/corpus.jsonl" --vocab-size 1536 --out "$work/start"
cp assets/base-model.json "$work/start/config.json"
"$build/tenon" train --model "$work/start" --init random --method full --data "$work/corpus/corpus.jsonl" --out "$work/trained" \
  --epochs 3 --batch-size 16 --max-length 320 --lr 3e-3 --warmup 100 --weight-decay 0.1 --beta2 0.98 --valid-fraction 0.02 \
  --eval-every 400 --save-every 0 --log-every 10 --seed 1
mkdir -p "$out/base-model"
for file in config.json model.safetensors tokenizer.json tokenizer_config.json; do
  cp "$work/trained/$file" "$out/base-model/$file"
done
echo "made $out/base-model and $out/sql"
