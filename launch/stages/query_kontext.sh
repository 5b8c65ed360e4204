# shellcheck shell=bash
# Query-Kontext from scratch on drawn scenes (docs/query_kontext.md). The tiny Qwen2.5-VL is kept in
# runs/towers, for every run that needs one.
config=${CONFIG:-configs/query_kontext/shapes.py}

tokenizer towers/tokenizer --path=all
train towers/qwen2_5_vl "$config:mllm"
train stage1 "$config:stage1" mllm=towers/qwen2_5_vl
train stage2 "$config:stage2" mllm=stage1 bridge=stage1 connector=stage1
train stage3 "$config:stage3" mllm=stage2 bridge=stage2 connector=stage2 denoiser=stage2
evaluate stage3 --prompts=50 --images-per-prompt=1 --untrained
export_stage stage3
