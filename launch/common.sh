# shellcheck shell=bash
# What the launchers share; they source it in the repository's root, with dry_run=1 to print only.

PATH="$PWD/.venv/bin:$PATH" # python and jaxgen, where `make` has installed them

# Ends with one line on what is wrong.
die() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# Prints a command as it could be typed, and runs it unless this is a dry run.
run() {
  local word line=
  for word in "$@"; do
    printf -v word '%q' "$word"
    line+="$word "
  done
  echo "+ ${line% }" >&2
  [[ -n ${dry_run:-} ]] || "$@"
}

# A step on CPUs allocates the same large buffers again and again: huge pages for malloc.
use_huge_pages() {
  export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
}

# load_flags FILE: exports the compiler's flags of launch/flags/; they are made for one version.
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
