#!/usr/bin/env bash
# Trains iMontage on windows of your own photographs: a tokenizer, then one run from nothing.
#
#   launch/imontage_photos.sh PHOTOS [WORKDIR] [--config.section.key=value ...]
#
# PHOTOS is anything that `jaxgen data inspect --path=PHOTOS` recognises. Run it again to resume.
# `jaxgen evaluate --workdir=WORKDIR/run --held-out=64` measures it (docs/imontage.md).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
own_photos runs/imontage_photos "$@"

[[ -d $root/tokenizer ]] || jaxgen data tokenizer --kind=photos --path="$photos" --size=64 \
  --limit=2000 --vocab=512 --out="$root/tokenizer"
jaxgen train --config="configs/imontage/photos.py:$photos" --workdir="$root/run" \
  --stopped-code=75 --config.data.tower_tokenizers.text_encoder="$root/tokenizer" \
  --config.data.tower_tokenizers.text_encoder_2="$root/tokenizer" "${@:3}"
