#!/usr/bin/env bash
# The main job on one's own photographs: pack, tokenizer, three stages, fit, samples, report.
# Usage: launch/photos.sh PHOTOS.jsonl [WORKDIR]; each line has "file" and "caption".
set -euo pipefail
photos=$(realpath "${1:?usage: launch/photos.sh PHOTOS.jsonl [WORKDIR]}")
cd "$(dirname "$0")/.."
root=${2:-runs/photos}
config=configs/iomm/photos.py

jaxgen data pack --kind=jsonl --path="$photos" --out="$root/data"
jaxgen data tokenizer --kind=jsonl --path="$photos" --vocab=2048 --out="$root/tokenizer"

# Trains a stage of the config on the packed data; the other arguments are overrides.
train() {
  local stage=$1
  shift
  jaxgen train --config="$config:$stage" --workdir="$root/$stage" \
    --config.data.tokenizer="$root/tokenizer" "$@"
}
packed=$root/data/*.arrayrecord
train mllm --config.data.sources.captions.path="$packed"
train pretrain --config.data.sources.images.path="$packed" \
  --config.init_from.mllm="$root/mllm"
train finetune --config.data.sources.images.path="$packed" \
  --config.data.sources.pairs.path="$packed" \
  --config.init_from.mllm="$root/mllm" --config.init_from.bridge="$root/pretrain" \
  --config.init_from.denoiser="$root/pretrain"

jaxgen evaluate --workdir="$root/finetune" --fit=16
jaxgen report --workdir="$root"
