#!/usr/bin/env bash
# Fine-tunes a small pipeline of diffusers for one subject, and measures what that has changed:
# makes the pipeline and trains it from nothing on photographs of other subjects, exports it, and
# hands the folder to `jaxgen finetune`.
#
#   launch/finetune_photos.sh PHOTOS.jsonl [WORKDIR] [AUTOENCODER] [BASE] [ADAPTERS]
#
# PHOTOS.jsonl has lines of file, caption, subject, subject_class and subject_phrase. The last three
# are numbers of steps. Run it again to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
own_photos runs/subject "$@"

[[ -d $root/nothing/vae ]] ||
  python tools/photo_pipeline.py make --photos="$photos" --out="$root" --steps="${3:-1500}"
jaxgen train --config="configs/flux/photos.py:$root/nothing" --workdir="$root/untuned" \
  --stopped-code=75 --config.data.sources.photos.path="$root/others" \
  --config.train.steps="${4:-1000}"
[[ -d $root/base ]] ||
  jaxgen convert export --workdir="$root/untuned" --out="$root/base" --pipeline
jaxgen finetune --base="$root/base" --data="$root/mixed" --workdir="$root/tuned" --size=64 \
  --steps="${5:-400}" --stopped-code=75 --config.data.prompt_tokens=96 \
  --config.optimizer.learning_rate=1e-3 --config.sampling.steps=20
python tools/photo_pipeline.py measure --root="$root"
