#!/usr/bin/env bash
# Runs all of jaxgen on the data set `shapes`: tokenizer, language model, pre-training, fine-tuning,
# evaluation, PyTorch export, report.
#
#   launch/quickstart.sh [WORKDIR] [--config.section.key=value ...]
#
# CONFIG=configs/iomm/long.py trains the same model for longer.
# Run it again after an interruption: finished stages are kept, and the interrupted one resumes.
# Remove WORKDIR to start over.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
use_huge_pages

root=${1:-runs/quickstart}
config=${CONFIG:-configs/iomm/quickstart.py}
overrides=("${@:2}")
mkdir -p "$root"

# Runs a stage unless it is done, and records its time in seconds; the report adds them up.
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

# train NAME [--config...]: trains a stage in its own folder; if it is stopped, the script stops.
train() {
  stage "$1" jaxgen train --config="$config:$1" --workdir="$root/$1" --stopped-code=75 \
    --config.data.tokenizer="$root/tokenizer" "${@:2}" "${overrides[@]}"
}

stage tokenizer jaxgen data tokenizer --kind=shapes --out="$root/tokenizer"
train mllm
train pretrain --config.init_from.mllm="$root/mllm"
train finetune --config.init_from.mllm="$root/mllm" \
  --config.init_from.bridge="$root/pretrain" --config.init_from.denoiser="$root/pretrain"
stage evaluate jaxgen evaluate --workdir="$root/finetune" --prompts=20 --images-per-prompt=2 \
  --untrained
stage export jaxgen convert export --workdir="$root/finetune" --out="$root/export"
jaxgen report --workdir="$root"
