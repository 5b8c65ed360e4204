#!/usr/bin/env bash
# Starts a run on a Kubernetes cluster with JobSet: fills in launch/gke_jobset.yaml and applies it.
#
#   launch/gke.sh --name=NAME --image=IMAGE --on=v5p:4x4x8[*SLICES] [--dry-run] \
#     -- jaxgen train --config=... --workdir=gs://...
#
# --on   hardware: v5p:4x4x8 or v6e:16x16 (a slice; *2 for two slices), h100:8 or h800:24 (nodes of
#        eight GPUs)
#
# Uses kubectl's current cluster; --dry-run prints the manifest instead.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

name='' image='' on='' dry_run=''
while [[ $# -gt 0 ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --on=*) on=${1#*=} ;;
    --dry-run) dry_run=1 ;;
    --) shift && break ;;
    *) die "$1: unknown; the first lines of launch/gke.sh say what there is" ;;
  esac
  shift
done
[[ -n $name && -n $image && $# -gt 0 ]] || die 'needs --name, --image, --on and a command after --'
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || die "--name=$name: use a-z, 0-9 and -"

# chips_of TOPOLOGY: the number of chips, the product of its dimensions.
chips_of() {
  echo $((${1//x/*}))
}

kind=${on%%:*} size=${on#*:}
case $kind in
  v5p | v6e)
    [[ $size =~ ^[0-9]+(x[0-9]+){1,2}(\*[0-9]+)?$ ]] ||
      die "--on=$on: write v5p:4x4x8 or v6e:16x16*2"
    topology=${size%%\**} slices=1
    [[ $size != *\** ]] || slices=${size#*\*}
    chips=4
    (($(chips_of "$topology") % chips == 0)) || die "--on=$on: a host has $chips chips"
    hosts=$(($(chips_of "$topology") / chips))
    accelerator=tpu-v5p-slice
    [[ $kind == v5p ]] || accelerator=tpu-v6e-slice
    variant=tpu flags=launch/flags/tpu_$kind.env gpus=''
    ;;
  h100 | h800)
    [[ $size =~ ^[1-9][0-9]*$ ]] || die "--on=$on: write the number of nodes, as $kind:8"
    accelerator=NVIDIA-${kind^^}-80GB-HBM3
    [[ $kind == h100 ]] || accelerator=NVIDIA-H800
    variant=gpu hosts=$size gpus=8 flags=launch/flags/gpu_$kind.env
    topology='' slices='' chips=''
    ;;
  *) die "--on=$on: use v5p:..., v6e:..., h100:... or h800:..." ;;
esac
printf -v command '%q ' "$@"

# manifest: prints the document of the variant with its variables filled in.
# shellcheck disable=SC2016 # variables of the manifest, not of the shell
manifest() {
  local text
  text=$(awk -v RS='---\n' "/variant: $variant/" launch/gke_jobset.yaml)
  text=${text//'${NAME}'/"$name"} text=${text//'${IMAGE}'/"$image"}
  text=${text//'${SLICES}'/"$slices"} text=${text//'${HOSTS}'/"$hosts"}
  text=${text//'${TOPOLOGY}'/"$topology"} text=${text//'${CHIPS}'/"$chips"}
  text=${text//'${ACCELERATOR}'/"${ACCELERATOR:-$accelerator}"} text=${text//'${GPUS}'/"$gpus"}
  text=${text//'${FLAGS}'/"$flags"} text=${text//'${COMMAND}'/"${command% }"}
  printf '%s\n' "$text"
}

if [[ -n $dry_run ]]; then
  run kubectl apply -f -
  manifest
else
  manifest | run kubectl apply -f -
fi
