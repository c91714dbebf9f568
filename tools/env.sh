# Source this file for interactive work: `source tools/env.sh`. The Makefile exports the same.
# Everything that a tool would otherwise leave in the home folder goes below the checkout.
PARALLELIX_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
export PARALLELIX_ROOT

case ":$PATH:" in
*":$PARALLELIX_ROOT/.venv/bin:"*) ;;
*) export PATH="$PARALLELIX_ROOT/.venv/bin:$PARALLELIX_ROOT/.build/bin:$PARALLELIX_ROOT/node_modules/.bin:$PATH" ;;
esac

# The checkout wins over the one that .venv was installed from, so that worktrees can share an environment.
export PYTHONPATH="$PARALLELIX_ROOT"
export APE_DATA_FOLDER="$PARALLELIX_ROOT/.build/ape"
export SOLCX_BINARY_PATH="$PARALLELIX_ROOT/.build/solc"

export XDG_CACHE_HOME="$PARALLELIX_ROOT/.cache"
export XDG_CONFIG_HOME="$PARALLELIX_ROOT/.cache/config"
export XDG_DATA_HOME="$PARALLELIX_ROOT/.cache/share"
export XDG_STATE_HOME="$PARALLELIX_ROOT/.cache/state"
export PIP_CACHE_DIR="$PARALLELIX_ROOT/.cache/pip"
export UV_CACHE_DIR="$PARALLELIX_ROOT/.cache/uv"
export npm_config_cache="$PARALLELIX_ROOT/.cache/npm"
export PRE_COMMIT_HOME="$PARALLELIX_ROOT/.cache/pre-commit"
export HYPOTHESIS_STORAGE_DIRECTORY="$PARALLELIX_ROOT/.cache/hypothesis"
export MPLCONFIGDIR="$PARALLELIX_ROOT/.cache/matplotlib"
export HF_HOME="$PARALLELIX_ROOT/.cache/huggingface"
export VLLM_CACHE_ROOT="$PARALLELIX_ROOT/.cache/vllm"
export VLLM_CONFIG_ROOT="$PARALLELIX_ROOT/.cache/config/vllm"
export TORCHINDUCTOR_CACHE_DIR="$PARALLELIX_ROOT/.cache/torchinductor"
export TRITON_CACHE_DIR="$PARALLELIX_ROOT/.cache/triton"

# make sets this to reach its recipe lines; what they start must not read the file again.
unset BASH_ENV
