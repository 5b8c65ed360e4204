#!/usr/bin/env bash
# Trains and scores the six recipes of the paper's Table 9 on the data set `shapes`.
#
#   launch/recipes.sh [WORKDIR] [--config.section.key=value ...]
#
# Run it again to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
use_huge_pages
root=${1:-runs/recipes}
overrides=("${@:2}")

# train FOLDER CONFIG [--config...]
train() {
  jaxgen train --workdir="$root/$1" --config="configs/iomm/$2" --stopped-code=75 \
    --config.data.tokenizer="$root/tokenizer" "${@:3}" "${overrides[@]}"
}

jaxgen data tokenizer --kind=shapes --out="$root/tokenizer"
train mllm quickstart.py:mllm
for before in pair image; do
  train "pretrain_$before" "recipes.py:pretrain_$before" --config.init_from.mllm="$root/mllm"
  for after in image pair mix; do
    name=${before}_then_$after
    train "$name" "recipes.py:finetune_$after" --config.init_from.mllm="$root/mllm" \
      --config.init_from.bridge="$root/pretrain_$before" \
      --config.init_from.denoiser="$root/pretrain_$before"
    [[ -f $root/$name/evaluation.json ]] ||
      jaxgen evaluate --workdir="$root/$name" --prompts=32 --images-per-prompt=2
  done
done

echo '| pre-training | fine-tuned on image | on pair | on mix |'
echo '|---|---|---|---|'
for before in pair image; do
  row="| $before |"
  for after in image pair mix; do
    score=$(sed -n 's/.*"overall": \([0-9.]*\).*/\1/p' "$root/${before}_then_$after/evaluation.json")
    row+=$(printf ' %.3f |' "$score")
  done
  echo "$row"
done
