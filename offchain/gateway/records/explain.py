"""`parallelix gateway explain`: tells a person what became of a request, and computes its decisions again."""

from typing import Any

from offchain.crypto.recovery import recover
from offchain.gateway.records.route_receipt import route_digest
from offchain.scheduler.pick import Decision, replay


def explain(record: dict[str, Any]) -> list[str]:
    """A request's record as lines of text: times, candidates with their costs, attempts."""
    usage = record["usage"]
    lines = [
        f"request   {record['request_id']}",
        f"status    {record['status']}, model {record['model']} (revision {record['revision'] or 'unknown'})",
        f"tokens    {usage['prompt_tokens']} in, {usage['completion_tokens']} out",
        f"time      {record['total_ms']:.1f} ms in all, {record['queue_ms']:.1f} ms in the queue",
    ]
    decisions = record["decisions"]
    for number, attempt in enumerate(record["attempts"]):
        if number < len(decisions):
            lines += _decision(decisions[number])
        first = attempt["first_byte_ms"]
        waited = "no byte came" if first is None else f"first byte after {first:.1f} ms"
        why = ": ".join(text for text in (attempt["reason"], attempt["detail"]) if text)
        lines.append(
            f"attempt {number + 1}: node {attempt['node_id']} {attempt['outcome']}{f' ({why})' if attempt['reason'] else ''}; {waited}, "
            f"{attempt['ms']:.1f} ms, {attempt['resumed_from']} events delivered before"
        )
    return lines


def _decision(data: dict[str, Any]) -> list[str]:
    pool = ", ".join(f"{count} nodes of up to {limit} slots" for limit, count, _ in data["pool"])
    region = data["region"]
    place = f"region {region}, tier {data['tier']}: {pool}" if region else "pinned to the node"
    lines = [f"  candidates from {place}; seed {data['seed']}, {len(data['draws'])} samples"]
    lines.extend(
        f"  {'*' if c['node_id'] == data['chosen'] else ' '} node {c['node_id']}: {c['busy']}/{c['slots']} busy, "
        + ("suspended" if c["cost_seconds"] is None else f"cost {1000 * c['cost_seconds']:.2f} ms")
        for c in data["candidates"]
    )
    return lines


def check(record: dict[str, Any]) -> list[str]:
    """What is wrong in a record: its signature, or a decision that does not follow from its seed. Empty when all holds."""
    wrong: list[str] = []
    try:
        signer = recover(route_digest(record), bytes.fromhex(str(record["signature"])[2:]))
        if signer != record["gateway"]:
            wrong.append(f"the record is signed by {signer}, not by {record['gateway']}")
    except (KeyError, ValueError) as error:
        wrong.append(f"the record's signature is unusable: {error}")
    for number, data in enumerate(record["decisions"]):
        decision = Decision.from_json(data)
        try:
            again = replay(decision)
        except ValueError as error:
            wrong.append(f"decision {number + 1}: {error}")
            continue
        if again != decision.chosen:
            wrong.append(f"decision {number + 1}: node {decision.chosen} was chosen, but {again} follows")
        if again != record["attempts"][number]["node_id"]:
            wrong.append(f"attempt {number + 1} went to another node than was chosen")
    return wrong
