"""Rules of the house that no linter knows: short functions, small folders, nothing unused, one name for one class.

    python -m tools.lint.structure [FOLDER]

Prints one line for each finding (`file:line: what is wrong; what to do`) and exits with 1 when there is one. The code is read
as text, never imported.

A function is unused when nothing in the product reads its name outside its own definition. The product is PRODUCT and what it is
configured with (templates, pyproject.toml); tests are no callers. Methods are compared by name alone, so two methods of one name
keep each other: what this rule finds is unused, but it does not find everything.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

MAX_FUNCTION_LINES = 60
MAX_MODULES = 14
PRODUCT = ("offchain", "webapp", "scripts", "tools", "bench")
ROOMS = (*PRODUCT, "tests", "contracts")
SCRIPTS = "webapp/assets/src"
ONE_NAMESPACE = ("offchain", "webapp")
MODULES = (".py", ".sol", ".js")
NOT_COUNTED = ("__init__.py", "conftest.py")
GENERATED = ("__pycache__", ".cache", "node_modules", "offchain/db/migrations/versions", "webapp/static/dist")
"""Folders that hold no code of ours, or code that grows with time: migrations."""
CONFIGURATION = ("pyproject.toml", "*.html", "*.mako")

CALLED_BY_LIBRARIES = {
    r"__\w+__": "the interpreter calls it",
    r"pytest_\w+|test_\w+": "pytest calls it",
    r"visit_[A-Z]\w*": "ast.NodeVisitor calls it",
    r"do_[A-Z]+": "http.server calls it",
    r"(connection_(made|lost)|data_received|eof_received|(pause|resume)_writing|get_buffer|buffer_updated)": "asyncio calls it",
}
"""Patterns of whole names that a library looks for, each with who does."""
OVERRIDES = {
    "BaseApplication": r"(init|load|load_config)",  # gunicorn
    "BaseSettings": r"(settings_customise_sources)",  # pydantic-settings
    "ConnectedProviderCommand": r"(invoke)",  # Ape's command, a click command
    "Group": r"(format_commands|get_command|list_commands|resolve_command)",  # click
    "HTMLParser": r"(handle_data|handle_endtag|handle_starttag)",  # html.parser
    "MetaPathFinder": r"(find_spec)",  # importlib
    "RotatingFileHandler": r"(emit|handleError|doRollover)",  # logging
    "Thread": r"(run)",  # threading
    "TypeDecorator": r"(load_dialect_impl|process_bind_param|process_result_value)",  # SQLAlchemy
}
"""Patterns of the methods that a library calls, by the base class that promises it."""
PLAIN_DECORATORS = (
    r"(abstractmethod|asynccontextmanager|cache|cached_property|classmethod|contextmanager|lru_cache|override|property)"
    r"|(staticmethod|wraps)"
)
"""Decorators that leave calling to us. Any other one hands the function to a library: commands, tasks, routes, validators."""
SCRIPT_FUNCTIONS = [
    re.compile(rf"(?P<indent> *){pattern}")
    for pattern in (
        r"(export )?(default )?(async )?function\*? ?(?P<name>\w*)\(",
        r"(.*?(?P<name>\w+) = )?.*=> \{$",
        r"(async |static |get |set )*(?!(if|for|while|switch|catch)\b)(?P<name>\w+)\(.*\) \{$",
    )
]
"""How a function begins in JavaScript: with its keyword, as an arrow, or as a method."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Finding(NamedTuple):
    """One line of output."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass
class Module:
    """A Python file: its tree, and what it uses.

    Attributes:
        names: name -> lines on which it is read.
        attributes: attribute that is read -> lines.
        strings: word of a string that could name something -> lines.
        imported: (module, name) of what it uses of other modules: `("offchain.db.nodes", "all_of")`.
    """

    path: str
    tree: ast.Module
    modules: frozenset[str]
    names: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    attributes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    strings: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    imported: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        nodes = list(ast.walk(self.tree))
        aliases = self._aliases(nodes)
        # an export is no use, and neither is a docstring of one word
        idle = {
            id(node)
            for outer in nodes
            if _exports(outer) or isinstance(outer, ast.Expr)
            for node in _strings(outer)
        }
        for node in nodes:
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    self.names[name].append(node.lineno)
                case ast.Attribute(attr=name, value=ast.Name(id=base)) if base in aliases:
                    self.imported.add((aliases[base], name))
                case ast.Attribute(attr=name, ctx=ast.Load()):
                    self.attributes[name].append(node.lineno)
                case ast.Constant(value=str(text)) if id(node) not in idle and re.fullmatch(r"[\w.:]+", text):
                    for word in re.split(r"[.:]", text):
                        self.strings[word].append(node.lineno)

    def _aliases(self, nodes: Iterable[ast.AST]) -> dict[str, str]:
        """Name in this file -> module of ours that it stands for. Notes what is imported by name."""
        found = {}
        for node in nodes:
            if isinstance(node, ast.Import):
                found |= {
                    one.asname: one.name for one in node.names if one.asname and one.name in self.modules
                }
            elif isinstance(node, ast.ImportFrom):
                for one in node.names:
                    if f"{node.module}.{one.name}" in self.modules:
                        found[one.asname or one.name] = f"{node.module}.{one.name}"
                    elif not self.path.endswith("__init__.py"):  # there it is an export
                        self.imported.add((node.module or "", one.name))
        return found


def _exports(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(one, ast.Name) and one.id == "__all__" for one in node.targets
    )


def _strings(node: ast.AST) -> Iterator[ast.AST]:
    """The strings of an `__all__`, or the one that is a statement of its own."""
    if isinstance(node, ast.Assign):
        yield from ast.walk(node.value)
    elif isinstance(node, ast.Expr):
        yield node.value


def files(root: Path, folders: Iterable[str], *suffixes: str) -> Iterator[Path]:
    """Files of ours below these folders, sorted."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix in suffixes and not any(f"/{one}/" in f"/{name}" for one in GENERATED):
                yield path


def read(root: Path) -> list[Module]:
    """The Python files of the product."""
    paths = {path.relative_to(root).as_posix(): path for path in files(root, PRODUCT, ".py")}
    ours = frozenset(map(dotted, paths))
    return [Module(name, ast.parse(path.read_bytes()), ours) for name, path in paths.items()]


def long_functions(modules: Iterable[Module]) -> Iterator[Finding]:
    """Functions that are longer than one can read at a glance."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield from _too_long(module.path, node.lineno, node.name, lines)


def long_scripts(root: Path) -> Iterator[Finding]:
    """The same in JavaScript. Prettier has formatted it, so a block ends at the next `}` of its first line's indentation."""
    for path in files(root, [SCRIPTS], ".js"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            begin = next(filter(None, (pattern.match(line) for pattern in SCRIPT_FUNCTIONS)), None)
            if begin is None:
                continue
            closing = f"{begin['indent']}}}"
            end = next((at for at in range(number + 1, len(lines)) if lines[at].startswith(closing)), number)
            name = begin["name"] or "a function"
            yield from _too_long(path.relative_to(root).as_posix(), number + 1, name, end - number + 1)


def _too_long(path: str, line: int, name: str, lines: int) -> Iterator[Finding]:
    if lines > MAX_FUNCTION_LINES:
        yield Finding(
            path,
            line,
            f"{name} has {lines} lines, {MAX_FUNCTION_LINES} at most; split it by what its parts do",
        )


def large_folders(root: Path) -> Iterator[Finding]:
    """Folders in which one no longer finds a thing."""
    counts: dict[str, int] = defaultdict(int)
    for path in files(root, ROOMS, *MODULES):
        counts[path.parent.relative_to(root).as_posix()] += path.name not in NOT_COUNTED
    for folder, count in sorted(counts.items()):
        if count > MAX_MODULES:
            yield Finding(
                folder,
                1,
                f"{count} modules in a folder, {MAX_MODULES} at most; make a folder for those that belong together",
            )


def doubled_classes(modules: Iterable[Module]) -> Iterator[Finding]:
    """Public classes whose name another one has."""
    first: dict[str, str] = {}
    for module in modules:
        if not module.path.startswith(tuple(f"{room}/" for room in ONE_NAMESPACE)):
            continue
        for node in module.tree.body:
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                continue
            if node.name in first:
                yield Finding(
                    module.path,
                    node.lineno,
                    f"the class {node.name} has the name of {first[node.name]}; give one another name",
                )
            first.setdefault(node.name, f"{module.path}:{node.lineno}")


def unused_functions(root: Path, modules: list[Module]) -> Iterator[Finding]:
    """Functions and methods that nothing in the product names."""
    configured = {
        word
        for path in chain.from_iterable((*root.glob(name), *(root / "offchain").rglob(name), *(root / "webapp").rglob(name))
                                        for name in CONFIGURATION)
        for word in re.findall(r"\w+", path.read_text())
    }  # fmt: skip
    attributes, strings = _all(modules, "attributes"), _all(modules, "strings")
    imported = set().union(*(module.imported for module in modules))
    for module in modules:
        for function, owner in _definitions(module.tree):
            # a method is reached through an object, a function by its name or through its module
            uses = (
                attributes
                if owner
                else {function.name: [(module.path, line) for line in module.names[function.name]]}
            )
            own = range(function.lineno, (function.end_lineno or function.lineno) + 1)
            called = (
                any(
                    path != module.path or line not in own
                    for path, line in uses.get(function.name, []) + strings.get(function.name, [])
                )
                or function.name in configured
                or (
                    owner is None
                    and any((place, function.name) in imported for place in _places(module.path))
                )
            )
            if not called and not _called_by_library(function, owner):
                what = f"{owner.name}.{function.name}" if owner else function.name
                yield Finding(
                    module.path, function.lineno,
                    f"{what} has no caller in the product (tests are none); delete it, with the tests that hold only it",
                )  # fmt: skip


def _all(modules: Iterable[Module], kind: str) -> dict[str, list[tuple[str, int]]]:
    """What all modules use: name -> (path, line)."""
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for module in modules:
        for name, lines in getattr(module, kind).items():
            found[name] += [(module.path, line) for line in lines]
    return found


def _places(path: str) -> Iterator[str]:
    """From where a function of this file can be imported: its module, and the packages above, which may export it."""
    place = dotted(path)
    while place:
        yield place
        place = place.rpartition(".")[0]


def dotted(path: str) -> str:
    """`offchain.db` of `offchain/db/__init__.py`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _definitions(
    node: ast.AST, owner: ast.ClassDef | None = None
) -> Iterator[tuple[Function, ast.ClassDef | None]]:
    """Every function below a node, with the class whose method it is."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child, owner
        inner = (
            child if isinstance(child, ast.ClassDef) else owner if not isinstance(child, Function) else None
        )
        yield from _definitions(child, inner)


def _called_by_library(function: Function, owner: ast.ClassDef | None) -> bool:
    return (
        any(not re.fullmatch(PLAIN_DECORATORS, _last_name(one)) for one in function.decorator_list)
        or any(re.fullmatch(pattern, function.name) for pattern in CALLED_BY_LIBRARIES)
        or any(
            re.fullmatch(OVERRIDES.get(_last_name(base), ""), function.name)
            for base in (owner.bases if owner else ())
        )
    )


def _last_name(node: ast.expr) -> str:
    """`task` of `@app.task(bind=True)`, `TypeDecorator` of `TypeDecorator[int]`."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def check(root: Path) -> list[Finding]:
    """All findings below a folder, in the order of the files."""
    modules = read(root)
    return sorted(
        chain(
            long_functions(modules),
            long_scripts(root),
            large_folders(root),
            doubled_classes(modules),
            unused_functions(root, modules),
        )
    )


if __name__ == "__main__":
    found = check(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
    for finding in found:
        print(finding)
    sys.exit(1 if found else 0)
