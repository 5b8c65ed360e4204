#!/usr/bin/env bash
# The main job on one's own photographs: pack, tokenizer, three stages, fit, export, report.
#
#   launch/photos.sh PHOTOS [WORKDIR] [--config.section.key=value ...]
#
# PHOTOS is a folder (a.jpg with its caption in a.txt, or a captions.jsonl at the top) or a JSON
# Lines file ({"file": ..., "caption": ...} in each line). Run it again to go on where it stopped.
set -euo pipefail
photos=$(realpath "${1:?usage: launch/photos.sh PHOTOS [WORKDIR]}")
cd "$(dirname "$0")/.."
source launch/common.sh
use_huge_pages
root=${2:-runs/photos}
overrides=("${@:3}")
kind=jsonl
[[ -d $photos ]] && kind=folder

# train STAGE [--config...]: a stage of configs/iomm/photos.py on the packed photographs.
train() {
  jaxgen train --config="configs/iomm/photos.py:$1" --workdir="$root/$1" --stopped-code=75 \
    --config.data.tokenizer="$root/tokenizer" "${@:2}" "${overrides[@]}"
}

[[ -d $root/data ]] || jaxgen data pack --kind=$kind --path="$photos" --out="$root/data"
jaxgen data tokenizer --kind=$kind --path="$photos" --vocab=2048 --out="$root/tokenizer"

packed="$root/data/*.arrayrecord"
train mllm --config.data.sources.captions.path="$packed"
train pretrain --config.data.sources.images.path="$packed" \
  --config.init_from.mllm="$root/mllm"
train finetune --config.data.sources.images.path="$packed" \
  --config.data.sources.pairs.path="$packed" --config.init_from.mllm="$root/mllm" \
  --config.init_from.bridge="$root/pretrain" --config.init_from.denoiser="$root/pretrain"

jaxgen evaluate --workdir="$root/finetune" --fit=16
jaxgen report --workdir="$root"
