"""Archives of every family that transcribes: what a worker answers is what transformers says."""

from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    ParakeetProcessor,
    ParakeetTokenizer,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2Processor,
)

from archives.building import build_archive
from archives.configs import read_config
from repository import ROOT
from serving.local import load_archive
from speechtext.speech.audio import decode_audio
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.encoders import ENCODERS
from support.audio_models import PARAKEET, extractor_of, random_model
from support.common import EXAMPLES

RATE_HZ = 16_000


def write_checkpoint(folder: Path, family: str) -> None:
    network = random_model(AutoModelForCTC, family)
    # So that the path is not the same label all along.
    head = network.ctc_head if family == PARAKEET else network.lm_head
    head.weight.data *= 20
    network.save_pretrained(folder)
    if family == PARAKEET:
        write_pieces(folder)
        return
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(ROOT / "demo_models" / "wav2vec2")
    bert = family == "wav2vec2-bert"
    processor_class = Wav2Vec2BertProcessor if bert else Wav2Vec2Processor
    processor = processor_class(extractor_of(family), tokenizer)
    processor.save_pretrained(folder)


def write_pieces(folder: Path) -> None:
    """Write a processor whose labels are pieces of words, of which some begin one."""
    names = [f"\u2581{letter}" for letter in "abcdefgh"] + list("ijklmnopqrstuvwxyz")
    names += ["\u2581th", "\u2581", "ing", "er", "<unk>", "<pad>"]
    pieces = Tokenizer(Unigram([(name, 0.0) for name in names], unk_id=names.index("<unk>")))
    pieces.pre_tokenizer, pieces.decoder = Metaspace(), MetaspaceDecoder()
    special = {"pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = ParakeetTokenizer(tokenizer_object=pieces, **special)
    ParakeetProcessor(extractor_of(PARAKEET), tokenizer).save_pretrained(folder)


def write_config(folder: Path, source: Path) -> Path:
    path = folder / "speech.yaml"
    example = "examples/turn_on_the_kitchen_lights.wav"
    archive = {"source": str(source), "handler": "wav2vec2_handler.py", "example": example}
    path.write_text(yaml.safe_dump({"handler": {"threads": 1}, "archive": archive}))
    return path


def test_pieces_are_grouped_into_words_with_times(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(source, PARAKEET)
    recognizer = Wav2Vec2Recognizer.load(source)
    waveform = decode_audio((EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes(), RATE_HZ, 60)
    (transcript,) = recognizer.transcribe([waveform])
    assert [word.text for word in transcript.words] == transcript.text.split()
    assert len(transcript.words) > 1
    ends_s = [time_s for word in transcript.words for time_s in (word.start_s, word.end_s)]
    assert ends_s == sorted(ends_s)
    assert all((time_s / 0.08) % 1 == pytest.approx(0, abs=1e-6) for time_s in ends_s)
    (alignment,) = recognizer.align([waveform])
    (best, _), *_ = alignment.find_alternatives(alignment.words[0])
    assert "\u2581" not in best
    with pytest.raises(ValueError, match="expected greedy"):
        Wav2Vec2Recognizer.load(source, Wav2Vec2Settings(decoder="beam"))


@torch.inference_mode()
@pytest.mark.parametrize("family", sorted(ENCODERS))
def test_archive_of_a_family_transcribes_as_transformers_does(family: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(source, family)
    config = read_config(write_config(tmp_path, source))
    model = load_archive(build_archive(config, tmp_path, archive_format="no-archive"))
    network = AutoModelForCTC.from_pretrained(source).eval()
    processor = AutoProcessor.from_pretrained(source)
    recordings = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.wav"))][:3]
    replies = model.answer([{"body": each} for each in recordings])
    for recording, reply in zip(recordings, replies, strict=True):
        waveform = decode_audio(recording, RATE_HZ, 60)
        inputs = processor(waveform.numpy(), sampling_rate=RATE_HZ, return_tensors="pt")
        path = network(**inputs).logits[0].argmax(dim=-1)
        if family == PARAKEET:
            path = path[: int(network._get_output_attention_mask(inputs["attention_mask"]).sum())]
        elif "attention_mask" in inputs:
            path = path[: int(inputs["attention_mask"].sum())]
        assert reply.status == 200
        # Of frames four times as long there are few.
        assert len(reply.answer) > (1 if family == PARAKEET else 5)
        assert reply.answer == processor.tokenizer.decode(path).strip()
