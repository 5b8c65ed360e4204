#!/usr/bin/env bash
# Proves launch/slurm.sbatch on a real Slurm: installs Debian's, starts a cluster of this one
# machine, trains with two tasks over loopback, puts the job back into the queue in the middle, and
# checks that it resumed and lost no step.
#
#   make test-slurm
#
# Needs root, apt-get and the .venv of `make test`. The cluster has its own ports and lives in a
# folder that is removed; a Slurm that runs here already is not touched.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
PATH="$PATH:/usr/sbin"
PATIENCE=${PATIENCE:-300} # seconds for each of the two halves

# Debian starts what it installs, unless a policy forbids it; the daemons of the test come later.
install_slurm() (
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'rm "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
  fi
  apt_install slurm-wlm munge
)

if ! type -P slurmctld slurmd sbatch munged mungekey > /dev/null; then
  [[ $(id -u) == 0 ]] || die 'Slurm is not installed, and installing it needs root'
  type -P apt-get > /dev/null || die 'Slurm is not installed, and there is no apt-get here'
  install_slurm > /dev/null || die 'apt-get could not install slurm-wlm and munge'
fi
[[ $(id -u) == 0 ]] || die 'the daemons of Slurm need root'
# From here on all talk is within this machine.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY

root=$(mktemp -d)
export SLURM_CONF=$root/slurm.conf
pids=()
finish() {
  local code=$?
  # The reason of a failure is in one of these.
  ((code == 0)) || tail -n 30 "$root"/*.log >&2 || true
  if [[ -n ${job:-} ]]; then
    # Before the daemons, which would leave the tasks behind.
    scancel --quiet --full --signal=KILL "$job" || true
    scancel --quiet "$job" || true
    (wait_until 30 queue_is_empty) || true
  fi
  kill "${pids[@]}" 2> /dev/null || true
  # shellcheck disable=SC2046 # several numbers
  (wait_until 30 nobody_is_left) || kill -KILL $(holders) || true
  rm -rf "$root"
  exit "$code"
}
trap finish EXIT

start_cluster() {
  local host port
  host=$(hostname -s)
  port=$((17000 + RANDOM % 1000 * 2))
  mkdir -p "$root/state" "$root/spool"
  chmod 755 "$root"
  cat > "$SLURM_CONF" << END
ClusterName=jaxgen-test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$root/munge.socket
CredType=cred/munge
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=120
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  mungekey --create --keyfile "$root/munge.key"
  munged --foreground --force --key-file "$root/munge.key" --socket "$root/munge.socket" \
    --pid-file "$root/munge.pid" --seed-file "$root/munge.seed" 2> "$root/munge.log" &
  pids+=($!)
  wait_until 30 test -S "$root/munge.socket"
  slurmctld -D &> "$root/slurmctld.out.log" &
  pids+=($!)
  slurmd -D -N "$host" &> "$root/slurmd.out.log" &
  pids+=($!)
  wait_until 60 node_is_idle
}

# wait_until SECONDS COMMAND...
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@" 2> /dev/null; do
    ((SECONDS < end)) || die "gave up waiting for: $*"
    sleep 0.2
  done
}

node_is_idle() {
  [[ $(sinfo --noheader --format=%T) == idle ]]
}

queue_is_empty() {
  [[ -z $(squeue --noheader) ]]
}

# The processes that have files of this cluster open: its daemons and what they started.
holders() {
  find /proc/[0-9]*/fd -lname "$root/*" 2> /dev/null | cut -d/ -f3 | sort -u
}

nobody_is_left() {
  [[ -z $(holders) ]]
}

steps_done() {
  [[ -f $root/run/metrics.jsonl && $(wc -l < "$root/run/metrics.jsonl") -ge $1 ]]
}

job_is() {
  [[ $(scontrol --oneliner show job "$job") == *" JobState=$1 "* ]]
}

runs_again() {
  # Slurm lets a job that was put back wait for two minutes.
  scontrol update JobId="$job" StartTime=now
  job_is RUNNING
}

start_cluster
echo "Slurm $(sinfo --version | cut -d' ' -f2) of one machine is up"
jaxgen data tokenizer --kind=shapes --out="$root/tokenizer"
# Compiled fast rather than running fast: the steps are tiny.
export FLAGS='' JAX_PLATFORMS=cpu XLA_FLAGS=--xla_backend_optimization_level=0
job=$(sbatch --parsable --nodes=1 --ntasks=2 --ntasks-per-node=2 \
  --gpus-per-node=0 --output="$root/job.log" launch/slurm.sbatch \
  jaxgen train --config=configs/iomm/tiny.py --workdir="$root/run" \
  --config.data.tokenizer="$root/tokenizer" --config.train.steps=80 --config.train.rows=4 \
  --config.train.checkpoint_every=80 --config.train.host_timeout=300)
wait_until "$PATIENCE" steps_done 4
scontrol requeue "$job"
echo "job $job has done $(wc -l < "$root/run/metrics.jsonl") steps and goes back into the queue"
wait_until "$PATIENCE" runs_again
wait_until "$PATIENCE" job_is COMPLETED

grep -q 'by slurm' "$root/job.log" || die 'the tasks did not find each other through Slurm'
grep -o 'run: SIGTERM; saves step [0-9]*' "$root/job.log" ||
  die 'the job was not saved when it was put back'
grep -o 'run: resumes at step [0-9]*' "$root/job.log" || die 'the job did not resume'
python3 - "$root/run/metrics.jsonl" << 'END'
import json
import sys

with open(sys.argv[1]) as file:
  lines = [json.loads(line) for line in file]
assert [line['step'] for line in lines] == list(range(1, 81)), 'steps are missing or double'
hashes = {line['sample_ids'] for line in lines}
assert len(hashes) == 80, f'only {len(hashes)} different batches: samples were repeated'
END
echo 'test-slurm: two tasks trained, went back into the queue, resumed, and lost no step'
