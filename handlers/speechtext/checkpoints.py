"""Loading what people hand over: checkpoints of transformers and TorchScript files."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from speechtext.batching import is_out_of_memory

# Only pre-training uses it, so fine-tuned checkpoints such as wav2vec2-base-960h lack it.
NEVER_NEEDED = "masked_spec_embed"
# What an Emformer's file names of oneDNN, as PyTorch declares it.
PRODUCTS = (
    "_reorder_linear_weight(Tensor self, SymInt? batch_size=None) -> Tensor",
    "_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, "
    "str? algorithm) -> Tensor Y",
)


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
def name_products() -> torch.library.Library | None:
    """Name oneDNN's products where PyTorch is built without it, as on Macs.

    TorchScript asks for every name in a module, also of what is never called there.
    """
    if torch.backends.mkldnn.is_available():
        return None
    library = torch.library.Library("mkldnn", "DEF")
    for schema in PRODUCTS:
        library.define(schema)
    return library


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
    logger = logging.getLogger("transformers.modeling_utils")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_complete(report: Mapping[str, Any], mode: str) -> None:
    """Refuse a checkpoint that lacks weights: transformers would make up random ones."""
    missing = sorted(each for each in report["missing_keys"] if not each.endswith(NEVER_NEEDED))
    if missing:
        raise ValueError(
            f"Expected a checkpoint fine-tuned for {mode}, got one without {', '.join(missing)}."
        )
