"""The house: what may know of whom."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

HANDLERS = Path(__file__).resolve().parent.parent / "handlers"
GATEWAY = HANDLERS.parent / "gateway"
CLUSTER = HANDLERS.parent / "cluster"
BULK = HANDLERS.parent / "bulk"
LIBRARY = HANDLERS / "speechtext"
ADAPTERS = {path.stem for path in HANDLERS.glob("*.py")}
SERVERS = {"ts", "model_archiver", "fastapi", "starlette", "uvicorn", "ray", "kserve", "werkzeug"}
# What TorchServe's context is asked for, and what only clients and protocols know.
FOREIGN = re.compile(
    r"system_properties|request_header|response_header|set_response|request_processor|HTTPStatus"
    r"|request_ids|\bcurl\b|https?://|127\.0\.0\.1|localhost|/predictions|/explanations"
)


def modules(folder: Path) -> dict[str, Path]:
    """Return the modules below a folder of handlers/, by dotted name."""
    return {name_of(path): path for path in sorted(folder.rglob("*.py"))}


def name_of(path: Path) -> str:
    parts = path.relative_to(HANDLERS).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("name", sorted(modules(LIBRARY)))
def test_library_knows_no_server(name: str) -> None:
    path = modules(LIBRARY)[name]
    imported = {each.partition(".")[0] for each in imports_of(path)}
    assert not imported & (SERVERS | ADAPTERS)
    assert not FOREIGN.findall(path.read_text(encoding="utf-8"))


def test_imports_have_no_circles() -> None:
    known = modules(HANDLERS)
    graph = {
        name: {each for each in imports_of(path) if each in known} for name, path in known.items()
    }
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(known)


def test_speech_and_text_do_not_know_each_other() -> None:
    for one, other in (("speech", "text"), ("text", "speech")):
        for path in (LIBRARY / one).rglob("*.py"):
            assert not [each for each in imports_of(path) if each.startswith(f"speechtext.{other}")]


@pytest.mark.parametrize("path", sorted(GATEWAY.rglob("*.py")), ids=lambda path: path.stem)
def test_gateway_knows_neither_handlers_nor_scripts_nor_pytorch(path: Path) -> None:
    imported = {each.partition(".")[0] for each in imports_of(path)}
    scripts = {each.stem for each in (HANDLERS.parent / "scripts").iterdir()}
    assert not imported & (ADAPTERS | scripts | {"speechtext", "torch", "torchaudio", "ts"})


@pytest.mark.parametrize(
    "path", sorted([*CLUSTER.rglob("*.py"), *BULK.rglob("*.py")]), ids=lambda path: path.stem
)
def test_what_an_archive_brings_is_imported_only_once_that_is_loaded(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    first = [each for each in tree.body if isinstance(each, ast.Import | ast.ImportFrom)]
    imported = {name for each in first for name in names_of(each)}
    # A job's driver needs no PyTorch.
    late = {"speechtext"} | ({"torch"} if BULK in path.parents else set())
    assert not imported & (ADAPTERS | late)


@pytest.mark.parametrize(
    "path", sorted([*CLUSTER.rglob("*.py"), *BULK.rglob("*.py")]), ids=lambda path: path.stem
)
def test_clusters_and_jobs_need_no_scripts(path: Path) -> None:
    imported = {each.partition(".")[0] for each in imports_of(path)}
    assert not imported & {"archives", "serving", "repository"}


def names_of(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Return the packages that a statement imports."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
    return {str(name).partition(".")[0] for name in names}


def test_protocols_know_no_particular_engine() -> None:
    for path in GATEWAY.rglob("*.py"):
        if path.stem != "command" and path.parent.name != "torchserve":
            assert not [each for each in imports_of(path) if "torchserve" in each], path.stem


@pytest.mark.parametrize("path", sorted(HANDLERS.glob("*_handler.py")), ids=lambda path: path.stem)
def test_handler_is_thin(path: Path) -> None:
    """TorchServe wants one class in a handler's module; what it does is elsewhere."""
    text = path.read_text(encoding="utf-8")
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert len(classes) == 1
    assert len(text.splitlines()) <= 130
