#!/usr/bin/env bash
# Trains, saves, resumes and samples every IOMM recipe for a few steps on drawn shapes, without a
# network.
#
#   launch/smoke.sh [WORKDIR]
#
# It starts over each time: WORKDIR is removed first.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
use_huge_pages
root=${1:-runs/smoke}
export HF_HUB_OFFLINE=1

# train NAME CONFIG STEPS [--config...]
train() {
  jaxgen train --workdir="$root/$1" --config="$2" --config.train.steps="$3" \
    --config.train.rows=4 --config.train.log_every=1 --config.optimizer.warmup_steps=1 \
    --config.optimizer.schedule=constant \
    --config.data.tokenizer="$root/tokenizer" "${@:4}"
}

rm -rf "$root"
jaxgen data tokenizer --kind=shapes --out="$root/tokenizer"
train mllm configs/iomm/quickstart.py:mllm 2
for recipe in pretrain_image pretrain_pair finetune_image finetune_pair finetune_mix; do
  echo "== $recipe"
  for steps in 2 4; do
    train "$recipe" "configs/iomm/recipes.py:$recipe" "$steps" \
      --config.init_from.mllm="$root/mllm"
  done
  [[ $(wc -l < "$root/$recipe/metrics.jsonl") == 4 ]] ||
    die "$root/$recipe/metrics.jsonl: the run did not go on from step 2 to step 4"
  jaxgen sample --workdir="$root/$recipe" --prompt='a photo of a red circle' --steps=2 \
    --out="$root/$recipe/drawn"
done
echo "smoke: all recipes trained, resumed and sampled"
