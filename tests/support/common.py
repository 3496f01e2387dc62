"""What tests of several kinds name."""

import json
import random
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor

from archives.handler_files import copy_handlers
from archives.text import stage_text
from benchmarks.random_text_models import write_line
from repository import ROOT
from serving.configuration import free_port, free_properties
from serving.local import LocalModel, load_archive
from trials.broken_audio import AUDIO

EXAMPLES = ROOT / "examples"
START_TIMEOUT_S = 300.0
# The class of a text archive's network, by the `save_mode` that its builder traces it for.
TRACED = {"torchscript": "RecursiveScriptModule", "openvino": "OpenVinoNetwork"}
LoadModel = Callable[[str], LocalModel]
# Made-up words that are nowhere but in requests.
SCRIPTS = {
    "Latin": "Xylophonia",
    "Chinese": "\u9f98\u9749\u4ef6",
    "Japanese": "\u306c\u3078\u30f1\u30f5",
    "Korean": "\ubdc1\uc5f5\ub5b1",
    "Arabic": "\u0636\u063a\u062b\u0638",
    "Hebrew": "\u05e6\u05e5\u05d8\u05e7",
    "Devanagari": "\u0922\u094d\u0920\u093f\u091e",
    "Thai": "\u0e0e\u0e34\u0e06\u0e4c\u0e11",
    "Cyrillic": "\u0429\u044a\u044d\u0444\u0446",
    "emoji": "\U0001f9a5\U0001fa90",
}
BROKEN_RECORDINGS = st.builds(
    lambda make, seed: make(random.Random(seed)), st.sampled_from(AUDIO), st.integers()
)


def load_text_model(
    source: Path, workspace: Path, gpu_id: int | None = None, **settings: Any
) -> LocalModel:
    """Load a text model with settings of its own, without the seconds that an archive takes."""
    folder = workspace / f"{source.name}-{len(list(workspace.iterdir()))}"
    (folder / "MAR-INF").mkdir(parents=True)
    weights = stage_text(str(source), folder, settings)
    copy_handlers(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump({"handler": {"threads": 1, **settings}}))
    model = {
        "modelName": "text",
        "serializedFile": weights,
        "handler": "transformers_handler.py",
        "modelVersion": "1.0",
        "configFile": "config.yaml",
    }
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
    return load_archive(folder, gpu_id)


def traces(text: str) -> set[str]:
    """Return what tells of a text in a log: itself, and its characters as Python may write them."""
    # Latin letters alone are everywhere.
    alone = [] if text.isascii() else list(text)
    numbered = {f"Glyph {ord(each)}" for each in alone}
    names = {unicodedata.name(each) for each in alone}
    return {text, ascii(text)[1:-1], quote(text), *alone, *numbered, *names}


def make_context(headers: Sequence[Mapping[str, str]]) -> Context:
    """Return the context of a batch of requests with these headers."""
    context = Context("model", "folder", {}, len(headers), None, "0.12")
    context.request_processor = [RequestProcessor(dict(each)) for each in headers]
    return context


def write_free_config(path: Path, **changes: str) -> dict[str, str]:
    """Write config.properties with free ports; return its keys."""
    properties = free_properties() | changes
    path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    return properties


def write_free_gateway(path: Path) -> Path:
    """Write the settings of a gateway with a free port; return the path."""
    path.write_text(f"port: {free_port()}\n")
    return path


def lines(count: int, most_words: int = 12, seed: int = 1) -> list[str]:
    """Return texts of made-up words."""
    chance = random.Random(seed)
    return [write_line(chance, chance.randint(1, most_words)) for _ in range(count)]


def pipeline_rows(inputs: Sequence[Any], **parameters: Any) -> list[dict[str, Any]]:
    """Return requests in the form of Hugging Face."""
    return [{"body": {"inputs": each, "parameters": parameters}} for each in inputs]


def answers(model: LocalModel, rows: list[dict[str, Any]]) -> list[Any]:
    """Return the answers to a batch of requests that all have one."""
    replies = model.answer(rows)
    assert {reply.status for reply in replies} == {200}
    return [reply.answer for reply in replies]


@contextmanager
def counted_calls(model: Any) -> Iterator[list[int]]:
    """Count the tokens of each call of a network."""
    calls: list[int] = []

    def count(_: Any, __: Any, keys: dict[str, Any]) -> None:
        calls.append(keys["input_ids"].shape[1])

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def assert_alike(found: Any, expected: Any) -> None:
    """Compare two answers; scores may differ by rounding."""
    assert type(found) is type(expected) or isinstance(expected, float)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_alike(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(expected, float):
        # A full-size network in float32 leaves up to 2e-5 between two orders of adding up.
        assert found == pytest.approx(float(expected), abs=5e-5)
    else:
        assert found == expected


def as_json(entity: dict[str, Any]) -> dict[str, Any]:
    """Return an entity with a score of Python's; the pipeline's are numpy's."""
    return {**entity, "score": float(entity["score"])}
