"""Loading a text archive: tokenizer, model and labels, from the archive's folder alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from transformers import AutoTokenizer

from device_io import STRICT, choose_dtype
from text_tasks import TASKS, TextSettings

LABELS_FILE = "index_to_name.json"


@dataclass(frozen=True, config=STRICT)
class CompileSettings:
    """The `pt2: compile:` keys of an archive's YAML, as `torch.compile` takes them."""

    enable: bool = False
    backend: str = "inductor"
    mode: str | None = None


def load_tokenizer(folder: Path, settings: TextSettings) -> Any:
    """Return the archive's tokenizer; `do_lower_case` overrides its own casing where it is set."""
    casing = {} if settings.do_lower_case is None else {"do_lower_case": settings.do_lower_case}
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, **casing)


def load_model(
    folder: Path, serialized_file: str, settings: TextSettings, device: torch.device
) -> Any:
    """Return the archive's model on its device, ready for inference.

    Raises `ValueError` for settings that exclude each other or do not fit the checkpoint.
    """
    if settings.save_mode == "torchscript":
        if settings.captum_explanation:
            raise ValueError("handler.captum_explanation: expected save_mode: pretrained with it.")
        scripted = torch.jit.load(str(folder / serialized_file), device)
        return scripted.eval()
    model = _load_pretrained(folder, settings, device)
    _check_label_count(settings, model.config.num_labels)
    return model.eval()


def _load_pretrained(folder: Path, settings: TextSettings, device: torch.device) -> Any:
    if settings.model_parallel and device.type != "cuda":
        raise ValueError("handler.model_parallel: expected GPUs to spread over, got none.")
    placement = {"device_map": "auto"} if settings.model_parallel else {}
    try:
        model, report = TASKS[settings.mode].auto_model.from_pretrained(
            folder,
            dtype=choose_dtype(settings.dtype, device),
            local_files_only=True,
            output_loading_info=True,
            **placement,
        )
    except ImportError as error:
        raise ValueError(
            "handler.model_parallel: expected the package accelerate; pip install accelerate."
        ) from error
    check_complete(report, settings.mode)
    return model if settings.model_parallel else model.to(device)


def check_complete(report: Mapping[str, Any], mode: str) -> None:
    """Refuse a checkpoint that lacks weights: transformers would make up random ones."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"Expected a checkpoint fine-tuned for {mode}, got one without {', '.join(missing)}."
        )


def _check_label_count(settings: TextSettings, labels: int) -> None:
    # Configurations for models without labels say 0.
    expected = settings.num_labels
    if TASKS[settings.mode].has_labels and expected and expected != labels:
        raise ValueError(f"handler.num_labels: expected {labels} as in the model, got {expected}.")


def load_labels(folder: Path, model: Any) -> dict[int, str]:
    """Return the name of each label: `index_to_name.json`, else the model's own `id2label`."""
    path = folder / LABELS_FILE
    if path.exists():
        names = json.loads(path.read_text(encoding="utf-8"))
        return {int(index): str(name) for index, name in names.items()}
    config = folder / "config.json"
    own = getattr(getattr(model, "config", None), "id2label", None)
    own = own or json.loads(config.read_text(encoding="utf-8")).get("id2label", {})
    return {int(index): str(name) for index, name in own.items()}


def compile_model(model: Any, settings: CompileSettings) -> Any:
    """Return the model, compiled where the YAML asks for it."""
    if not settings.enable:
        return model
    return torch.compile(model, backend=settings.backend, mode=settings.mode)
