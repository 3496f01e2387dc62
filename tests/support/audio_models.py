"""Small random checkpoints of models that do something else than transcribe, and their archives."""

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)

from archives.building import build_archive
from archives.configs import read_config
from archives.packaging import FormatName

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": [32] * 7,
    "num_labels": 3,
    "classifier_proj_size": 24,
    "tdnn_dim": [24, 24, 40],
    "tdnn_kernel": [5, 3, 1],
    "tdnn_dilation": [1, 2, 1],
    "xvector_output_dim": 32,
}
NAMES = {0: "off", 1: "on", 2: "dim"}
AUTO_CLASSES = {
    "audio_classification": AutoModelForAudioClassification,
    "frame_classification": AutoModelForAudioFrameClassification,
    "speaker_embedding": AutoModelForAudioXVector,
    "features": AutoModel,
}


def write_checkpoint(folder: Path, mode: str) -> None:
    """Write a checkpoint with the head of a mode."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(**{**SIZES, "id2label": NAMES})
    AUTO_CLASSES[mode].from_config(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


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
    path.write_text(yaml.safe_dump({"handler": {"mode": mode, **keys}, "archive": archive}))
    return build_archive(read_config(path), folder, archive_format=archive_format)
