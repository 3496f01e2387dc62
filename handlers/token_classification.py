"""Labels for the tokens of a text, and the entities that they make up."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass
from transformers import AutoModelForTokenClassification

from device_io import STRICT
from entities import Piece, find_entities, resolve_overlaps
from text_examples import AnswerForm, Example, impossible
from text_task import UnderstandingTask
from text_tokens import Row, Tokens, cut_windows, merge_windows
from text_windows import Scored

# Neighbouring windows share this part of their room, unless the YAML or the request says more.
SHARED_PART = 4


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
        ignored = ["O"] if wanted.ignore_labels is None else wanted.ignore_labels
        return find_entities(
            self._pieces(example.text, tokens, scored),
            self.model.labels,
            wanted.aggregation_strategy,
            ignored,
            self.tokenizer.convert_tokens_to_string,
        )

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
