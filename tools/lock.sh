#!/usr/bin/env bash
# Writes requirements.lock, tools/vllm/requirements.lock and package-lock.json again.
# uv is fetched for this alone; it gives hashes for every platform and no index addresses.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/env.sh

[[ -x .build/uv/bin/uv ]] || {
  python -m venv .build/uv
  .build/uv/bin/pip install --quiet uv
}
compile() {
  .build/uv/bin/uv pip compile --quiet --upgrade --no-progress --no-header --python .venv/bin/python --generate-hashes \
    --no-emit-index-url --no-emit-find-links "$@"
}
compile pyproject.toml --extra dev --output-file requirements.lock
compile tools/vllm/requirements.in --no-annotate --override tools/vllm/overrides.txt \
  --output-file tools/vllm/requirements.lock
npm install --package-lock-only --ignore-scripts --no-progress
