# shellcheck shell=bash
# iMontage from scratch on drawn scenes (docs/imontage.md).
config=${CONFIG:-configs/imontage/shapes.py}

tokenizer tokenizer --path=all
tower_tokenizers text_encoder text_encoder_2
before=() # the first stage starts from nothing
for name in pretrain sft hq; do
  train "$name" "$config:$name" "${before[@]}"
  before=(text_encoder="$name" text_encoder_2="$name" denoiser="$name")
done
evaluate hq --prompts=50 --images-per-prompt=1 --untrained
export_stage hq
