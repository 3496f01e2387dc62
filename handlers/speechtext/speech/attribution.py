"""Which stretches of a recording a number depends on: Captum's attributions over time."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass

from speechtext.allowance import check_time
from speechtext.parameters import impossible
from speechtext.settings import STRICT
from speechtext.speech.chunks import SAMPLE_RATE_HZ, Chunk

if TYPE_CHECKING:
    from speechtext.speech.frame_models import FrameModel

# The method that asks for no gradients.
OCCLUSION: Literal["occlusion"] = "occlusion"
# By default a recording has so many stretches, none shorter than a sound takes.
STRETCHES, SHORTEST_S = 50, 0.1
# The forward and backward pass of a step, in forward passes.
GRADIENT_COST = 3


@dataclass(frozen=True, config=STRICT)
class AudioExplanationParameters:
    """What a request for an explanation may ask for; `target` is a label or word, or its number."""

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
        return stretches + 3 if self.method == "occlusion" else GRADIENT_COST * self.n_steps + 3


class Stretch(NamedTuple):
    """A stretch of a recording, and what it adds to the number that is explained."""

    start_s: float
    end_s: float
    score: float


class Attribution(NamedTuple):
    """What each stretch of a waveform adds to one of several numbers, the one at `place`.

    `outputs` are all of them for the whole, and `change` is what the whole adds to silence; the sum
    of the scores of integrated gradients is that, up to `delta`.
    """

    place: int
    outputs: torch.Tensor
    change: float
    delta: float | None
    stretches: list[Stretch]


def attribute(
    model: "FrameModel",
    judge: Callable[[torch.Tensor], torch.Tensor],
    choose: Callable[[torch.Tensor], int],
    waveform: torch.Tensor,
    chunk: Chunk,
    asked: AudioExplanationParameters,
) -> Attribution:
    """Return what the stretches of a chunk of a waveform, (samples,) at 16 kHz, add to a number.

    `judge` makes numbers, shape (numbers,), of the outputs of `model` for the chunk's frames, and
    `choose` says which of them is explained. A stretch is taken away as silence. Zeiler and Fergus
    2014, "Visualizing and Understanding Convolutional Networks" (occlusion); Sundararajan et al.
    2017, "Axiomatic Attribution for Deep Networks". Raises `DeadlineError`, and
    `ImpossibleRequestError` for the gradients of a network that has none.
    """
    encoder = model.encoder
    if asked.method != OCCLUSION and not encoder.has_gradients:
        raise impossible("method", f"{OCCLUSION}: this network has no gradients", asked.method)
    (piece,) = model.cut(waveform, [chunk])
    values = piece.load().to(encoder.device)[None]

    def numbers(batch: torch.Tensor) -> torch.Tensor:
        check_time()
        return torch.stack([judge(outputs) for outputs in model.run(list(batch))])

    with torch.no_grad():
        whole, silent = (numbers(each)[0] for each in (values, torch.zeros_like(values)))
    index = choose(whole)
    first, samples = chunk.start * model.grid.stride, values.shape[1] * encoder.input_stride
    if chunk.stop == model.grid.count_frames(len(waveform)):
        samples = len(waveform) - first
    per_value = asked.stretch_samples(samples) // encoder.input_stride
    owners = torch.arange(values.shape[1], device=values.device) // max(1, per_value)
    scores, delta = METHODS[asked.method](numbers, values, owners, index, asked.n_steps)
    stretches = _name_stretches(scores, owners, encoder.input_stride, first, samples)
    return Attribution(index, whole, float(whole[index] - silent[index]), delta, stretches)


Numbers = Callable[[torch.Tensor], torch.Tensor]
# The score of each stretch, and what they leave unexplained where that is known.
Scores = tuple[torch.Tensor, float | None]


@torch.no_grad()
def _occlude(
    numbers: Numbers, values: torch.Tensor, owners: torch.Tensor, index: int, _n_steps: int
) -> Scores:
    # Here, because importing Captum takes half a second that no other request needs.
    from captum.attr import FeatureAblation

    mask = owners.reshape(1, -1, *[1] * (values.ndim - 2))
    found = FeatureAblation(numbers).attribute(
        values, baselines=0.0, target=index, feature_mask=mask.expand_as(values)
    )
    # Each value has that of its whole stretch.
    first = torch.searchsorted(owners, owners.unique())
    return found[0, first].reshape(len(first), -1)[:, 0].float().cpu(), None


def _integrate(
    numbers: Numbers, values: torch.Tensor, owners: torch.Tensor, index: int, n_steps: int
) -> Scores:
    from captum.attr import IntegratedGradients

    found, delta = IntegratedGradients(numbers).attribute(
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


METHODS: Mapping[str, Callable[[Numbers, torch.Tensor, torch.Tensor, int, int], Scores]] = {
    OCCLUSION: _occlude,
    "integrated_gradients": _integrate,
}


def _name_stretches(
    scores: torch.Tensor, owners: torch.Tensor, input_stride: int, first: int, samples: int
) -> list[Stretch]:
    counts = torch.bincount(owners).cpu()
    stops = (counts.cumsum(dim=0) * input_stride).clamp(max=samples)
    stops[-1] = samples
    starts = [0, *stops[:-1].tolist()]
    return [
        Stretch((first + start) / SAMPLE_RATE_HZ, (first + stop) / SAMPLE_RATE_HZ, score)
        for start, stop, score in zip(starts, stops.tolist(), scores.tolist(), strict=True)
    ]


def write_stretches(stretches: Sequence[Stretch]) -> list[dict[str, float]]:
    """Return stretches as JSON, in their order, times in seconds."""
    return [
        {"start": round(each.start_s, 3), "end": round(each.end_s, 3), "score": each.score}
        for each in stretches
    ]
