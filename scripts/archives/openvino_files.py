"""Models as files of OpenVINO's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archives.errors import SourceError
from archives.text_calibration import Samples
from archives.text_tracing import Traced

ATTENTION = "ScaledDotProductAttention"
MISSING = "handler.save_mode: expected OpenVINO with openvino; make openvino installs it."
# Weights in int4 that share a scale; fewer where a layer has no such number of inputs.
INT4_GROUP_SIZE = 128


def check_installed() -> None:
    """Raise `SourceError` where OpenVINO is missing."""
    try:
        import nncf  # noqa: F401
        import openvino  # noqa: F401
    except ImportError as error:
        raise SourceError(MISSING) from error


def convert_traced(traced: Traced) -> Any:
    """Return what was traced as OpenVINO's."""
    import openvino

    model = openvino.convert_model(traced.script, example_input=traced.example)
    for given, name in zip(model.inputs, traced.input_names, strict=True):
        given.get_tensor().set_names({name})
    return model


def quantize(model: Any, samples: Samples) -> Any:
    """Return a model whose products are in int8, their scales chosen for samples of its inputs.

    See post-training quantization of NNCF.
    """
    import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        # Attention is a small part of the work, and a large one of what is lost.
        ignored_scope=nncf.IgnoredScope(types=[ATTENTION], validate=False),
    )


def compress_weights(model: Any, quantization: str) -> Any:
    """Return a model whose weights are kept as `quantization` says: int8_ or int4_weight_only.

    In int4, embeddings and the last product stay in int8, as NNCF has it.
    """
    import nncf

    options: Mapping[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_ASYM}
    if quantization == "int4_weight_only":
        options = {
            "mode": nncf.CompressWeightsMode.INT4_ASYM,
            "group_size": INT4_GROUP_SIZE,
            "advanced_parameters": nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
            ),
        }
    return nncf.compress_weights(model, **options)


def save_openvino(model: Any, path: Path) -> None:
    """Write a model, and its weights beside it."""
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)
