"""Blocks of several recordings through the encoder: each as if alone, with files of any age."""

from pathlib import Path

import pytest
import torch
import torchaudio

from speechtext.devices import CPU
from speechtext.speech.rnnt.features import LogMelFeatures, cut_frames
from speechtext.speech.rnnt.recordings import Recording
from speechtext.speech.rnnt.torchscript.encoder import EncoderLayer
from speechtext.speech.rnnt.torchscript.recognizer import save_recognizer
from speechtext.speech.rnnt.transducer import Transducer
from support.speech import SMALL

# What `save_recognizer` wrote of `small_model` in November 2026, when left contexts went in and
# came out as one tensor and features were made of one waveform at a time.
OLDER_FILE = Path(__file__).with_name("older_emformer.pt")
FRONT_END = LogMelFeatures(torch.full((80,), 8.0), torch.full((80,), 0.25))


def small_model(**sizes: int) -> torchaudio.models.RNNT:
    torch.manual_seed(0)
    model = torchaudio.models.emformer_rnnt_model(**(SMALL | sizes)).eval()
    model.joiner.linear.bias.data[-1] = 0.5
    return model


def transducer_of(path: Path) -> Transducer:
    return Transducer(torch.jit.load(str(path)), CPU, "float32", 3)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("emformer") / "model.pt"
    save_recognizer(small_model(), FRONT_END, path)
    return path


def say(samples: int, seed: int) -> torch.Tensor:
    return torch.randn(samples, generator=torch.manual_seed(seed)) * 0.1


def speak(transducer: Transducer, pieces: list[list[torch.Tensor]]) -> list[Recording]:
    """Return recordings after so many turns, in which each gets its next piece, or is silent."""
    recordings = [transducer.start(torch.empty(0), False, keep_encodings=True) for _ in pieces]
    for turn in range(max(map(len, pieces))):
        for recording, own in zip(recordings, pieces, strict=True):
            if turn < len(own):
                recording.samples = torch.cat([recording.samples, own[turn]])
                recording.ended = turn == len(own) - 1
        transducer.recognize(recordings)
    return recordings


def encodings_of(recording: Recording) -> torch.Tensor:
    assert recording.encodings
    return torch.cat(recording.encodings)


def test_older_files_say_the_same(file: Path) -> None:
    """Whole recordings in a batch, and pieces of some that begin and end at different times."""
    older, newer = transducer_of(OLDER_FILE), transducer_of(file)
    whole = [[say(samples, seed)] for seed, samples in enumerate((80_000, 900, 31_111))]
    live = [
        list(say(length, seed).split(size))
        for seed, (length, size) in enumerate(((40_000, 2560), (9_000, 2560), (30_000, 7777)))
    ]
    said = 0
    for pieces in (whole, live):
        pairs = zip(speak(older, pieces), speak(newer, pieces), strict=True)
        for expected, found in pairs:
            difference = (encodings_of(found) - encodings_of(expected)).abs().max()
            assert difference < 1e-4
            for token, other in zip(found.best_tokens(), expected.best_tokens(), strict=True):
                assert token[:3] == other[:3]
                assert token.confidence == pytest.approx(other.confidence, abs=1e-4)
            said += len(found.best_tokens())
    assert said > 100


def test_sessions_hear_nothing_of_each_other(file: Path) -> None:
    transducer = transducer_of(file)
    sessions = [list(say(24_000, seed).split(2560)) for seed in range(9)]
    (alone,) = speak(transducer, sessions[:1])
    for count in (2, 4, 9):
        together = speak(transducer, sessions[:count])[0]
        difference = (encodings_of(together) - encodings_of(alone)).abs().max()
        assert difference < 1e-5
        places = [
            [(token.label, token.start) for token in each.best_tokens()]
            for each in (alone, together)
        ]
        assert places[0] == places[1]


def test_attention_of_a_session_is_the_same_among_others() -> None:
    """Nearly to the last bit: in bfloat16, what differs by it grows from layer to layer.

    With another way for few sessions, more than half of the numbers differed.
    """
    dtype = torch.bfloat16
    layer = EncoderLayer(
        torchaudio.models.emformer_rnnt_base(64).transcriber.transformer.emformer_layers[0]
    )
    torch.manual_seed(0)
    queries, made = torch.randn(40, 5, 512, dtype=dtype), torch.randn(40, 5, 1024, dtype=dtype)
    left = torch.randn(2, 40, 8, 35, 64, dtype=dtype)
    mask = torch.zeros(40, 8, 5, 35, dtype=dtype)
    mask[:, :, 2:, 3:9] = -torch.inf

    def attend(rows: slice) -> torch.Tensor:
        own = left[:, rows].clone(), mask[rows].flatten(0, 1)
        return layer._attend_in_place(queries[rows], made[rows], *own)

    together = attend(slice(40))
    for first, count in ((0, 1), (7, 2), (3, 3), (10, 4), (5, 32)):
        rows = slice(first, first + count)
        assert (attend(rows) != together[rows]).double().mean() < 0.05


@pytest.mark.parametrize("left_frames", [0, 1, 2, 6, 7, 40])
def test_left_contexts_of_any_length(left_frames: int, tmp_path: Path) -> None:
    """Pieces are encoded as the whole recording is by torchaudio."""
    model = small_model(transformer_left_context_length=left_frames * 4)
    save_recognizer(model, FRONT_END, tmp_path / "model.pt")
    transducer = transducer_of(tmp_path / "model.pt")
    waveform = say(40_000, seed=1)
    features = FRONT_END(cut_frames(waveform, 0, 0, len(waveform) // 160 + 1))
    features = torch.nn.functional.pad(features, (0, 0, 0, 8))
    with torch.inference_mode():
        expected, _ = model.transcribe(features[None], torch.tensor([len(features)]))
    for size in (2560, 5_000, 26_000, 40_000):
        (found,) = speak(transducer, [list(waveform.split(size))])
        torch.testing.assert_close(encodings_of(found), expected[0], atol=1e-4, rtol=0)
