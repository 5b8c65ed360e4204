# shellcheck shell=bash
# The verbs that the files of launch/stages are written in: one line for each stage of a run.
#
# A caller sets `root`, the folder of all stages, and `overrides`, flags for every training. Stages
# that are done are left alone, and one that was interrupted resumes. With dry_run=1 the commands
# are printed.
# shellcheck disable=SC2154

towers=${TOWERS:-runs/towers} # of what several systems share: trained once

# stage NAME COMMAND...: runs a stage unless it is done, and records its time in seconds; the report
# adds them up.
stage() {
  local name=$1 folder=$root started=$SECONDS
  shift
  [[ $name != towers/* ]] || folder=$towers
  if grep -qs "\"stage\": \"$name\"" "$folder/timings.jsonl"; then
    echo "== $name: done before"
    return
  fi
  echo "== $name"
  run "$@"
  [[ -n ${dry_run:-} ]] ||
    echo "{\"stage\": \"$name\", \"seconds\": $((SECONDS - started))}" >> "$folder/timings.jsonl"
}

# folder_of NAME: where a stage keeps its files; towers/NAME lies outside of `root`.
folder_of() {
  if [[ $1 == towers/* ]]; then echo "$towers/${1#towers/}"; else echo "$root/$1"; fi
}

# tokenizer NAME [--path=TASKS ...]: trains the tokenizer that the trainings after it use.
tokenizer() {
  tokenizer_folder=$(folder_of "$1")
  mkdir -p "${tokenizer_folder%/*}"
  stage "$1" jaxgen data tokenizer --kind=shapes --out="$tokenizer_folder" "${@:2}"
  tokenizer_flags=(--config.data.tokenizer="$tokenizer_folder")
}

# tower_tokenizers GROUP...: the text towers that use it too.
tower_tokenizers() {
  local group
  for group in "$@"; do
    tokenizer_flags+=("--config.data.tower_tokenizers.$group=$tokenizer_folder")
  done
}

# train NAME CONFIG [GROUP=NAME | steps=N | --config.section.key=value ...]: trains a stage in its own
# folder. GROUP=NAME takes the weights of a group from an earlier stage; of N steps at most half, and
# no more than 50, warm up. If it is stopped, so is the caller.
train() {
  local word steps flags=()
  for word in "${@:3}"; do
    case $word in
      --*) flags+=("$word") ;;
      steps=*)
        steps=${word#steps=}
        flags+=(--config.train.steps="$steps"
          --config.optimizer.warmup_steps=$((steps < 100 ? steps / 2 : 50)))
        ;;
      *=*) flags+=("--config.init_from.${word%%=*}=$(folder_of "${word#*=}")") ;;
      *) die "$word: write GROUP=STAGE, steps=N or --config.section.key=value" ;;
    esac
  done
  stage "$1" jaxgen train --config="$2" --workdir="$(folder_of "$1")" --stopped-code=75 \
    "${tokenizer_flags[@]}" "${flags[@]}" "${overrides[@]}"
}

# evaluate NAME [--prompts=N ...]: scores a trained stage.
evaluate() {
  stage "evaluate $1" jaxgen evaluate --workdir="$(folder_of "$1")" "${@:2}"
}

# export_stage NAME: writes a trained stage as PyTorch models.
export_stage() {
  stage "export $1" jaxgen convert export --workdir="$(folder_of "$1")" --out="$root/export"
}
