#!/usr/bin/env bash
# Starts a run of several processes on this machine.
#
#   launch/local.sh [-n PROCESSES] [-d DEVICES] [--dry-run] -- jaxgen train --config=... --workdir=...
#
# -n  number of processes (default 2); the machine's GPUs are divided among them
# -d  use no GPUs; each process gets this many CPU devices
#
# SIGTERM and Ctrl-C are forwarded to all processes, so that they save and exit. When one fails, the
# others are ended. PORT is the port of process 0 (default: random), GRACE the seconds before the
# others are killed (default 60).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

processes=2 devices='' dry_run=''
while [[ $# -gt 0 ]]; do
  case $1 in
    -n) processes=${2:?} && shift 2 ;;
    -d) devices=${2:?} && shift 2 ;;
    --dry-run) dry_run=1 && shift ;;
    --) shift && break ;;
    *) die "$1: unknown; usage: launch/local.sh [-n N] [-d DEVICES] [--dry-run] -- COMMAND" ;;
  esac
done
[[ $# -gt 0 ]] || die 'what to run is missing; put it after --'
[[ $processes =~ ^[1-9][0-9]*$ ]] || die "-n $processes: use a number above 0"

port=${PORT:-$((20000 + RANDOM % 10000))}
gpus=0
if [[ -z $devices ]] && command -v nvidia-smi > /dev/null; then
  gpus=$(nvidia-smi --list-gpus | wc -l)
  ((gpus % processes == 0)) || die "-n $processes: does not divide the $gpus GPUs of this machine"
fi

# environment PROCESS: sets the array ``environment`` for that process.
environment() {
  environment=("JAXGEN_COORDINATOR=localhost:$port" "JAXGEN_NUM_PROCESSES=$processes"
    "JAXGEN_PROCESS_ID=$1")
  if [[ -n $devices ]]; then
    environment+=(JAX_PLATFORMS=cpu
      "XLA_FLAGS=${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices")
  elif ((gpus > 0)); then
    local each=$((gpus / processes))
    environment+=("CUDA_VISIBLE_DEVICES=$(seq -s, $(($1 * each)) $((($1 + 1) * each - 1)))")
  fi
}

declare -A number=()
for ((i = 0; i < processes; i++)); do
  environment "$i"
  if [[ -n $dry_run ]]; then
    run env "${environment[@]}" "$@"
  else
    env "${environment[@]}" "$@" > >(sed -u "s/^/[$i] /") 2> >(sed -u "s/^/[$i] /" >&2) &
    number[$!]=$i
  fi
done
[[ -z $dry_run ]] || exit 0

end_all() {
  kill -TERM "${!number[@]}" 2> /dev/null || true
}
trap end_all TERM INT

status=0
while ((${#number[@]} > 0)); do
  ended='' code=0
  wait -n -p ended "${!number[@]}" || code=$?
  [[ -n ${ended:-} ]] || continue # interrupted by a signal, which end_all has forwarded
  if ((code != 0 && status == 0)); then
    status=$code
    echo "local.sh: process ${number[$ended]} ended with code $code; ending the others" >&2
    end_all
    (sleep "${GRACE:-60}" && kill -KILL "${!number[@]}") 2> /dev/null &
  fi
  unset "number[$ended]"
done
exit "$status"
