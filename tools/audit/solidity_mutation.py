"""Mutation testing of NodeRegistryLocker and RewardDistributor: small faults, one at a time; the Ape tests must notice.

Each mutant is compiled alone and its bytecode put in the place of the original's (PARALLELIX_MUTANT, read by the contract
tests' conftest). This process imports Ape and pytest once and forks for each contract and mutant, the tests that kill most come
first, and the first failure ends a mutant, so that one costs seconds. Results are written after each; a run that was stopped
goes on where it was, as long as neither the contract nor its tests changed.

    python -m tools.audit.solidity_mutation --out results.json [--seconds N]

Exit 0 if all were run and at least 90 % were killed, 1 if not, 3 if time ran out before the last.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ape  # noqa: F401  (loaded here, once, for all forks)
import pytest

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ["--network", "ethereum:local:foundry"]
# In the order of how many mutants each kills.
TARGETS = {
    "NodeRegistryLocker": [
        "test_locker",
        "test_boundaries",
        "test_roles",
        "test_tokens",
        "stateful/test_network",
    ],
    "RewardDistributor": [
        "test_distributor",
        "test_boundaries",
        "test_roles",
        "test_tokens",
        "stateful/test_network",
    ],
}
UNFINISHED = 3
ORIGINAL = "original"
BOUND = 0.9
# Hexadecimal digits of the hash of the source at the end of the code.
METADATA = 106
OPERATORS: list[tuple[str, str, str]] = [
    ("relation", r"(?<![=<>!\-])<(?![=<])", "<="),
    ("relation", r"<=", "<"),
    ("relation", r"(?<![=\->])>(?![=>])", ">="),
    ("relation", r">=", ">"),
    ("equality", r"==", "!="),
    ("equality", r"!=", "=="),
    ("arithmetic", r" \+ 1\b", " + 2"),
    ("arithmetic", r"(?<=\w) \+ (?=\w)(?!1\b)", " - "),
    ("arithmetic", r"(?<=[\w)]) - (?=\w)", " + "),
    ("arithmetic", r"(?<=[\w)]) \* (?=\w)", " + "),
    ("arithmetic", r"\+=", "-="),
    ("logic", r"\|\|", "&&"),
    ("logic", r"&&", "||"),
    ("constant", r"= true;", "= false;"),
    ("constant", r"= OPEN;", "= 0;"),
    ("modifier", r" restricted(?= |$)", ""),
    ("modifier", r" nonReentrant(?= |$)", ""),
    ("modifier", r" whenNotPaused(?= |$)", ""),
    ("guard", r"^(\s+)if \(.*\) revert .*;$", r"\1"),
    ("statement", r"^(\s+)(emit .*;|token\..*;|node\.\w+ = .*;|_\w+\(.*\);|pool\.\w+ = .*;|_pools\[.*;|_claimed\[.*;)$", r"\1"),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: where, what, and what became of it.

    Attributes:
        key: names the mutated source and the tests, so that a result is not taken for another's.
        outcome: killed, survived, or invalid: does not compile, or compiles to the same code.
    """

    contract: str
    line: int
    kind: str
    before: str
    after: str
    key: str
    outcome: str = ""


def test_files(contract: str) -> list[Path]:
    """The tests that must notice a fault in a contract."""
    return [ROOT / f"tests/contracts/{name}.py" for name in TARGETS[contract]]


def mutants(contract: str) -> Iterator[tuple[Mutant, str]]:
    """The unchanged contract, which must survive, then every mutant; each with its source."""
    original = (ROOT / f"contracts/{contract}.sol").read_text()
    lines = original.split("\n")
    body = next(i for i, line in enumerate(lines) if line.startswith("contract "))
    tests = b"".join(path.read_bytes() for path in test_files(contract))
    key = hashlib.sha256(tests + original.encode()).hexdigest()[:16]
    yield Mutant(contract, 0, ORIGINAL, "", "", key), original
    seen = set()
    for number in range(body + 1, len(lines)):
        line = lines[number]
        if re.match(r"\s*(//|\*|using |import |mapping)", line):
            continue
        code = line.partition("//")[0].rstrip()
        for kind, pattern, replacement in OPERATORS:
            for found in re.finditer(pattern, code):
                changed = code[: found.start()] + found.expand(replacement) + code[found.end() :]
                if changed == code or (number, changed) in seen:
                    continue
                seen.add((number, changed))
                source = "\n".join([*lines[:number], changed, *lines[number + 1 :]])
                key = hashlib.sha256(tests + source.encode()).hexdigest()[:16]
                yield Mutant(contract, number + 1, kind, line.strip(), changed.strip(), key), source


def compile_one(contract: str, source: str) -> str | None:
    """Creation code of a changed contract, with the project's compiler settings; None if it does not compile."""
    request = {
        "language": "Solidity",
        "sources": {f"contracts/{contract}.sol": {"content": source}},
        "settings": {
            "optimizer": {"enabled": True, "runs": 10_000},
            "evmVersion": "cancun",
            "remappings": ["@openzeppelin/contracts/=node_modules/@openzeppelin/contracts/"],
            "outputSelection": {f"contracts/{contract}.sol": {contract: ["evm.bytecode.object"]}},
        },
    }
    done = subprocess.run(
        [str(ROOT / ".build/solc/solc-v0.8.37"), "--standard-json", "--base-path", str(ROOT)],
        input=json.dumps(request), capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    if any(error["severity"] == "error" for error in answer.get("errors", [])):
        return None
    code: str = answer["contracts"][f"contracts/{contract}.sol"][contract]["evm"]["bytecode"]["object"]
    return code


def callers(lines: list[str], number: int) -> set[str]:
    """The function around a line, and all functions of the contract that lead to it."""
    bodies: dict[str, str] = {}
    name = around = ""
    for index, line in enumerate(lines):
        if found := re.match(r"\s+(?:function (\w+)|(constructor))\b", line):
            name = found[1] or found[2]
        bodies[name] = bodies.get(name, "") + line + "\n"
        if index + 1 == number:
            around = name
    found_names = {around}
    while True:
        more = {
            one
            for one, body in bodies.items()
            if any(re.search(rf"\b{name}\(", body) for name in found_names)
        }
        if more <= found_names:
            return found_names
        found_names |= more


def likely(mutant: Mutant) -> list[str]:
    """Tests of the contract that call, or name, a function that leads to the mutated line."""
    names = callers((ROOT / f"contracts/{mutant.contract}.sol").read_text().split("\n"), mutant.line)
    wanted = re.compile(rf"""[."']({"|".join(map(re.escape, names))})["'(]""" if names - {""} else r"(?!)")
    found = []
    for path in test_files(mutant.contract)[:-1]:
        tests = re.split(r"^(?=def test_)", path.read_text(), flags=re.MULTILINE)[1:]
        chosen = (
            one
            for one in tests
            if wanted.search(one) or ("constructor" in names and "test_constructor" in one)
        )
        found += [f"{path}::{one[4 : one.index('(')]}" for one in chosen]
    return found


def survives(mutant: Mutant, code: str, work: Path) -> bool:
    """Whether the tests pass with this code in the contract's place: the likely ones first, then the others."""
    artifact = work / "mutant.json"
    artifact.write_text(json.dumps({"contract": mutant.contract, "code": code}))
    first = likely(mutant)
    rest = [str(path) for path in test_files(mutant.contract)]
    rest += [word for name in first for word in ("--deselect", str(Path(name).relative_to(ROOT)))]
    return not any(_fails(artifact, tests) for tests in (first, rest) if tests)


def _fails(artifact: Path, tests: list[str]) -> bool:
    fork = multiprocessing.get_context("fork").Process(target=_run_tests, args=(artifact, tests))
    fork.start()
    fork.join()
    if fork.exitcode in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return fork.exitcode == pytest.ExitCode.TESTS_FAILED
    sys.exit(f"the tests did not run, exit {fork.exitcode}; see {artifact.with_suffix('.log')}")


def _run_tests(artifact: Path, tests: list[str]) -> None:
    os.environ["PARALLELIX_MUTANT"] = str(artifact)
    os.environ["PARALLELIX_PROFILE"] = "mutant"
    log = os.open(artifact.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit(pytest.main([*NETWORK, "-x", "-q", "--no-header", "--tb=line", "--show-capture=no", *tests]))


def judge(mutant: Mutant, source: str, original: str, work: Path) -> Mutant:
    """The mutant with its outcome."""
    code = compile_one(mutant.contract, source)
    if mutant.kind == ORIGINAL and not survives(mutant, code or "", work):
        sys.exit(f"the tests fail on {mutant.contract} as it is; see {work / 'mutant.log'}")
    if code is None or code[:-METADATA] == original[:-METADATA]:
        return replace(mutant, outcome="invalid")
    return replace(mutant, outcome="survived" if survives(mutant, code, work) else "killed")


def earlier(path: Path) -> dict[str, str]:
    """Outcomes by key of a run before."""
    with contextlib.suppress(OSError, ValueError):
        return {item["key"]: item["outcome"] for item in json.loads(path.read_text())}
    return {}


def run(contract: str, path: Path, seconds: int) -> int:
    """Run what is left to run of one contract's mutants; the results go to `path`. Returns an exit code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    original = compile_one(contract, (ROOT / f"contracts/{contract}.sol").read_text()) or ""
    chosen = list(mutants(contract))
    known, results = earlier(path), []
    started = time.monotonic()
    for index, (mutant, source) in enumerate(chosen, start=1):
        if mutant.key in known:
            results.append(replace(mutant, outcome=known[mutant.key]))
            continue
        if seconds and time.monotonic() - started > seconds:
            print(f"stopped before mutant {index} of {len(chosen)} of {contract}; run again to go on")
            return UNFINISHED
        results.append(judge(mutant, source, original, path.parent))
        print(
            f"[{index}/{len(chosen)}] {results[-1].outcome}: {contract}:{mutant.line} {mutant.after or '(removed)'}",
            flush=True,
        )
        write(path, results)
    write(path, results)
    return 0


def write(path: Path, results: list[Mutant]) -> None:
    """Keep the outcomes so far, and only those."""
    path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def main() -> int:
    """Run the contracts side by side, each in a process of its own, and add up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / ".build/audit/mutation.json")
    parser.add_argument("--seconds", type=int, default=0, help="stop after this long")
    arguments = parser.parse_args()
    arguments.out.unlink(missing_ok=True)
    paths = {contract: arguments.out.parent / contract / "mutation.json" for contract in TARGETS}
    runs = [
        multiprocessing.get_context("fork").Process(
            target=lambda *spec: sys.exit(run(*spec)), args=(contract, path, arguments.seconds)
        )
        for contract, path in paths.items()
    ]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    if failed := [one.exitcode for one in runs if one.exitcode]:
        return UNFINISHED if set(failed) == {UNFINISHED} else 1
    results = [item for path in paths.values() for item in json.loads(path.read_text())]
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    valid = [item for item in results if item["outcome"] != "invalid"]
    killed = sum(item["outcome"] == "killed" for item in valid)
    print(f"{killed} of {len(valid)} mutants killed ({100 * killed / max(1, len(valid)):.1f} %)")
    return 0 if killed >= BOUND * len(valid) else 1


if __name__ == "__main__":
    sys.exit(main())
