#!/usr/bin/env bash
# Trains, saves, resumes and samples every IOMM recipe and every stage of iMontage, Query-Kontext and
# DuetGen for a few steps on drawn scenes, without a network.
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

# check NAME FLAG...: the run went on from step 2 to step 4, and it draws.
check() {
  [[ $(wc -l < "$root/$1/metrics.jsonl") == 4 ]] ||
    die "$root/$1/metrics.jsonl: the run did not go on from step 2 to step 4"
  jaxgen sample --workdir="$root/$1" --steps=2 --out="$root/$1/drawn" "${@:2}"
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
  check "$recipe" --prompt='a photo of a red circle'
done

jaxgen data tokenizer --kind=shapes --path=all --out="$root/words"
for stage in pretrain sft hq; do
  echo "== imontage $stage"
  for steps in 2 4; do
    train "imontage_$stage" "configs/imontage/shapes.py:$stage" "$steps" \
      --config.data.tower_tokenizers.text_encoder="$root/words" \
      --config.data.tower_tokenizers.text_encoder_2="$root/words"
  done
  check "imontage_$stage" --prompt='1. a red circle 2. a blue cross' --outputs=2 \
    --reference="$root/finetune_mix/drawn/0000.png"
done

train qwen2_5_vl configs/query_kontext/shapes.py:mllm 2 --config.data.tokenizer="$root/words"
taken=("mllm=$root/qwen2_5_vl") # of the stage before
for stage in stage1 stage2 whole stage3; do
  echo "== query_kontext $stage"
  for steps in 2 4; do
    train "query_kontext_$stage" "configs/query_kontext/shapes.py:$stage" "$steps" \
      --config.data.tokenizer="$root/words" \
      "${taken[@]/#/--config.init_from.}"
  done
  check "query_kontext_$stage" --prompt='make the circle red' \
    --source="$root/finetune_mix/drawn/0000.png"
  taken=()
  for group in mllm bridge connector denoiser; do
    # The second stage exchanges the head of the first for another denoiser.
    [[ $group$stage == denoiserstage1 ]] || taken+=("$group=$root/query_kontext_$stage")
  done
done

train duetgen_ntp configs/duetgen/shapes.py:ntp 2 --config.data.tokenizer="$root/words" \
  --config.init_from.mllm="$root/qwen2_5_vl"
taken=("mllm=$root/duetgen_ntp")
for stage in joint cosmos align; do
  echo "== duetgen $stage"
  [[ $stage != align ]] || taken+=("connector=$root/duetgen_cosmos" "denoiser=$root/duetgen_cosmos")
  for steps in 2 4; do
    train "duetgen_$stage" "configs/duetgen/shapes.py:$stage" "$steps" \
      --config.data.tokenizer="$root/words" "${taken[@]/#/--config.init_from.}"
  done
  check "duetgen_$stage" --prompt='make the circle red' \
    --source="$root/finetune_mix/drawn/0000.png"
done
echo "smoke: all recipes and stages trained, resumed and sampled"
