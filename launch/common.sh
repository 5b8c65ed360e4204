# shellcheck shell=bash
# Functions shared by the launchers, which source it in the repository root. With dry_run=1,
# commands are only printed.

PATH="$PWD/.venv/bin:$PATH" # python and jaxgen as installed by `make`

# Prints a one-line error and exits with 2.
die() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# apt_install PACKAGE...: installs packages of Debian, without what they merely recommend.
apt_install() {
  local apt=(apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=15
    -o DPkg::Lock::Timeout=60)
  "${apt[@]}" update && DEBIAN_FRONTEND=noninteractive \
    "${apt[@]}" install --yes --no-install-recommends "$@"
}

# Prints a command with shell quoting, and runs it unless this is a dry run.
run() {
  local word line=
  for word in "$@"; do
    printf -v word '%q' "$word"
    line+="$word "
  done
  echo "+ ${line% }" >&2
  [[ -n ${dry_run:-} ]] || "$@"
}

# Lets malloc use huge pages, because a step on CPUs keeps allocating the same large buffers.
use_huge_pages() {
  export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
}

# own_photos RUNS PHOTOS [WORKDIR]: how launchers for one's own images begin. Sets `photos`, the
# absolute path of PHOTOS, which is relative to where the launcher was called; and `root`, RUNS if
# there is no WORKDIR.
own_photos() {
  [[ -n ${2:-} ]] || die "name your images: launch/$(basename "$0") PHOTOS [WORKDIR]"
  # shellcheck disable=SC2034
  photos=$(cd "$OLDPWD" && realpath "$2")
  root=${3:-$1}
  use_huge_pages
}

# load_flags FILE: exports compiler flags from launch/flags/; a file is for one version of jax.
load_flags() {
  [[ -f $1 ]] || die "$1: no such file of flags; see launch/flags"
  set -a
  # shellcheck disable=SC1090
  source "$1"
  set +a
  echo "+ source $1" >&2
  [[ -n ${dry_run:-} ]] && return
  local installed
  installed=$(python3 -c 'from importlib.metadata import version; print(version("jax"))')
  [[ $installed == "$JAXGEN_FLAGS_JAX" ]] ||
    die "$1: made for jax $JAXGEN_FLAGS_JAX, but $installed is installed; compile a plan with" \
      "it (jaxgen plan), then change JAXGEN_FLAGS_JAX there"
}

# chain CONFIGS STAGE[:GROUP,...]...: trains stages one after the other in folders of `root`, with the
# flags `overrides`; each takes the named groups from the one before. A stage that is done ends at
# once, so every process of a run may call this, and call it again to go on.
chain() {
  local stage group before='' configs=$1 taken
  # shellcheck disable=SC2154
  for stage in "${@:2}"; do
    taken=()
    for group in $(tr , ' ' <<< "${stage#"${stage%%:*}"}" | tr -d :); do
      taken+=("--config.init_from.$group=$root/$before")
    done
    before=${stage%%:*}
    run jaxgen train --config="$configs/$before.py" --workdir="$root/$before" --stopped-code=75 \
      "${taken[@]}" "${overrides[@]}"
  done
}
