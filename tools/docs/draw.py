"""Draws docs/pictures/: `python -m tools.docs.draw` writes the pictures, `--check` only says which no longer fit the code.

`rooms.svg` comes from the code: rooms and layers from pyproject.toml, imports from the import graph, descriptions from
docstrings. `processes.svg` is laid out by hand; queues and contracts in it come from the code.
"""

import ast
import re
import sys
import tomllib
from pathlib import Path

import grimp

from offchain.keeper.process.celery import CHAIN_QUEUES, WORK_QUEUES
from tools.docs.svg import Picture

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs/pictures"
PACKAGES = ("offchain", "webapp")
CELL, TOP, BAND, NAME, ABOUT = 23, 120, 12, 44, 155
MAX_ABOUT = 66


def layers() -> list[tuple[list[str], bool]]:
    """Rooms that exist, layer by layer from the top, as import-linter reads them, and whether a layer's rooms may
    import each other (`:` in pyproject.toml) or not (`|`)."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rule = next(one for one in settings if one["type"] == "layers")
    found = []
    for layer in rule["layers"]:
        rooms = [room for room in re.findall(r"[\w.]+", layer) if source_of(room).is_file()]
        found.append((rooms, "|" not in layer))
    return found


def source_of(room: str) -> Path:
    """The file that holds a room's docstring: a package's `__init__`, or the module itself."""
    path = ROOT / room.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def about(room: str) -> str:
    """The first sentence of a room's docstring; of a long one the part before a colon, or as many words as fit."""
    words = (ast.get_docstring(ast.parse(source_of(room).read_text())) or "").replace("\n", " ")
    sentence = re.split(r"\.(?:\s|$)", words, maxsplit=1)[0]
    if len(sentence) > MAX_ABOUT and len(head := sentence.partition(":")[0]) > MAX_ABOUT // 3:
        sentence = head
    return sentence if len(sentence) <= MAX_ABOUT else sentence[: MAX_ABOUT - 3].rsplit(" ", 1)[0] + " ..."


def imports(rooms: list[str]) -> set[tuple[str, str]]:
    """Pairs (importing room, imported room)."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found = set()
    for module in graph.modules:
        importer = _room_of(module, rooms)
        for imported in graph.find_modules_directly_imported_by(module):
            room = _room_of(imported, rooms)
            if importer and room and importer != room:
                found.add((importer, room))
    return found


def _room_of(module: str, rooms: list[str]) -> str | None:
    return next((room for room in rooms if module == room or module.startswith(room + ".")), None)


def draw_rooms() -> str:
    """Layers as bands; in each room's row a dot below every room that it imports."""
    found = layers()
    rooms = [room for layer, _ in found for room in layer]
    grid = ABOUT + int(MAX_ABOUT * 6.6)
    width = grid + CELL * len(rooms) + 70
    height = TOP + CELL * len(rooms) + BAND * len(found) + 16
    picture = Picture(width, height, "Rooms, layers and imports of offchain/ and webapp/")
    picture.write(20, 32, "Rooms and their imports", "title")
    picture.write(
        20, 54, "Layers from the top, as import-linter holds them. A dot: the room of this row", "small"
    )
    picture.write(20, 70, "imports the room of this column. No dot lies below its layer's squares:", "small")
    picture.write(
        20, 86, "imports point down, or sideways within a layer; from a room with * only down.", "small"
    )
    rows, y = dict[str, float](), float(TOP)
    for number, (layer, free) in enumerate(found):
        picture.rectangle(14, y, width - 84, CELL * len(layer) + 4, "band")
        picture.write(24, y + 18, str(len(found) - number), "small")
        for room in layer:
            rows[room] = y + 13
            mark = "" if free or len(layer) == 1 else " *"
            picture.write(NAME, y + 18, _short(room) + mark, "bold")
            picture.write(ABOUT, y + 18, about(room), "small")
            y += CELL
        y += BAND
    _draw_grid(picture, rooms, rows, grid)
    return picture.text()


def _draw_grid(picture: Picture, rooms: list[str], rows: dict[str, float], grid: float) -> None:
    columns = {room: grid + CELL * (number + 0.5) for number, room in enumerate(rooms)}
    bottom = max(rows.values())
    for room in rooms:
        picture.line((columns[room], TOP - 4), (columns[room], bottom + 12), kind="grid", tip=False)
        picture.write(columns[room] + 4, TOP - 8, _short(room), "small", turn=-55)
        picture.rectangle(columns[room] - 5, rows[room] - 5, 10, 10, "self", radius=2)
    for importer, imported in sorted(imports(rooms)):
        picture.dot(columns[imported], rows[importer])


def _short(room: str) -> str:
    return room.removeprefix("offchain.")


def contracts() -> list[str]:
    """Names of the deployed contracts: those that lie directly in contracts/."""
    return sorted(path.stem for path in (ROOT / "contracts").glob("*.sol"))


def draw_processes() -> str:
    """Who runs what, and what goes over the wire between them."""
    picture = Picture(1180, 800, "Processes of the network and what they say to each other")
    picture.write(20, 32, "Processes and what they say to each other", "title")
    _draw_parties(picture)
    _draw_gateway_and_node(picture)
    _draw_keeper(picture)
    _draw_chain(picture)
    return picture.text()


def _draw_parties(picture: Picture) -> None:
    picture.box(20, 80, 170, 58, "Requester", "any OpenAI client")
    picture.line((190, 109), (328, 109))
    picture.label(259, 109, "OpenAI's API,", "API key")
    picture.box(20, 408, 190, 74, "Dashboard", "dashboard start", "pages over the index")
    picture.line((210, 445), (328, 445))
    picture.label(269, 445, "reads the", "index")
    picture.line((115, 482), (115, 548))
    picture.label(115, 515, "pages, ready-made calls")
    picture.box(20, 548, 190, 58, "Operator's wallet", "browser, or node claim")
    picture.line((115, 606), (115, 690), (318, 690))
    picture.label(140, 668, "stake, claims, appeals:", "each signed by the owner")


def _draw_gateway_and_node(picture: Picture) -> None:
    picture.rectangle(330, 58, 300, 238, "group")
    picture.write(342, 78, "Gateway operator", "small")
    picture.box(344, 88, 272, 58, "gateway start", "one or many; admits, picks a node, checks")
    picture.box(344, 156, 122, 58, "batch process", "once an epoch")
    picture.box(474, 156, 142, 58, "gateway worker", "Celery, /v1/batches")
    picture.box(344, 224, 272, 58, "Redis", "tenants, quotas, fleet, records (optional)")
    picture.rectangle(880, 58, 280, 238, "group")
    picture.write(892, 78, "Node operator's machine", "small")
    picture.box(894, 88, 252, 58, "node start", "agent: tickets, slots, receipts")
    picture.box(894, 156, 252, 58, "launcher", "one a model server; ends it with the agent")
    picture.box(894, 224, 252, 58, "vllm serve", "on loopback, random key")
    picture.line((1020, 146), (1020, 156))
    picture.line((1020, 214), (1020, 224))
    picture.line((616, 104), (892, 104))
    picture.label(754, 104, "request with a ticket")
    picture.line((892, 130), (618, 130))
    picture.label(754, 130, "answer, MAC, signed receipt")
    picture.line((1160, 250), (1172, 250), (1172, 720), (1162, 720))
    picture.label(1118, 345, "reads the chain")
    picture.line((880, 190), (632, 190))
    picture.label(754, 196, "signed heartbeats,", "dialled connections")


def _draw_keeper(picture: Picture) -> None:
    picture.rectangle(330, 378, 520, 238, "group")
    picture.write(342, 398, "Keeper (one of many, bonded): keeper start and its child processes", "small")
    picture.box(344, 408, 180, 74, "database", "SQLite or PostgreSQL:", "index, outbox, evidence")
    picture.box(536, 408, 140, 74, "Valkey", "broker, live fleet", "(or own Redis)")
    picture.box(688, 408, 148, 74, "api", "evidence, proposals,", "bundles, heartbeats")
    picture.box(344, 492, 240, 58, "chain", " ".join(CHAIN_QUEUES))
    picture.box(596, 492, 240, 58, "work", " ".join(WORK_QUEUES))
    picture.box(344, 560, 492, 42, "beat", "")
    picture.write(394, 579, "the schedule; one at a time", "small")
    picture.line((480, 378), (480, 298))
    picture.label(480, 338, "probes, as any requester;", "execution batches")
    picture.line((370, 296), (370, 376))
    picture.label(366, 320, "reads index")
    picture.line((940, 296), (940, 360), (790, 360), (790, 406))
    picture.label(930, 330, "signed heartbeats")
    picture.line((838, 445), (938, 445), both=True)
    picture.label(889, 432, "evidence,", "proposals")
    picture.box(
        940, 408, 220, 74, "Other keepers", "each rebuilds the report and", "signs it, or says why not"
    )
    picture.box(940, 520, 220, 58, "Auditor", "epoch verify | statement | proof")
    picture.line((940, 549), (900, 549), (900, 470), (838, 470))
    picture.label(900, 520, "bundle")


def _draw_chain(picture: Picture) -> None:
    picture.rectangle(320, 664, 840, 116, "group")
    picture.write(332, 684, "Chain, behind one or more RPC endpoints", "small")
    names = contracts()
    for number, name in enumerate(names):
        column, row = number % 4, number // 4
        picture.box(332 + 205 * column, 694 + 40 * row, 198, 32, name)
    picture.line((464, 616), (464, 662), both=True)
    picture.label(464, 640, "logs in; reports, fulfilments, rollovers out")
    picture.line((1050, 578), (1050, 662))
    picture.label(1050, 628, "reads at one block")


DRAWINGS = {"rooms.svg": draw_rooms, "processes.svg": draw_processes}


def main() -> int:
    """Write all pictures; with `--check` write none, and return 1 when one has to be drawn again."""
    stale = []
    for name, draw in DRAWINGS.items():
        path, text = PICTURES / name, draw()
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            PICTURES.mkdir(exist_ok=True)
            path.write_text(text)
    print(
        f"docs/pictures: {', '.join(stale) or 'nothing'} {'is stale' if '--check' in sys.argv else 'drawn'}"
    )
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
