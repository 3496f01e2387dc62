"""Rows of tokens as tensors: run by the model in groups of like length, given back one by one."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from speechtext.batching import plan_groups
from speechtext.measurements import note_padding, stage
from speechtext.text.payloads import Example
from speechtext.text.tokens import Row

# Tokens in a call of the model, at most, and what a call costs beside them, counted in tokens: so
# many may be padding before another call is cheaper. A processor is fastest while what it computes
# fits in its caches: on an Intel Xeon with AMX, BERT-base takes 8 texts of 150 tokens in 404 ms in
# one call and in 359 ms in two (int8; bfloat16 407 and 409). On a GPU a call is dear.
CPU_TOKENS, CPU_CALL_TOKENS = 640, 32
GPU_TOKENS, GPU_CALL_TOKENS = 16_384, 1024


class Scored(NamedTuple):
    """A row and the model's output heads for it, float32, on the CPU, without padding."""

    row: Row
    heads: tuple[torch.Tensor, ...]


class EncodedBatch(tuple[torch.Tensor, torch.Tensor]):
    """`(input_ids, attention_mask)`, each of shape (rows, tokens), with what they were made of.

    Rows that were encoded elsewhere have no `examples`.
    """

    rows: Sequence[Row]
    examples: Sequence[Example]
    token_type_ids: torch.Tensor

    def __new__(
        cls, rows: Sequence[Row], examples: Sequence[Example], pad_id: int, side: str
    ) -> "EncodedBatch":
        """Pad rows to the longest of them, on one side."""
        ids = pad_rows([row.pick(row.tokens.ids) for row in rows], pad_id, side)
        batch = super().__new__(cls, (ids, pad_rows([[1] * len(row) for row in rows], 0, side)))
        batch.token_type_ids = pad_rows([row.pick(row.tokens.type_ids) for row in rows], 0, side)
        batch.rows, batch.examples = rows, examples
        return batch

    def inputs(self, names: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
        """Return the model's inputs, those that it has a name for, on its device."""
        tensors = {
            "input_ids": self[0],
            "attention_mask": self[1],
            "token_type_ids": self.token_type_ids,
        }
        return {name: tensors[name].to(device) for name in names}


def pad_rows(rows: Sequence[Sequence[int]], value: int, side: str = "right") -> torch.Tensor:
    """Return rows of numbers as a tensor, shape (rows, longest)."""
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)


def find_input_names(model: Any, tokenizer: Any) -> list[str]:
    """Return which of the tokenizer's outputs the model takes, in the order of its arguments."""
    if isinstance(model, torch.jit.ScriptModule):
        schema: Any = model.forward.schema  # type: ignore[attr-defined]
        arguments = [argument.name for argument in schema.arguments]
    else:
        arguments = list(inspect.signature(model.forward).parameters)
    made = {"input_ids", "attention_mask", *tokenizer.model_input_names}
    return [name for name in arguments if name in made]


def score_rows(
    model: Any,
    batch: EncodedBatch,
    input_names: Sequence[str],
    device: torch.device,
    most_tokens: int | None,
    per_token: bool,
) -> list[Scored]:
    """Run the model on rows in groups of like length; return each row's heads, in their order.

    The rows are padded on the right. `per_token` says that the heads have a value for each token.
    """
    lengths = [len(row) for row in batch.rows]
    on_cpu = device.type == "cpu"
    most_tokens = most_tokens or (CPU_TOKENS if on_cpu else GPU_TOKENS)
    call_tokens = CPU_CALL_TOKENS if on_cpu else GPU_CALL_TOKENS
    inputs = batch.inputs(input_names, torch.device("cpu"))
    scored: dict[int, Scored] = {}
    for group in plan_groups(lengths, most_tokens, call_tokens):
        width = max(lengths[index] for index in group)
        note_padding(width * len(group), sum(lengths[index] for index in group))
        with stage("model"):
            heads = run_heads(
                model, {name: each[group, :width].to(device) for name, each in inputs.items()}
            )
        for place, index in enumerate(group):
            own = (head[place, : lengths[index]] if per_token else head[place] for head in heads)
            scored[index] = Scored(batch.rows[index], tuple(own))
    return [scored[index] for index in range(len(lengths))]


def run_heads(model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the model's output heads, float32, on the CPU, each of shape (rows, ...)."""
    return tuple(head.float().cpu() for head in heads_of(model(**inputs)))


def heads_of(output: Any) -> list[torch.Tensor]:
    """Return the output heads of a model of transformers, or of a TorchScript one."""
    heads = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [head for head in heads if isinstance(head, torch.Tensor)]
