"""Full-size text models, texts of so many tokens for them, and their archives."""

import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from archives.configs import read_configs
from benchmarks.random_text_models import write_line, write_random_model
from serving.local import LocalModel, build_with_settings, load_archive

BATCH = 8
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "auto": {"dtype": "auto"},
    "int8_dynamic": {"quantization": "int8_dynamic"},
}


@contextmanager
def full_size_bert() -> Iterator[tuple[Path, Any]]:
    """Write a BERT of the published size; yield its folder, in an empty one, and its tokenizer."""
    with tempfile.TemporaryDirectory() as workspace:
        folder = write_random_model(
            Path(workspace) / "bert", "bert", "sequence_classification", tiny=False
        )
        yield folder, AutoTokenizer.from_pretrained(folder)


def texts_of(tokenizer: Any, tokens: int, count: int) -> list[str]:
    """Return texts that have that many tokens, special ones included."""
    chance = random.Random(0)
    texts: list[str] = []
    own = tokens - tokenizer.num_special_tokens_to_add()
    while len(texts) < count:
        words = write_line(chance, tokens)
        pieces = tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)
        text = words[: pieces["offset_mapping"][own - 1][1]]
        if len(tokenizer(text)["input_ids"]) == tokens:
            texts.append(text)
    return texts


def load_variants(
    archive: str, folder: Path, threads: int, variants: Mapping[str, Mapping[str, Any]]
) -> dict[str, LocalModel]:
    """Return an archive's model with each of the settings."""
    config = read_configs()[archive]
    # What a demo model's YAML says of itself, and models of speech do not.
    others: dict[str, Any] = {"captum_explanation": False, "num_labels": None}
    own = {name: value for name, value in others.items() if name in config.handler_settings}
    own["threads"] = threads
    return {
        name: load_archive(
            build_with_settings(config, folder, folder.parent, **{**own, **settings})
        )
        for name, settings in variants.items()
    }
