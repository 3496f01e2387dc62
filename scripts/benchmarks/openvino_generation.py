"""Generation by OpenVINO GenAI, of a network of transformers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
import torch
from openvino import opset13 as ops

from archives.openvino_files import compress_weights, save_openvino
from archives.openvino_generators import convert_generator
from speechtext.text.openvino_generator import LOGIT_POSITIONS

# By dtype: what it computes in, and how its weights are kept.
DTYPES = {
    "float32": ("f32", None),
    "bfloat16": ("bf16", None),
    "int8": ("bf16", "int8_weight_only"),
    "int4": ("bf16", "int4_weight_only"),
}


def openvino_generator_runs(
    network: Any, ids: torch.Tensor, new_tokens: int, threads: int, folder: Path
) -> dict[str, Callable[[], Any]]:
    """Return what adds so many tokens to prompts, shape (prompts, tokens), by dtype."""
    return {
        dtype: generator_run(
            write_generator(network, dtype, folder), dtype, ids, new_tokens, threads
        )
        for dtype in DTYPES
    }


def write_generator(network: Any, dtype: str, folder: Path) -> Path:
    """Return a folder of GenAI's with a network, its weights kept as the dtype says."""
    own = folder / dtype
    own.mkdir()
    model, quantization = _read_all(convert_generator(network)), DTYPES[dtype][1]
    model = compress_weights(model, quantization) if quantization else model
    save_openvino(model, own / "openvino_model.xml")
    network.config.save_pretrained(own)
    return own


def generator_run(
    folder: Path,
    dtype: str,
    ids: torch.Tensor,
    new_tokens: int,
    threads: int,
    guessed: int | None = None,
) -> Callable[[], Any]:
    """Return what adds so many tokens to prompts, with so many `guessed` at a time (prompt lookup).

    A guess follows the last two tokens elsewhere, as transformers has it.
    """
    options: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": DTYPES[dtype][0],
    }
    how = openvino_genai.GenerationConfig(
        max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
    )
    if guessed:
        options["prompt_lookup"] = True
        how.num_assistant_tokens, how.max_ngram_size = guessed, 2
    pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", **options)
    asked = openvino_genai.TokenizedInputs(
        openvino.Tensor(ids.numpy()), openvino.Tensor(np.ones_like(ids.numpy()))
    )
    return partial(pipeline.generate, asked, how)


def _read_all(model: Any) -> Any:
    """Return a model without the input that GenAI does not know: it gives logits of all tokens."""
    asked = model.input(LOGIT_POSITIONS).get_node()
    tokens = ops.gather(
        ops.shape_of(model.input("input_ids"), output_type="i64"),
        ops.constant(np.array(1)),
        ops.constant(0),
    )
    positions = ops.range(ops.constant(np.int64(0)), tokens, ops.constant(np.int64(1)), "i64")
    for target in asked.output(0).get_target_inputs():
        target.replace_source_output(positions.output(0))
    model.remove_parameter(asked)
    model.validate_nodes_and_infer_types()
    return model
