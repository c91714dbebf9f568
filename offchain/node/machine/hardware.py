"""What this machine has (accelerators, memory, cores), and the tier that it can claim."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from offchain.domain.tiers import Tier

Run = Callable[[Sequence[str]], str | None]
"""Output of a command, or None when it is not there or fails."""

_TIMEOUT_SECONDS = 15
_MIB = 1024 * 1024
_HEAVY = re.compile(
    r"\b(A100|A800|H100|H200|H800|H20|GH200|B100|B200|GB200|MI2[15]0X?|MI3\d\d[AX]?)\b", re.IGNORECASE
)
_HEAVY_BYTES = 40 * 1024**3
_LEAST_BYTES = 8 * 1000**3  # cards sold as 8 GB report a little less than 8 GiB


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU.

    Attributes:
        vendor: `nvidia` or `amd`.
        memory_bytes: its own memory.
        driver: version text, empty when unknown.
    """

    vendor: str
    name: str
    memory_bytes: int
    driver: str = ""


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine as `probe` found it, and the tier it can claim.

    Attributes:
        backend: `cpu`, `nvidia` or `amd`: the value for the settings.
        why: reason for the tier, in one sentence.
    """

    accelerators: tuple[Accelerator, ...]
    cpu: str
    cores: int
    memory_bytes: int
    free_bytes: int
    tier: Tier
    backend: str
    why: str

    def to_json(self) -> dict[str, object]:
        """For `--json`; sizes in bytes."""
        return {**asdict(self), "tier": int(self.tier)}


def run_command(words: Sequence[str]) -> str | None:
    """Output of a program, or None when it is missing, fails or takes longer than 15 s."""
    if shutil.which(words[0]) is None:
        return None
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def detect(run: Run = run_command, proc: Path = Path("/proc")) -> Hardware:
    """Look at the machine: nvidia-smi, rocm-smi, then /proc."""
    accelerators = (*_nvidia(run), *_amd(run))
    memory, free = _memory(proc)
    tier, backend, why = tier_for(accelerators)
    return Hardware(accelerators, _cpu(proc), os.cpu_count() or 1, memory, free, tier, backend, why)


def tier_for(accelerators: Sequence[Accelerator]) -> tuple[Tier, str, str]:
    """Tier, backend and the reason. A node serves with the cards of one vendor: the one with the strongest card."""
    usable = [card for card in accelerators if card.memory_bytes >= _LEAST_BYTES]
    if not usable:
        small = f"; {accelerators[0].name} has too little memory to serve" if accelerators else ""
        return Tier.CPU, "cpu", f"no GPU with 8 GB or more was found, so this is a CPU node{small}"
    best = max(usable, key=lambda card: (bool(_HEAVY.search(card.name)), card.memory_bytes))
    same = [card for card in usable if card.vendor == best.vendor]
    count = f"{len(same)} x {best.name}" if len({card.name for card in same}) == 1 else f"{len(same)} GPUs"
    tier, kind = Tier.MID_GPU, "a GPU below the data-centre class"
    if _HEAVY.search(best.name) or best.memory_bytes >= _HEAVY_BYTES:
        tier, kind = Tier.HEAVY_GPU, "a data-centre accelerator"
    return tier, best.vendor, f"{count} ({best.memory_bytes / 1024**3:.0f} GiB each) is {kind}"


def _nvidia(run: Run) -> list[Accelerator]:
    text = run(
        ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    )
    found = []
    for line in (text or "").splitlines():
        match [part.strip() for part in line.split(",")]:
            case [name, mebibytes, driver] if mebibytes.isdigit():
                found.append(Accelerator("nvidia", name, int(mebibytes) * _MIB, driver))
    return found


def _amd(run: Run) -> list[Accelerator]:
    text = run(("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json"))
    try:
        cards = json.loads(text or "{}")
    except ValueError:
        return []
    driver = str(cards.get("system", {}).get("Driver version", ""))
    found = []
    for name, card in sorted(cards.items()):
        if not name.startswith("card"):
            continue
        memory = str(card.get("VRAM Total Memory (B)", "0"))
        title = card.get("Card Series") or card.get("Card series") or card.get("Card SKU") or "AMD GPU"
        found.append(Accelerator("amd", str(title), int(memory) if memory.isdigit() else 0, driver))
    return found


def _memory(proc: Path) -> tuple[int, int]:
    sizes: dict[str, int] = {}
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            sizes[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0, 0
    return sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)


def _cpu(proc: Path) -> str:
    try:
        text = (proc / "cpuinfo").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else "unknown"
