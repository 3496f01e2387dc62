"""Small random checkpoints of models that do something else than transcribe, and their archives."""

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector,
    AutoTokenizer,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from archives.building import build_archive
from archives.configs import read_config
from archives.packaging import FormatName

# Of a model that is no larger than it has to be, of every family and head.
SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 32,
    "classifier_proj_size": 24,
    "tdnn_dim": [24, 24, 40],
    "tdnn_kernel": [5, 3, 1],
    "tdnn_dilation": [1, 2, 1],
    "xvector_output_dim": 32,
}
PARAKEET = "parakeet_ctc"
SMALL_PARAKEET: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "subsampling_conv_channels": 16,
}
NAMES = {0: "off", 1: "on", 2: "dim"}
AUTO_CLASSES = {
    "audio_classification": AutoModelForAudioClassification,
    "frame_classification": AutoModelForAudioFrameClassification,
    "speaker_embedding": AutoModelForAudioXVector,
    "features": AutoModel,
}


def random_model(auto: Any, family: str, **sizes: Any) -> Any:
    """Return a small model of a family, with the head of a class such as `AutoModelForCTC`."""
    torch.manual_seed(0)
    if family == PARAKEET:
        encoder = {**SMALL_PARAKEET, **sizes}
        config = ParakeetCTCConfig(vocab_size=32, pad_token_id=31, encoder_config=encoder)
        return auto.from_config(config).eval()
    # SEW has more convolutions.
    narrow = {} if family.startswith("sew") else {"conv_dim": [32] * 7}
    return auto.from_config(AutoConfig.for_model(family, **{**SMALL, **narrow, **sizes})).eval()


def extractor_of(family: str) -> Any:
    """Return what makes of a waveform what a family takes."""
    if family == PARAKEET:
        return ParakeetFeatureExtractor()
    bert = family == "wav2vec2-bert"
    return SeamlessM4TFeatureExtractor() if bert else Wav2Vec2FeatureExtractor(do_normalize=True)


def write_model(folder: Path, auto: Any, family: str, **sizes: Any) -> Path:
    """Write a small model and its feature extractor; return their folder."""
    random_model(auto, family, **sizes).save_pretrained(folder)
    extractor_of(family).save_pretrained(folder)
    return folder


def write_checkpoint(folder: Path, mode: str) -> None:
    """Write a checkpoint with the head of a mode."""
    write_model(folder, AUTO_CLASSES[mode], "wav2vec2", id2label=NAMES)


def write_processor_with_lm(folder: Path, source: Path) -> None:
    """Write the processor of `source` as a `Wav2Vec2ProcessorWithLM`, as transformers writes it.

    The class itself needs pyctcdecode, which writes the labels and the language model alone.
    """
    named: Any = type("Wav2Vec2ProcessorWithLM", (Wav2Vec2Processor,), {})
    parts = (each.from_pretrained(source) for each in (AutoFeatureExtractor, AutoTokenizer))
    named(*parts).save_pretrained(folder)
    (folder / "alphabet.json").write_text('{"labels": [], "is_bpe": false}')


def build_audio_archive(
    folder: Path, source: Path, mode: str, archive_format: FormatName = "no-archive", **keys: Any
) -> Path:
    """Return the archive of a checkpoint, named after its mode."""
    path = folder / f"{mode}.yaml"
    archive = {
        "source": str(source),
        "handler": "wav2vec2_handler.py",
        "example": "examples/turn_on_the_kitchen_lights.wav",
    }
    path.write_text(
        yaml.safe_dump({"handler": {"mode": mode, "threads": 1, **keys}, "archive": archive})
    )
    return build_archive(read_config(path), folder, archive_format=archive_format)
