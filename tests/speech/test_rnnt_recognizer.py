"""Recordings on their way through the recogniser: whole, in pieces, in batches; tokens as text."""

import itertools
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from torchaudio.pipelines.rnnt_pipeline import _SentencePieceTokenProcessor

from archives.emformer import load_emformer
from repository import ROOT
from speechtext.speech.hotword_scores import HotwordScores
from speechtext.speech.rnnt.features import load_features, whole_features
from speechtext.speech.rnnt.hotword_search import PieceScores
from speechtext.speech.rnnt.recognizer import EmformerSettings
from speechtext.speech.rnnt.recordings import Recording
from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses
from speechtext.speech.rnnt.torchscript.recognizer import ScriptedEmformer, save_recognizer
from speechtext.speech.rnnt.transducer import Transducer
from speechtext.speech.rnnt.vocabulary import WORD_START, Vocabulary, split_path
from speechtext.speech.transcripts import Token
from support.common import EXAMPLES
from support.speech import SMALL

FOLDER = ROOT / "demo_models" / "emformer_asr"
PIECES = SentencePieceProcessor(model_file=str(FOLDER / "spm.model"))
VOCABULARY = Vocabulary(PIECES)
REFERENCE = _SentencePieceTokenProcessor(str(FOLDER / "spm.model"))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("emformer") / "model.pt"
    save_recognizer(load_emformer(FOLDER), load_features(FOLDER / "global_stats.json"), path)
    return path


@pytest.fixture(scope="module", params=[None, 4])
def transducer(request: pytest.FixtureRequest, model_path: Path) -> Transducer:
    """Return a recogniser that decodes greedily, and one that searches."""
    model = torch.jit.load(str(model_path))
    return Transducer(model, torch.device("cpu"), "float32", 100, request.param)


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    """Return some sentences in a row, 8 s."""
    names = ["turn_on_the_kitchen_lights", "call_five_five_one_seven_nine"]
    names += ["what_is_the_weather_tomorrow", "move_the_purple_box_left"]
    parts = [soundfile.read(EXAMPLES / f"{name}.wav", dtype="float32")[0] for name in names]
    return torch.from_numpy(np.concatenate(parts))


def hypotheses_of(tokens: list[list[int]], kept: int) -> Hypotheses:
    """Return hypotheses that say no more than their tokens, behind those that are kept."""
    frames = [[kept + place for place in range(len(each))] for each in tokens]
    certainties = [[0.5] * len(each) for each in tokens]
    nothing = torch.zeros(len(tokens), 1)
    return Hypotheses(tokens, frames, certainties, [0.0] * len(tokens), kept, 0, nothing, nothing)


def test_certain_tokens_are_counted_over_all_blocks() -> None:
    recording = Recording(torch.zeros(1), torch.zeros(1), hypotheses_of([[]], 0))
    said: list[int] = []
    for tokens in ([[1, 2, 3], [1, 2, 4]], [[3, 5, 6], [3, 5]], [[6, 7]]):
        recording.keep_certain(hypotheses_of(tokens, recording.hypotheses.kept))
        kept = recording.hypotheses.kept
        assert kept == len(recording.tokens) > len(said)
        said = [token.label for token in recording.tokens]
    assert said == [1, 2, 3, 5, 6, 7]


def test_token_is_certain_once_all_hypotheses_have_it_at_the_same_frame() -> None:
    """The hypothesis that is best then is the second, whose tokens come sooner."""
    recording = Recording(torch.zeros(1), torch.zeros(1), hypotheses_of([[]], 0))
    found = hypotheses_of([[1, 2, 3], [1, 2, 4]], 0)._replace(frames=[[0, 7, 9], [0, 3, 5]])
    recording.keep_certain(found)
    assert (recording.tokens, recording.hypotheses.kept) == ([Token(1, 0, 1, 0.5)], 1)
    assert tokens_of(recording) == [(1, 0), (2, 7), (3, 9)]
    # Then the other one is left alone.
    recording.keep_certain(hypotheses_of([[2, 4]], 1)._replace(frames=[[3, 5]]))
    assert tokens_of(recording) == [(1, 0), (2, 3), (4, 5)]


def tokens_of(recording: Recording) -> list[tuple[int, int]]:
    return [(token.label, token.start) for token in recording.best_tokens()]


def recognize(
    transducer: Transducer, waveforms: Sequence[torch.Tensor]
) -> list[list[tuple[int, int]]]:
    recordings = [transducer.start(waveform) for waveform in waveforms]
    transducer.recognize(recordings)
    return [tokens_of(recording) for recording in recordings]


def test_a_recording_is_recognized_whatever_its_neighbours(
    transducer: Transducer, speech: torch.Tensor
) -> None:
    generator = random.Random(0)
    waveforms = []
    for _ in range(40):
        start = generator.randrange(len(speech))
        waveforms.append(speech[start : start + generator.randrange(1, 80_000)])
    alone = [recognize(transducer, [waveform])[0] for waveform in waveforms]
    for size in (2, 8, 32):
        assert recognize(transducer, waveforms[:size]) == alone[:size]
    assert sum(map(len, alone)) > 300


@pytest.mark.parametrize("segments", [1, 3, 50])
def test_blocks_do_not_change_the_answer(
    transducer: Transducer, speech: torch.Tensor, segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recognize(transducer, [speech])
    monkeypatch.setattr(transducer, "_segments", segments)
    assert recognize(transducer, [speech]) == whole


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40_000), st.integers(1, 60_000), st.lists(st.integers(0, 60_000), max_size=20)
)
def test_pieces_do_not_change_the_answer(
    transducer: Transducer, speech: torch.Tensor, start: int, length: int, cuts: list[int]
) -> None:
    waveform = speech[start : start + length]
    recording = transducer.start(torch.empty(0), ended=False)
    cuts = sorted(min(cut, length) for cut in cuts)
    for low, high in itertools.pairwise([0, *cuts, length]):
        recording.samples = torch.cat([recording.samples, waveform[low:high]])
        transducer.recognize([recording])
        # What is not needed any more is forgotten.
        assert len(recording.samples) < 16_000
    recording.ended = True
    transducer.recognize([recording])
    whole = transducer.start(waveform)
    transducer.recognize([whole])
    found, expected = tokens_of(recording), tokens_of(whole)
    assert [label for label, _ in found] == [label for label, _ in expected]
    assert recording.score() == pytest.approx(whole.score(), abs=1e-4)
    # Where two alignments of a hypothesis are as good, rounding decides whose frames a beam keeps.
    assert found == expected or transducer._beam_width


def test_score_is_that_of_the_whole(model_path: Path, speech: torch.Tensor) -> None:
    """Also where tokens were taken off on the way, whose number the search weighs."""
    model = torch.jit.load(str(model_path))
    transducer = Transducer(model, torch.device("cpu"), "float32", 100, beam_width=4)
    recording = transducer.start(speech, keep_encodings=True)
    transducer.recognize([recording])
    encodings = torch.cat(recording.encodings or [])
    whole = model.decoder.beam(encodings[None], [len(encodings)], [model.decoder.start()], 4, 100)[
        0
    ]
    assert whole.tokens[0] == [token.label for token in recording.best_tokens()]
    assert recording.score() == pytest.approx(whole.scores[0], abs=1e-3)


@pytest.fixture(scope="module")
def searching(model_path: Path) -> Transducer:
    """Return a recogniser that searches, as hotwords need it."""
    return Transducer(torch.jit.load(str(model_path)), torch.device("cpu"), "float32", 100, 4)


def boosted(phrases: list[list[str]], boost: float) -> PieceScores:
    return PieceScores(HotwordScores(phrases, WORD_START, boost), VOCABULARY.texts())


def labels_of(recording: Recording) -> list[int]:
    return [token.label for token in recording.best_tokens()]


def search_for(
    transducer: Transducer,
    waveforms: Sequence[torch.Tensor],
    hotwords: Sequence[PieceScores | None],
) -> list[Recording]:
    recordings = [
        transducer.start(waveform, hotwords=own)
        for waveform, own in zip(waveforms, hotwords, strict=True)
    ]
    transducer.recognize(recordings)
    return recordings


def test_hotwords_are_those_of_each_recording(
    searching: Transducer, speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the neighbours have, and in however many blocks: so strong that they are heard."""
    generator = random.Random(2)
    starts = [generator.randrange(len(speech) - 20_000) for _ in range(12)]
    waveforms = [speech[start : start + generator.randrange(5_000, 60_000)] for start in starts]
    choices = [boosted([["kit"]], 8.0), None, boosted([["whether"], ["light"]], 8.0)]
    hotwords = [choices[index % 3] for index in range(12)]
    alone = [
        labels_of(search_for(searching, [waveform], [own])[0])
        for waveform, own in zip(waveforms, hotwords, strict=True)
    ]
    plain = list(map(labels_of, search_for(searching, waveforms, [None] * 12)))
    assert alone[1::3] == plain[1::3]
    assert alone[::3] != plain[::3]
    assert alone[2::3] != plain[2::3]
    for segments in (1, 3, 50):
        monkeypatch.setattr(searching, "_segments", segments)
        assert list(map(labels_of, search_for(searching, waveforms, hotwords))) == alone


def test_hotwords_that_are_begun_at_the_end_are_taken_back(
    searching: Transducer, speech: torch.Tensor
) -> None:
    """Only when the recording has ended, in whatever pieces it comes: the score is the model's."""
    strong = boosted([["lightsome"], ["boxes"]], 4.0)
    (whole,) = search_for(searching, [speech], [strong])
    recording = searching.start(torch.empty(0), ended=False, hotwords=strong)
    for low in range(0, len(speech), 9_000):
        recording.samples = torch.cat([recording.samples, speech[low : low + 9_000]])
        searching.recognize([recording])
    recording.ended = True
    searching.recognize([recording])
    assert labels_of(recording) == labels_of(whole)
    found, track = recording.hypotheses, recording.hotwords
    assert track is not None
    keys = [
        (score + strong.finish(said)) / (found.kept + len(tokens) + 2)
        for score, said, tokens in zip(found.scores, track.said, found.tokens, strict=True)
    ]
    assert keys == sorted(keys, reverse=True)


def test_text_equals_torchaudios() -> None:
    generator = random.Random(0)
    for _ in range(300):
        tokens = generator.choices(range(PIECES.get_piece_size()), k=generator.randrange(30))
        blank = PIECES.get_piece_size()
        assert VOCABULARY.spell(tokens) == REFERENCE([blank, *tokens]).strip()


def test_words_are_those_of_the_text() -> None:
    generator = random.Random(1)
    for _ in range(300):
        labels = generator.choices(range(PIECES.get_piece_size()), k=generator.randrange(30))
        tokens = [Token(label, place, place + 1, 1.0) for place, label in enumerate(labels)]
        words = [VOCABULARY.text(word) for word in VOCABULARY.group_words(tokens)]
        assert " ".join(words).split() == VOCABULARY.text(tokens).split()


def test_path_is_split_by_frame_and_token() -> None:
    path = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    tokens = [Token(0, 1, 2, 0.8), Token(0, 1, 2, 0.7)]
    highest, chances = split_path(path, tokens)
    torch.testing.assert_close(highest, torch.tensor([[0.1, 0.9], [0.8, 0.8], [0.4, 0.6]]))
    torch.testing.assert_close(torch.stack(chances), path[1:3])


def test_alternatives_are_words_with_another_piece() -> None:
    labels = PIECES.encode("seven")
    chances = [torch.zeros(PIECES.get_piece_size() + 1) for _ in labels]
    for place, label in enumerate(labels):
        chances[place][label] = 0.9
    other = PIECES.encode("two")[0]
    chances[0][other] = 0.1
    word = [Token(label, place, place + 1, 0.9) for place, label in enumerate(labels)]
    (best, share), (second, rest) = VOCABULARY.find_alternatives(chances, word)[:2]
    assert (best, second) == ("seven", VOCABULARY.spell([other, *labels[1:]]))
    assert [share, rest] == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("length", [1, 3, 900])
def test_alternatives_are_exact_for_words_of_any_length(length: int) -> None:
    """As fractions: a word's probability is a product, which is no float of thousands of tokens."""
    count, generator = PIECES.get_piece_size() + 1, random.Random(length)
    labels = [generator.randrange(3, count - 1) for _ in range(length)]
    chances = []
    for label in labels:
        row = torch.zeros(count)
        row[label] = generator.uniform(0.1, 0.5)
        row[generator.randrange(3, count - 1)] += 0.3
        chances.append(row)
    word = [Token(label, place, place + 1, 0.5) for place, label in enumerate(labels)]
    found = VOCABULARY.find_alternatives(chances, word)
    chosen = [Fraction(float(row[label])) for row, label in zip(chances, labels, strict=True)]
    whole, exact = math.prod(chosen), dict[str, Fraction]()
    for place, row in enumerate(chances):
        for label in row.nonzero()[:, 0].tolist():
            text = VOCABULARY.spell([*labels[:place], label, *labels[place + 1 :]])
            weight = whole / chosen[place] * Fraction(float(row[label]))
            exact[text] = max(exact.get(text, Fraction(0)), weight)
    total = sum(exact.values())
    assert len(found) > 1
    for text, share in found:
        assert share == pytest.approx(float(exact.get(text, Fraction(0)) / total), rel=1e-9)


def test_width_must_be_positive() -> None:
    with pytest.raises(ValueError, match="beam_width"):
        EmformerSettings(beam_width=0)


def test_recording_of_less_than_a_frame_has_one() -> None:
    """Of an encoder that takes eight features for one: silent features follow the others."""
    torch.manual_seed(0)
    shape = SMALL | {"time_reduction_stride": 8, "segment_length": 32}
    model = torchaudio.models.emformer_rnnt_model(**shape).eval()
    front_end = load_features(FOLDER / "global_stats.json").eval()
    script = torch.jit.script(ScriptedEmformer(model, front_end).eval())
    transducer = Transducer(script, torch.device("cpu"), "float32", 100)
    waveforms = [0.1 * torch.randn(samples) for samples in (1, 700, 1_119, 1_120, 5_000)]
    recordings = [transducer.start(waveform, keep_encodings=True) for waveform in waveforms]
    transducer.recognize(recordings)
    assert [each.frames for each in recordings] == [1, 1, 1, 1, 4]
    for waveform, recording in zip(waveforms, recordings, strict=True):
        count = shape["time_reduction_stride"] * recording.frames
        features = whole_features(front_end, waveform)[:-4][:count]
        padding = (0, 0, 0, count + shape["right_context_length"] - len(features))
        padded = torch.nn.functional.pad(features, padding)[None]
        with torch.inference_mode():
            expected, _ = model.transcribe(padded, torch.tensor([padded.shape[1]]))
        found = torch.cat(recording.encodings or [])
        torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=0)
        path = transducer.find_path(recording)
        assert path.shape == (recording.frames + len(recording.best_tokens()), 12)
