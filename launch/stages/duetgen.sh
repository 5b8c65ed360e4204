# shellcheck shell=bash
# DuetGen from scratch on drawn dialogues (docs/duetgen.md).
config=${CONFIG:-configs/duetgen/shapes.py}

tokenizer tokenizer --path=all
train mllm "$config:mllm"
train ntp "$config:ntp" mllm=mllm
train align "$config:align" mllm=ntp
evaluate align --prompts=50 --images-per-prompt=1 --untrained
export_stage align
