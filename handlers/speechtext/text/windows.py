"""Windows of tokens as tensors: run by the model in groups of like length, and given back."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from speechtext.allowance import check_time
from speechtext.batching import plan_groups
from speechtext.cpu.openvino_network import OpenVinoModel
from speechtext.finite import check_finite
from speechtext.measurements import note_padding, stage
from speechtext.text.payloads import Example
from speechtext.text.tokens import Window

# Tokens in a call of the model, at most, for each thread of a processor, and what a call costs
# beside them, counted in tokens: so many may be padding before another call is cheaper. A processor
# is fastest while what each core computes fits in its caches. BERT-base takes 8 texts of 150 tokens
# on one thread of an Intel Xeon with AMX in 404 ms in one call and in 359 ms in two (int8; bfloat16
# 407 and 409), on two threads of an AMD EPYC in 324 and 342 (bfloat16 519 and 552). On a GPU a call
# is dear.
CPU_TOKENS, CPU_CALL_TOKENS = 640, 32
GPU_TOKENS, GPU_CALL_TOKENS = 16_384, 1024


class Scored(NamedTuple):
    """A window and the model's output heads for it, float32, on the CPU, without padding."""

    window: Window
    heads: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class EncodedBatch:
    """Windows and the examples that they were cut from, as tensors of shape (windows, tokens).

    Windows that were encoded elsewhere are of examples without a text.
    """

    windows: Sequence[Window]
    examples: Sequence[Example]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor

    def inputs(self, names: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
        """Return the model's inputs, those that it has a name for, on its device."""
        return {name: getattr(self, name).to(device) for name in names}

    def count_tokens(self, owner: int) -> int:
        """Return how many tokens the model reads of an example, in all of its windows."""
        return sum(len(window) for window in self.windows if window.owner == owner)


def pad_batch(
    windows: Sequence[Window], examples: Sequence[Example], pad_id: int, side: str = "right"
) -> EncodedBatch:
    """Return windows as tensors, padded to the longest of them, on one side."""
    return EncodedBatch(
        windows,
        examples,
        input_ids=pad_rows([window.pick(window.tokens.ids) for window in windows], pad_id, side),
        attention_mask=pad_rows([[1] * len(window) for window in windows], 0, side),
        token_type_ids=pad_rows([w.pick(w.tokens.type_ids) for w in windows], 0, side),
    )


def pad_rows(rows: Sequence[Sequence[int]], value: int, side: str = "right") -> torch.Tensor:
    """Return rows of numbers as a tensor, shape (rows, longest)."""
    longest = max(map(len, rows), default=0)
    # One array of all: a tensor for each row, joined, takes several times as long.
    padded = np.full((len(rows), longest), value)
    for index, row in enumerate(rows):
        start = longest - len(row) if side == "left" else 0
        padded[index, start : start + len(row)] = row
    return torch.from_numpy(padded)


def find_input_names(model: Any, tokenizer: Any) -> list[str]:
    """Return which of the tokenizer's outputs the model takes, in the order of its arguments."""
    if isinstance(model, OpenVinoModel):
        arguments = list(model.input_names)
    elif isinstance(model, torch.jit.ScriptModule):
        schema: Any = model.forward.schema  # type: ignore[attr-defined]
        arguments = [argument.name for argument in schema.arguments]
    else:
        arguments = list(inspect.signature(model.forward).parameters)
    made = {"input_ids", "attention_mask", *tokenizer.model_input_names}
    return [name for name in arguments if name in made]


def score_windows(
    model: Any,
    batch: EncodedBatch,
    input_names: Sequence[str],
    device: torch.device,
    most_tokens: int | None,
    per_token: bool,
    pads: bool = True,
) -> list[Scored]:
    """Run the model on windows in groups of like length; return each one's heads, in their order.

    The windows are padded on the right, or in groups of one length where the model `pads` none.
    `per_token` says that the heads have a value for each token. Raises `NonFiniteOutputError` and
    `DeadlineError`.
    """
    lengths = [len(window) for window in batch.windows]
    on_cpu = device.type == "cpu"
    most_tokens = most_tokens or _default_tokens(on_cpu)
    call_tokens = CPU_CALL_TOKENS if on_cpu else GPU_CALL_TOKENS
    inputs = batch.inputs(input_names, torch.device("cpu"))
    scored: dict[int, Scored] = {}
    for group in plan_groups(lengths, most_tokens, call_tokens if pads else 0):
        check_time()
        width = max(lengths[index] for index in group)
        note_padding(width * len(group), sum(lengths[index] for index in group))
        with stage("model"):
            heads = run_heads(
                model, {name: each[group, :width].to(device) for name, each in inputs.items()}
            )
        finite = all(bool(head.isfinite().all()) for head in heads)
        for row, index in enumerate(group):
            own = pick_row(heads, row, lengths[index], per_token)
            # What is behind a row's own tokens does not matter.
            for head in () if finite else own:
                check_finite(head)
            scored[index] = Scored(batch.windows[index], tuple(own))
    return [scored[index] for index in range(len(lengths))]


def _default_tokens(on_cpu: bool) -> int:
    """Return the tokens in a call of the model, at most, where no setting says so."""
    return min(GPU_TOKENS, CPU_TOKENS * torch.get_num_threads()) if on_cpu else GPU_TOKENS


def run_heads(model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the model's output heads, float32, on the CPU, each of shape (rows, ...)."""
    return tuple(head.float().cpu() for head in heads_of(model(**inputs)))


def pick_row(
    heads: Sequence[torch.Tensor], row: int, length: int, per_token: bool
) -> list[torch.Tensor]:
    """Return what the heads say of a row of so many tokens, without padding."""
    return [head[row, :length] if per_token else head[row] for head in heads]


def heads_of(output: Any) -> list[torch.Tensor]:
    """Return the output heads of a model of transformers, or of a TorchScript one."""
    heads = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [head for head in heads if isinstance(head, torch.Tensor)]
