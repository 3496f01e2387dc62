"""The label between words, in vocabularies with and without one: words as of the pipeline."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2Processor, pipeline

from speechtext.speech.ctc.loading import check_vocabulary, find_delimiter, name_labels
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from support.audio_models import extractor_of, random_model

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
LETTERS = [chr(ord("a") + number) for number in range(26)]
# Labels, what the tokenizer is told of its delimiter, and the label between words.
VOCABULARIES: list[tuple[list[str], dict[str, Any], int | None]] = [
    ([*SPECIAL, "|", *LETTERS], {}, 4),
    ([*SPECIAL, *LETTERS], {}, None),
    ([*SPECIAL, *LETTERS], {"word_delimiter_token": None}, None),
    ([*SPECIAL, " ", *LETTERS], {"word_delimiter_token": " "}, 4),
    ([*SPECIAL, *LETTERS, "#"], {"replace_word_delimiter_char": "#"}, 30),
]
KINDS = pytest.mark.parametrize(
    ("labels", "options", "delimiter"),
    VOCABULARIES,
    ids=["usual", "none", "null", "space", "other"],
)


def write_tokenizer(folder: Path, labels: list[str], options: dict[str, Any]) -> Any:
    """Return a tokenizer of these labels, as it is loaded from a folder."""
    path = folder / "labels.json"
    path.write_text(json.dumps({label: number for number, label in enumerate(labels)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(path), **options)
    Wav2Vec2Processor(extractor_of("wav2vec2"), tokenizer).save_pretrained(folder)
    return Wav2Vec2CTCTokenizer.from_pretrained(folder)


@KINDS
def test_delimiter_is_a_label_of_the_model(
    labels: list[str], options: dict[str, Any], delimiter: int | None, tmp_path: Path
) -> None:
    tokenizer = write_tokenizer(tmp_path, labels, options)
    check_vocabulary(tokenizer, len(labels))
    assert find_delimiter(tokenizer) == delimiter
    expected = ["blank", *labels[1:]]
    if delimiter is not None:
        expected[delimiter] = "space"
    assert name_labels(tokenizer, len(labels)) == expected


def test_delimiter_that_the_model_cannot_emit_is_refused(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, [*SPECIAL, *LETTERS, "|"], {})
    with pytest.raises(ValueError, match=r"expected ids below 30, .* got ids up to 30"):
        check_vocabulary(tokenizer, 30)


@torch.inference_mode()
@KINDS
def test_words_are_those_of_the_pipeline(
    labels: list[str], options: dict[str, Any], delimiter: int | None, tmp_path: Path
) -> None:
    network = random_model(AutoModelForCTC, "wav2vec2", vocab_size=len(labels))
    # So that there are words, and unknown tokens in them.
    network.lm_head.weight *= 20
    network.lm_head.bias[[SPECIAL.index("<unk>"), delimiter or 0]] += 3
    network.save_pretrained(tmp_path)
    tokenizer = write_tokenizer(tmp_path, labels, options)
    waveform = 0.1 * torch.randn(40_001, generator=torch.Generator().manual_seed(3))
    (found,) = Wav2Vec2Recognizer.load(tmp_path).transcribe([waveform])
    ask = pipeline(
        "automatic-speech-recognition",
        model=str(tmp_path),
        tokenizer=tokenizer,
        feature_extractor=extractor_of("wav2vec2"),
    )
    expected: Any = ask(waveform.numpy(), return_timestamps="word")
    assert "<unk>" in found.text
    assert found.text == expected["text"]
    assert [word.text for word in found.words] == [each["text"] for each in expected["chunks"]]
    for word, each in zip(found.words, expected["chunks"], strict=True):
        assert (word.start_s, word.end_s) == pytest.approx(each["timestamp"])
    assert (len(found.words) > 1) == (delimiter is not None)
