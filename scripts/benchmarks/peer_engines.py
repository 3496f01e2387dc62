"""Engines that a user could pick instead, as their documentation says how to use them.

Each is made of a network of transformers and an example of its inputs, and returns a function that
runs it on these. `int8` is what each engine's own tool makes of the network: static quantization by
NNCF for OpenVINO, dynamic quantization for ONNX Runtime.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import nncf
import onnxruntime
import openvino
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

Run = Callable[[], Any]
Inputs = tuple[torch.Tensor, ...]
# How OpenVINO is told which dtype to compute in.
OPENVINO_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}


class Logits(torch.nn.Module):
    """A network that returns its logits alone, as exports need it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return what the network says."""
        logits: torch.Tensor = self.network(*inputs).logits
        return logits


def openvino_runs(network: Any, inputs: Inputs, threads: int) -> dict[str, Run]:
    """Return what runs a network in OpenVINO, by dtype."""
    example: Any = inputs if len(inputs) > 1 else inputs[0]
    arrays = dict(enumerate(each.numpy() for each in inputs))
    exact = openvino.convert_model(Logits(network), example_input=example)
    calibration = nncf.Dataset([arrays])
    transformer = nncf.ModelType.TRANSFORMER
    int8 = nncf.quantize(exact, calibration, model_type=transformer, subset_size=1)
    core = openvino.Core()
    runs = {}
    for dtype, precision in OPENVINO_PRECISIONS.items():
        compiled = core.compile_model(
            int8 if dtype == "int8" else exact,
            "CPU",
            {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision},
        )
        runs[dtype] = _openvino_run(compiled.create_infer_request(), arrays)
    return runs


def _openvino_run(request: Any, arrays: dict[int, Any]) -> Run:
    return lambda: request.infer(arrays)[0]


def onnxruntime_runs(network: Any, inputs: Inputs, threads: int, folder: Path) -> dict[str, Run]:
    """Return what runs a network in ONNX Runtime, by dtype; `folder` is for its files."""
    names = [f"input_{index}" for index in range(len(inputs))]
    exact, int8 = folder / "exact.onnx", folder / "int8.onnx"
    torch.onnx.export(Logits(network), inputs, str(exact), dynamo=False, input_names=names)
    quantize_dynamic(exact, int8, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    feed = {name: each.numpy() for name, each in zip(names, inputs, strict=True)}
    runs = {}
    for dtype, path in {"float32": exact, "int8": int8}.items():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        runs[dtype] = _onnxruntime_run(session, feed)
    return runs


def _onnxruntime_run(session: Any, feed: dict[str, Any]) -> Run:
    return lambda: session.run(None, feed)[0]


def ctranslate2_encoder_runs(folder: Path, ids: torch.Tensor, threads: int) -> dict[str, Run]:
    """Return what runs the BERT of a folder, without its head, in CTranslate2, by dtype."""
    converted = _convert(folder)
    runs = {}
    for dtype in ("float32", "int8"):
        encoder = ctranslate2.Encoder(str(converted), compute_type=dtype, intra_threads=threads)
        runs[dtype] = _encoder_run(encoder, ids.tolist())
    return runs


def _encoder_run(encoder: Any, ids: Sequence[Sequence[int]]) -> Run:
    return lambda: encoder.forward_batch(ids)


def ctranslate2_generator_runs(
    folder: Path, prompts: Sequence[Sequence[str]], new_tokens: int, threads: int
) -> dict[str, Run]:
    """Return what goes on from prompts, which are tokens, in CTranslate2, by dtype."""
    converted = _convert(folder)
    runs = {}
    for dtype in ("float32", "int8"):
        generator = ctranslate2.Generator(str(converted), compute_type=dtype, intra_threads=threads)
        runs[dtype] = _generator_run(generator, prompts, new_tokens)
    return runs


def _generator_run(generator: Any, prompts: Sequence[Sequence[str]], new_tokens: int) -> Run:
    options = {"max_length": new_tokens, "min_length": new_tokens, "sampling_topk": 1}
    return lambda: generator.generate_batch(prompts, include_prompt_in_result=False, **options)


def _convert(folder: Path) -> Path:
    converted = folder / "ctranslate2"
    ctranslate2.converters.TransformersConverter(str(folder)).convert(str(converted), force=True)
    return converted
