"""The TorchScript recogniser against torchaudio's model: encodings, tokens and scores."""

import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from archives.emformer import load_emformer
from repository import ROOT
from speechtext.speech.rnnt import gpu_greedy
from speechtext.speech.rnnt.features import LogMelFeatures, load_features, whole_features
from speechtext.speech.rnnt.gpu_greedy import GpuGreedy
from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses
from speechtext.speech.rnnt.torchscript.recognizer import ScriptedEmformer, save_recognizer
from support.common import EXAMPLES
from support.speech import SMALL

FOLDER = ROOT / "demo_models" / "emformer_asr"
DEMO = load_emformer(FOLDER)
FRONT_END = load_features(FOLDER / "global_stats.json")
BLANK = DEMO.joiner.linear.out_features - 1
MOST_TOKENS_PER_FRAME = 100


def script(model: Any, front_end: LogMelFeatures = FRONT_END) -> Any:
    recognizer = torch.jit.script(ScriptedEmformer(model, front_end).eval())
    recognizer.decoder.set_dtype(torch.float32)
    return recognizer


SCRIPTED = script(DEMO)


@pytest.fixture(scope="module")
def full_size() -> Any:
    torch.manual_seed(0)
    model = torchaudio.models.emformer_rnnt_base(4097).eval()
    with torch.no_grad():
        # About a token for each four frames of noise, as in speech.
        model.joiner.linear.bias[-1] = 2.37
    return model


def encode(scripted: Any, rows: Sequence[torch.Tensor], segments: int) -> list[torch.Tensor]:
    """Encode features of shape (frames + 4, 80), so many segments at a time."""
    encoder = scripted.encoder
    total = [len(row) // encoder.stride - encoder.right for row in rows]
    left, done = [encoder.start() for _ in rows], [0] * len(rows)
    encodings: list[list[torch.Tensor]] = [[] for _ in rows]
    for start in range(0, max(total), segments * encoder.segment):
        counts = [min(segments * encoder.segment, max(0, frames - start)) for frames in total]
        length = -(-max(counts) // encoder.segment) * encoder.segment + encoder.right
        pieces = [
            row[start * encoder.stride : (start + count + encoder.right) * encoder.stride]
            for row, count in zip(rows, counts, strict=True)
        ]
        padded = pad_sequence([*pieces, torch.zeros(length * encoder.stride, 80)], True)[:-1]
        encoded, made = encoder(padded, torch.tensor(counts), left, torch.tensor(done))
        for row, count in enumerate(counts):
            encodings[row].append(encoded[row, :count])
            encoder.keep(left[row], made[:, row], count, done[row])
            done[row] += count
    return [torch.cat(parts) for parts in encodings]


def random_features(frames: int, seed: int) -> torch.Tensor:
    features = torch.randn(frames, 80, generator=torch.manual_seed(seed))
    return torch.nn.functional.pad(features, (0, 0, 0, 4))


@torch.inference_mode()
@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(4, 400), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 99))
def test_encodings_equal_torchaudios(lengths: list[int], segments: int, seed: int) -> None:
    """Alone or in a batch, in one piece or in many."""
    rows = [random_features(frames, seed + place) for place, frames in enumerate(lengths)]
    for row, encoded in zip(rows, encode(SCRIPTED, rows, segments), strict=True):
        expected, _ = DEMO.transcribe(row[None], torch.tensor([len(row)]))
        torch.testing.assert_close(encoded, expected[0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_full_size_encodings_equal_torchaudios(full_size: Any) -> None:
    scripted = script(full_size)
    for frames in (4, 7, 16, 21, 163, 1000, 3000):
        row = random_features(frames, seed=frames)
        expected, _ = full_size.transcribe(row[None], torch.tensor([len(row)]))
        torch.testing.assert_close(
            encode(scripted, [row], segments=128)[0], expected[0], atol=1e-4, rtol=0
        )
    rows = [random_features(frames, seed=frames) for frames in (800, 400, 200)]
    expected, counts = full_size.transcribe(pad_sequence(rows, True), torch.tensor([800, 400, 200]))
    for place, encoded in enumerate(encode(scripted, rows, segments=16)):
        assert len(encoded) == counts[place]
        torch.testing.assert_close(encoded, expected[place, : counts[place]], atol=1e-4, rtol=0)


def test_memory_bank_is_refused() -> None:
    model = torchaudio.models.emformer_rnnt_model(**(SMALL | {"transformer_max_memory_size": 4}))
    with pytest.raises(ValueError, match="transformer_max_memory_size"):
        ScriptedEmformer(model, FRONT_END)


@torch.inference_mode()
def test_other_shapes_equal_torchaudios() -> None:
    """A right context of two frames, an LSTM without layer norm, several layers."""
    torch.manual_seed(0)
    model = torchaudio.models.emformer_rnnt_model(**SMALL).eval()
    model.joiner.linear.bias[-1] = 0.5
    scripted = script(model)
    for frames in range(4, 60):
        features = torch.randn(frames, 80)
        row = torch.nn.functional.pad(features, (0, 0, 0, 8))
        expected, _ = model.transcribe(row[None], torch.tensor([len(row)]))
        encoded = encode(scripted, [row], segments=2)[0]
        torch.testing.assert_close(encoded, expected[0], atol=1e-4, rtol=0)
        greedy = scripted.decoder.greedy(
            expected, [expected.shape[1]], [scripted.decoder.start()], 5
        )
        assert tokens_and_frames(greedy[0]) == decode_plainly(model, expected[0], 5)


def noisy_cuts(count: int, seed: int) -> list[torch.Tensor]:
    """Return speech: cuts of the examples, at 16 kHz, with noise, some of them very short."""
    generator = np.random.default_rng(seed)
    paths = sorted(EXAMPLES.glob("*.wav"))
    cuts = []
    for _ in range(count):
        path = paths[generator.integers(len(paths))]
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = torchaudio.functional.resample(
            torch.from_numpy(samples.mean(axis=1)), rate_hz, 16_000
        )
        start = int(generator.integers(len(waveform) // 2))
        length = int(generator.integers(500, len(waveform) - start))
        noise = generator.normal(0, generator.uniform(0, 0.02), length).astype(np.float32)
        cuts.append(waveform[start : start + length] + torch.from_numpy(noise))
    return cuts


@pytest.fixture(scope="module")
def speech() -> list[torch.Tensor]:
    """Return encodings of 200 noisy cuts, by torchaudio's model."""
    with torch.inference_mode():
        features = [whole_features(FRONT_END, cut) for cut in noisy_cuts(200, seed=0)]
        return [DEMO.transcribe(row[None], torch.tensor([len(row)]))[0][0] for row in features]


def decode_plainly(
    model: Any, encoding: torch.Tensor, most_here: int
) -> tuple[list[int], list[int]]:
    """Take the likeliest token of each step, for one recording, and the frames."""
    one, blank = torch.tensor([1]), model.joiner.linear.out_features - 1
    tokens, frames = [], []
    prediction, _, state = model.predict(torch.tensor([[blank]]), one, None)
    for frame in range(len(encoding)):
        for _ in range(most_here):
            logits, _, _ = model.join(encoding[None, frame : frame + 1], one, prediction, one)
            token = int(logits.argmax())
            if token == blank:
                break
            tokens.append(token)
            frames.append(frame)
            prediction, _, state = model.predict(torch.tensor([[token]]), one, state)
    return tokens, frames


def tokens_and_frames(hypotheses: Any) -> tuple[list[int], list[int]]:
    return hypotheses.tokens[0], hypotheses.frames[0]


@torch.inference_mode()
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_greedy_equals_the_plain_loop(speech: list[torch.Tensor], batch_size: int) -> None:
    decoder = SCRIPTED.decoder
    found = 0
    for start in range(0, len(speech), batch_size):
        rows = speech[start : start + batch_size]
        before = [decoder.start() for _ in rows]
        lengths = [len(row) for row in rows]
        for row, after in zip(
            rows,
            decoder.greedy(pad_sequence(rows, True), lengths, before, MOST_TOKENS_PER_FRAME),
            strict=True,
        ):
            expected = decode_plainly(DEMO, row, MOST_TOKENS_PER_FRAME)
            assert tokens_and_frames(after) == expected
            found += len(expected[0])
    assert found > 1000


@torch.inference_mode()
def test_full_size_greedy_equals_the_plain_loop(full_size: Any) -> None:
    scripted = script(full_size)
    encodings, _ = full_size.transcribe(
        torch.randn(4, 404, 80, generator=torch.manual_seed(0)), torch.full((4,), 400)
    )
    lengths = [100, 60, 1, 0]
    before = [scripted.decoder.start() for _ in lengths]
    for most_here in (1, 2, 100):
        after = scripted.decoder.greedy(encodings, lengths, before, most_here)
        expected = [
            decode_plainly(full_size, row[:length], most_here)
            for row, length in zip(encodings, lengths, strict=True)
        ]
        assert [tokens_and_frames(each) for each in after] == expected
        assert len(expected[0][0]) > 5


def assert_alike(found: Any, expected: Any) -> None:
    """Compare what two searches know of a recording."""
    assert tokens_and_frames(found) == tokens_and_frames(expected)
    assert found.probabilities[0] == pytest.approx(expected.probabilities[0], abs=1e-5)
    assert found.scores[0] == pytest.approx(expected.scores[0], abs=1e-3)
    assert (found.kept, found.frame) == (expected.kept, expected.frame)
    torch.testing.assert_close(found.predictions, expected.predictions, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.states, expected.states, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("most_here", [1, 2, 100])
def test_search_of_a_gpu_finds_the_same_in_pieces(
    speech: list[torch.Tensor], most_here: int
) -> None:
    """Its tensors are a CPU's here; what it adds there is a graph of its step."""
    decoder, search = SCRIPTED.decoder, GpuGreedy(SCRIPTED.decoder, most_here, least=1)
    chance, found = random.Random(most_here), 0
    waiting = [(row, decoder.start(), decoder.start()) for row in speech]
    while waiting:
        batch = chance.sample(waiting, min(len(waiting), chance.choice((1, 2, 5, 31))))
        counts = [min(len(row), chance.choice((0, 1, 4, 9, 64))) for row, _, _ in batch]
        pieces = pad_sequence([row[: max(1, *counts)] for row, _, _ in batch], batch_first=True)
        expected = decoder.greedy(pieces, counts, [each[1] for each in batch], most_here)
        after = search(pieces, counts, [Hypotheses(*each[2]) for each in batch])
        for (row, old, _), count, one, other in zip(batch, counts, expected, after, strict=True):
            assert_alike(other, one)
            found += len(one.tokens[0]) - len(old.tokens[0])
            waiting = [each for each in waiting if each[1] is not old]
            if count < len(row):
                waiting.append((row[count:], one, other))
    assert found > 1000


@torch.inference_mode()
def test_search_of_a_gpu_takes_tokens_on_the_way(
    speech: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that never blanks, more than there is room for; graphs of few shapes are kept."""
    monkeypatch.setattr(gpu_greedy, "MOST_FRAMES", 4 * 128)
    model = load_emformer(FOLDER)
    model.joiner.linear.bias.data[-1] = -100
    decoder = script(model).decoder
    search = GpuGreedy(decoder, 3, least=1)
    for rows, frames in ((2, 60), (3, 33), (1, 5), (4, 100), (2, 60)):
        pieces = pad_sequence(speech[:rows], batch_first=True)[:, :frames]
        counts = [pieces.shape[1] - row for row in range(rows)]
        before = [decoder.start() for _ in counts]
        expected = decoder.greedy(pieces, counts, before, 3)
        after = search(pieces, counts, [Hypotheses(*each) for each in before])
        for found, one, count in zip(after, expected, counts, strict=True):
            assert_alike(found, one)
            assert len(found.tokens[0]) == 3 * count
        assert sum(map(math.prod, search._batches)) <= 4 * 128


@torch.inference_mode()
def test_search_of_a_gpu_in_full_size(full_size: Any) -> None:
    scripted = script(full_size)
    encodings, _ = full_size.transcribe(
        torch.randn(5, 404, 80, generator=torch.manual_seed(0)), torch.full((5,), 400)
    )
    lengths = [100, 60, 1, 0, 33]
    before = [scripted.decoder.start() for _ in lengths]
    expected = scripted.decoder.greedy(encodings, lengths, before, 10)
    search = GpuGreedy(scripted.decoder, 10, least=1)
    after = search(encodings, lengths, [Hypotheses(*each) for each in before])
    for found, one in zip(after, expected, strict=True):
        assert_alike(found, one)
    assert len(expected[0].tokens[0]) > 5


@cache
def torchaudios_search(width: int) -> Callable[[torch.Tensor], tuple[list[int], float]]:
    """Return torchaudio's search for the tokens of encodings and their score."""
    reference = torchaudio.models.RNNTBeamSearch(DEMO, BLANK)

    @cache
    def search(row: torch.Tensor) -> tuple[list[int], float]:
        tokens, _, _, score = reference._search(row[None], None, width)[0]
        return tokens[1:], score

    return search


# torchaudio takes seconds for a wide search of one recording.
@torch.inference_mode()
@pytest.mark.parametrize(
    ("width", "batch_size", "most"), [(1, 50, None), (4, 1, None), (4, 7, None), (10, 20, 40)]
)
def test_beam_search_equals_torchaudios(
    speech: list[torch.Tensor], width: int, batch_size: int, most: int | None
) -> None:
    reference, decoder, same = torchaudios_search(width), SCRIPTED.decoder, 0
    speech = speech[:most]
    for start in range(0, len(speech), batch_size):
        rows = speech[start : start + batch_size]
        before = [decoder.start() for _ in rows]
        after = decoder.beam(
            pad_sequence(rows, True), [len(row) for row in rows], before, width, 100
        )
        for row, found in zip(rows, after, strict=True):
            tokens, score = reference(row)
            if found.tokens[0] == tokens:
                same += 1
                assert found.scores[0] == pytest.approx(score, abs=1e-3)
    assert same >= 0.995 * len(speech)


@torch.inference_mode()
def test_full_size_beam_search_equals_torchaudios(full_size: Any) -> None:
    scripted = script(full_size)
    reference = torchaudio.models.RNNTBeamSearch(full_size, 4096)
    encodings, _ = full_size.transcribe(
        torch.randn(2, 404, 80, generator=torch.manual_seed(1)), torch.full((2,), 400)
    )
    before = [scripted.decoder.start() for _ in encodings]
    after = scripted.decoder.beam(encodings, [100, 100], before, 4, 100)
    for row, found in zip(encodings, after, strict=True):
        expected = reference._search(row[None], None, 4)[0]
        assert found.tokens[0] == expected[0][1:]
        assert found.scores[0] == pytest.approx(expected[3], abs=1e-3)
        assert len(found.tokens[0]) > 5


@torch.inference_mode()
@pytest.mark.parametrize("most_here", [1, 2])
def test_beam_search_bounds_the_tokens_of_a_frame(most_here: int) -> None:
    torch.manual_seed(0)
    model = torchaudio.models.emformer_rnnt_model(**SMALL).eval()
    reference = torchaudio.models.RNNTBeamSearch(model, 11, step_max_tokens=most_here)
    scripted = script(model)
    encodings = torch.randn(1, 40, 32)
    expected = reference._search(encodings, None, 3)[0]
    found = scripted.decoder.beam(encodings, [40], [scripted.decoder.start()], 3, most_here)[0]
    assert found.tokens[0] == expected[0][1:]


@torch.inference_mode()
def test_tokens_are_as_probable_after_an_hour(speech: list[torch.Tensor]) -> None:
    """Whatever the score is that was reached by then, which float32 has in steps of 0.004."""
    decoder = SCRIPTED.decoder
    for encoding in speech[:40]:
        late = decoder.start()._replace(scores=[-40_000.0], kept=30_000)
        (found,) = decoder.beam(encoding[None], [len(encoding)], [late], 4, 100)
        tokens, frames = tokens_and_frames(found)
        path = decoder.align(encoding, tokens, frames).exp()
        rows = [frame + place for place, frame in enumerate(frames)]
        assert found.probabilities[0] == pytest.approx(path[rows, tokens].tolist(), abs=1e-4)
        assert all(probability <= 1 for probability in found.probabilities[0])


@torch.inference_mode()
def test_path_has_the_probability_of_its_transcript(speech: list[torch.Tensor]) -> None:
    decoder = SCRIPTED.decoder
    for encoding in speech[:20]:
        greedy = decoder.greedy(encoding[None], [len(encoding)], [decoder.start()], 100)[0]
        tokens, frames = tokens_and_frames(greedy)
        path = decoder.align(encoding, tokens, frames)
        assert path.shape == (len(encoding) + len(tokens), BLANK + 1)
        torch.testing.assert_close(path.exp().sum(dim=1), torch.ones(len(path)))
        assert float(path.max(dim=1).values.sum()) == pytest.approx(greedy.scores[0], abs=1e-3)
        rows = [frame + place for place, frame in enumerate(frames)]
        assert path[rows].argmax(dim=1).tolist() == tokens
        chances = path[rows, tokens].exp().tolist()
        assert chances == pytest.approx(greedy.probabilities[0], abs=1e-4)


def test_file_loads_without_this_repository(tmp_path: Path) -> None:
    save_recognizer(DEMO, FRONT_END, tmp_path / "model.pt")
    code = """
import torch
model = torch.jit.load("model.pt")
model.decoder.set_dtype(torch.float32)
features = torch.nn.functional.pad(model.front_end(torch.randn(400 + 31 * 160)), (0, 0, 0, 4))
left = model.encoder.start()
encodings, made = model.encoder(features[None], torch.tensor([8]), [left], torch.tensor([0]))
model.encoder.keep(left, made[:, 0], 8, 0)
after = model.decoder.greedy(encodings, [8], [model.decoder.start()], 100)
beam = model.decoder.beam(encodings, [8], [model.decoder.start()], 4, 100)
print(encodings.shape, after[0].frame, beam[0].frame)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "torch.Size([1, 8, 192]) 8 8"
