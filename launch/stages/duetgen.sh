# shellcheck shell=bash
# DuetGen from scratch on drawn dialogues (docs/duetgen.md). The tiny Qwen2.5-VL that it starts from
# is the one of Query-Kontext, kept in runs/towers.
config=${CONFIG:-configs/duetgen/shapes.py}

tokenizer towers/tokenizer --path=all
train towers/qwen2_5_vl configs/query_kontext/shapes.py:mllm
train ntp "$config:ntp" mllm=towers/qwen2_5_vl
train cosmos "$config:cosmos" mllm=ntp
train align "$config:align" mllm=ntp connector=cosmos denoiser=cosmos
evaluate align --prompts=50 --images-per-prompt=1 --untrained
export_stage align
