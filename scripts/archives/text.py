"""A text model and its tokenizer, from where they come to the files of an archive."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from archives.hub import load_pretrained, local_folder
from archives.layout import OPENVINO_FILE, SCRIPTED_FILE, WEIGHTS_FILE
from archives.openvino_files import save_openvino
from archives.text_calibration import read_calibration
from archives.text_tracing import trace_text_model
from speechtext.checkpoints import check_complete
from speechtext.labels import LABELS_FILE, load_labels
from speechtext.text.loading import (
    check_tokenizer_files,
    check_vocabulary,
    count_positions,
)
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task


def stage_text(source: str, folder: Path, handler_settings: Mapping[str, Any]) -> str:
    """Write a text model and its tokenizer; return the name of the weights file."""
    settings = TextSettings(**handler_settings)
    path = local_folder(source)
    tokenizer = load_pretrained(AutoTokenizer, path)
    task = find_task(settings.mode)
    model, report = load_pretrained(task.auto_model, path, dtype="auto", output_loading_info=True)
    check_complete(report, settings.mode)
    check_tokenizer_files(path, tokenizer)
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
    traced = trace_text_model(model.float().eval(), tokenizer)
    if settings.save_mode == "torchscript":
        traced.script.save(str(folder / SCRIPTED_FILE))
        return SCRIPTED_FILE
    samples = read_calibration(settings, tokenizer, model.config, traced.input_names)
    save_openvino(traced, folder / OPENVINO_FILE, samples)
    return OPENVINO_FILE
