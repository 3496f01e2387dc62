"""Which stretches of a recording a label depends on."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from speechtext.labels import find_label
from speechtext.parameters import impossible
from speechtext.speech.attribution import (
    AudioExplanationParameters,
    Stretch,
    attribute,
    write_stretches,
)
from speechtext.speech.chunks import Chunk
from speechtext.speech.frame_models import FrameModel
from speechtext.speech.stretch_picture import draw_stretches


class AudioExplanation(NamedTuple):
    """What each stretch of a waveform adds to the logit of a label.

    `change` is what the whole adds to silence; the sum of the scores of integrated gradients is
    that, up to `delta`.
    """

    waveform: torch.Tensor
    method: str
    label: str
    prediction: str
    change: float
    delta: float | None
    stretches: list[Stretch]


def explain_label(
    model: FrameModel,
    classify: Callable[[torch.Tensor], torch.Tensor],
    labels: Mapping[int, str],
    waveform: torch.Tensor,
    asked: AudioExplanationParameters,
) -> AudioExplanation:
    """Return what the stretches of a waveform of shape (samples,) at 16 kHz add to a label.

    `classify` makes logits of the mean over frames of the outputs of `model`. Raises
    `ImpossibleRequestError` for a target that is no label, and `DeadlineError`.
    """
    frames = model.grid.count_frames(len(waveform))
    target = None if asked.target is None else _choose_label(labels, asked.target)
    found = attribute(
        model,
        lambda outputs: classify(outputs.mean(dim=0)),
        lambda logits: int(logits.argmax()) if target is None else target,
        waveform,
        Chunk(0, frames, 0, frames),
        asked,
    )
    return AudioExplanation(
        waveform,
        asked.method,
        labels[found.place],
        labels[int(found.outputs.argmax())],
        found.change,
        found.delta,
        found.stretches,
    )


def _choose_label(labels: Mapping[int, str], target: str | int) -> int:
    index = find_label(labels, target)
    if index < 0:
        names = ", ".join(labels.values())
        raise impossible("target", f"one of {names}, by name or number", "another")
    return index


def write_explanation(found: AudioExplanation) -> dict[str, Any]:
    """Return an explanation as JSON, the stretches in their order."""
    return {
        "method": found.method,
        "target": found.label,
        "prediction": found.prediction,
        "change": found.change,
        "delta": found.delta,
        "stretches": write_stretches(found.stretches),
    }


def draw_explanation(found: AudioExplanation) -> bytes:
    """Return a PNG picture: the waveform, and beneath it what each stretch adds to the label."""
    return draw_stretches(found.waveform, found.stretches, found.label, "logit")
