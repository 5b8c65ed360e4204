# shellcheck shell=bash
# The six recipes of IOMM's Table 9 on drawn captions (docs/recipes.md). WORLD=partial draws scenes
# that hold more than their captions say.
recipes=configs/iomm/recipes.py:${WORLD:+${WORLD}_}
prompts=32 # of each of the six tasks
[[ -z ${WORLD:-} ]] || prompts=192 # of one task, which mixes the six

tokenizer tokenizer
train mllm "${recipes}mllm"
for before in pair image; do
  train "pretrain_$before" "${recipes}pretrain_$before" mllm=mllm
  for after in image pair mix; do
    name=${before}_then_$after
    train "$name" "${recipes}finetune_$after" mllm=mllm bridge="pretrain_$before" \
      denoiser="pretrain_$before"
    evaluate "$name" --prompts="$prompts" --images-per-prompt=2
  done
done
