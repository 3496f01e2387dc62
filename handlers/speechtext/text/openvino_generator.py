"""A network that OpenVINO runs token after token, and what it remembers of its rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from speechtext.cpu.openvino_network import OpenVinoModel
from speechtext.devices import CPU

if TYPE_CHECKING:
    import numpy.typing as npt
    from openvino import CompiledModel, InferRequest

    States = npt.NDArray[np.float32]

# What a file has beside a tokenizer's outputs: which row each row was before, and the positions of
# the tokens that logits are wanted of, counted from the first that is read.
ROW_ORDER, LOGIT_POSITIONS = "beam_idx", "logit_positions"


class OpenVinoCache:
    """The keys and values that a request of OpenVINO's keeps from call to call.

    Each has the shape (rows, heads, positions, features). Rows that leave take nothing with them
    before the next call.
    """

    has_rows = True
    is_compileable = False

    def __init__(self, request: "InferRequest") -> None:
        self._request = request
        self._length = 0
        # Where the rows of the next call are among those of the last one.
        self._order: list[int] = []

    def get_seq_length(self) -> int:
        """Return of how many positions there are keys and values."""
        return self._length

    def read(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return logits for further tokens, shape (rows, positions asked for, vocabulary).

        They are there until the next call.
        """
        rows, tokens = inputs["input_ids"].shape
        given = {name: each.numpy() for name, each in inputs.items()}
        order = np.array(self._order or range(rows), np.int32)
        found = self._request.infer(
            {**given, ROW_ORDER: order}, share_inputs=True, share_outputs=True
        )
        self._length += tokens
        self._order = []
        return torch.from_numpy(found[0])

    def add_rows(self, other: "OpenVinoCache") -> None:
        """Take the rows of another cache; what is shorter gets padding in front."""
        width = max(self._length, other._length)
        joined = [
            np.concatenate([_pad_front(each, width) for each in pair])
            for pair in zip(self._read_states(), other._read_states(), strict=True)
        ]
        self._write_states(joined)

    def keep_rows(self, kept: Sequence[int], first: int) -> None:
        """Forget all rows but those, and the positions before `first`."""
        self._order = [self._order[index] for index in kept] if self._order else list(kept)
        if first:
            self._change(lambda states: states[:, :, first:])

    def crop(self, positions: int) -> None:
        """Forget the last positions, -`positions` of them."""
        self._change(lambda states: states[:, :, :positions])

    def _change(self, change: Callable[["States"], "States"]) -> None:
        self._write_states([change(each) for each in self._read_states()])

    def _read_states(self) -> list["States"]:
        """Return the keys and values of the rows in their order, those of each layer."""
        found = [each.state.data for each in self._request.query_state()]
        return [each[self._order] for each in found] if self._order else found

    def _write_states(self, states: Sequence["States"]) -> None:
        from openvino import Tensor

        for variable, each in zip(self._request.query_state(), states, strict=True):
            variable.state = Tensor(np.ascontiguousarray(each))
        self._length, self._order = states[0].shape[2], []


class OpenVinoGenerator(OpenVinoModel, GenerationMixin):
    """Continues rows as a causal network of transformers does, with a cache of OpenVINO's."""

    device = CPU
    dtype = torch.float32
    main_input_name = "input_ids"
    _is_stateful = False

    def __init__(
        self, compiled: "CompiledModel", config: Any, generation_config: GenerationConfig
    ) -> None:
        super().__init__(compiled)
        self.config = config
        self.generation_config = generation_config

    def is_remote_code(self) -> bool:
        """Tell `GenerationMixin` that transformers has the class."""
        return False

    def make_cache(self) -> OpenVinoCache:
        """Return a cache of no rows."""
        return OpenVinoCache(self.compiled.create_infer_request())

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: OpenVinoCache,
        logits_to_keep: int = 1,
        **_options: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits for the last tokens, shape (rows, `logits_to_keep`, vocabulary)."""
        tokens = input_ids.shape[1]
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            LOGIT_POSITIONS: torch.arange(tokens - logits_to_keep, tokens),
        }
        taken = {name: given[name] for name in self.input_names if name in given}
        logits: Any = past_key_values.read(taken)
        cache: Any = past_key_values
        return CausalLMOutputWithPast(logits=logits, past_key_values=cache)


def is_generator(compiled: "CompiledModel") -> bool:
    """Tell whether a compiled model keeps keys and values."""
    return any(each.any_name == ROW_ORDER for each in compiled.inputs)


def _pad_front(states: "States", width: int) -> "States":
    return np.pad(states, ((0, 0), (0, 0), (width - states.shape[2], 0), (0, 0)))
