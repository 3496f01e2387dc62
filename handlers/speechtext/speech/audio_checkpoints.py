"""Checkpoints of speech, of every family and head: their settings, and how they are loaded."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass
from transformers import AutoFeatureExtractor, AutoModelForCTC

from speechtext.checkpoints import check_complete, load_checkpoint
from speechtext.cpu.networks import leave_file
from speechtext.devices import DtypeName, choose_dtype
from speechtext.settings import STRICT
from speechtext.speech.chunks import SAMPLE_RATE_HZ, Windows
from speechtext.speech.encoders import Encoder, find_encoder, open_encoder


@dataclass(frozen=True, config=STRICT)
class AudioSettings:
    """How a model of waveforms runs, whatever its head: `handler` keys of its archive's YAML."""

    mode: str = "ctc"
    dtype: DtypeName = "float32"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    threads: int | None = None
    max_audio_seconds: float = 3600.0
    chunk_length_s: Annotated[float, KeyOptions(gt=0)] = 20.0
    stride_length_s: Annotated[float, KeyOptions(ge=0)] = 2.0

    def __post_init__(self) -> None:
        if self.chunk_length_s <= 2 * self.stride_length_s:
            raise ValueError("expected chunk_length_s to be more than twice stride_length_s")

    @property
    def windows(self) -> Windows:
        """Return the windows in which long recordings are taken."""
        return Windows(self.chunk_length_s, self.stride_length_s)


def load_network(
    auto_class: Any, folder: Path, settings: AudioSettings, device: torch.device
) -> Any:
    """Return the network of a folder on its device, ready for inference, with the head asked for.

    `auto_class` is such as `AutoModelForCTC`. Raises `ValueError` or `OSError` where the folder has
    no such model.
    """
    check_family(folder, auto_class)
    dtype = choose_dtype(settings.dtype, device)
    options = {"attn_implementation": settings.attn_implementation, "dtype": dtype}
    network, report = load_checkpoint(auto_class, folder, output_loading_info=True, **options)
    check_complete(report, settings.mode)
    network = network.to(device, dtype).eval()
    leave_file(network)
    return network


def check_family(folder: Path, auto_class: Any) -> None:
    """Raise `ValueError` for a checkpoint of a family, or without a head, that is not served."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type = str(config.get("model_type"))
    other_head = find_encoder(model_type).transcribes_only and auto_class is not AutoModelForCTC
    known = {each.model_type for each in auto_class._model_mapping}
    if model_type not in known or other_head:
        raise ValueError(
            f"config.json: expected a model_type that has {auto_class.__name__}, got "
            f"{model_type!r}."
        )


def load_encoder(folder: Path, network: Any) -> Encoder:
    """Return the encoder of a network, whose head may be anything.

    Raises `ValueError` where the folder's extractor takes audio of another rate.
    """
    return open_encoder(network.base_model, load_extractor(folder))


def load_extractor(folder: Path) -> Any:
    """Return what makes a network's input of waveforms.

    Raises `ValueError` where it takes audio of another rate.
    """
    extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    if extractor.sampling_rate != SAMPLE_RATE_HZ:
        raise ValueError(
            f"preprocessor_config.json: expected a sampling_rate of {SAMPLE_RATE_HZ}, got "
            f"{extractor.sampling_rate}."
        )
    return extractor
