"""What stretches of a recording add to a number, worked out by hand for very small networks."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError

from speechtext.allowance import allow
from speechtext.errors import DeadlineError
from speechtext.speech.attribution import (
    Attribution,
    AudioExplanationParameters,
    Stretch,
    attribute,
    write_stretches,
)
from speechtext.speech.chunks import Chunk, FrameGrid, cut_waveform
from speechtext.speech.encoders import Encoder, Piece
from speechtext.speech.frame_models import FrameModel

RATE_HZ = 16_000
METHODS: list[Literal["occlusion", "integrated_gradients"]] = ["occlusion", "integrated_gradients"]


class Samples(Encoder):
    """Says of a recording its samples, a value each; normalised ones are twice as loud."""

    def __init__(self) -> None:
        self.grid = FrameGrid(400, 320)
        self.passes = 0
        self.most = 0

    @property
    def device(self) -> torch.device:
        """Return where it computes."""
        return torch.device("cpu")

    def cut(
        self, waveform: torch.Tensor, chunks: Sequence[Chunk], layers: bool = False
    ) -> list[Piece]:
        """Return the samples of each chunk."""
        return [Piece(2 * cut_waveform(waveform, self.grid, chunk)) for chunk in chunks]

    def encode(self, pieces: Sequence[torch.Tensor], layers: bool = False) -> list[torch.Tensor]:
        """Return the values as they are, shape (values, 1)."""
        assert not layers
        self.passes += len(pieces)
        self.most = max(self.most, len(pieces))
        return [piece.reshape(len(piece), -1) for piece in pieces]


class Features(Samples):
    """Says of a recording two values for each 320 samples: their sum, and 3 times that."""

    input_stride = 320

    def cut(
        self, waveform: torch.Tensor, chunks: Sequence[Chunk], layers: bool = False
    ) -> list[Piece]:
        """Return the features of each chunk, shape (features, 2)."""
        sums = waveform.unfold(0, 320, 320).sum(dim=1)
        features = torch.stack([sums, 3 * sums], dim=1)
        return [Piece(features[chunk.start : chunk.stop]) for chunk in chunks]


def weigh(said: torch.Tensor) -> torch.Tensor:
    """Return three numbers of values: weighted sums of them and, the third, of their squares."""
    places = torch.arange(1, len(said) + 1)[:, None] / len(said)
    return torch.stack([said.sum(), (said * places).sum(), (said.square() * places).sum()])


def explain(
    encoder: Samples,
    waveform: torch.Tensor,
    chosen: int,
    chunk: Chunk | None = None,
    head: Callable[[torch.Tensor], torch.Tensor] = torch.nn.Identity(),  # noqa: B008
    **asked: Any,
) -> Attribution:
    frames = encoder.grid.count_frames(len(waveform))
    chunk = chunk or Chunk(0, frames, 0, frames)
    parameters = AudioExplanationParameters(**asked)
    return attribute(
        FrameModel(encoder, head), weigh, lambda _: chosen, waveform, chunk, parameters
    )


def speak(samples: int) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(samples))


def scores_of(found: Attribution) -> torch.Tensor:
    return torch.tensor([stretch.score for stretch in found.stretches])


def times_of(found: Attribution) -> list[tuple[float, float]]:
    return [(stretch.start_s, stretch.end_s) for stretch in found.stretches]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_stretch_of_samples_adds_its_own_part(method: str, chosen: int) -> None:
    """Each sample adds its part whatever the others are, so that both methods say the same."""
    encoder, waveform = Samples(), speak(4_000)
    found = explain(encoder, waveform, chosen, method=method, n_steps=4)
    values = 2 * waveform
    places = torch.arange(1, 4_001) / 4_000
    parts = [values, values * places, values**2 * places][chosen]
    expected = torch.stack([part.sum() for part in parts.split(1_600)])
    torch.testing.assert_close(scores_of(found), expected, atol=1e-3, rtol=1e-4)
    assert times_of(found) == [(0, 0.1), (0.1, 0.2), (0.2, 0.25)]
    assert found.place == chosen
    torch.testing.assert_close(found.outputs, weigh(values[:, None]))
    assert found.change == pytest.approx(float(parts.sum()), rel=1e-4, abs=1e-3)
    if method == "occlusion":
        assert found.delta is None
    else:
        assert found.delta == pytest.approx(0, abs=5e-3)


@pytest.mark.parametrize("method", METHODS)
def test_stretch_of_features_adds_all_its_bins(method: str) -> None:
    encoder, waveform = Features(), speak(320 * 12 + 100)
    found = explain(encoder, waveform, 1, method=method, n_steps=3)
    sums = waveform.unfold(0, 320, 320).sum(dim=1)
    parts = 4 * sums * torch.arange(1, 13) / 12
    # A tenth of a second has 5 features.
    expected = torch.stack([part.sum() for part in parts.split(5)])
    torch.testing.assert_close(scores_of(found), expected, atol=1e-3, rtol=1e-4)
    # The last one ends with the recording.
    assert times_of(found) == [(0, 0.1), (0.1, 0.2), (0.2, pytest.approx(3_940 / RATE_HZ))]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("encoder", "samples"), [(Samples(), 2_000), (Features(), 1_920)])
def test_chunk_is_explained_at_its_place(method: str, encoder: Samples, samples: int) -> None:
    """Six frames from the third on, in the midst of a recording."""
    waveform, chunk = speak(320 * 30), Chunk(3, 9, 4, 8)
    found = explain(encoder, waveform, 0, chunk, method=method, n_steps=2, stretch_s=0.05)
    (piece,) = encoder.cut(waveform, [chunk])
    values = piece.load()
    own = values.reshape(len(values), -1).sum(dim=1)
    size = 800 // encoder.input_stride
    expected = torch.stack([part.sum() for part in own.split(size)])
    torch.testing.assert_close(scores_of(found), expected, atol=1e-3, rtol=1e-4)
    starts_s = [0.06 + size * encoder.input_stride * place / RATE_HZ for place in range(3)]
    edges_s = [*starts_s, 0.06 + samples / RATE_HZ]
    assert [each.start_s for each in found.stretches] == pytest.approx(edges_s[:-1])
    assert [each.end_s for each in found.stretches] == pytest.approx(edges_s[1:])


def test_last_chunk_ends_with_the_recording() -> None:
    waveform = speak(320 * 12 + 100)
    grid = Features().grid
    chunk = Chunk(5, grid.count_frames(len(waveform)), 6, grid.count_frames(len(waveform)))
    for encoder in (Samples(), Features()):
        times_s = times_of(explain(encoder, waveform, 0, chunk))
        assert times_s[0][0] == 0.1
        assert times_s[-1][1] == pytest.approx(3_940 / RATE_HZ)


def test_stretch_is_no_shorter_than_a_feature() -> None:
    class Slow(Features):
        input_stride = 1_000

        def cut(
            self, waveform: torch.Tensor, chunks: Sequence[Chunk], layers: bool = False
        ) -> list[Piece]:
            return [Piece(waveform.unfold(0, 1_000, 1_000)[:, :2]) for _ in chunks]

    found = explain(Slow(), speak(4_000), 0, stretch_s=0.02)
    assert times_of(found) == [(0, 0.0625), (0.0625, 0.125), (0.125, 0.1875), (0.1875, 0.25)]


def test_stretch_takes_part_in_what_others_add() -> None:
    """The product of two stretches: each adds all of it, and by gradients half of it."""

    def multiply(said: torch.Tensor) -> torch.Tensor:
        return (said[:1_600].sum() * said[1_600:].sum())[None]

    waveform = torch.full((3_200,), 0.25)
    model, chunk = FrameModel(Samples(), torch.nn.Identity()), Chunk(0, 9, 0, 9)
    for method, share in zip(METHODS, (1.0, 0.5), strict=True):
        asked = AudioExplanationParameters(method=method, n_steps=2)
        found = attribute(model, multiply, lambda _: 0, waveform, chunk, asked)
        expected = [share * 800 * 800] * 2
        assert scores_of(found).tolist() == pytest.approx(expected, rel=1e-4)
        assert found.change == pytest.approx(800 * 800, rel=1e-4)


def test_steps_are_those_that_are_asked_for() -> None:
    """Of a fourth power one step, the middle, tells half, and two tell nearly all."""

    def fourth(said: torch.Tensor) -> torch.Tensor:
        return said.pow(4).sum()[None]

    waveform = torch.full((1_600,), 0.5)
    model, chunk = FrameModel(Samples(), torch.nn.Identity()), Chunk(0, 4, 0, 4)
    for steps, told in [(1, 0.5), (2, 1.0)]:
        asked = AudioExplanationParameters(method="integrated_gradients", n_steps=steps)
        found = attribute(model, fourth, lambda _: 0, waveform, chunk, asked)
        assert float(scores_of(found).sum()) == pytest.approx(1_600 * told, rel=1e-3)
        assert found.delta == pytest.approx(1_600 * (told - 1), rel=1e-3, abs=0.1)
        assert found.change == pytest.approx(1_600)


def test_number_is_chosen_by_what_the_whole_gives() -> None:
    waveform = speak(1_600)
    model, chunk = FrameModel(Samples(), torch.nn.Identity()), Chunk(0, 4, 0, 4)
    given: list[torch.Tensor] = []

    def choose(outputs: torch.Tensor) -> int:
        given.append(outputs)
        return int(outputs.argmax())

    found = attribute(model, weigh, choose, waveform, chunk, AudioExplanationParameters())
    torch.testing.assert_close(given, [weigh(2 * waveform[:, None])])
    # That of the squares.
    assert found.place == 2


def test_number_of_silence_counts() -> None:
    """A bias is no change: the whole adds to silence what it says beside it."""
    waveform = speak(1_600)
    found = explain(Samples(), waveform, 0, head=lambda said: said + 1)
    assert float(found.outputs[0]) == pytest.approx(float((2 * waveform + 1).sum()), abs=1e-2)
    assert found.change == pytest.approx(float(2 * waveform.sum()), abs=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_recording_goes_through_the_network_by_itself(method: str) -> None:
    """No more memory is taken than for an answer, and no more passes than are reckoned with."""
    encoder, waveform = Samples(), speak(8_000)
    explain(encoder, waveform, 0, method=method, n_steps=7)
    assert encoder.most == 1
    asked = AudioExplanationParameters(method=method, n_steps=7)  # type: ignore[arg-type]
    assert 5 < encoder.passes <= asked.passes(len(waveform))


@pytest.mark.parametrize("method", METHODS)
def test_explanation_ends_with_its_time(method: str) -> None:
    encoder = Samples()
    with allow(0.0), pytest.raises(DeadlineError):
        explain(encoder, speak(4_000), 0, method=method)
    assert encoder.passes == 0


@pytest.mark.parametrize(
    ("seconds", "stretch_s", "samples"),
    [
        (0.5, None, 1_600),
        (5, None, 1_600),
        (10, None, 3_200),
        (60, None, 19_200),
        (60, 0.15, 2_400),
        (0.1, 60, 960_000),
        (60, 0.02003, 320),
    ],
)
def test_stretches_are_fifty_and_no_shorter_than_a_sound(
    seconds: float, stretch_s: float | None, samples: int
) -> None:
    asked = AudioExplanationParameters(stretch_s=stretch_s)
    assert asked.stretch_samples(int(seconds * RATE_HZ)) == samples


@pytest.mark.parametrize(
    ("keys", "samples", "passes"),
    [
        ({}, 1, 4),
        ({}, 1_600, 4),
        ({}, 1_601, 5),
        ({}, 60 * RATE_HZ, 53),
        ({"stretch_s": 0.05}, 1_600, 5),
        ({"method": "integrated_gradients"}, 1_600, 153),
        ({"method": "integrated_gradients", "n_steps": 4}, 60 * RATE_HZ, 15),
    ],
)
def test_passes_are_those_of_all_stretches_or_steps(
    keys: dict[str, Any], samples: int, passes: int
) -> None:
    assert AudioExplanationParameters(**keys).passes(samples) == passes


@pytest.mark.parametrize(
    "keys",
    [{"method": "lime"}, {"n_steps": 0}, {"n_steps": 1_001}, {"stretch_s": 0.01}],
)
def test_what_cannot_be_asked_for_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(keys))):
        AudioExplanationParameters(**keys)


def test_json_has_times_to_the_millisecond() -> None:
    stretches = [Stretch(0.0, 0.12345, 1.23456789), Stretch(0.12345, 0.2468, -2.0)]
    assert write_stretches(stretches) == [
        {"start": 0.0, "end": 0.123, "score": 1.23456789},
        {"start": 0.123, "end": 0.247, "score": -2.0},
    ]
    assert write_stretches([]) == []
