#!/usr/bin/env bash
# Runs the stages of a file with several seeds, and writes the table of their scores.
#
#   launch/ablations.sh STAGES WORKDIR [SEEDS] [--config.section.key=value ...]
#
# STAGES is a file of launch/stages (iomm_recipes, imontage_ablations, query_kontext_ablations,
# duetgen_ablations), SEEDS a list with commas (0,1,2). Every seed has its own folder in WORKDIR;
# WORKDIR/table.md compares the runs that were scored, over the seeds (`jaxgen report` writes it).
# Run it again to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
source launch/stages.sh
use_huge_pages

[[ $# -ge 2 ]] || die 'usage: launch/ablations.sh STAGES WORKDIR [SEEDS] [--config...]'
stages=launch/stages/$1.sh workdir=$2 seeds=${3:-0}
[[ -f $stages ]] || die "$1: there is no $stages; have: $(cd launch/stages && echo *.sh)"
[[ $seeds =~ ^[0-9]+(,[0-9]+)*$ ]] || die "$seeds: SEEDS are numbers with commas, as 0,1,2"

for seed in ${seeds//,/ }; do
  root=$workdir/seed$seed
  overrides=(--config.seed="$seed" "${@:4}")
  mkdir -p "$root"
  echo "= seed $seed"
  # shellcheck disable=SC1090
  source "$stages"
done

jaxgen report --workdir="$workdir"
