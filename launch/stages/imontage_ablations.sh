# shellcheck shell=bash
# iMontage's ablations on drawn scenes (docs/ablations.md): time indices of the images, from nothing,
# then the schedule of the tasks, after pre-training. STEPS=N sets the steps of each run.
config=configs/imontage/shapes.py
all=${STEPS:-1500}

tokenizer tokenizer --path=all
tower_tokenizers text_encoder text_encoder_2
for scheme in marginal even; do
  train "$scheme" "$config:sft:flat" --config.data.scheme="$scheme" steps="$all"
  evaluate "$scheme" --prompts=50 --images-per-prompt=1
done
train pretrain "$config:pretrain" steps="$all"
for schedule in flat stage cocktail; do
  train "$schedule" "$config:sft:$schedule" text_encoder=pretrain text_encoder_2=pretrain \
    denoiser=pretrain steps="$all"
  evaluate "$schedule" --prompts=50 --images-per-prompt=1
done
