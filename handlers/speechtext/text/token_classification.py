"""Labels for the tokens of a text, and the entities that they make up."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass
from transformers import AutoModelForTokenClassification

from speechtext.settings import STRICT
from speechtext.text.base import UnderstandingTask, own_tokens, too_long
from speechtext.text.entities import (
    Labelled,
    Piece,
    entity_runs,
    find_entities,
    label_pieces,
    resolve_overlaps,
)
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.payloads import AnswerForm, Example, impossible, unknown_target
from speechtext.text.tokens import Row, Tokens, cut_windows, merge_windows
from speechtext.text.windows import Scored

# Neighbouring windows share this part of their room, unless the YAML or the request says more.
SHARED_PART = 4
# The label of what is no entity.
NO_ENTITY = "O"


@dataclass(frozen=True, config=STRICT)
class TokenParameters:
    """What a request may ask for; `stride` needs a strategy that makes entities."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "none"
    ignore_labels: list[str] | None = None
    stride: Annotated[int, KeyOptions(ge=0)] | None = None

    def __post_init__(self) -> None:
        if self.stride is not None and self.aggregation_strategy == "none":
            raise impossible("aggregation_strategy", "other than none with a stride", "none")


class TokenClassification(UnderstandingTask):
    """`[token, label]` pairs of the text's own tokens, or its entities."""

    auto_model = AutoModelForTokenClassification
    parameters = TokenParameters
    has_labels = True
    per_token = True

    def cut(self, owner: int, tokens: Tokens, example: Example) -> list[Row]:
        """Return the windows over a text."""
        room = self.max_tokens - tokens.count(None)
        stride = self.choose_stride(example.parameters.stride, room // SHARED_PART, room)
        windows = cut_windows(tokens, 0, self.max_tokens, stride)
        return [Row(tokens, places, owner) for places in windows]

    def decode(self, example: Example, scored: Sequence[Scored]) -> list[Any]:
        """Return the pairs, or what the pipeline "token-classification" gives."""
        tokens = scored[0].row.tokens
        if example.form is AnswerForm.PLAIN:
            logits = merge_windows([(each.row, each.heads[0]) for each in scored], 0)
            names = self.tokenizer.convert_ids_to_tokens([tokens.ids[place] for place in logits])
            best = torch.stack([*logits.values()]).argmax(dim=1).tolist() if logits else []
            labels = [self.model.labels[index] for index in best]
            return [list(pair) for pair in zip(names, labels, strict=True)]
        if example.parameters.stride is None:
            return self._find(example, tokens, scored)
        found = [entity for each in scored for entity in self._find(example, tokens, [each])]
        return resolve_overlaps(found) if len(scored) > 1 else found

    def _find(
        self, example: Example, tokens: Tokens, scored: Sequence[Scored]
    ) -> list[dict[str, Any]]:
        wanted = example.parameters
        ignored = [NO_ENTITY] if wanted.ignore_labels is None else wanted.ignore_labels
        return find_entities(
            self._pieces(example.text, tokens, scored),
            self.model.labels,
            wanted.aggregation_strategy,
            ignored,
            self.tokenizer.convert_tokens_to_string,
        )

    def choose_targets(self, example: Example, scored: Sequence[Scored]) -> list[Target]:
        """Return a `[token, label]` pair or the label of a word, as asked for, else each entity.

        An entity is explained by the label of its first token.
        """
        if len(scored) > 1:
            raise too_long("a text to explain", self.max_tokens, len(scored[0].row.tokens.ids))
        row, (logits, *_) = scored[0]
        labelled = label_pieces(self._pieces(example.text, row.tokens, scored), self.model.labels)
        if example.target is not None:
            place, label = self._find_asked(example, labelled)
            return [self._target(row, logits, [labelled[place]._replace(label=label)])]
        runs = [run for run in entity_runs(labelled) if run[0].label != NO_ENTITY]
        return [
            self._target(row, logits, run) for run in runs[: self.settings.max_explanation_targets]
        ]

    def _find_asked(self, example: Example, labelled: Sequence[Labelled]) -> tuple[int, str]:
        target, labels = example.target, self.model.labels.values()
        if isinstance(target, list) and len(target) == 2 and target[1] in labels:
            for index, each in enumerate(labelled):
                if target[0] in (each.word, example.text[each.start : each.end]):
                    return index, target[1]
        if isinstance(target, str) and target in example.text:
            first = example.text.index(target)
            for index, each in enumerate(labelled):
                if each.end > first:
                    return index, each.label
        raise unknown_target(
            f"a word of the text, or a pair of one of its tokens and one of {', '.join(labels)}"
        )

    def _target(self, row: Row, logits: torch.Tensor, run: Sequence[Labelled]) -> Target:
        first = run[0]
        label = next(index for index, name in self.model.labels.items() if name == first.label)
        about = {
            "word": self.tokenizer.convert_tokens_to_string([each.word for each in run]),
            "start": first.start,
            "end": run[-1].end,
        }
        probability = float(logits[first.place].softmax(dim=-1)[label])
        place = first.place * logits.shape[1] + label
        return Target(row, 0, place, first.label, own_tokens(row), probability, about=about)

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

    def _pieces(self, text: str, tokens: Tokens, scored: Sequence[Scored]) -> list[Piece]:
        logits = merge_windows([(each.row, each.heads[0]) for each in scored], 0)
        names = self.tokenizer.convert_ids_to_tokens(tokens.ids)
        return [
            self._piece(text, names[place], tokens, place, each.softmax(dim=-1))
            for place, each in logits.items()
        ]

    def _piece(
        self, text: str, name: str, tokens: Tokens, place: int, scores: torch.Tensor
    ) -> Piece:
        start, end = tokens.offsets[place]
        if tokens.ids[place] == self.tokenizer.unk_token_id:
            return Piece(text[start:end], start, end, place, False, scores)
        if getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None):
            continues = len(name) != end - start
        else:
            # Without a mark of its own, a piece continues a word where no space is before it.
            continues = start > 0 and " " not in text[start - 1 : start + 1]
        return Piece(name, start, end, place, continues, scores)
