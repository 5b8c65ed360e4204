# shellcheck shell=bash
# DuetGen's ablations on drawn dialogues (docs/ablations.md). What every run of stage 2 starts from is
# trained once, in runs/towers; STEPS=N sets the steps of each run but `joint`, which makes two for
# seven of the others and takes as long.
config=configs/duetgen/shapes.py
all=${STEPS:-1500}

tokenizer towers/tokenizer --path=all
train towers/qwen2_5_vl configs/query_kontext/shapes.py:mllm
train towers/duetgen_ntp "$config:ntp" mllm=towers/qwen2_5_vl
for layers in all last; do
  train "towers/duetgen_cosmos_$layers" "$config:cosmos:$layers" mllm=towers/duetgen_ntp
done

# stage_2 NAME [CONFIG [--config.section.key=value ...]]: one of the runs that are compared.
stage_2() {
  local argument=${2:-align} start=towers/duetgen_cosmos_all steps=$all
  [[ $argument != *:last ]] || start=towers/duetgen_cosmos_last
  [[ $argument != joint ]] || steps=$((all * 2 / 7))
  train "$1" "$config:$argument" mllm=towers/duetgen_ntp connector=$start denoiser=$start \
    steps="$steps" "${@:3}"
  evaluate "$1" --prompts=50 --images-per-prompt=1
}

stage_2 duetgen
stage_2 no_frames align --config.data.clean_roles='()'
stage_2 whole_prompt align --config.data.dropout.last_text=0.0 --config.data.dropout.text=0.2
stage_2 last_layer align:last
stage_2 no_dialogues align --config.data.sources.{web,synthetic}_dialogue.share='(0.0,)'
stage_2 joint joint
