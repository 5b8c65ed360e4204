# shellcheck shell=bash
# iMontage from scratch on drawn scenes (docs/imontage.md).
config=${CONFIG:-configs/imontage/shapes.py}

tokenizer tokenizer --path=all
before=() # the first stage starts from nothing
for name in pretrain sft hq; do
  train "$name" "$config:$name" "${before[@]}" \
    --config.data.tower_tokenizers.text_encoder="$(folder_of tokenizer)" \
    --config.data.tower_tokenizers.text_encoder_2="$(folder_of tokenizer)"
  before=(text_encoder="$name" text_encoder_2="$name" denoiser="$name")
done
evaluate hq --prompts=50 --images-per-prompt=1 --untrained
export_stage hq
