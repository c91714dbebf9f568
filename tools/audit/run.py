"""`make audit`: everything that an auditor would run, in one command, with one report in Markdown.

    python -m tools.audit.run --profile test|quick|full [--report FILE]

Each step prints a line when it begins and when it ends, and has its whole output in .build/audit/<step>.log. Exit 0 only if
every bound holds. `full` runs the long campaigns and mutation testing; `quick` ends within ten minutes and has neither; `test`
is what `make test` adds to the suites that it runs anyway, in a minute or two.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.audit import solidity_coverage

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".build/audit"
CONTRACTS = (
    "ParallelixToken", "NodeRegistryLocker", "KeeperRegistry", "UptimeAttestation", "RewardDistributor", "InferenceMarket",
    "CreditVault", "VoucherCollector",
)  # fmt: skip
LINE_BOUND, BRANCH_BOUND, MUTATION_BOUND = 0.95, 0.90, 0.90
CODE_LIMIT = 24_576
PROFILES = {
    "test": ("foundry", "sizes", "slither", "gas"),
    "quick": ("foundry", "sizes", "slither", "gas", "fork", "suite", "coverage"),
    "full": ("foundry", "sizes", "slither", "gas", "fork", "suite", "coverage", "mutation"),
}
MACHINES = "tests/contracts/stateful/test_*.py"
PYTEST = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step found: whether its bound holds, one line, and a Markdown section."""

    passed: bool
    summary: str
    details: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the audit.

    Attributes:
        bound: what must hold, in words.
        run: takes whether the long campaigns are wanted.
    """

    bound: str
    run: Callable[[bool], Outcome]


def run(name: str, command: list[str], **environment: str) -> tuple[int, str]:
    """Run a step's command, its output to a log; exit code and output."""
    WORK.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    (WORK / f"{name}.log").write_text(done.stdout)
    return done.returncode, done.stdout


def last_line(output: str, pattern: str) -> str:
    """The last line that matches, or a hint to the log."""
    found = [line.strip() for line in output.splitlines() if re.search(pattern, line)]
    return found[-1] if found else "see the log"


def end_of_log(name: str, lines: int = 30) -> str:
    """The last lines that a step wrote."""
    path = WORK / f"{name}.log"
    return "\n".join(path.read_text().splitlines()[-lines:]) if path.is_file() else "it has no log"


def suite(long: bool) -> Outcome:
    """The Ape suite and the state machines on a local anvil."""
    code, output = run(
        "suite",
        [*PYTEST, "tests/contracts", "--network", "ethereum:local:foundry"],
        PARALLELIX_PROFILE="long" if long else "quick",
    )
    return Outcome(code == 0, last_line(output, r"passed|failed|error"))


def fork(_: bool) -> Outcome:
    """Deployment, an epoch and an admin rotation on a fork."""
    code, output = run("fork", [*PYTEST, "tests/fork", "--network", "ethereum:local:test"])
    return Outcome(code == 0, last_line(output, r"passed|failed|error"))


def foundry(long: bool) -> Outcome:
    """Foundry's fuzzer and invariant campaigns on the same invariants."""
    code, output = run(
        "foundry", ["forge", "test", "--offline"], FOUNDRY_PROFILE="long" if long else "default"
    )
    campaigns = [line.strip() for line in output.splitlines() if line.startswith(("[PASS]", "[FAIL"))]
    return Outcome(
        code == 0, last_line(output, r"tests passed"), "\n".join(f"- `{line}`" for line in campaigns)
    )


def slither(_: bool) -> Outcome:
    """No high or medium finding without a reason in docs/audit/slither.yml."""
    result = WORK / "slither.json"
    result.unlink(missing_ok=True)
    run("slither", ["slither", ".", "--json", str(result)])
    if not result.is_file():
        return Outcome(False, "slither did not run; see .build/audit/slither.log")
    found = json.loads(result.read_text())["results"].get("detectors", [])
    serious = [item for item in found if item["impact"] in ("High", "Medium")]
    reasons = yaml.safe_load((ROOT / "docs/audit/slither.yml").read_text())
    rows, open_findings = [], 0
    for item in serious:
        where = item["description"].split(" (")[0].removeprefix("Reentrancy in ").split("(")[0].strip()
        reason = next(
            (one["reason"] for one in reasons if one["check"] == item["check"] and where in one["where"]),
            None,
        )
        open_findings += reason is None
        rows.append(f"| {item['impact']} | {item['check']} | {where} | {reason or '**no reason**'} |")
    table = "| impact | check | where | why it stays |\n| --- | --- | --- | --- |\n" + "\n".join(sorted(rows))
    return Outcome(
        open_findings == 0, f"{len(serious)} high and medium, {open_findings} without a reason", table
    )


def gas(_: bool) -> Outcome:
    """Gas of every operation against its bound and the committed snapshot."""
    result = WORK / "gas.json"
    code, output = run(
        "gas",
        [
            *PYTEST,
            "bench/contracts/test_gas.py",
            "-p",
            "tests.support.services.ape_chain",
            "--network",
            "ethereum:local:foundry",
        ],
        GAS_RESULTS=str(result),
    )
    committed = json.loads((ROOT / "bench/results/gas.json").read_text())["metrics"]
    measured = json.loads(result.read_text())["metrics"] if result.is_file() else {}
    rows = [f"| {name} | {value:,} | {measured.get(name, 0):,} |" for name, value in committed.items()]
    table = "| operation | snapshot | now |\n| --- | --- | --- |\n" + "\n".join(rows)
    return Outcome(code == 0, last_line(output, r"passed|failed|error"), table)


def coverage(_: bool) -> Outcome:
    """Line and branch coverage of contracts/, from the suite on the in-process chain."""
    recorded = WORK / "coverage.pickle"
    recorded.unlink(missing_ok=True)
    code, output = run(
        "coverage",
        [*PYTEST, "-p", "tools.audit.solidity_coverage_plugin", "tests/contracts", "--network", "ethereum:local:test",
         "--ignore-glob", MACHINES],
        COVERAGE_OUT=str(recorded),
    )  # fmt: skip
    if not recorded.is_file():
        return Outcome(False, "the suite did not run; see .build/audit/coverage.log")
    table, lines, branches = solidity_coverage.table(solidity_coverage.measure(recorded))
    holds = code == 0 and lines >= LINE_BOUND and branches >= BRANCH_BOUND
    summary = (
        f"{last_line(output, r'passed|failed')}; lines {100 * lines:.1f} %, branches {100 * branches:.1f} %"
    )
    return Outcome(holds, summary, table)


def sizes(_: bool) -> Outcome:
    """Bytecode sizes below the limit of EIP-170."""
    code, _output = run("sizes", ["forge", "build", "--offline"])
    if code:
        return Outcome(False, "the contracts do not compile; see .build/audit/sizes.log")
    rows, largest = [], 0
    for name in CONTRACTS:
        artifact = json.loads((ROOT / f".build/forge/out/{name}.sol/{name}.json").read_text())
        size = len(artifact["deployedBytecode"]["object"].removeprefix("0x")) // 2
        largest = max(largest, size)
        rows.append(f"| {name} | {size:,} | {CODE_LIMIT - size:,} |")
    table = "| contract | bytes | left to the limit |\n| --- | --- | --- |\n" + "\n".join(rows)
    return Outcome(largest <= CODE_LIMIT, f"largest {largest:,} of {CODE_LIMIT:,} bytes", table)


def mutation(_: bool) -> Outcome:
    """Mutants of the locker and the distributor that the tests notice; docs/audit/mutation.yml explains the others."""
    result = WORK / "mutation.json"
    code, output = run(
        "mutation", [sys.executable, "-m", "tools.audit.solidity_mutation", "--out", str(result)]
    )
    if not result.is_file():
        return Outcome(False, "no mutant was run; see .build/audit/mutation.log")
    mutants = [item for item in json.loads(result.read_text()) if item["outcome"] != "invalid"]
    reasons = {
        (one["contract"], one["before"], one["after"]): one["reason"]
        for one in yaml.safe_load((ROOT / "docs/audit/mutation.yml").read_text()) or []
    }
    rows, unexplained = [], 0
    for one in mutants:
        if one["outcome"] == "survived":
            # `pop`: a reason explains one mutant; the same line elsewhere needs a reason of its own.
            reason = reasons.pop((one["contract"], one["before"], one["after"]), None)
            unexplained += reason is None
            rows.append(
                f"| {one['contract']}:{one['line']} | `{one['before']}` | `{one['after'] or '-'}` | {reason or '**no reason**'} |"
            )
    table = "| survivor | before | after | why it survives |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    summary = (
        f"{last_line(output, 'mutants killed')}; {len(rows)} survive, {unexplained} without a reason,"
        f" {len(reasons)} reasons without a survivor"
    )
    return Outcome(code == 0 and not unexplained and not reasons, summary, table)


STEPS: dict[str, Step] = {
    "foundry": Step("no counterexample", foundry),
    "slither": Step("no high or medium finding without a reason", slither),
    "sizes": Step(f"at most {CODE_LIMIT:,} bytes (EIP-170)", sizes),
    "gas": Step("every target of the design; at most 1 % above the snapshot", gas),
    "fork": Step("every test passes", fork),
    "suite": Step("every test passes", suite),
    "coverage": Step(f"lines {LINE_BOUND:.0%}, branches {BRANCH_BOUND:.0%}", coverage),
    "mutation": Step(f"{MUTATION_BOUND:.0%} killed, every survivor explained", mutation),
}


def take(name: str, long: bool) -> Outcome:
    """Run a step. A step that cannot run has failed; the steps after it still run."""
    try:
        return STEPS[name].run(long)
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        return Outcome(False, f"did not run: {type(error).__name__}: {error}")


def main() -> int:
    """Run the profile's steps and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=list(PROFILES), default="full")
    parser.add_argument("--report", type=Path, default=WORK / "report.md")
    parser.add_argument("--only", choices=list(STEPS), action="append", help="only these steps")
    arguments = parser.parse_args()
    chosen = arguments.only or PROFILES[arguments.profile]
    table, sections, passed = [], [], True
    for index, name in enumerate(chosen, start=1):
        step = STEPS[name]
        print(f"[{index}/{len(chosen)}] {name}: {(step.run.__doc__ or '').strip()}", flush=True)
        started = time.monotonic()
        outcome = take(name, arguments.profile == "full")
        seconds = time.monotonic() - started
        passed = passed and outcome.passed
        verdict = "holds" if outcome.passed else "**FAILED**"
        print(f"[{index}/{len(chosen)}] {name}: {verdict}, {outcome.summary} ({seconds:.0f} s)", flush=True)
        if not outcome.passed:
            print(end_of_log(name), flush=True)
        table.append(f"| {name} | {step.bound} | {outcome.summary} | {verdict} | {seconds:.0f} |")
        sections.append(
            f"## {name}: {verdict}\n\n{step.run.__doc__}\n\n{outcome.summary}\n\n{outcome.details}\n"
        )
        write(arguments.report, arguments.profile, table, sections, passed and index == len(chosen))
    print(f"{'every bound holds' if passed else 'a bound does not hold'}; report: {arguments.report}")
    return 0 if passed else 1


def write(path: Path, profile: str, table: list[str], sections: list[str], passed: bool) -> None:
    """The report so far; it says that every bound holds only when all was run."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    head = (
        f"# Audit report ({profile})\n\n"
        f"Sources: {commit or 'no repository'}. Verdict: {'every bound holds' if passed else 'not every bound holds'}.\n\n"
        "| step | bound | found | verdict | seconds |\n| --- | --- | --- | --- | --- |"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *table, "", *sections]))


if __name__ == "__main__":
    sys.exit(main())
