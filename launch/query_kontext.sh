#!/usr/bin/env bash
# Trains Query-Kontext at the paper's size, one stage after the other (docs/query_kontext.md).
#
#   launch/query_kontext.sh [WORKDIR] [--config.section.key=value ...]
#
# Under a launcher every process runs it, for example launch/local.sh -n 8 -- launch/query_kontext.sh.
# Run it again to go on where it stopped; dry_run=1 prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

root=${1:-runs/query_kontext}
overrides=("${@:2}")
all=mllm,bridge,connector,denoiser
chain configs/query_kontext stage1 stage2:mllm,bridge,connector "stage3:$all" "stage3_1024:$all"
