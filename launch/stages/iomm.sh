# shellcheck shell=bash
# IOMM from scratch on drawn captions (docs/quickstart.md). CONFIG=configs/iomm/long.py trains the
# same model for longer.
config=${CONFIG:-configs/iomm/quickstart.py}

tokenizer tokenizer
train mllm "$config:mllm"
train pretrain "$config:pretrain" mllm=mllm
train finetune "$config:finetune" mllm=mllm bridge=pretrain denoiser=pretrain
evaluate finetune --prompts=20 --images-per-prompt=2 --untrained
export_stage finetune
