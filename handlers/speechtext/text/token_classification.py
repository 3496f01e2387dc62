"""Labels for the tokens of a text, and the entities that they make up."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from transformers import AutoModelForTokenClassification

from speechtext.allowance import check_time
from speechtext.parameters import impossible
from speechtext.ranges import Count
from speechtext.settings import STRICT
from speechtext.text.base import own_tokens, too_long, write_words
from speechtext.text.entities import (
    Labelled,
    ScoredToken,
    entity_runs,
    find_entities,
    label_tokens,
    resolve_overlaps,
)
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.payloads import AnswerForm, Example, unknown_target
from speechtext.text.tokens import Tokens, Window, cut_windows, merge_windows
from speechtext.text.understanding import UnderstandingTask
from speechtext.text.windows import Scored

# Neighbouring windows share this part of their room, unless the YAML or the request says more.
SHARED_PART = 4
# A word of a text, or a mark.
WORD = re.compile(r"\w+|[^\w\s]")
# The label of what is no entity.
NO_ENTITY = "O"


@dataclass(frozen=True, config=STRICT)
class TokenParameters:
    """What a request may ask for; `stride` needs a strategy that makes entities."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "none"
    ignore_labels: list[str] | None = None
    stride: Count | None = None

    def __post_init__(self) -> None:
        if self.stride is not None and self.aggregation_strategy == "none":
            raise impossible("aggregation_strategy", "other than none with a stride", "none")


class TokenClassification(UnderstandingTask):
    """`[token, label]` pairs of the text's own tokens, or its entities."""

    auto_model = AutoModelForTokenClassification
    parameters = TokenParameters
    has_labels = True
    per_token = True
    reads_whole = True

    def sample(self, words: int) -> dict[str, Any]:
        """Return a text of so many words, with the first of them to be explained."""
        return {"inputs": {"text": write_words(words), "target": [1, 0]}}

    def cut(self, owner: int, tokens: Tokens, example: Example) -> list[Window]:
        """Return the windows over a text."""
        room = self.max_tokens - tokens.count(None)
        stride = self.choose_stride(example.parameters.stride, room // SHARED_PART, room)
        windows = cut_windows(tokens, 0, self.max_tokens, stride)
        return [Window(tokens, positions, owner) for positions in windows]

    def decode(self, example: Example, scored: Sequence[Scored]) -> list[Any]:
        """Return the pairs, or what the pipeline "token-classification" gives."""
        if example.form is AnswerForm.PLAIN:
            logits = merge_windows([(each.window, each.heads[0]) for each in scored], 0)
            names = self._name_tokens(scored[0].window.tokens, logits)
            best = torch.stack([*logits.values()]).argmax(dim=1).tolist() if logits else []
            labels = [self.model.labels[index] for index in best]
            return [list(pair) for pair in zip(names, labels, strict=True)]
        if example.parameters.stride is None:
            return self._find(example, scored)
        found = [entity for each in scored for entity in self._find(example, [each])]
        return resolve_overlaps(found) if len(scored) > 1 else found

    def _find(self, example: Example, scored: Sequence[Scored]) -> list[dict[str, Any]]:
        # Beside a stride there may be thousands of windows.
        check_time()
        wanted = example.parameters
        ignored = [NO_ENTITY] if wanted.ignore_labels is None else wanted.ignore_labels
        return find_entities(
            self._score_tokens(example.text, scored),
            self.model.labels,
            wanted.aggregation_strategy,
            ignored,
            self.tokenizer.convert_tokens_to_string,
        )

    def choose_targets(self, example: Example, scored: Sequence[Scored]) -> list[Target]:
        """Return the token and label asked for, else each entity.

        An entity is explained by the label of its first token.
        """
        if len(scored) > 1:
            raise too_long("a text to explain", self.max_tokens, len(scored[0].window.tokens.ids))
        window, (logits, *_) = scored[0]
        labelled = label_tokens(self._score_tokens(example.text, scored), self.model.labels)
        if example.target is not None:
            return [self._target(window, logits, [self._find_asked(example, window, labelled)])]
        runs = [run for run in entity_runs(labelled) if run[0].label != NO_ENTITY]
        return [
            self._target(window, logits, run)
            for run in runs[: self.settings.max_explanation_targets]
        ]

    def _find_asked(
        self, example: Example, window: Window, labelled: Sequence[Labelled]
    ) -> Labelled:
        """Return the token and label that a target names, in one of three ways."""
        target, labels = example.target, self.model.labels
        if isinstance(target, str):
            found = self._find_word(example.text, target, labelled)
        elif not isinstance(target, list | tuple) or len(target) != 2:
            found = None
        elif all(type(each) is int for each in target):
            found = self._find_indices(window, *target)
        else:
            found = self._find_pair(example.text, target, labelled)
        if found is None:
            raise unknown_target(
                "a word of the text, a pair of one of its tokens and one of "
                f"{', '.join(labels.values())}, or a pair of the index of a token below "
                f"{len(window)} and that of a label below {len(labels)}"
            )
        return found

    def _find_word(self, text: str, target: str, labelled: Sequence[Labelled]) -> Labelled | None:
        # Nothing is found everywhere.
        first = find_word(text, target) if target.strip() else -1
        return next((each for each in labelled if 0 <= first < each.end), None)

    def _find_pair(
        self, text: str, target: Sequence[Any], labelled: Sequence[Labelled]
    ) -> Labelled | None:
        name, label = target
        if label not in self.model.labels.values():
            return None
        named = (each for each in labelled if name in (each.word, text[each.start : each.end]))
        return next((each._replace(label=label) for each in named), None)

    def _find_indices(self, window: Window, position: int, label: int) -> Labelled | None:
        """Return the token at a position of the model's input, special tokens counted."""
        if not 0 <= position < len(window) or label not in self.model.labels:
            return None
        tokens = window.tokens
        name = self.tokenizer.convert_ids_to_tokens(tokens.ids[position])
        return Labelled(self.model.labels[label], 0.0, name, *tokens.offsets[position], position)

    def _target(self, window: Window, logits: torch.Tensor, run: Sequence[Labelled]) -> Target:
        first = run[0]
        label = next(index for index, name in self.model.labels.items() if name == first.label)
        about = {
            "word": self.tokenizer.convert_tokens_to_string([each.word for each in run]),
            "start": first.start,
            "end": run[-1].end,
        }
        probability = float(logits[first.position].softmax(dim=-1)[label])
        logit_index = first.position * logits.shape[1] + label
        own = own_tokens(window)
        return Target(window, 0, logit_index, first.label, own, probability, about=about)

    def describe(self, example: Example, explained: Sequence[Explained]) -> dict[str, Any]:
        """Return what an answer tells about the target asked for, or about each entity."""
        if example.target is not None:
            return super().describe(example, explained)
        return {
            "entities": [
                {**each.facts(), "importances": each.importances, "delta": each.delta}
                for each in explained
            ]
        }

    def _name_tokens(self, tokens: Tokens, positions: Iterable[int]) -> list[str]:
        ids = [tokens.ids[position] for position in positions]
        names: list[str] = self.tokenizer.convert_ids_to_tokens(ids)
        return names

    def _score_tokens(self, text: str, scored: Sequence[Scored]) -> list[ScoredToken]:
        """Return the tokens of the text that are in these windows."""
        tokens = scored[0].window.tokens
        scores = merge_windows([(each.window, each.heads[0].softmax(-1)) for each in scored], 0)
        names = self._name_tokens(tokens, scores)
        return [
            self._score_token(text, name, tokens, position, own)
            for name, (position, own) in zip(names, scores.items(), strict=True)
        ]

    def _score_token(
        self, text: str, name: str, tokens: Tokens, position: int, scores: torch.Tensor
    ) -> ScoredToken:
        start, end = tokens.offsets[position]
        if tokens.ids[position] == self.tokenizer.unk_token_id:
            return ScoredToken(text[start:end], start, end, position, False, scores)
        if getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None):
            continues = len(name) != end - start
        else:
            # Without a mark of its own, a piece continues a word where no space is before it.
            continues = start > 0 and " " not in text[start - 1 : start + 1]
        return ScoredToken(name, start, end, position, continues, scores)


def find_word(text: str, word: str) -> int:
    """Return where a text has a word, or several, first: between others, else in one; -1 if not."""
    spans = [each.span() for each in WORD.finditer(text)]
    ends = {end for _, end in spans}
    alone = (
        start for start, _ in spans if text.startswith(word, start) and start + len(word) in ends
    )
    return next(alone, text.find(word))
