#!/usr/bin/env bash
# Builds sdist and wheel, the wheel from the sdist, and uses it in a clean environment of each
# Python, far from the repository.
#
#   tools/test_package.sh [PYTHON... | extras]
#
# Pythons are commands, or versions that pyenv has; python3 if none is named. `extras` resolves all
# extras at once, for which pip may have to download gigabytes of CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Of pip only errors: its warnings are about its own version and indices.
pip=(-m pip --quiet --quiet --disable-pip-version-check)

# find_python NAME: its path, from the commands or from pyenv.
find_python() {
  local found
  # A command may be a shim of pyenv for a version that is not chosen.
  for found in "$(command -v "$1")" ~/.pyenv/versions/"${1#python}"*/bin/python; do
    [[ -x $found ]] && "$found" -c '' 2> /dev/null && echo "$found" && return
  done
  echo "test_package.sh: no $1 here, neither as a command nor in ~/.pyenv/versions" >&2
  return 1
}

# use NAME: installs the wheel into a new environment of that Python, and uses it.
use() {
  local python environment=$work/$1
  python=$(find_python "$1")
  echo "== $("$python" --version)"
  "$python" -m venv "$environment"
  "$environment/bin/python" "${pip[@]}" install --constraint "$repository/constraints.txt" \
    "${wheels[0]}"
  mkdir "$environment/away"
  (
    cd "$environment/away"
    PATH=$environment/bin:$PATH
    unset PYTHONPATH
    export HOME=$environment/away # neither configuration nor programs compiled before
    python "${pip[@]}" check
    jaxgen doctor
    time jaxgen hello --out=hello
    test -s hello/hello.png
    jaxgen data tokenizer --kind=shapes --out=tokenizer --vocab=512
    jaxgen data show --config=configs/iomm/tiny.py --config.data.tokenizer=tokenizer > rows.txt
    test -s rows.txt
  )
  rm -rf "$environment"
}

resolve_extras() {
  local extras
  echo '== all extras at once'
  extras=$("$work/build/bin/python" -c "
import configparser
options = configparser.ConfigParser()
options.read('setup.cfg')
print(','.join(options['options.extras_require']))")
  "$work/build/bin/python" "${pip[@]}" install --dry-run --ignore-installed "${wheels[0]}[$extras]"
  echo "[$extras] resolve together"
}

# A build leaves files beside its source.
mkdir "$work/source"
cp -r setup.cfg pyproject.toml MANIFEST.in Makefile constraints.txt ./*.md LICENSE jaxgen configs \
  docs launch tests tools "$work/source"
python3 -m venv "$work/build"
"$work/build/bin/python" "${pip[@]}" install build
"$work/build/bin/python" -m build --outdir "$work/dist" "$work/source" > "$work/build.log" 2>&1 ||
  { tail -20 "$work/build.log" >&2 && exit 1; }
wheels=("$work"/dist/*.whl)
ls -l "$work/dist"

[[ $# -gt 0 ]] || set -- python3
for name in "$@"; do
  if [[ $name == extras ]]; then resolve_extras; else use "$name"; fi
done
