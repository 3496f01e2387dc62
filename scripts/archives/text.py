"""A text model and its tokenizer, from where they come to the files of an archive."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from archives.errors import SourceError
from archives.hub import load_pretrained, local_folder
from archives.layout import SCRIPTED_FILE, WEIGHTS_FILE
from archives.openvino_files import (
    check_installed,
    compress_weights,
    convert_traced,
    quantize,
    save_openvino,
)
from archives.openvino_generators import convert_generator
from archives.text_calibration import read_calibration
from archives.text_tracing import trace_text_model
from speechtext.checkpoints import check_complete
from speechtext.cpu.openvino_network import OPENVINO_FILE
from speechtext.devices import CPU
from speechtext.labels import LABELS_FILE, load_labels
from speechtext.settings import read_settings
from speechtext.text.loading import (
    check_settings,
    check_tokenizer,
    check_vocabulary,
    choose_padding,
    count_positions,
    pad_as,
)
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task


def stage_text(source: str, folder: Path, handler_settings: Mapping[str, Any]) -> str:
    """Write a text model and its tokenizer; return the name of the weights file."""
    settings = read_settings(TextSettings, {"handler": handler_settings}, "handler")
    path = local_folder(source)
    tokenizer = load_pretrained(AutoTokenizer, path)
    task = find_task(settings.mode)
    model, report = load_pretrained(task.auto_model, path, dtype="auto", output_loading_info=True)
    check_complete(report, settings.mode)
    check_tokenizer(path, tokenizer)
    check_vocabulary(tokenizer, model.config)
    if task.has_labels:
        load_labels(path, model.config)
    # A TorchScript file does not tell.
    tokenizer.model_max_length = min(
        tokenizer.model_max_length, count_positions(model, model.config)
    )
    tokenizer.save_pretrained(folder)
    if (path / LABELS_FILE).is_file():
        shutil.copy(path / LABELS_FILE, folder)
    if settings.save_mode == "pretrained":
        model.save_pretrained(folder)
        return WEIGHTS_FILE
    model.config.save_pretrained(folder)
    model = model.float().eval()
    choose_padding(tokenizer)
    pad_as(tokenizer, model.config)
    if settings.save_mode == "torchscript":
        trace_text_model(model, tokenizer).script.save(str(folder / SCRIPTED_FILE))
        return SCRIPTED_FILE
    _check_openvino(settings)
    save_openvino(_convert(model, tokenizer, settings, folder), folder / OPENVINO_FILE)
    return OPENVINO_FILE


def _check_openvino(settings: TextSettings) -> None:
    """Raise `SourceError` where OpenVINO is missing, or a worker would refuse the archive."""
    check_installed()
    try:
        check_settings(settings, CPU)
    except ValueError as error:
        raise SourceError(str(error)) from error


def _convert(model: Any, tokenizer: Any, settings: TextSettings, folder: Path) -> Any:
    """Return a model as OpenVINO's, quantized as the settings say."""
    if not find_task(settings.mode).single_call:
        model.generation_config.save_pretrained(folder)
        return _compress(convert_generator(model), settings)
    traced = trace_text_model(model, tokenizer)
    if settings.quantization != "int8_static":
        return _compress(convert_traced(traced), settings)
    samples = read_calibration(settings, tokenizer, model.config, traced.input_names)
    return quantize(convert_traced(traced), samples)


def _compress(converted: Any, settings: TextSettings) -> Any:
    return (
        compress_weights(converted, settings.quantization) if settings.quantization else converted
    )
