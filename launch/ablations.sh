#!/usr/bin/env bash
# Runs the stages of a file with several seeds, and writes the table of their scores.
#
#   launch/ablations.sh STAGES WORKDIR [SEEDS] [--config.section.key=value ...]
#
# STAGES is a file of launch/stages (iomm_recipes), SEEDS a list with commas (0,1,2). Every seed has
# its own folder in WORKDIR; WORKDIR/table.md has mean and standard deviation of each run that was
# scored. Run it again to resume.
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

# scores RUN: the overall score of a run with every seed, one a line.
scores() {
  local seed
  for seed in ${seeds//,/ }; do
    sed -n 's/.*"overall": \([0-9.]*\).*/\1/p' "$workdir/seed$seed/$1/evaluation.json"
  done
}

{
  echo "| run | overall, seeds ${seeds//,/, } | mean | standard deviation |"
  echo '|---|---|---|---|'
  for file in "$workdir/seed${seeds%%,*}"/*/evaluation.json; do
    name=$(basename "$(dirname "$file")")
    scores "$name" | awk -v name="$name" '
      { all = all (NR > 1 ? " " : "") sprintf("%.3f", $1); sum += $1; squares += $1 * $1 }
      END { mean = sum / NR; spread = NR > 1 ? sqrt((squares - NR * mean^2) / (NR - 1) + 1e-12) : 0
            printf "| %s | %s | %.3f | %.3f |\n", name, all, mean, spread }'
  done
} | tee "$workdir/table.md"
