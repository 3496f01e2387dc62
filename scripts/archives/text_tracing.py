"""Text models as TorchScript."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from archives.errors import SourceError
from speechtext.text.windows import find_input_names

TRACED_TOLERANCE = 1e-4


class Traced(NamedTuple):
    """A model as TorchScript, the names of its inputs, and an example of them."""

    script: torch.jit.ScriptModule
    input_names: Sequence[str]
    example: tuple[torch.Tensor, ...]


class _Heads(torch.nn.Module):
    """A model that takes its inputs in a fixed order and returns its heads alone."""

    def __init__(self, model: Any, input_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.input_names = list(input_names)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        values = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        output = self.model(**{name: values[name] for name in self.input_names})
        return tuple(head for head in output.to_tuple() if isinstance(head, torch.Tensor))


def trace_text_model(model: Any, tokenizer: Any) -> Traced:
    """Return a model as TorchScript, for any number of rows of any length.

    It is traced with two rows of unlike length, so that neither size becomes a constant, and tried
    with one of another. Raises `SourceError` where the two models do not agree on it.
    """
    names = find_input_names(model, tokenizer)
    _keep_no_cache(model)
    texts = ["a few words", "a few more words than that, and a mark"]
    heads = _Heads(model, names).eval()
    example = _tokenize(tokenizer, texts, names)
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing says of each size that it reads that it might become a constant.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(heads, example, strict=False)
        other = _tokenize(tokenizer, [" ".join(texts)], names)
        for found, expected in zip(traced(*other), heads(*other), strict=True):
            if not torch.allclose(found, expected, atol=TRACED_TOLERANCE):
                raise SourceError(
                    f"Expected a model that can be traced, got a {type(model).__name__} whose "
                    "TorchScript depends on the length of its texts; use save_mode: pretrained."
                )
    return Traced(traced, names, example)


def _keep_no_cache(model: Any) -> None:
    """Let decoders keep nothing for a next call: OpenVINO has no type for it."""
    for module in model.modules():
        # Those of T5's encoder and decoder are copies.
        if hasattr(getattr(module, "config", None), "use_cache"):
            module.config.use_cache = False


def _tokenize(tokenizer: Any, texts: list[str], names: Sequence[str]) -> tuple[torch.Tensor, ...]:
    rows = tokenizer(texts, padding=True, return_tensors="pt")
    return tuple(rows[name] for name in names)
