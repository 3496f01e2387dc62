"""Loading what people hand over: checkpoints of transformers and TorchScript files."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from speechtext.failures import is_out_of_memory

# Only pre-training uses it, so fine-tuned checkpoints such as wav2vec2-base-960h lack it.
NEVER_NEEDED = "masked_spec_embed"
# The modules of transformers that report on weights; the second does for several GPUs, where the
# first has a log level of its own (5.23).
REPORTERS = ("modeling_utils", "distributed.tensor_parallel")
# What an Emformer's file names of oneDNN, as PyTorch declares it.
PRODUCTS: Mapping[str, Sequence[str]] = {
    "mkldnn": (
        "_reorder_linear_weight(Tensor self, SymInt? batch_size=None) -> Tensor Y",
        "_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, "
        "str? algorithm) -> Tensor Y",
    ),
    "onednn": (
        "qlinear_prepack(Tensor weight, int[]? x_shape) -> Tensor",
        "qlinear_pointwise(Tensor qx, float x_scale, int x_zero_point, Tensor qw, Tensor w_scale, "
        "Tensor w_zero_point, Tensor? bias, float output_scale, int output_zero_point, "
        "ScalarType? output_dtype, str post_op_name, Scalar?[] post_op_args, "
        "str post_op_algorithm) -> Tensor",
    ),
}


def load_script(path: Path, device: torch.device) -> Any:
    """Return a TorchScript file on its device; raises `ValueError` for a damaged one."""
    name_products()
    try:
        script = torch.jit.load(str(path), device).eval()
    except RuntimeError as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        raise ValueError(f"{path.name}: expected TorchScript, got a damaged file.") from error
    if device.type != "cpu":
        # Compiling fused kernels for each new shape would hold up requests by a tenth of a second.
        torch._C._jit_set_texpr_fuser_enabled(False)
        move_constants(script, device)
    return script


def move_constants(script: Any, device: torch.device) -> None:
    """Let a script make its tensors on a device: a trace names the one that it was made on.

    Loading a script onto a device moves the tensors that it has, and nothing else.
    """
    for module in script.modules():
        for name in module._c._method_names():
            for node in module._c._get_method(name).graph.findAllNodes("prim::Constant"):
                if node.output().type().kind() == "DeviceObjType":
                    node.s_("value", str(device))


@cache
def name_products() -> list[torch.library.Library]:
    """Name oneDNN's products where PyTorch is built without it, as on Macs.

    TorchScript asks for every name in a module, also of what is never called there. The names last
    as long as what is returned.
    """
    libraries = []
    for namespace, schemas in PRODUCTS.items():
        library = torch.library.Library(namespace, "FRAGMENT")
        for schema in schemas:
            if not hasattr(getattr(torch.ops, namespace), schema.partition("(")[0]):
                library.define(schema)
        libraries.append(library)
    return libraries


def load_checkpoint(model_class: Any, folder: Path, **options: Any) -> Any:
    """Return what `from_pretrained` gives for a folder, which no network is asked for.

    Raises `ValueError` where the configuration is not that of the weights.
    """
    try:
        with without_reports():
            return model_class.from_pretrained(folder, local_files_only=True, **options)
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise ValueError(
            "config.json: expected the sizes of the weights beside it, got other ones."
        ) from error


@contextmanager
def without_reports() -> Iterator[None]:
    """Keep transformers from printing tables of weights: `check_complete` says what matters."""
    loggers = [logging.getLogger(f"transformers.{name}") for name in REPORTERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def check_complete(report: Mapping[str, Any], mode: str) -> None:
    """Refuse a checkpoint that lacks weights: transformers would make up random ones."""
    missing = sorted(each for each in report["missing_keys"] if not each.endswith(NEVER_NEEDED))
    if missing:
        raise ValueError(
            f"Expected a checkpoint fine-tuned for {mode}, got one without {', '.join(missing)}."
        )
