"""Rules of the source itself, checked on its syntax trees."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

ADAPTER = "penstock/selectors/adapter.py"
"""The one module that examines plug-ins: it finds out which optional members they have."""

KERNEL = "one numba kernel, whose cache is invalidated file by file"

LONG: dict[str, str] = {
    "penstock/selectors/kernels/ngram.py": KERNEL,
    "penstock/selectors/kernels/wordpiece.py": KERNEL,
    "penstock/selectors/kmq.py": "the selector, its refinement, and the parameters of both",
}
"""Modules of more than 450 lines, and why."""

PEERS = {"apricot", "datatrove", "gguf", "litdata", "model2vec", "streaming"}
"""Peers of the benchmarks, which are not installed with Penstock."""

DEEPSPEED = "penstock/trainers/backends/deepspeed"


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of each file of the package, by path below the repository."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for path in sorted(ROOT.glob("penstock/**/*.py"))
    }


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported, not those in functions."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            continue
        for block in ("body", "orelse", "handlers"):
            if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                yield from at_import(getattr(statement, block, []))


def test_no_import_circles() -> None:
    modules = {module_of(path) for path in trees()}
    needs: dict[str, set[str]] = {}
    for path, tree in trees().items():
        named: set[str] = set()
        for statement in at_import(tree.body):
            if isinstance(statement, ast.Import):
                named |= {alias.name for alias in statement.names}
            elif isinstance(statement, ast.ImportFrom):
                assert statement.level == 0, f"{path}: a relative import"
                module = str(statement.module)
                found = {f"{module}.{alias.name}" for alias in statement.names}
                named |= found & modules if found <= modules else found | {module}
        needs[module_of(path)] = named & modules - {module_of(path)}
    assert sum(map(len, needs.values())) > 300
    order = list(graphlib.TopologicalSorter(needs).static_order())  # CycleError names a circle
    assert set(order) == modules


def test_class_names_are_unique() -> None:
    """A leading underscore makes no difference: a reader searches for the name."""
    files = defaultdict(set)
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                files[node.name.lstrip("_")].add(path)
    assert len(files) > 200
    assert {name: sorted(paths) for name, paths in files.items() if len(paths) > 1} == {}


def protocols() -> dict[str, set[str]]:
    """Return the members of each protocol that a plug-in implements, by its name."""
    found = {}
    for path, tree in trees().items():
        if not path.startswith(("penstock/selectors/", "penstock/trainers/backends/")):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases):
                members = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                members |= {
                    one.target.id
                    for one in node.body
                    if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                }
                found[node.name] = members
    return found


def test_plugs_are_examined_in_the_adapter_alone() -> None:
    """Elsewhere a plug's members are those of its protocol, so that a type checker sees them."""
    plugs = protocols()
    members = set().union(*plugs.values())
    assert {"Scorer", "SetSelector", "Rewriter", "Reweighter"} <= plugs.keys()
    assert {"score", "assign", "identity"} <= members
    found = []
    for path, tree in trees().items():
        if path == ADAPTER:
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Name("getattr" | "hasattr"), args=[_, ast.Constant(name), *_]
                ):
                    bad = name in members
                case ast.Call(func=ast.Name("isinstance" | "issubclass"), args=[_, kinds]):
                    names = {n.id for n in ast.walk(kinds) if isinstance(n, ast.Name)}
                    bad = bool(names & plugs.keys())
                case ast.ExceptHandler(type=ast.expr() as caught):
                    bad = "AttributeError" in ast.unparse(caught)
                case _:
                    bad = False
            if bad:
                found.append(f"{path}:{node.lineno}: {ast.unparse(node).splitlines()[0]}")
    assert found == []


def test_deepspeed_is_named_by_its_back_end() -> None:
    """Four files more: the back end's name in the recipe, in the list of back ends, in maps."""
    named = [
        path
        for path in trees()
        if not path.startswith(DEEPSPEED)
        and re.search("deepspeed", (ROOT / path).read_text(), re.IGNORECASE)
    ]
    assert len(named) <= 4, named


OPENERS = re.compile(
    r"\b(?:pa|pyarrow)\.memory_map|\bipc\.(?:open_|read_|Record)"
    r"|\bpq\.(?:Parquet(?:File|Dataset)|read_)|\bfeather\b|pyarrow\.dataset|from pyarrow"
)
COLUMNAR = "penstock/columnar/"


def test_arrow_and_parquet_are_opened_in_one_room() -> None:
    """What Arrow reads is used only after it was validated."""
    opened = {path: OPENERS.findall((ROOT / path).read_text()) for path in trees()}
    assert sum(bool(found) for path, found in opened.items() if path.startswith(COLUMNAR)) >= 2
    elsewhere = {p: found for p, found in opened.items() if found and not p.startswith(COLUMNAR)}
    assert elsewhere == {}


def test_numpy_files_are_read_without_pickle() -> None:
    calls = [
        (path, {word.arg: ast.unparse(word.value) for word in node.keywords})
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("np.load", "open_memmap"))
    ]
    assert len(calls) >= 3
    wrong = [path for path, words in calls if words.get("allow_pickle") != "False"]
    assert wrong == []


ROOMS = {
    "penstock",
    *(f"penstock/{name}" for name in ("pipeline", "rules", "selectors", "trainers", "jobs")),
}


def packages() -> list[Path]:
    return sorted((ROOT / path).parent for path in trees() if path.endswith("/__init__.py"))


def test_rooms_open_with_a_map() -> None:
    """The docstring of a room is a tree that names its folders; files that it names exist."""
    wrong = []
    for package in packages():
        at = package.relative_to(ROOT).as_posix()
        text = ast.get_docstring(trees()[f"{at}/__init__.py"])
        assert text, f"{at}: no docstring"
        there = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
        there |= {path.name for path in package.rglob("*.py")}
        named = set(re.findall(r"[\w/]+\.py(?!\w)", text))
        wrong += [
            f"{at}: the map names {name}"
            for name in sorted(named - there)
            if not (ROOT / name).exists()
        ]
        if at in ROOMS:
            folders = {path.parent.name for path in package.glob("*/__init__.py")}
            seen = set(re.findall(r"(\w+)/", text))
            wrong += [f"{at}: the map lacks {name}/" for name in sorted(folders - seen)]
            wrong += [f"{at}: no tree"] * ("::" not in text)
    assert {f"{path.relative_to(ROOT)}" for path in packages()} >= ROOMS
    assert wrong == []


def test_every_module_lists_what_it_exports() -> None:
    wrong = []
    for path, tree in trees().items():
        if path == "penstock/__main__.py":
            continue
        lists = [
            ast.literal_eval(statement.value)
            for statement in tree.body
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
        ]
        if not lists:
            if not path.endswith("/__init__.py") or len(tree.body) > 1:
                wrong.append(f"{path}: no __all__")
        elif path != "penstock/__init__.py":  # which gets its names when they are first used
            wrong += [f"{path}: no {name}" for name in set(lists[0]) - defined_by(tree)]
    assert wrong == []


def test_long_modules_have_a_reason() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in trees()}
    assert {path for path, lines in lengths.items() if lines > 450} == LONG.keys()


def defined_by(tree: ast.Module) -> set[str]:
    """Return the names that a module defines or imports at its top level."""
    names: set[str] = set()
    for statement in at_import(tree.body):
        match statement:
            case ast.Assign(targets=targets):
                names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            case ast.AnnAssign(target=ast.Name(name)):
                names.add(name)
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in aliases}
    return names


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of each ``from penstock... import name`` of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("penstock"):
            yield from ((str(node.module), alias.name) for alias in node.names)


def test_benchmarks_and_examples_import_what_exists() -> None:
    files = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")]
    names = {module_of(path): defined_by(tree) for path, tree in trees().items()}
    wrong, seen = [], 0
    for path in files:
        for module, name in imports(path):
            seen += 1
            front = module == "penstock" and name in ast.unparse(trees()["penstock/__init__.py"])
            if not (front or f"{module}.{name}" in names or name in names.get(module, ())):
                wrong.append(f"{path.name}: no {name} in {module}")
    assert seen > 30
    assert wrong == []


def test_benchmarks_start_without_their_peers() -> None:
    """``--help``, and the line on how to get a peer, must not need any of them."""
    wrong = []
    for path in sorted(ROOT.glob("benchmarks/*.py")):
        for statement in at_import(ast.parse(path.read_text()).body):
            match statement:
                case ast.Import(names=aliases):
                    modules = [alias.name for alias in aliases]
                case ast.ImportFrom(module=str(module)):
                    modules = [module]
                case _:
                    modules = []
            roots = {module.split(".")[0] for module in modules} - {"benchmarks"}
            wrong += [f"{path.name}: {root}" for root in roots & PEERS]
    assert wrong == []


def test_long_tests_exist() -> None:
    from tests import conftest

    assert [name for name in conftest.LONG if not (ROOT / "tests" / name).is_file()] == []


PRINTING = re.compile(
    r"print|(click|console|err|out)\.(echo|secho|print)|.*\.(stdout|stderr)\.write|"
    r".*console\.Console|logging\.(getLogger|warning|error|info)|warnings\.warn"
)

PRINTERS = {
    "penstock/jobs/terminal.py: print",
    "penstock/display.py: logging.getLogger",
    "penstock/jobs/job_server.py: logging.getLogger",  # sets a level of Ray's
    "penstock/trainers/backends/deepspeed/engine.py: logging.getLogger",  # one of DeepSpeed's
    "penstock/selectors/classifiers/fasttext.py: warnings.warn",  # a text of our own
    "penstock/testing.py: warnings.warn",  # in a test of the user's, with a name of the user's
}
"""The calls that print or log; all others go through them."""


def test_one_module_prints() -> None:
    """Another that printed would print what acts on the terminal."""
    calls = {
        f"{path}: {ast.unparse(node.func)}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, (ast.Name, ast.Attribute))
        and PRINTING.fullmatch(ast.unparse(node.func))
    }
    assert calls == PRINTERS
