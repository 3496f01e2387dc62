"""Generation by OpenVINO GenAI, of a network of transformers.

The pipeline wants a network that keeps keys and values between its calls, and that is told which
of its rows go on; Optimum Intel makes such files of checkpoints, with an older transformers.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

NAMED = ("input_ids", "attention_mask", "position_ids", "beam_idx")
# Of the example that the network is traced with: rows, tokens before, and new ones.
ROWS, BEFORE, NEW = 2, 3, 2
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class NextTokens(torch.nn.Module):
    """A network's logits, and the keys and values of all tokens by layer, in and out."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        beam_idx: torch.Tensor,
        *before: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Return logits, and keys and values of each layer: (rows, heads, tokens, features)."""
        cache = DynamicCache()
        layers: list[Any] = cache.layers
        for keys, values in zip(before[::2], before[1::2], strict=True):
            layer: Any = DynamicLayer()
            layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
            layer.keys, layer.values = (each.index_select(0, beam_idx) for each in (keys, values))
            layers.append(layer)
        logits = self.network(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
        ).logits
        return (logits, *(each for layer in layers for each in (layer.keys, layer.values)))


def openvino_generator_runs(
    network: Any, ids: torch.Tensor, new_tokens: int, threads: int, folder: Path
) -> dict[str, Callable[[], Any]]:
    """Return what adds so many tokens to prompts, shape (prompts, tokens), by dtype."""
    model = convert_generator(network)
    openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    network.config.save_pretrained(folder)
    asked = openvino_genai.TokenizedInputs(
        openvino.Tensor(ids.numpy()), openvino.Tensor(np.ones_like(ids.numpy()))
    )
    how = openvino_genai.GenerationConfig(
        max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
    )
    runs: dict[str, Callable[[], Any]] = {}
    for dtype, precision in PRECISIONS.items():
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
        pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", **options)
        runs[dtype] = partial(pipeline.generate, asked, how)
    return runs


def convert_generator(network: Any) -> Any:
    """Return a network as OpenVINO's, which keeps keys and values from call to call."""
    config = network.config
    heads, features = config.n_head, config.n_embd // config.n_head
    states = range(2 * config.n_layer)
    example = (
        torch.ones(ROWS, NEW, dtype=torch.long),
        torch.ones(ROWS, BEFORE + NEW, dtype=torch.long),
        torch.arange(BEFORE, BEFORE + NEW).expand(ROWS, -1),
        torch.arange(ROWS, dtype=torch.int32),
        *(torch.randn(ROWS, heads, BEFORE, features) for _ in states),
    )
    with torch.no_grad():
        model = openvino.convert_model(NextTokens(network), example_input=example)
    before = {f"before_{number}": f"after_{number}" for number in states}
    _name(model.inputs, (*NAMED, *before))
    _name(model.outputs, ("logits", *before.values()))
    for port, shape in zip(model.inputs, [[-1, -1]] * 3 + [[-1]], strict=False):
        port.get_node().set_partial_shape(openvino.PartialShape(shape))
    for port in model.inputs[len(NAMED) :]:
        port.get_node().set_partial_shape(openvino.PartialShape([-1, heads, -1, features]))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, before)
    _begin_empty(model, heads, features)
    return model


def _name(ports: Any, names: Any) -> None:
    for port, name in zip(ports, names, strict=True):
        port.get_tensor().set_names({name})


def _begin_empty(model: Any, heads: int, features: int) -> None:
    """Let the states be those of no tokens at first, of as many rows as there are."""
    shape = ops.shape_of(model.input("input_ids"), output_type="i64")
    rows = ops.gather(shape, ops.constant(np.array([0])), ops.constant(0))
    empty = ops.concat([rows, ops.constant(np.array([heads, 0, features]))], 0)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), empty)])
    model.validate_nodes_and_infer_types()
