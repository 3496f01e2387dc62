"""Beam search: as the greedy one without a language model, and better than it with one."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from archives.configs import read_configs
from archives.errors import BuildError
from demo_models.speech_corpus import word_error_rate
from demo_models.word_model import write_demo_model
from repository import ROOT
from serving.local import build_with_settings, load_archive
from speechtext.speech.ctc.beam import align, load_beam_decoder, load_biasing
from speechtext.speech.ctc.emissions import find_best_path
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.hotwords import HotwordParameters
from support.common import EXAMPLES, LoadModel
from support.speech import normalize

pytest.importorskip("kenlm", reason="the extra lm is not installed: make lm needs a C++ compiler")

TRANSCRIPTS: dict[str, str] = json.loads((EXAMPLES / "transcripts.json").read_text())
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the language model of the demo world."""
    path = tmp_path_factory.mktemp("lm")
    write_demo_model(path / "lm.arpa")
    return path


def noisy_examples(count: int, signal_to_noise_db: float) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield transcripts and normalised waveforms at 16 kHz with white noise."""
    generator = torch.manual_seed(0)
    for index in range(count):
        name = sorted(TRANSCRIPTS)[index % len(TRANSCRIPTS)]
        samples, rate_hz = soundfile.read(EXAMPLES / name, dtype="float32", always_2d=True)
        waveform = torchaudio.functional.resample(
            torch.from_numpy(samples.mean(axis=1)), rate_hz, RATE_HZ
        )
        loudness = waveform.std() * 10 ** (-signal_to_noise_db / 20)
        noise = torch.randn(len(waveform), generator=generator) * loudness
        yield TRANSCRIPTS[name], normalize(waveform + noise)


@torch.inference_mode()
def probabilities_of(handler: Any, waveform: torch.Tensor) -> torch.Tensor:
    emission: torch.Tensor = handler.recognizer.frame_model.run([waveform])[0]
    return emission.cpu().softmax(dim=-1)


def test_search_without_a_model_finds_the_best_path(load_model: LoadModel, tmp_path: Path) -> None:
    handler = load_model("wav2vec2").handler
    tokenizer = handler.processor.tokenizer
    decode = load_beam_decoder(Wav2Vec2Settings(decoder="beam"), tokenizer, tmp_path)
    for _, waveform in noisy_examples(30, signal_to_noise_db=20):
        probabilities = probabilities_of(handler, waveform)
        expected = find_best_path(probabilities, tokenizer.pad_token_id)
        tokens = [token for token in decode(probabilities) if token.label != 4]
        assert [t.label for t in tokens] == [t.label for t in expected if t.label != 4]


def test_language_model_lowers_the_word_error_rate(load_model: LoadModel, folder: Path) -> None:
    handler = load_model("wav2vec2").handler
    tokenizer = handler.processor.tokenizer
    decode = load_beam_decoder(Wav2Vec2Settings(decoder="beam", lm="lm.arpa"), tokenizer, folder)
    references, greedy, beam = [], [], []
    for text, waveform in noisy_examples(60, signal_to_noise_db=3):
        probabilities = probabilities_of(handler, waveform)
        references.append(text.upper())
        greedy.append(
            handler.recognizer._text(find_best_path(probabilities, tokenizer.pad_token_id))
        )
        beam.append(handler.recognizer._text(decode(probabilities)))
    assert word_error_rate(references, beam) < 0.6 * word_error_rate(references, greedy)


def test_parts_are_aligned_as_the_whole(load_model: LoadModel, folder: Path) -> None:
    """More tokens than are aligned at once; times within 40 ms of aligning them together."""
    handler = load_model("wav2vec2").handler
    tokenizer = handler.processor.tokenizer
    decode = load_beam_decoder(Wav2Vec2Settings(decoder="beam", lm="lm.arpa"), tokenizer, folder)
    pieces = [waveform for _, waveform in noisy_examples(16, signal_to_noise_db=30)]
    probabilities = torch.cat([probabilities_of(handler, piece) for piece in pieces])
    tokens = decode(probabilities)
    assert len(tokens) > 250
    labels = torch.tensor([[token.label for token in tokens]])
    path, scores = torchaudio.functional.forced_align(probabilities.log()[None], labels, blank=0)
    spans = torchaudio.functional.merge_tokens(path[0], scores[0].exp(), 0)
    for token, span in zip(tokens, spans, strict=True):
        assert abs(token.start - span.start) <= 2
        assert abs(token.stop - span.end) <= 2


def test_silence_has_no_tokens() -> None:
    assert align(torch.zeros(5, 3), [], blank=0) == []


def two_words(tokenizer: Any) -> torch.Tensor:
    """Return an emission that may be TURN or BURN, with TURN a little likelier."""
    vocabulary = tokenizer.get_vocab()
    probabilities = torch.full((5, len(vocabulary)), 1e-6)
    for frame, label in enumerate(["T", "U", "R", "N", "|"]):
        probabilities[frame, vocabulary[label]] = 0.9
    probabilities[0, vocabulary["T"]], probabilities[0, vocabulary["B"]] = 0.5, 0.4
    return probabilities


@pytest.mark.parametrize(("hotwords", "word"), [(None, "TURN"), (["burn"], "BURN")])
def test_hotwords_are_preferred(
    hotwords: list[str] | None, word: str, load_model: LoadModel, tmp_path: Path
) -> None:
    handler = load_model("wav2vec2").handler
    (tmp_path / "words.txt").write_text("TURN T U R N |\nBURN B U R N |\n")
    settings = Wav2Vec2Settings(decoder="beam", lexicon="words.txt", hotwords=hotwords)
    tokenizer = handler.processor.tokenizer
    decode = load_beam_decoder(settings, tokenizer, tmp_path)
    chosen = load_biasing(settings, tokenizer).choose(HotwordParameters())
    assert handler.recognizer._text(decode(two_words(tokenizer), chosen)) == word


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lm": "none.arpa"}, r"handler.lm: none.arpa is not in the archive"),
        ({"lexicon": "none.txt"}, r"handler.lexicon: none.txt is not in the archive"),
        ({"lm": "lm.bin"}, r"handler.lexicon: a binary language model needs one"),
    ],
)
def test_missing_file_stops_the_load(
    settings: dict[str, Any], said: str, load_model: LoadModel, tmp_path: Path
) -> None:
    (tmp_path / "lm.bin").write_bytes(b"")
    tokenizer = load_model("wav2vec2").handler.processor.tokenizer
    with pytest.raises(ValueError, match=said):
        load_beam_decoder(Wav2Vec2Settings(decoder="beam", **settings), tokenizer, tmp_path)


def build_with_beam(source: Path, workspace: Path, **settings: Any) -> Path:
    config = read_configs()["wav2vec2"]
    return build_with_settings(config, source, workspace, decoder="beam", **settings)


def copy_demo(folder: Path) -> None:
    folder.mkdir()
    for path in (ROOT / "demo_models" / "wav2vec2").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def speech_with_noise() -> bytes:
    samples, rate_hz = soundfile.read(EXAMPLES / "turn_on_the_kitchen_lights.wav")
    noise = np.random.default_rng(0).normal(0, samples.std() * 0.3, samples.shape)
    file = io.BytesIO()
    soundfile.write(file, samples + noise, rate_hz, format="WAV")
    return file.getvalue()


def test_archive_with_a_language_model_answers(folder: Path, tmp_path: Path) -> None:
    copy_demo(tmp_path / "source")
    (tmp_path / "source" / "lm.arpa").write_bytes((folder / "lm.arpa").read_bytes())
    archive = build_with_beam(tmp_path / "source", tmp_path, lm="lm.arpa")
    model = load_archive(archive)
    headers = {"Accept": "application/json"}
    answer = model.answer([{"body": speech_with_noise()}], [headers])[0].answer
    assert answer["text"] == "TURN ON THE KITCHEN LIGHTS"
    assert [word["word"] for word in answer["words"]] == answer["text"].split()
    assert "lexicon" not in {path.stem for path in archive.iterdir()}


def test_processor_with_a_language_model_is_understood(folder: Path, tmp_path: Path) -> None:
    """A folder as `Wav2Vec2ProcessorWithLM.save_pretrained` writes it."""
    source = tmp_path / "source"
    copy_demo(source)
    packed = source / "language_model"
    packed.mkdir()
    (packed / "3gram.arpa").write_bytes((folder / "lm.arpa").read_bytes())
    (packed / "unigrams.txt").write_text("TURN\nON\nTHE\nKITCHEN\nLIGHTS\n")
    attributes = {"alpha": 0.5, "beta": 1.5, "unk_score_offset": -10.0, "score_boundary": True}
    (packed / "attrs.json").write_text(json.dumps(attributes))
    (source / "alphabet.json").write_text(json.dumps({"labels": [], "is_bpe": False}))
    archive = build_with_beam(source, tmp_path)
    stored = json.loads((archive / "language_model.json").read_text())
    assert stored["lm_weight"] == pytest.approx(1.1513, abs=1e-4)
    assert stored["word_score"] == 1.5
    reply = load_archive(archive).answer([{"body": speech_with_noise()}])[0]
    assert reply.answer == "TURN ON THE KITCHEN LIGHTS"


def test_language_model_that_the_source_lacks_is_named(tmp_path: Path) -> None:
    copy_demo(tmp_path / "source")
    with pytest.raises(BuildError, match=r"Expected lm.arpa, which the YAML names"):
        build_with_beam(tmp_path / "source", tmp_path, lm="lm.arpa")
