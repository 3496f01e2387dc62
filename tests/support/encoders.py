"""Random encoders of speech of every family, and waveforms for them."""

from typing import Any

import torch
from transformers import AutoModelForCTC

from speechtext.speech.chunks import Windows, plan_chunks
from speechtext.speech.encoders import Encoder
from support.audio_models import random_model

LABELS = 32
# Of 16,160 and 20,000 a log-mel frame is left without its pair.
SAMPLES = (1, 400, 719, 720, 5_120, 16_000, 16_160, 20_000, 24_321, 40_001)
GROUP_NORM: dict[str, Any] = {"feat_extract_norm": "group"}
LAYER_NORM: dict[str, Any] = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
ADAPTER: dict[str, Any] = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 48}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[
        (family, norm)
        for family in ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
        for norm in (GROUP_NORM, LAYER_NORM)
    ],
    ("data2vec-audio", {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}),
    *[
        ("sew", {**norm, "squeeze_factor": 2})
        for norm in (GROUP_NORM, {"feat_extract_norm": "layer"})
    ],
    ("sew-d", {"squeeze_factor": 2}),
    *[
        ("wav2vec2-conformer", {"position_embeddings_type": kind})
        for kind in ("relative", "rotary")
    ],
    ("wav2vec2-bert", {}),
    ("wav2vec2-bert", {**ADAPTER, "use_intermediate_ffn_before_adapter": True}),
    ("wav2vec2", {**LAYER_NORM, **ADAPTER}),
    ("wavlm", {**GROUP_NORM, **ADAPTER}),
    ("parakeet_ctc", {}),
    ("parakeet_ctc", {"scale_input": False, "attention_bias": False}),
    ("wav2vec2-conformer", ADAPTER),
]


def random_network(family: str, **sizes: Any) -> Any:
    return random_model(AutoModelForCTC, family, **sizes)


def waveforms_of(samples: tuple[int, ...] = SAMPLES) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(1)
    return [torch.randn(count, generator=chance) * 0.1 + 0.02 for count in samples]


def name_of(variant: Any) -> str:
    return variant if isinstance(variant, str) else "-".join(map(str, variant.values())) or "plain"


def cut_whole(encoder: Encoder, waveform: torch.Tensor, layers: bool = False) -> torch.Tensor:
    chunks = plan_chunks(encoder.choose_grid(layers), len(waveform), Windows(20, 2))
    (piece,) = encoder.cut(waveform, chunks, layers)
    return piece.load()
