#!/usr/bin/env bash
# Trains on your own images: inspects and packs them, trains a tokenizer and three stages, measures
# the fit and writes a report.
#
#   launch/photos.sh IMAGES [WORKDIR] [--config.section.key=value ...]
#
# IMAGES is anything that `jaxgen data inspect --path=IMAGES` recognises: a folder of captioned
# images, folders of targets and controls, or a table; see README.md. Run it again to resume.
# PAIRS=N trains the last stage on the first N captions alone; all of them unless given.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
own_photos runs/photos "$@"
overrides=("${@:3}")

# Inspects the data, and selects the edits config if any sample has source or reference images.
mkdir -p "$root"
jaxgen data inspect --headers --buckets=square:64 --path="$photos" | tee "$root/data.txt"
config=photos
if grep -Eq '^tasks .*(edit|reference)' "$root/data.txt"; then config=edits; fi

# train STAGE [--config...]: trains a stage of the config on the packed images.
train() {
  jaxgen train --config="configs/iomm/$config.py:$1" --workdir="$root/$1" --stopped-code=75 \
    --config.data.tokenizer="$root/tokenizer" "${@:2}" "${overrides[@]}"
}

[[ -d $root/data ]] || jaxgen data pack --path="$photos" --out="$root/data"
jaxgen data tokenizer --path="$photos" --vocab=2048 --out="$root/tokenizer"

packed="$root/data/*.arrayrecord"
train mllm --config.data.sources.captions.path="$packed"
train pretrain --config.data.sources.images.path="$packed" \
  --config.init_from.mllm="$root/mllm"
train finetune --config.data.sources.images.path="$packed" \
  --config.data.sources.pairs.path="$packed" --config.init_from.mllm="$root/mllm" \
  --config.init_from.bridge="$root/pretrain" --config.init_from.denoiser="$root/pretrain" \
  ${PAIRS:+"--config.data.sources.pairs.limit=$PAIRS"}

[[ $config == edits ]] || jaxgen evaluate --workdir="$root/finetune" --fit=16
jaxgen report --workdir="$root"
