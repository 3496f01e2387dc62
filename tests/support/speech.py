"""What tests of speech recognition share."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
from transformers import Wav2Vec2FeatureExtractor

from repository import EXAMPLES
from speechtext.speech.encoders import measure_normalization, open_encoder
from speechtext.speech.frame_models import FrameModel

# Of an Emformer RNN-T that is no larger than it has to be, for `emformer_rnnt_model`.
SMALL: dict[str, Any] = {
    "input_dim": 80,
    "encoding_dim": 32,
    "num_symbols": 12,
    "segment_length": 16,
    "right_context_length": 8,
    "time_reduction_input_dim": 8,
    "time_reduction_stride": 4,
    "transformer_num_heads": 2,
    "transformer_ffn_dim": 32,
    "transformer_num_layers": 2,
    "transformer_dropout": 0.0,
    "transformer_activation": "relu",
    "transformer_left_context_length": 6,
    "transformer_max_memory_size": 0,
    "transformer_weight_init_scale_strategy": "depthwise",
    "transformer_tanh_on_mem": True,
    "symbol_embedding_dim": 16,
    "num_lstm_layers": 2,
    "lstm_layer_norm": False,
    "lstm_layer_norm_epsilon": 1e-3,
    "lstm_dropout": 0.0,
}


def read_waveform(path: Path) -> torch.Tensor:
    """Return a recording as models take it, shape (samples,)."""
    samples, _ = soundfile.read(path, dtype="float32")
    return torch.from_numpy(samples)


@contextmanager
def failing_call(network: torch.nn.Module, number: int, error: Exception) -> Iterator[list[int]]:
    """Let the call of that number, from 1 on, of a network fail; count its calls."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise error

    handle = network.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def sentences(count: int, seed: int) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Yield the examples faster, slower, quieter and in some noise, and their words."""
    generator = np.random.default_rng(seed)
    said = json.loads((EXAMPLES / "transcripts.json").read_text(encoding="utf-8"))
    names = [name for name in said if "hz" not in name]
    for index in range(count):
        name = names[index % len(names)]
        wave = read_waveform(EXAMPLES / name).numpy()
        places = np.arange(0, len(wave) - 1, generator.uniform(0.9, 1.1))
        heard = np.interp(places, np.arange(len(wave)), wave) * generator.uniform(0.1, 1.5)
        loudness = heard.std() * 10 ** (-generator.uniform(0, 20) / 20)
        noisy = heard + generator.normal(0, loudness, len(heard))
        yield torch.from_numpy(noisy).float(), said[name].upper().split()


def count_wrong_words(recognizer: Any, count: int, seed: int) -> float:
    """Return what share of the words of so many `sentences` a recogniser has wrong."""
    waves, said = zip(*sentences(count, seed), strict=True)
    heard = [each.text.upper().split() for each in recognizer.transcribe(waves)]
    wrong: int = sum(map(torchaudio.functional.edit_distance, said, heard))
    return wrong / sum(map(len, said))


def normalize(waveform: torch.Tensor) -> torch.Tensor:
    """Return a waveform with zero mean and unit variance, as Wav2Vec2 takes it."""
    return measure_normalization(waveform).apply(waveform)


def as_frame_model(model: Any, normalizes: bool = False) -> FrameModel:
    """Return what a network for CTC says of frames; its front end is replaced, so call it once."""
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalizes)
    return FrameModel(open_encoder(model.base_model, extractor), model.lm_head)
