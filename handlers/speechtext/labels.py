"""The labels of a model: their names, and their scores."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch

# What transformers calls the problems that have other scores than probabilities of one label.
MULTI_LABEL, REGRESSION = "multi_label_classification", "regression"
LABELS_FILE = "index_to_name.json"
# Keys of TorchServe's examples, under which all names are in order: a list, or "[O, B-PER]".
NAMES_IN_ORDER = ("object_type_names", "label_list")


def load_labels(folder: Path, config: Any) -> dict[int, str]:
    """Return the name of each label: `index_to_name.json`, else the model's own `id2label`.

    A name may be a list, as ImageNet's are, of which TorchServe takes the last (see
    `ts.utils.util.load_label_mapping`). Raises `ValueError` for a label without a name, and for a
    name without a label.
    """
    path = folder / LABELS_FILE
    if not path.exists():
        return _read_names("config.json: id2label", config.id2label, config.num_labels)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{LABELS_FILE}: expected JSON, got a damaged file: {error}.") from error
    if not isinstance(names, dict):
        kind = type(names).__name__
        raise ValueError(f"{LABELS_FILE}: expected a JSON object, got a {kind}.")
    return _read_names(LABELS_FILE, _by_index(names), config.num_labels)


def find_label(labels: Mapping[int, str], asked: Any) -> int:
    """Return the label that a target names, -1 where there is none.

    A number is an index; a text is a name, and else an index, as forms have no numbers.
    """
    if type(asked) is int:
        return asked if asked in labels else -1
    by_name = (index for index, name in labels.items() if name == asked)
    by_index = (index for index in labels if str(index) == asked)
    return next(chain(by_name, by_index), -1)


def _by_index(names: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in NAMES_IN_ORDER:
        given = names.get(key)
        if isinstance(given, str):
            given = [name.strip() for name in given.strip("[] ").split(",")]
        if isinstance(given, list):
            return {str(index): name for index, name in enumerate(given)}
    return names


def _read_names(where: str, names: Mapping[Any, Any], count: int) -> dict[int, str]:
    given = {str(index): name for index, name in names.items()}
    if given.keys() != {str(index) for index in range(count)}:
        keys = f"those of {', '.join(given)[:100]}" if given else "none"
        raise ValueError(f"{where}: expected names of the labels 0 to {count - 1}, got {keys}.")
    # Several may have the same: classes that their owner tells as one.
    return {index: _read_name(where, index, given[str(index)]) for index in range(count)}


def _read_name(where: str, index: int, name: Any) -> str:
    last = name[-1] if isinstance(name, list) and name else name
    if not isinstance(last, str | int | float):
        kind = type(last).__name__
        raise ValueError(f"{where}: expected a text as the name of label {index}, got a {kind}.")
    return str(last)


def choose_function(problem: str | None, single: bool = False) -> str:
    """Return which function makes scores of logits, as pipelines choose it for a model's problem.

    A `single` label has a probability of its own in the pipelines of texts.
    """
    if problem == REGRESSION:
        return "none"
    return "sigmoid" if problem == MULTI_LABEL or single else "softmax"


def to_scores(logits: torch.Tensor, function: str) -> torch.Tensor:
    """Return the scores of labels, shape (labels,), by the function of that name."""
    if function == "softmax":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if function == "sigmoid" else logits


def rank_labels(
    scores: torch.Tensor, labels: Mapping[int, str], most: int | None
) -> list[dict[str, Any]]:
    """Return the labels with the highest scores, the highest first."""
    order = sorted(range(len(scores)), key=lambda index: -float(scores[index]))
    return [{"label": labels[index], "score": float(scores[index])} for index in order[:most]]
