"""Models as files of OpenVINO's."""

from pathlib import Path
from typing import Any

from archives.errors import SourceError
from archives.text_calibration import Samples
from archives.text_tracing import Traced

ATTENTION = "ScaledDotProductAttention"
MISSING = "handler.save_mode: expected OpenVINO with openvino; make openvino installs it."


def save_openvino(traced: Traced, path: Path, samples: Samples | None) -> None:
    """Write what was traced as a file of OpenVINO's, and its weights beside it.

    With `samples` of its inputs, by name, its products are in int8, their scales chosen for these
    (post-training quantization of NNCF). Raises `SourceError` where OpenVINO is missing.
    """
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise SourceError(MISSING) from error
    model: Any = openvino.convert_model(traced.script, example_input=traced.example)
    for given, name in zip(model.inputs, traced.input_names, strict=True):
        given.get_tensor().set_names({name})
    if samples:
        model = nncf.quantize(
            model,
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            # Attention is a small part of the work, and a large one of what is lost.
            ignored_scope=nncf.IgnoredScope(types=[ATTENTION], validate=False),
        )
    openvino.save_model(model, path, compress_to_fp16=False)
