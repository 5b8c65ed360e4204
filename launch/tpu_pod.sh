#!/usr/bin/env bash
# Starts a run on a Cloud TPU slice: creates the slice, copies and installs this checkout, runs the
# command on all hosts, shows the log of the first host, and restarts after a preemption.
#
#   launch/tpu_pod.sh --name=NAME --zone=ZONE --type=v5p-256 [--spot] [--existing] [--dry-run] \
#     -- jaxgen train --config=... --workdir=gs://...
#
# --existing    use the existing slice NAME; otherwise a queued resource of that name is requested
# --runtime     runtime image of the hosts (default by type: v2-alpha-tpuv5, v2-alpha-tpuv6e)
# --project     Google Cloud project, if not gcloud's default
#
# The workdir must be in a bucket, because the slice's disks are deleted with it. Needs gcloud,
# logged in.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

name='' zone='' type='' runtime='' project='' spot='' existing='' dry_run=''
while [[ $# -gt 0 ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --spot) spot=1 ;;
    --existing) existing=1 ;;
    --dry-run) dry_run=1 ;;
    --) shift && break ;;
    *) die "$1: unknown; the first lines of launch/tpu_pod.sh say what there is" ;;
  esac
  shift
done
[[ -n $name && -n $zone && $# -gt 0 ]] || die 'needs --name, --zone and a command after --'
case $type in
  v5p-*) flags=launch/flags/tpu_v5p.env && runtime=${runtime:-v2-alpha-tpuv5} ;;
  v6e-*) flags=launch/flags/tpu_v6e.env && runtime=${runtime:-v2-alpha-tpuv6e} ;;
  *) die "--type=$type: use v5p-... or v6e-..., there are flags for these" ;;
esac
place=(--zone="$zone" ${project:+--project="$project"})
tpus=(gcloud compute tpus)
[[ -n $dry_run ]] || command -v gcloud > /dev/null || die 'gcloud is not installed'

on_all() {
  run "${tpus[@]}" tpu-vm ssh "$name" "${place[@]}" --worker=all --command="$1"
}

# state: prints the state of the queued resource; nothing if there is none.
state() {
  "${tpus[@]}" queued-resources describe "$name" "${place[@]}" --format='value(state.state)' \
    2> /dev/null || true
}

get_slice() {
  [[ -z $existing ]] || return 0
  if [[ -n $dry_run || -z $(state) ]]; then
    run "${tpus[@]}" queued-resources create "$name" --node-id="$name" "${place[@]}" \
      --accelerator-type="$type" --runtime-version="$runtime" ${spot:+--spot}
  fi
  [[ -z $dry_run ]] || return 0
  local now
  until now=$(state) && [[ $now == ACTIVE ]]; do
    [[ $now != FAILED ]] || die "the queued resource $name failed; see gcloud"
    echo "waiting for $name: ${now:-not there yet}" >&2
    sleep 30
  done
}

give_back() {
  run "${tpus[@]}" queued-resources delete "$name" "${place[@]}" --force --quiet
}

install() {
  local archive=runs/jaxgen.tar.gz setup='mkdir -p jaxgen && tar -xzf jaxgen.tar.gz -C jaxgen'
  setup+=' && cd jaxgen && python3 -m venv .venv'
  setup+=' && .venv/bin/pip install -q -c constraints.txt -e ".[tpu]"'
  run mkdir -p runs && run git archive --format=tar.gz --output="$archive" HEAD &&
    run "${tpus[@]}" tpu-vm scp "$archive" "$name:jaxgen.tar.gz" "${place[@]}" --worker=all &&
    on_all "$setup"
}

# Every host runs the same command and logs to ~/jaxgen.log. All output is shown for the first host,
# and only the end for the others. Processes left over from a lost connection are ended first.
# shellcheck disable=SC2016 # the hosts expand it
train() {
  local words setup show
  printf -v words '%q ' "$@"
  setup='cd jaxgen && source launch/common.sh && '
  setup+="load_flags $flags && set -o pipefail && { pkill -x jaxgen || true; } && "
  show='| tee -a ~/jaxgen.log | if [[ $(hostname) == *-w-0 ]]; then cat; else tail -n 5; fi'
  on_all "$setup$words--coordinator=tpu --stopped-code=75 2>&1 $show"
}

failures=0
while true; do
  get_slice
  code=0
  { install && train "$@"; } || code=$?
  [[ -z $dry_run && $code != 0 ]] || break
  now=ACTIVE
  [[ -n $existing ]] || now=$(state)
  case $now in
    SUSPENDING | SUSPENDED)
      echo "tpu_pod.sh: $name was preempted; asking for another slice" >&2
      give_back
      failures=0
      ;;
    *)
      ((++failures < ${MAX_FAILURES:-5})) || die "ended with code $code, $failures times in a row"
      echo "tpu_pod.sh: ended with code $code; starting again in a minute" >&2
      sleep 60
      ;;
  esac
done
[[ -z $dry_run ]] || exit 0
[[ -n $existing ]] || echo "tpu_pod.sh: done; give the slice back with: gcloud compute tpus" \
  "queued-resources delete $name ${place[*]} --force"
