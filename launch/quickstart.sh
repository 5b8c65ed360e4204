#!/usr/bin/env bash
# Runs a whole system on drawn data: tokenizer, every training stage, evaluation, PyTorch export,
# report.
#
#   launch/quickstart.sh [WORKDIR] [--config.section.key=value ...]
#
# SYSTEM=NAME runs the stages of launch/stages/NAME.sh; iomm unless given.
# Run it again after an interruption: finished stages are kept, and the interrupted one resumes.
# Remove WORKDIR to start over.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
source launch/stages.sh
use_huge_pages

root=${1:-runs/quickstart}
overrides=("${@:2}")
stages=launch/stages/${SYSTEM:=iomm}.sh
[[ -f $stages ]] || die "SYSTEM=$SYSTEM: there is no $stages; have: $(cd launch/stages && echo *.sh)"
mkdir -p "$root"
# shellcheck disable=SC1090
source "$stages"
jaxgen report --workdir="$root"
