"""Which stretches of a recording a label hangs on: Captum's attributions over time."""

import io
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from captum.attr import FeatureAblation, IntegratedGradients
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass

from speechtext.allowance import check_time
from speechtext.parameters import impossible
from speechtext.settings import STRICT
from speechtext.speech.chunks import SAMPLE_RATE_HZ, Chunk
from speechtext.speech.frame_models import FrameModel

# By default a recording has so many stretches, none shorter than a sound takes.
STRETCHES, SHORTEST_S = 50, 0.1
# The forward and backward pass of a step, in forward passes.
GRADIENT_COST = 3


@dataclass(frozen=True, config=STRICT)
class AudioExplanationParameters:
    """What a request for an explanation may ask for; `target` is a label, or its number."""

    method: Literal["occlusion", "integrated_gradients"] = "occlusion"
    n_steps: Annotated[int, KeyOptions(ge=1, le=1000)] = 50
    stretch_s: Annotated[float, KeyOptions(ge=0.02, le=60)] | None = None
    target: str | int | None = None

    def stretch_samples(self, samples: int) -> int:
        """Return how long a stretch of a recording of so many samples is."""
        shortest = max(SHORTEST_S, samples / SAMPLE_RATE_HZ / STRETCHES)
        return round((self.stretch_s or shortest) * SAMPLE_RATE_HZ)

    def passes(self, samples: int) -> int:
        """Return how often the network computes the recording, for what that costs."""
        stretches = math.ceil(samples / self.stretch_samples(samples))
        return stretches + 2 if self.method == "occlusion" else GRADIENT_COST * self.n_steps + 3


class Stretch(NamedTuple):
    """A stretch of a recording, and what it adds to the number that is explained."""

    start_s: float
    end_s: float
    score: float


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

    `model` says what `classify` takes the mean over frames of. A stretch is taken away as silence.
    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks" (occlusion);
    Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks". Raises
    `ImpossibleRequestError` for a target that is no label, and `DeadlineError`.
    """
    encoder = model.encoder
    frames = encoder.grid.count_frames(len(waveform))
    (piece,) = encoder.cut(waveform, [Chunk(0, frames, 0, frames)])
    values = piece.load().to(encoder.device)[None]

    def logits(batch: torch.Tensor) -> torch.Tensor:
        check_time()
        return torch.stack([classify(said.mean(dim=0)) for said in model.run(list(batch))])

    with torch.no_grad():
        whole, silent = (logits(each)[0] for each in (values, torch.zeros_like(values)))
    predicted = int(whole.argmax())
    index = predicted if asked.target is None else find_label(labels, asked.target)
    per_value = asked.stretch_samples(len(waveform)) // encoder.input_stride
    owners = torch.arange(values.shape[1], device=values.device) // max(1, per_value)
    scores, delta = METHODS[asked.method](logits, values, owners, index, asked.n_steps)
    return AudioExplanation(
        waveform,
        asked.method,
        labels[index],
        labels[predicted],
        float(whole[index] - silent[index]),
        delta,
        _name_stretches(scores, owners, encoder.input_stride, len(waveform)),
    )


def find_label(labels: Mapping[int, str], target: str | int) -> int:
    """Return the number of a label, by its name or number; raises `ImpossibleRequestError`."""
    for index, name in labels.items():
        if str(target) in (str(index), name):
            return index
    raise impossible("target", f"one of {', '.join(labels.values())}, by name or number", "another")


Logits = Callable[[torch.Tensor], torch.Tensor]
# The score of each stretch, and what they leave unexplained where that is known.
Scores = tuple[torch.Tensor, float | None]


@torch.no_grad()
def _occlude(
    logits: Logits, values: torch.Tensor, owners: torch.Tensor, index: int, _n_steps: int
) -> Scores:
    mask = owners.reshape(1, -1, *[1] * (values.ndim - 2))
    found = FeatureAblation(logits).attribute(
        values, baselines=0.0, target=index, feature_mask=mask.expand_as(values)
    )
    # Each value has that of its whole stretch.
    first = torch.searchsorted(owners, owners.unique())
    return found[0, first].reshape(len(first), -1)[:, 0].float().cpu(), None


def _integrate(
    logits: Logits, values: torch.Tensor, owners: torch.Tensor, index: int, n_steps: int
) -> Scores:
    found, delta = IntegratedGradients(logits).attribute(
        values.detach(),
        baselines=0.0,
        target=index,
        n_steps=n_steps,
        internal_batch_size=1,
        return_convergence_delta=True,
    )
    each = found[0].detach().reshape(len(owners), -1).sum(dim=1).float()
    scores = torch.zeros(int(owners.max()) + 1, device=each.device).index_add(0, owners, each)
    return scores.cpu(), float(delta[0])


METHODS: Mapping[str, Callable[[Logits, torch.Tensor, torch.Tensor, int, int], Scores]] = {
    "occlusion": _occlude,
    "integrated_gradients": _integrate,
}


def _name_stretches(
    scores: torch.Tensor, owners: torch.Tensor, input_stride: int, samples: int
) -> list[Stretch]:
    counts = torch.bincount(owners).cpu()
    stops = (counts.cumsum(dim=0) * input_stride).clamp(max=samples)
    stops[-1] = samples
    starts = [0, *stops[:-1].tolist()]
    return [
        Stretch(start / SAMPLE_RATE_HZ, stop / SAMPLE_RATE_HZ, score)
        for start, stop, score in zip(starts, stops.tolist(), scores.tolist(), strict=True)
    ]


def write_explanation(found: AudioExplanation) -> dict[str, Any]:
    """Return an explanation as JSON, the stretches in their order."""
    return {
        "method": found.method,
        "target": found.label,
        "prediction": found.prediction,
        "change": found.change,
        "delta": found.delta,
        "stretches": [
            {"start": round(each.start_s, 3), "end": round(each.end_s, 3), "score": each.score}
            for each in found.stretches
        ],
    }


def draw_explanation(found: AudioExplanation) -> bytes:
    """Return a PNG picture: the waveform, and beneath it what each stretch adds to the label."""
    # Here, because it takes half a second that no other request needs.
    from matplotlib.figure import Figure

    from speechtext.pictures import text_style

    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    wave, bars = figure.subplots(2, sharex=True, height_ratios=(2, 3))
    times_s = torch.arange(len(found.waveform)) / SAMPLE_RATE_HZ
    wave.plot(times_s.numpy(), found.waveform.numpy(), linewidth=0.4, color="#35618f")
    wave.set_ylabel("waveform")
    wave.set_yticks([])
    wave.set_title(f"what {found.label} hangs on", **text_style())
    most = max((abs(each.score) for each in found.stretches), default=0.0) or 1.0
    for each in found.stretches:
        color = "#b2561d" if each.score > 0 else "#35618f"
        strength = abs(each.score) / most
        wave.axvspan(each.start_s, each.end_s, color=color, alpha=0.4 * strength, linewidth=0)
        width_s = each.end_s - each.start_s
        bars.bar(each.start_s, each.score, width_s, align="edge", color=color)
    bars.axhline(0, color="#404040", linewidth=0.6)
    bars.set_ylabel("change of the logit")
    bars.set_xlabel("seconds")
    bars.set_xlim(0, max(each.end_s for each in found.stretches))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
