# shellcheck shell=bash
# iMontage from scratch on drawn scenes (docs/imontage.md).
config=${CONFIG:-configs/imontage/shapes.py}

tokenizer tokenizer --path=all
towers_from=() # the first stage trains the towers
for name in pretrain sft hq; do
  train "$name" "$config:$name" "${towers_from[@]}" \
    --config.data.tower_tokenizers.text_encoder="$(folder_of tokenizer)" \
    --config.data.tower_tokenizers.text_encoder_2="$(folder_of tokenizer)"
  towers_from=(text_encoder=pretrain text_encoder_2=pretrain denoiser="$name")
done
evaluate hq --prompts=50 --images-per-prompt=1 --untrained
export_stage hq
