#!/usr/bin/env bash
# Trains DuetGen at the paper's size, one stage after the other (docs/duetgen.md).
#
#   launch/duetgen.sh [WORKDIR] [--config.section.key=value ...]
#
# Under a launcher every process runs it, for example launch/local.sh -n 8 -- launch/duetgen.sh.
# Run it again to go on where it stopped; dry_run=1 prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

root=${1:-runs/duetgen}
overrides=("${@:2}")
chain configs/duetgen stage1 stage2:mllm
