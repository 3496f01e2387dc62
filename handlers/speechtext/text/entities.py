"""From scores of tokens to entities, by the five strategies of the pipeline "token-classification".

The names are those of transformers: `simple` groups neighbouring tokens of the same kind; `first`,
`average` and `max` first give the tokens of a word one label.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

Join = Callable[[list[str]], str]
# The scores of a word, of shape (labels,), from those of its
# tokens, of shape (tokens, labels).
WORD_SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "first": lambda scores: scores[0],
    "average": lambda scores: scores.mean(dim=0),
    "max": lambda scores: scores[scores.amax(dim=1).argmax()],
}


class ScoredToken(NamedTuple):
    """A token of a text: its characters, its position among all, a probability for each label.

    `continues` tells that it belongs to the same word as the token before it.
    """

    word: str
    start: int
    end: int
    position: int
    continues: bool
    scores: torch.Tensor


class Labelled(NamedTuple):
    """A token or a word with its label."""

    label: str
    score: float
    word: str
    start: int
    end: int
    position: int


def label_tokens(tokens: Iterable[ScoredToken], labels: Mapping[int, str]) -> list[Labelled]:
    """Return each token with its most probable label."""
    return [_label(each, each.word, each.end, each.scores, labels) for each in tokens]


def label_words(
    tokens: Iterable[ScoredToken], labels: Mapping[int, str], strategy: str, join: Join
) -> list[Labelled]:
    """Return each word with the label that a strategy of `WORD_SCORES` gives it."""
    return [
        _label(
            word[0],
            join([token.word for token in word]),
            word[-1].end,
            WORD_SCORES[strategy](torch.stack([token.scores for token in word])),
            labels,
        )
        for word in _split(tokens, lambda _, token: not token.continues)
    ]


def _label(
    first: ScoredToken, word: str, end: int, scores: torch.Tensor, labels: Mapping[int, str]
) -> Labelled:
    best = int(scores.argmax())
    return Labelled(labels[best], float(scores[best]), word, first.start, end, first.position)


def group_entities(labelled: Iterable[Labelled], join: Join) -> list[dict[str, Any]]:
    """Return runs of the same kind of entity as one each; a label `B-` begins a new one."""
    return [
        {
            "entity_group": run[0].label.split("-", 1)[-1],
            "score": sum(each.score for each in run) / len(run),
            "word": join([each.word for each in run]),
            "start": run[0].start,
            "end": run[-1].end,
        }
        for run in entity_runs(labelled)
    ]


def entity_runs(labelled: Iterable[Labelled]) -> Iterator[list[Labelled]]:
    """Yield the tokens or words of each entity, and of each stretch of text without one."""
    return _split(labelled, _begins_entity)


def _begins_entity(last: Labelled, each: Labelled) -> bool:
    return each.label.startswith("B-") or _kind(each.label) != _kind(last.label)


def _kind(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def find_entities(
    tokens: Sequence[ScoredToken],
    labels: Mapping[int, str],
    strategy: str,
    ignored: Collection[str],
    join: Join,
) -> list[dict[str, Any]]:
    """Return the entities of a text as the pipeline of transformers has them."""
    if strategy == "none":
        named = label_tokens(tokens, labels)
        return [_as_token(each) for each in named if each.label not in ignored]
    words = strategy in WORD_SCORES
    named = label_words(tokens, labels, strategy, join) if words else label_tokens(tokens, labels)
    groups = group_entities(named, join)
    return [each for each in groups if each["entity_group"] not in ignored]


def _as_token(each: Labelled) -> dict[str, Any]:
    return {
        "entity": each.label,
        "score": each.score,
        "index": each.position,
        "word": each.word,
        "start": each.start,
        "end": each.end,
    }


def resolve_overlaps(entities: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entities of overlapping windows once each: of two, the longer or likelier one."""
    resolved: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda each: each["start"]):
        last = resolved[-1] if resolved else None
        if last is None or not last["start"] <= entity["start"] < last["end"]:
            resolved.append(entity)
        elif _weight(entity) > _weight(last):
            resolved[-1] = entity
    return resolved


def _weight(entity: Mapping[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


def _split(items: Iterable[Any], begins: Callable[[Any, Any], bool]) -> Iterator[list[Any]]:
    """Yield runs of items; `begins(last, item)` tells that an item begins a new one."""
    run: list[Any] = []
    for item in items:
        if run and begins(run[-1], item):
            yield run
            run = []
        run.append(item)
    if run:
        yield run
