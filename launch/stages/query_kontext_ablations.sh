# shellcheck shell=bash
# Query-Kontext's ablations on drawn scenes (docs/ablations.md): what the denoiser is shown, the
# alignment of a denoiser to another language model, the rank of its adapter, the role of an image.
# STEPS=N sets the steps of each run.
config=configs/query_kontext/shapes.py
all=${STEPS:-1500}
half=$((all / 2))
scored=(--prompts=100 --images-per-prompt=1)

tokenizer towers/tokenizer --path=all
train towers/qwen2_5_vl "$config:mllm"

# Table 9: words and kontext tokens, words alone, as many kontext tokens as both are (L056).
wide=(--config.model.bridge.queries=56 --config.data.prompt_tokens=110)
for shown in all text queries; do
  more=()
  [[ $shown != queries ]] || more=("${wide[@]}")
  train "bridge_$shown" "$config:stage1" mllm=towers/qwen2_5_vl --config.data.shown="$shown" \
    "${more[@]}" steps="$all"
  evaluate "bridge_$shown" "${scored[@]}"
done

# Section 5 and Figure 4: a small and a large denoiser that know the words of the language model
# before stage 1, and how each learns those of the one after it, with a connector from nothing.
plain="--config.init_from.changes=()"
small=(--config.model.denoiser.{width=64,heads=2,layers=2})
frozen="(('(mllm|denoiser|autoencoder)/.*',False),('(bridge|connector)/.*',True))"
frozen=--config.trainable=$frozen
before=(mllm=towers/qwen2_5_vl "$plain" --config.data.shown=text)
train large "$config:stage2" "${before[@]}" steps="$all"
train small "$config:stage2" "${before[@]}" "${small[@]}" steps="$all"
train aligned_small_frozen "$config:stage2" mllm=bridge_all denoiser=small "$frozen" "${small[@]}" \
  steps="$half"
train aligned_large_frozen "$config:stage2" mllm=bridge_all denoiser=large "$frozen" steps="$half"
train aligned "$config:stage2" mllm=bridge_all denoiser=large steps="$half"
train aligned_text "$config:stage2" "${before[@]}" denoiser=large steps="$half"
for name in aligned_small_frozen aligned_large_frozen aligned aligned_text; do
  evaluate "$name" "${scored[@]}"
done

# Table 10: rank of the denoiser's adapter, with alpha as in the recipe.
for rank in 8 16 32; do
  train "rank_$rank" "$config:stage3" mllm=aligned bridge=aligned connector=aligned \
    denoiser=aligned --config.model.lora.denoiser.rank="$rank" steps="$all"
  evaluate "rank_$rank" "${scored[@]}"
done

# Table 8: the same images as sources and as references.
for role in source reference; do
  stage "evaluate rank_32 as $role" jaxgen evaluate --workdir="$(folder_of rank_32)" \
    --tasks=reference --given="$role" "${scored[@]}"
done
