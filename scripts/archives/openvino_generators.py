"""Networks that write a text token after token, as OpenVINO's, which keep keys and values.

OpenVINO calls such a model stateful. Keys and values of each row are read in the order that
`beam_idx` says, so that rows may leave.
"""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from archives.errors import SourceError
from speechtext.text.key_value_cache import has_rows, make_cache
from speechtext.text.openvino_generator import LOGIT_POSITIONS, ROW_ORDER

# Rows of the example that a network is traced with, their tokens before it, and those in it.
ROWS, BEFORE, NEW = 2, 3, 2
# What transformers' configurations call attention that OpenVINO can run.
ATTENTION = "openvino"


class _NextTokens(torch.nn.Module):
    """A network's logits, and the keys and values of all tokens by layer, in and out."""

    def __init__(self, network: Any, takes_positions: bool) -> None:
        super().__init__()
        self.network = network
        self.takes_positions = takes_positions

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        row_order: torch.Tensor,
        logit_positions: torch.Tensor,
        *before: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Return logits, and keys and values of each layer: (rows, heads, tokens, features)."""
        cache = DynamicCache()
        cache.layers = [
            _make_layer(keys.index_select(0, row_order), values.index_select(0, row_order))
            for keys, values in zip(before[::2], before[1::2], strict=True)
        ]
        logits = self.network(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            logits_to_keep=logit_positions,
            **({"position_ids": position_ids} if self.takes_positions else {}),
        ).logits
        return (logits, *_states_of(cache))


def convert_generator(network: Any) -> Any:
    """Return a causal network of transformers as OpenVINO's.

    Raises `SourceError` for one that keeps something else than keys and values of every token, or
    that gives all logits alone.
    """
    taken = inspect.signature(network.forward).parameters
    shapes = [(each.shape[1], each.shape[3]) for each in _example_states(network)]
    if "logits_to_keep" not in taken:
        raise _unfit(network)
    model = _trace(network, "position_ids" in taken, shapes)
    states = {f"before_{number}": f"after_{number}" for number in range(len(shapes))}
    names = ("input_ids", "attention_mask", "position_ids", ROW_ORDER, LOGIT_POSITIONS)
    _name(model.inputs, (*names, *states))
    _name(model.outputs, ("logits", *states.values()))
    ranks = (2, 2, 2, 1, 1)
    _shape(model.inputs, [*([-1] * rank for rank in ranks), *([-1, h, -1, f] for h, f in shapes)])
    return _keep_states(model, states)


def _example_states(network: Any) -> list[torch.Tensor]:
    cache = make_cache(network)
    if cache is None:
        raise _unfit(network)
    with torch.inference_mode():
        ids = torch.zeros(ROWS, BEFORE, dtype=torch.long)
        network(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
    if not has_rows(cache):
        raise _unfit(network)
    return _states_of(cache)


def _states_of(cache: Any) -> list[torch.Tensor]:
    return [each for layer in cache.layers for each in (layer.keys, layer.values)]


def _make_layer(keys: torch.Tensor, values: torch.Tensor) -> Any:
    layer: Any = DynamicLayer()
    layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
    layer.keys, layer.values = keys, values
    return layer


def _unfit(network: Any) -> SourceError:
    return SourceError(
        "handler.save_mode: expected a network that keeps keys and values of every token with "
        f"openvino, got {type(network).__name__}; use pretrained."
    )


def _trace(network: Any, takes_positions: bool, shapes: Sequence[tuple[int, int]]) -> Any:
    import openvino

    example = (
        torch.ones(ROWS, NEW, dtype=torch.long),
        torch.ones(ROWS, BEFORE + NEW, dtype=torch.long),
        torch.arange(BEFORE, BEFORE + NEW).expand(ROWS, -1),
        # With another dtype, OpenVINO does not find the keys and values in what attention reads.
        torch.arange(ROWS, dtype=torch.int32),
        torch.arange(NEW - 1, NEW),
        *(torch.randn(ROWS, heads, BEFORE, features) for heads, features in shapes),
    )
    with _attention_for_tracing(network), torch.no_grad(), warnings.catch_warnings():
        # Tracing says of each size that it reads that it might become a constant.
        warnings.simplefilter("ignore")
        return openvino.convert_model(_NextTokens(network, takes_positions), example_input=example)


def _mask(*arguments: Any, **options: Any) -> torch.Tensor | None:
    """Return what each query sees; padding sees everything, as seeing nothing gives no number."""
    mask: torch.Tensor | None = sdpa_mask(*arguments, **options)
    return None if mask is None else mask | ~mask.any(dim=-1, keepdim=True)


AttentionInterface.register(ATTENTION, sdpa_attention_forward)
AttentionMaskInterface.register(ATTENTION, _mask)


@contextmanager
def _attention_for_tracing(network: Any) -> Iterator[None]:
    own = network.config._attn_implementation
    network.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        network.set_attn_implementation(own)


def _name(ports: Any, names: Sequence[str]) -> None:
    for port, name in zip(ports, names, strict=True):
        port.get_tensor().set_names({name})


def _shape(ports: Any, shapes: Sequence[Sequence[int]]) -> None:
    import openvino

    for port, shape in zip(ports, shapes, strict=True):
        port.get_node().set_partial_shape(openvino.PartialShape(shape))


def _keep_states(model: Any, states: dict[str, str]) -> Any:
    """Let a model keep what it returns for its next call, those of no tokens at first."""
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, states)
    shape = ops.shape_of(model.input("input_ids"), output_type="i64")
    rows = ops.gather(shape, ops.constant(np.array([0])), ops.constant(0))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, features = node.get_output_partial_shape(0)
            rest = np.array([heads.get_length(), 0, features.get_length()])
            empty = ops.concat([rows, ops.constant(rest)], 0)
            node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), empty)])
    model.validate_nodes_and_infer_types()
    return model
