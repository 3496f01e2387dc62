"""Beam search: as the greedy one without a language model, and better than it with one."""

import io
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from transformers import Wav2Vec2CTCTokenizer

from archives.configs import read_configs
from archives.errors import BuildError
from demo_models.speech_corpus import word_error_rate
from demo_models.word_model import write_demo_model
from repository import ROOT
from serving.local import build_with_settings, load_archive
from speechtext.speech.ctc.beam import (
    align,
    load_beam_decoder,
    load_biasing,
    read_arpa_words,
    spell,
)
from speechtext.speech.ctc.emissions import find_best_path
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.hotwords import HotwordParameters
from speechtext.speech.transcripts import Token
from support.audio_models import write_processor_with_lm
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


@pytest.mark.parametrize("signal_to_noise_db", [20, 0, -6])
@pytest.mark.parametrize("lm_weight", [1.15, 3.5])
def test_what_is_far_behind_the_best_does_not_come_back(
    signal_to_noise_db: float, lm_weight: float, load_model: LoadModel, folder: Path
) -> None:
    """Torchaudio's threshold, which keeps more, finds the same tokens."""
    handler = load_model("wav2vec2").handler
    own = Wav2Vec2Settings(decoder="beam", lm="lm.arpa", lm_weight=lm_weight)
    theirs = replace(own, beam_threshold=50.0)
    searches = [
        load_beam_decoder(each, handler.processor.tokenizer, folder) for each in (own, theirs)
    ]
    for _, waveform in noisy_examples(20, signal_to_noise_db):
        probabilities = probabilities_of(handler, waveform)
        ours, expected = (search(probabilities) for search in searches)
        assert ours == expected


def test_threshold_is_the_searchs(load_model: LoadModel, folder: Path) -> None:
    """Of hypotheses that are far behind, little is left where the threshold is low."""
    handler = load_model("wav2vec2").handler
    own = Wav2Vec2Settings(decoder="beam", lm="lm.arpa")
    low = replace(own, beam_threshold=0.1)
    wide, narrow = (
        load_beam_decoder(each, handler.processor.tokenizer, folder) for each in (own, low)
    )
    noisy = [probabilities_of(handler, waveform) for _, waveform in noisy_examples(10, -6)]
    assert list(map(wide, noisy)) != list(map(narrow, noisy))


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


@pytest.mark.parametrize("name", ["lm.arpa", "lm.bin"])
@pytest.mark.parametrize("content", [b"", b"damaged", b"mmap lm http://kheafield.com/code format"])
def test_language_model_that_is_damaged_is_named(
    tokenizer: Any, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "words.txt").write_text("AX A X #\n", encoding="utf-8")
    settings = Wav2Vec2Settings(decoder="beam", lm=name, lexicon="words.txt")
    with pytest.raises(ValueError, match=r"^handler\.lm: expected a language model that KenLM rea"):
        load_beam_decoder(settings, tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("lexicon", "mistake"),
    [
        ("", r"expected words, such as THE T H E \|, got an empty file\.$"),
        ("AX A X #\nBY\n", r"line 2: expected a word and its labels, .* got a word alone\.$"),
        ("AX A X #\n\nBY B Y #\n", r"line 2: expected a word and .* got an empty line\.$"),
        ("AX A X #\nCHAT CH A T #\n", r"line 2: expected labels of vocab.json, got 'CH'\.$"),
        ("AX A X |\n", r"line 1: expected labels of vocab.json, got '\|'\.$"),
        (b"\xc4X A X #\n", r"expected UTF-8, got a damaged file\.$"),
    ],
)
def test_mistakes_in_a_lexicon_are_told_with_their_line(
    lexicon: str | bytes, mistake: str, tokenizer: Any, tmp_path: Path
) -> None:
    content = lexicon if isinstance(lexicon, bytes) else lexicon.encode()
    (tmp_path / "words.txt").write_bytes(content)
    settings = Wav2Vec2Settings(decoder="beam", lexicon="words.txt")
    with pytest.raises(ValueError, match=rf"^handler\.lexicon: {mistake}"):
        load_beam_decoder(settings, tokenizer, tmp_path)


def test_language_model_of_words_in_another_case_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA.lower(), encoding="utf-8")
    settings = Wav2Vec2Settings(decoder="beam", lm="lm.arpa")
    with pytest.raises(ValueError, match=r"^handler\.lm: expected words .* got none of 4\.$"):
        load_beam_decoder(settings, tokenizer, tmp_path)


def load_tokenizer(folder: Path, labels: list[str], **names: str) -> Wav2Vec2CTCTokenizer:
    path = folder / "labels.json"
    path.write_text(json.dumps({label: place for place, label in enumerate(labels)}))
    return Wav2Vec2CTCTokenizer(str(path), **{"pad_token": "_", "unk_token": "<unk>", **names})


def test_search_needs_a_label_between_words(tmp_path: Path) -> None:
    labels = [label for label in LABELS if label != "#"]
    with pytest.raises(ValueError, match=r"^handler\.decoder: expected greedy for a checkpoint"):
        load_beam_decoder(
            Wav2Vec2Settings(decoder="beam"), load_tokenizer(tmp_path, labels), tmp_path
        )


@pytest.mark.parametrize("hotwords", [None, ["YYY"], ["by"]])
@pytest.mark.parametrize("lexicon", [None, "words.txt"])
def test_label_between_words_may_be_a_space(
    lexicon: str | None, hotwords: list[str] | None, tmp_path: Path
) -> None:
    """Which a lexicon calls `|`, as its parts are between spaces."""
    labels = [" " if label == "#" else label for label in LABELS]
    tokenizer = load_tokenizer(tmp_path, labels)
    (tmp_path / "words.txt").write_text("AX A X |\nBY B Y |\n", encoding="utf-8")
    probabilities = torch.cat([one_word(1.0), one_word(1.0)])
    found = find_text(tmp_path, tokenizer, probabilities, hotwords, lexicon=lexicon)
    if lexicon:
        assert found == ("BY BY" if hotwords == ["by"] else "AX AX")
    else:
        assert len(found.split()) == 2


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
    write_packed(source, folder / "lm.arpa", "3gram.arpa", "TURN\nON\nTHE\nKITCHEN\nLIGHTS\n")
    archive = build_with_beam(source, tmp_path)
    stored = json.loads((archive / "language_model.json").read_text())
    assert stored["lm_weight"] == pytest.approx(1.1513, abs=1e-4)
    assert stored["word_score"] == 1.5
    reply = load_archive(archive).answer([{"body": speech_with_noise()}])[0]
    assert reply.answer == "TURN ON THE KITCHEN LIGHTS"


def write_packed(source: Path, model: Path, name: str, unigrams: str | None) -> None:
    """Write the demo model with a language model as `Wav2Vec2ProcessorWithLM` does."""
    copy_demo(source)
    write_processor_with_lm(source, source)
    packed = source / "language_model"
    packed.mkdir()
    (packed / name).write_bytes(model.read_bytes())
    if unigrams is not None:
        (packed / "unigrams.txt").write_text(unigrams)
    attributes = {"alpha": 0.5, "beta": 1.5, "unk_score_offset": -10.0, "score_boundary": True}
    (packed / "attrs.json").write_text(json.dumps(attributes))


@pytest.mark.parametrize("unigrams", ["", None])
def test_arpa_file_has_the_words_where_unigrams_are_empty(
    unigrams: str | None, folder: Path, tmp_path: Path
) -> None:
    """As pyctcdecode 0.5.0 finds this text without unigrams, too."""
    write_packed(tmp_path / "source", folder / "lm.arpa", "3gram.arpa", unigrams)
    archive = build_with_beam(tmp_path / "source", tmp_path)
    reply = load_archive(archive).answer([{"body": speech_with_noise()}])[0]
    assert reply.answer == "TURN ON THE KITCHEN LIGHTS"


@pytest.mark.parametrize(
    ("name", "unigrams", "count"),
    [("5gram.bin", "", 0), ("5gram.bin", "turn\non\n", 2), ("3gram.arpa", "turn\non\n", 2)],
)
def test_words_that_no_label_can_spell_stop_the_build(
    name: str, unigrams: str, count: int, folder: Path, tmp_path: Path
) -> None:
    """Of a search alone, which would find no word in any recording."""
    write_packed(tmp_path / "source", folder / "lm.arpa", name, unigrams)
    with pytest.raises(
        BuildError,
        match=rf"Expected words that the labels .* in .*unigrams.txt, got none of {count}; name",
    ):
        build_with_beam(tmp_path / "source", tmp_path)
    greedy = build_with_settings(read_configs()["wav2vec2"], tmp_path / "source", tmp_path)
    clean = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
    assert load_archive(greedy).answer([{"body": clean}])[0].answer == "TURN ON THE KITCHEN LIGHTS"


def test_lexicon_of_the_yaml_goes_before_unigrams(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_packed(source, folder / "lm.arpa", "5gram.bin", "")
    (source / "lexicon.txt").write_text("TURN T U R N |\nON O N |\n")
    archive = build_with_beam(source, tmp_path, lexicon="lexicon.txt")
    assert (archive / "lexicon.txt").read_text() == "TURN T U R N |\nON O N |\n"
    words = load_archive(archive).answer([{"body": speech_with_noise()}])[0].answer.split()
    assert set(words) == {"TURN", "ON"}


def test_language_model_that_the_source_lacks_is_named(tmp_path: Path) -> None:
    copy_demo(tmp_path / "source")
    with pytest.raises(BuildError, match=r"Expected lm.arpa, which the YAML names"):
        build_with_beam(tmp_path / "source", tmp_path, lm="lm.arpa")


# A model whose labels have other names and places than those of the demo model.
LABELS = ["A", "B", "<unk>", "X", "Y", "Ä", "#", "_", "<s>", "</s>"]
DELIMITER, PAD = 6, 7
# Of its words: BY is ten times as likely as AX, and ÄX a hundred times less.
ARPA = """\\data\\
ngram 1=7
ngram 2=2

\\1-grams:
-3\t<unk>\t0
-99\t<s>\t0
-1\t</s>
-2\tAX\t0
-1\tBY\t0

-4\tÄX\t0
-1\tÖX\t0

\\2-grams:
-1\tAX BY
-1\tBY AX

\\end\\
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Wav2Vec2CTCTokenizer:
    """Return a tokenizer of these labels, whose blank is a letter like any other to Python."""
    return load_tokenizer(tmp_path_factory.mktemp("labels"), LABELS, word_delimiter_token="#")  # noqa: S106


def emission(*frames: dict[str, float]) -> torch.Tensor:
    """Return the probabilities of frames; labels that are not named have nearly none."""
    probabilities = torch.full((len(frames), len(LABELS)), 1e-6)
    for row, frame in zip(probabilities, frames, strict=True):
        for label, probability in frame.items():
            row[LABELS.index(label)] = probability
    return probabilities


def text_of(tokens: list[Token]) -> str:
    return "".join(LABELS[token.label] for token in tokens).replace("#", " ").strip()


def write_lexicon(folder: Path, *words: str) -> str:
    lines = (f"{word} {' '.join(word)} #\n" for word in words)
    (folder / "words.txt").write_text("".join(lines), encoding="utf-8")
    return "words.txt"


# flashlight's search, and that for hotwords where none of them is said.
SEARCHES = pytest.mark.parametrize("hotwords", [None, ["YYY"]], ids=["flashlight", "hotwords"])


def find_text(
    folder: Path,
    tokenizer: Wav2Vec2CTCTokenizer,
    probabilities: torch.Tensor,
    hotwords: list[str] | None,
    **keys: Any,
) -> str:
    chosen = Wav2Vec2Settings(decoder="beam", hotwords=hotwords, **keys)
    decode = load_beam_decoder(chosen, tokenizer, folder)
    scores = load_biasing(chosen, tokenizer).choose(HotwordParameters())
    return text_of(decode(probabilities, scores))


def one_word(log_ratio: float) -> torch.Tensor:
    """Return an emission of AX or BY, the first likelier by a logarithm."""
    first = math.exp(log_ratio) / (1 + math.exp(log_ratio))
    return emission({"A": first, "B": 1 - first}, {"X": 0.5, "Y": 0.5}, {"#": 0.9})


@SEARCHES
@pytest.mark.parametrize(
    ("stored", "keys", "weight"),
    [
        ({}, {"lm": "lm.arpa"}, 1.0),
        ({}, {"lm": "lm.arpa", "lm_weight": 2.0}, 2.0),
        ({"lm": "lm.arpa", "lm_weight": 3.0}, {}, 3.0),
        ({"lm": "lm.arpa", "lm_weight": 3.0}, {"lm_weight": 0.0}, 0.0),
        ({"lm": "other.arpa", "lm_weight": 3.0}, {"lm": "lm.arpa"}, 3.0),
    ],
)
def test_language_model_has_its_weight(
    stored: dict[str, Any],
    keys: dict[str, Any],
    weight: float,
    hotwords: list[str] | None,
    tokenizer: Wav2Vec2CTCTokenizer,
    tmp_path: Path,
) -> None:
    """KenLM's scores are decimal logarithms, of which BY has one more than AX."""
    (tmp_path / "lm.arpa").write_text(ARPA, encoding="utf-8")
    if stored:
        (tmp_path / "language_model.json").write_text(json.dumps(stored), encoding="utf-8")
    for log_ratio, word in [(weight - 0.05, "BY"), (weight + 0.05, "AX")]:
        found = find_text(tmp_path, tokenizer, one_word(log_ratio), hotwords, **keys)
        assert found == word, log_ratio


@SEARCHES
@pytest.mark.parametrize(
    ("stored", "keys", "score"),
    [
        ({}, {"lexicon": "words.txt"}, 0.0),
        ({}, {"lexicon": "words.txt", "word_score": -0.4}, -0.4),
        ({"lexicon": "words.txt", "word_score": 0.7}, {}, 0.7),
        ({"lexicon": "words.txt", "word_score": 0.7}, {"word_score": 0.3}, 0.3),
    ],
)
def test_each_word_has_its_score(
    stored: dict[str, Any],
    keys: dict[str, Any],
    score: float,
    hotwords: list[str] | None,
    tokenizer: Wav2Vec2CTCTokenizer,
    tmp_path: Path,
) -> None:
    write_lexicon(tmp_path, "AX", "A", "X")
    if stored:
        (tmp_path / "language_model.json").write_text(json.dumps(stored), encoding="utf-8")
    for log_ratio, text in [(score - 0.05, "A X"), (score + 0.05, "AX")]:
        silent = math.exp(log_ratio) / (1 + math.exp(log_ratio))
        between = {"_": silent, "#": 1 - silent}
        probabilities = emission({"A": 0.9}, between, {"X": 0.9}, {"#": 0.9})
        assert find_text(tmp_path, tokenizer, probabilities, hotwords, **keys) == text, log_ratio


@SEARCHES
def test_width_of_the_beam_is_that_of_the_settings(
    hotwords: list[str] | None, tokenizer: Wav2Vec2CTCTokenizer, tmp_path: Path
) -> None:
    lexicon = write_lexicon(tmp_path, "AX", "BY")
    # What begins best ends worst.
    probabilities = emission({"A": 0.6, "B": 0.4}, {"X": 0.01, "Y": 0.9}, {"#": 0.9})
    found = [
        find_text(tmp_path, tokenizer, probabilities, hotwords, lexicon=lexicon, beam_width=width)
        for width in (1, 10)
    ]
    assert found == ["AX", "BY"]


@SEARCHES
def test_words_of_a_language_model_are_spelled_in_labels(
    hotwords: list[str] | None, tokenizer: Wav2Vec2CTCTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA, encoding="utf-8")
    # AY would fit as well, and is no word.
    probabilities = emission({"Ä": 0.9}, {"X": 0.4, "Y": 0.5}, {"#": 0.9})
    assert find_text(tmp_path, tokenizer, probabilities, hotwords, lm="lm.arpa") == "ÄX"


@SEARCHES
def test_lexicon_has_other_words_than_the_language_model(
    hotwords: list[str] | None, tokenizer: Wav2Vec2CTCTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA, encoding="utf-8")
    lexicon = write_lexicon(tmp_path, "AX", "BX")
    probabilities = emission({"A": 0.01, "B": 0.9}, {"X": 0.4, "Y": 0.5}, {"#": 0.9})
    keys = {"lm": "lm.arpa", "lexicon": lexicon}
    assert find_text(tmp_path, tokenizer, probabilities, hotwords, **keys) == "BX"


@pytest.mark.parametrize("words", [["AX"], []])
def test_hotword_that_no_lexicon_has_is_found(
    words: list[str], tokenizer: Wav2Vec2CTCTokenizer, tmp_path: Path
) -> None:
    """Without a lexicon, too, where every label may follow another."""
    keys = {"lexicon": write_lexicon(tmp_path, *words)} if words else {}
    assert find_text(tmp_path, tokenizer, one_word(1.0), ["by"], **keys) == "BY"
    assert find_text(tmp_path, tokenizer, one_word(1.0), None, **keys)[:1] == "A"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tokens_are_where_the_labels_are_heard(
    dtype: torch.dtype, tokenizer: Wav2Vec2CTCTokenizer, tmp_path: Path
) -> None:
    """What is sure to be silence or a label has no probability of anything else."""
    decode = load_beam_decoder(Wav2Vec2Settings(decoder="beam"), tokenizer, tmp_path)
    path = torch.tensor([PAD, 0, 0, PAD, 0, DELIMITER, 3, 3, 3, PAD])
    sure = torch.nn.functional.one_hot(path, len(LABELS)).to(dtype)
    sure[7, 3], sure[7, 4] = 0.75, 0.25
    tokens = decode(sure)
    spoken = [token for token in tokens if token.label != DELIMITER]
    assert [token[:3] for token in spoken] == [(0, 1, 3), (0, 4, 5), (3, 6, 9)]
    confidences = [token.confidence for token in spoken]
    assert confidences == pytest.approx([1, 1, 2.75 / 3], rel=1e-3)
    hotwords = load_biasing(Wav2Vec2Settings(), tokenizer).probe()
    found = decode(sure, hotwords)
    assert [token[:3] for token in found] == [
        *[(0, 1, 3), (0, 4, 5), (DELIMITER, 5, 6), (3, 6, 9)],
    ]


def test_text_that_fills_its_frames_keeps_its_ends(
    tokenizer: Wav2Vec2CTCTokenizer, tmp_path: Path
) -> None:
    """A frame for each label: none is left for the delimiters that the search adds."""
    decode = load_beam_decoder(Wav2Vec2Settings(decoder="beam"), tokenizer, tmp_path)
    tokens = decode(emission({"A": 0.9}, {"X": 0.9}, {"B": 0.9}))
    assert [token[:3] for token in tokens] == [(0, 0, 1), (3, 1, 2), (1, 2, 3)]


@pytest.mark.parametrize("count", [199, 200, 201, 400, 401, 450])
def test_parts_of_a_long_text_follow_one_another(count: int) -> None:
    """Three frames a label, of which the last is blank; the labels are all alike in turn."""
    labels = [1 + place % 3 for place in range(count)]
    path = [each for label in labels for each in (label, label, 0)]
    probabilities = torch.nn.functional.one_hot(torch.tensor(path), 4) * 0.9 + 0.025
    spoken = [(label, 3 * place) for place, label in enumerate(labels)]
    tokens = align(probabilities.log(), spoken, blank=0)
    expected = [(label, 3 * place, 3 * place + 2) for place, label in enumerate(labels)]
    assert [token[:3] for token in tokens] == expected
    assert [token.confidence for token in tokens] == pytest.approx([0.925] * count)


def test_long_text_is_cut_where_the_search_heard_it() -> None:
    """More than fits is cut at the frame of the first label behind it, right or wrong."""
    labels = [1 + place % 2 for place in range(202)]
    probabilities = torch.full((1_000, 3), 0.3)
    probabilities[:, 0] = 0.4
    spoken = [(label, place) for place, label in enumerate(labels[:200])]
    spoken += [(labels[200], 700), (labels[201], 701)]
    tokens = align(probabilities.log(), spoken, blank=0)
    assert [token.label for token in tokens] == labels
    assert all(token.stop <= 700 for token in tokens[:200])
    assert all(token.start >= 700 for token in tokens[200:])


def test_blank_may_be_any_label() -> None:
    path = torch.tensor([2, 0, 2, 2, 1, 1])
    probabilities = torch.nn.functional.one_hot(path, 3) * 0.7 + 0.1
    tokens = align(probabilities.log(), [(0, 1), (1, 4)], blank=2)
    assert [token[:3] for token in tokens] == [(0, 1, 2), (1, 4, 6)]


def test_unigrams_are_the_words_of_a_language_model(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA, encoding="utf-8")
    words = read_arpa_words(tmp_path / "lm.arpa")
    assert words == ["AX", "BY", "ÄX", "ÖX"]
    vocabulary = {label: place for place, label in enumerate(LABELS)}
    assert spell(words, vocabulary, "#") == ["AX A X #\n", "BY B Y #\n", "ÄX Ä X #\n"]


@pytest.mark.parametrize(
    ("hotwords", "said", "letters"),
    [
        (["ax by"], "AX#BY", 4),
        (["ax by"], "AX#B", 0),
        # Behind the beginning of another word it is no word.
        (["by"], "AX#ABY", 0),
        (["BY", "AX"], "AX#BY", 4),
        (["ä"], "Ä", 1),
        # A word of all letters that there are.
        (["ABXYÄ"], "ABXYÄ", 5),
    ],
)
def test_hotwords_are_spelled_in_labels(
    hotwords: list[str], said: str, letters: int, tokenizer: Wav2Vec2CTCTokenizer
) -> None:
    labels = [LABELS.index(letter) for letter in said]
    settings = Wav2Vec2Settings(decoder="beam", hotwords=hotwords, hotword_boost=2.5)
    biasing = load_biasing(settings, tokenizer)
    (own, asked) = (
        biasing.choose(each)
        for each in (HotwordParameters(), HotwordParameters(hotwords, hotword_boost=0.5))
    )
    assert own is not None
    assert asked is not None
    assert own.score(labels) == pytest.approx(2.5 * letters)
    assert asked.score(labels) == pytest.approx(0.5 * letters)


@pytest.mark.parametrize("hotword", ["A#", "A_", "AQ", "<s>"])
def test_hotword_has_letters_only(hotword: str, tokenizer: Wav2Vec2CTCTokenizer) -> None:
    """Neither the blank nor what is between words is a letter."""
    settings = Wav2Vec2Settings(decoder="beam", hotwords=["AX", hotword])
    with pytest.raises(ValueError, match=r"^handler.hotwords: Expected hotwords .* hotwords.1 has"):
        load_biasing(settings, tokenizer)
    assert load_biasing(Wav2Vec2Settings(), tokenizer).choose(HotwordParameters()) is None


class WithoutFlashlight(ModuleType):
    """torchaudio's decoders where their packages are missing."""

    def __getattr__(self, name: str) -> Any:
        if name == "ctc_decoder":
            raise RuntimeError("CTC decoder requires flashlight-text")
        raise AttributeError(name)


@pytest.mark.parametrize("module", [None, WithoutFlashlight("decoder")])
def test_what_the_search_lacks_is_named(
    module: Any,
    tokenizer: Wav2Vec2CTCTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs = (
        r"(?s)^handler.decoder: beam needs the packages flashlight-text and kenlm, which make lm "
        r"installs \(.+\)\.$"
    )
    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder", module)
    with pytest.raises(ValueError, match=needs) as refused:
        load_beam_decoder(Wav2Vec2Settings(decoder="beam"), tokenizer, tmp_path)
    assert isinstance(refused.value.__cause__, ImportError)
