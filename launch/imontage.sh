#!/usr/bin/env bash
# Trains iMontage at the paper's size, one stage after the other (docs/imontage.md).
#
#   launch/imontage.sh [WORKDIR] [--config.section.key=value ...]
#
# Under a launcher every process runs it, for example launch/local.sh -n 8 -- launch/imontage.sh.
# Run it again to go on where it stopped; dry_run=1 prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

root=${1:-runs/imontage}
overrides=("${@:2}")
chain configs/imontage pretrain sft:denoiser hq:denoiser
