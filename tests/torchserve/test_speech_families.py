"""Archives of every family that transcribes: what a worker answers is what transformers says."""

from pathlib import Path

import pytest
import torch
import yaml
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2Processor,
)

from archives.building import build_archive
from archives.configs import read_config
from repository import ROOT
from serving.local import load_archive
from speechtext.speech.audio import decode_audio
from speechtext.speech.encoders import ENCODERS
from support.audio_models import extractor_of, random_model
from support.common import EXAMPLES

RATE_HZ = 16_000


def write_checkpoint(folder: Path, family: str) -> None:
    network = random_model(AutoModelForCTC, family)
    # So that the path is not the same label all along.
    network.lm_head.weight.data *= 20
    network.save_pretrained(folder)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(ROOT / "demo_models" / "wav2vec2")
    bert = family == "wav2vec2-bert"
    processor_class = Wav2Vec2BertProcessor if bert else Wav2Vec2Processor
    processor = processor_class(extractor_of(family), tokenizer)
    processor.save_pretrained(folder)


def write_config(folder: Path, source: Path) -> Path:
    path = folder / "speech.yaml"
    example = "examples/turn_on_the_kitchen_lights.wav"
    archive = {"source": str(source), "handler": "wav2vec2_handler.py", "example": example}
    path.write_text(yaml.safe_dump({"handler": {}, "archive": archive}))
    return path


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
        if "attention_mask" in inputs:
            path = path[: int(inputs["attention_mask"].sum())]
        assert reply.status == 200
        assert len(reply.answer) > 5
        assert reply.answer == processor.tokenizer.decode(path).strip()
