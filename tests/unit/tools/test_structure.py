"""Each rule of tools/lint/structure.py bites on a small made-up tree, and lets a good one pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.lint.structure import MAX_FUNCTION_LINES, MAX_MODULES, check

ROOT = Path(__file__).resolve().parents[3]


def tree(root: Path, **modules: str) -> list[str]:
    """Findings in a product of these modules of offchain/, for example `room__a` for offchain/room/a.py."""
    for name, text in modules.items():
        write(root, f"offchain/{name.replace('__', '/', 1)}.py", text)
    return [str(finding) for finding in check(root)]


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def function(lines: int, name: str = "work", head: str = "def {}():") -> str:
    return "\n".join([head.format(name), *["    pass"] * (lines - 1), ""])


@pytest.mark.parametrize("head", ["def {}():", "async def {}():"])
def test_function__one_line_too_long__is_found_where_it_begins(tmp_path: Path, head: str) -> None:
    found = tree(tmp_path, a="work()\n" + function(MAX_FUNCTION_LINES + 1, head=head))
    assert found == ["offchain/a.py:2: work has 61 lines, 60 at most; split it by what its parts do"]


def test_function__just_short_enough__passes(tmp_path: Path) -> None:
    assert tree(tmp_path, a="work()\n" + function(MAX_FUNCTION_LINES)) == []


@pytest.mark.parametrize(
    ("begin", "end", "name"),
    [
        ("export function draw(chart) {", "}", "draw"),
        ("export async function draw(chart) {", "}", "draw"),
        ("const draw = async (chart) => {", "};", "draw"),
        ('document.addEventListener("click", () => {', "});", "a function"),
    ],
)
def test_script__function_too_long__is_found(tmp_path: Path, begin: str, end: str, name: str) -> None:
    body = ["  if (chart) {", "    draw();", "  }"] * 20
    write(tmp_path, "webapp/assets/src/chart.js", "\n".join(["", begin, *body, end, ""]))
    [found] = tree(tmp_path)
    assert found.startswith(f"webapp/assets/src/chart.js:2: {name} has 62 lines")


def test_script__many_short_functions__pass(tmp_path: Path) -> None:
    write(tmp_path, "webapp/assets/src/chart.js", "function one() {\n  two();\n}\n" * 40)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("suffix", [".py", ".sol", ".js"])
def test_folder__one_module_too_many__is_found(tmp_path: Path, suffix: str) -> None:
    for number in range(MAX_MODULES + 1):
        write(tmp_path, f"tests/room/module_{number}{suffix}", "")
    [found] = tree(tmp_path)
    assert found.startswith("tests/room:1: 15 modules in a folder, 14 at most")


def test_folder__beside_what_is_no_module__passes(tmp_path: Path) -> None:
    for number in range(MAX_MODULES):
        write(tmp_path, f"tests/room/module_{number}.py", "")
    for name in ("__init__.py", "conftest.py", "data.json", "page.html", "README.md"):
        write(tmp_path, f"tests/room/{name}", "")
    for number in range(MAX_MODULES + 1):
        write(tmp_path, f"offchain/db/migrations/versions/{number}.py", "")
    assert tree(tmp_path) == []


def test_class__name_of_another_public_one__is_found_with_the_first(tmp_path: Path) -> None:
    write(tmp_path, "webapp/b.py", "class Lease: pass\n")
    [found] = tree(tmp_path, a="\nclass Lease: pass\n")
    assert found.startswith("webapp/b.py:1: the class Lease has the name of offchain/a.py:2")


def test_class__private_or_in_a_tool__may_share_a_name(tmp_path: Path) -> None:
    write(tmp_path, "webapp/b.py", "class _Lease: pass\n")
    write(tmp_path, "tools/c.py", "class Lease: pass\n")
    assert tree(tmp_path, a="class _Lease: pass\nclass Lease: pass\n") == []


UNUSED = {
    "a function that nobody names": "def idle(): pass\n",
    "a method": "class Thing:\n    def idle(self): pass\nThing()\n",
    "one that calls only itself": "def idle(): idle()\n",
    "one that is only assigned to": "def idle(): pass\nthing.idle = 1\n",
    "a method whose name is a variable elsewhere": "idle = 1\nprint(idle)\nclass Thing:\n    def idle(self): pass\n",
    "a function whose name is an attribute elsewhere": "def idle(): pass\nprint(thing.idle)\n",
    "one that is only exported": "def idle(): pass\n__all__ = ['idle']\n",
    "one that a sentence names": "def idle(): pass\nprint('this is idle')\n",
    "a property": "class Thing:\n    @property\n    def idle(self): return 1\n",
    "an override of a class of ours": "class Thing(Base):\n    def idle(self): pass\n",
}


@pytest.mark.parametrize("text", UNUSED.values(), ids=UNUSED)
def test_function__without_a_caller__is_found(tmp_path: Path, text: str) -> None:
    [found] = tree(tmp_path, a=text)
    assert "idle has no caller in the product" in found
    line = next(number for number, one in enumerate(text.splitlines(), 1) if "def idle" in one)
    assert found.startswith(f"offchain/a.py:{line}: ")


def test_function__only_exported_by_its_package__is_found(tmp_path: Path) -> None:
    found = tree(tmp_path, room____init__="from offchain.room.a import idle\n", room__a="def idle(): pass\n")
    assert len(found) == 1


@pytest.mark.parametrize(
    "use",
    [
        "from offchain.room.a import busy\nbusy()\n",
        "from offchain.room import busy\nbusy()\n",
        "from offchain.room import a\na.busy()\n",
        "from offchain.room import a as other\nother.busy()\n",
        "import offchain.room.a as other\nother.busy()\n",
    ],
)
def test_function__used_by_another_module__passes(tmp_path: Path, use: str) -> None:
    export = "from offchain.room.a import busy\n"
    assert tree(tmp_path, room____init__=export, room__a="def busy(): pass\n", b=use) == []


USED = {
    "a call": "def busy(): pass\nbusy()\n",
    "a method's call": "class Thing:\n    def busy(self): pass\nThing().busy()\n",
    "a name in another module's string": "def busy(): pass\nstart('offchain.a:busy')\n",
    "an import under another name": "def busy(): pass\nfrom offchain.a import busy as other\nother()\n",
    "a command": "@cli.command()\ndef busy(): pass\n",
    "a task": "@app.task\ndef busy(): pass\n",
    "a validator": "class Thing:\n    @field_validator('x')\n    @classmethod\n    def busy(cls): pass\n",
    "a dunder": "class Thing:\n    def __len__(self): return 1\n",
    "a protocol's callback": "class Thing(asyncio.Protocol):\n    def data_received(self, data): pass\n",
    "an override of a library's generic class": (
        "class Thing(TypeDecorator[int]):\n    def process_bind_param(self, value): pass\n"
    ),
    "an override of a library's class": "class Thing(threading.Thread):\n    def run(self): pass\n",
}


@pytest.mark.parametrize("text", USED.values(), ids=USED)
def test_function__with_a_caller_or_a_library_behind_it__passes(tmp_path: Path, text: str) -> None:
    assert tree(tmp_path, a=text) == []


def test_function__called_by_a_test_alone__is_found(tmp_path: Path) -> None:
    write(tmp_path, "tests/unit/test_a.py", "idle()\n")
    assert len(tree(tmp_path, a="def idle(): pass\n")) == 1


@pytest.mark.parametrize("name", ["webapp/templates/page.html", "pyproject.toml"])
def test_function__named_by_a_template_or_an_entry_point__passes(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "{{ row.busy }}")
    assert tree(tmp_path, a="def busy(): pass\n") == []


def test_command__finding__prints_one_line_and_exits_with_1(tmp_path: Path) -> None:
    write(tmp_path, "offchain/a.py", "def idle(): pass\n")
    command = [sys.executable, "-m", "tools.lint.structure"]
    bad = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    (tmp_path / "offchain/a.py").write_text("")
    good = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout.count("\n"), bad.stderr) == (1, 1, "")
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
