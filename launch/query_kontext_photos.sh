#!/usr/bin/env bash
# Fits Query-Kontext to pairs of photographs of one subject each: a tokenizer, one run, the measure.
#
#   launch/query_kontext_photos.sh PHOTOS [WORKDIR] [--config.section.key=value ...]
#
# PHOTOS is anything that `jaxgen data inspect --path=PHOTOS` recognises, with at least 16 subjects of
# several photographs, named cat_1.jpg, cat_2.jpg and so on. Run it again to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
own_photos runs/query_kontext_photos "$@"

[[ -d $root/tokenizer ]] || jaxgen data tokenizer --kind=subjects --path="$photos" --vocab=512 \
  --out="$root/tokenizer"
jaxgen train --config="configs/query_kontext/photos.py:$photos" --workdir="$root/run" \
  --stopped-code=75 --config.data.tokenizer="$root/tokenizer" "${@:3}"
jaxgen evaluate --workdir="$root/run" --fit=16
