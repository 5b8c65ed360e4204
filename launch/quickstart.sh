#!/usr/bin/env bash
# The whole of jaxgen on the data set `shapes`: tokenizer, language model, pre-training,
# fine-tuning, samples, score, PyTorch export, report. Usage: launch/quickstart.sh [WORKDIR]
# Run it again after an interruption: every stage continues where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

root=${1:-runs/quickstart}
config=configs/iomm/quickstart.py
export TF_CPP_MIN_LOG_LEVEL=3
mkdir -p "$root"

# Runs a stage and notes how long it took; the report adds the seconds up. A finished stage is
# not run again.
stage() {
  local name=$1 started=$SECONDS
  shift
  if grep -qs "\"stage\": \"$name\"" "$root/timings.jsonl"; then
    echo "== $name: done before"
    return
  fi
  echo "== $name"
  "$@"
  echo "{\"stage\": \"$name\", \"seconds\": $((SECONDS - started))}" >> "$root/timings.jsonl"
}

stage tokenizer jaxgen data tokenizer --kind=shapes --out="$root/tokenizer"
for name in mllm pretrain finetune; do
  stage "$name" jaxgen train --config="$config:$name" --workdir="$root/$name"
done
stage evaluate jaxgen evaluate --workdir="$root/finetune" --prompts=20 --images-per-prompt=2 --untrained
stage export jaxgen convert export --workdir="$root/finetune" --out="$root/export"
jaxgen report --workdir="$root"
