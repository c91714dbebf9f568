#!/usr/bin/env bash
# Writes requirements.lock, tools/vllm/requirements.lock and package-lock.json again, with the newest versions allowed.
# `tools/lock.sh --check` writes nothing: exit 1 when a lock is not what pyproject.toml and its like ask for.
# uv is fetched for this alone; it gives hashes for every platform and no index addresses.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/env.sh

[[ -x .build/uv/bin/uv ]] || {
  python -m venv .build/uv
  .build/uv/bin/pip install --quiet uv
}

upgrade=(--upgrade)
into=.
if [[ ${1:-} == --check ]]; then
  upgrade=() # what is locked stays as long as it is allowed
  into=$(mktemp -d)
  trap 'rm -rf "$into"' EXIT
  mkdir -p "$into/tools/vllm"
  cp package.json package-lock.json .npmrc requirements.lock "$into"
  cp tools/vllm/requirements.lock "$into/tools/vllm"
fi

compile() {
  .build/uv/bin/uv pip compile --quiet "${upgrade[@]}" --no-progress --no-header --python .venv/bin/python --generate-hashes \
    --no-emit-index-url --no-emit-find-links "$@"
}
compile pyproject.toml --extra dev --output-file "$into/requirements.lock"
compile tools/vllm/requirements.in --no-annotate --override tools/vllm/overrides.txt \
  --output-file "$into/tools/vllm/requirements.lock"
npm install --prefix "$into" --package-lock-only --ignore-scripts --no-progress

for lock in requirements.lock tools/vllm/requirements.lock package-lock.json; do
  cmp --silent "$lock" "$into/$lock" || {
    printf 'lock: %s is not what its requirements ask for: run "make lock"\n' "$lock" >&2
    exit 1
  }
done
