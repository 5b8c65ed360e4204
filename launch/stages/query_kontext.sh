# shellcheck shell=bash
# Query-Kontext from scratch on drawn scenes (docs/query_kontext.md). The tiny Qwen2.5-VL is kept in
# runs/towers, for every run that needs one. CHINESE=1 words half of the samples in Chinese.
config=${CONFIG:-configs/query_kontext/shapes.py}
zh=${CHINESE:+:zh} words=()
[[ -z $zh ]] || words=('--fields=languages=en,zh' --vocab=768)

tokenizer "towers/tokenizer${zh/:/_}" --path=all "${words[@]}"
train "towers/qwen2_5_vl${zh/:/_}" "$config:mllm$zh"
train stage1 "$config:stage1$zh" mllm="towers/qwen2_5_vl${zh/:/_}"
train stage2 "$config:stage2$zh" mllm=stage1 bridge=stage1 connector=stage1
train whole "$config:whole$zh" mllm=stage2 bridge=stage2 connector=stage2 denoiser=stage2
evaluate whole --prompts=50 --images-per-prompt=1 --untrained
[[ -z $zh ]] || stage 'evaluate whole in Chinese' jaxgen evaluate --workdir="$(folder_of whole)" \
  --language=zh --prompts=50 --images-per-prompt=1
export_stage whole
