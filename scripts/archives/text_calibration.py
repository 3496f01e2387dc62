"""Requests that show which numbers come up in a text model, for the scales of its int8."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from archives.errors import SourceError
from repository import ROOT
from speechtext.devices import CPU
from speechtext.errors import RequestError
from speechtext.text.base import LoadedModel
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task

Samples = Sequence[Mapping[str, Any]]


def read_calibration(
    settings: TextSettings, tokenizer: Any, config: Any, input_names: Sequence[str]
) -> Samples:
    """Return the model's inputs for each request of the file that the settings name.

    A line is a text, or JSON: of a text, or of a request. Raises `SourceError` where the file is
    missing, or a line of it is no request.
    """
    if settings.calibration is None:
        raise SourceError("handler.calibration: expected a file of requests with int8_static.")
    path = ROOT / settings.calibration
    if not path.is_file():
        raise SourceError(f"handler.calibration: expected a file, got {settings.calibration}.")
    model = LoadedModel(
        None, tokenizer, config, {}, CPU, tokenizer.model_max_length, list(input_names)
    )
    task = find_task(settings.mode)(model, settings)
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            batch = task.encode([task.read(_parse(line))])
        except RequestError as error:
            raise SourceError(f"{path.name}, line {number}: {error}") from error
        found = batch.inputs(input_names, CPU)
        samples.append({name: each.numpy() for name, each in found.items()})
    if not samples:
        raise SourceError(f"{path.name}: expected requests, one a line, got none.")
    return samples


def _parse(line: str) -> str | dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, (str, dict)):
            return found
    return line
