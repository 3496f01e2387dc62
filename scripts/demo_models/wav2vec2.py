"""Trains a small Wav2Vec2ForCTC to understand the little world of voice commands.

The architecture is that of the large checkpoints (layer norm in the feature encoder, 20 ms frames)
with a fiftieth of the parameters, so its folder loads with `from_pretrained` like theirs.
"""

import copy
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)
from transformers.utils.logging import disable_progress_bar

from archives.layout import BASE_960H_LABELS
from demo_models import speech_corpus
from demo_models.augmentation import augment
from demo_models.espeak import SAMPLE_RATE_HZ, Waveform, to_float
from demo_models.speech_corpus import Utterance
from demo_models.speech_training import Recipe, batches, fit, report_errors, shortest_first

SEED = 1
RECIPE = Recipe(steps=5_000, peak_learning_rate=2e-3, max_gradient_norm=1.0)
BATCH_DURATION_S = 44.0
# A convolution compiles a kernel for each new input shape: half-second steps keep shapes few.
PADDED_LENGTH_STEP = SAMPLE_RATE_HZ // 2
SHORTEST_FIRST_BATCHES = 100

LABELS = BASE_960H_LABELS
BLANK = LABELS.index("<pad>")
LABEL_IDS = {label: index for index, label in enumerate(LABELS)}


def build_network() -> Wav2Vec2ForCTC:
    """Return a new network of 1.5 million parameters."""
    network = Wav2Vec2ForCTC(_config())
    # With heads of 36 numbers, plain attention trains faster on a CPU than fused kernels.
    network.set_attn_implementation("eager")
    first_convolution = network.get_submodule("wav2vec2.feature_extractor.conv_layers.0.conv")
    _start_as_gabor_filters(first_convolution)
    return network


def _config() -> Wav2Vec2Config:
    return Wav2Vec2Config(
        vocab_size=len(LABELS),
        hidden_size=144,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=576,
        conv_dim=(96, 128, 144),
        conv_kernel=(128, 8, 9),
        conv_stride=(16, 4, 5),
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=31,
        num_conv_pos_embedding_groups=4,
        # Every utterance is heard a few times only, each time augmented anew: no dropout is needed.
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
        ctc_zero_infinity=True,
        pad_token_id=BLANK,
        bos_token_id=LABEL_IDS["<s>"],
        eos_token_id=LABEL_IDS["</s>"],
    )


@torch.no_grad()
def _start_as_gabor_filters(convolution: nn.Module) -> None:
    """Set a convolution over samples to windowed tones, spaced evenly on the mel scale.

    Four phases of each frequency; training goes on from there.
    """
    weight, bias = convolution.get_parameter("weight"), convolution.get_parameter("bias")
    filter_count, _, length = weight.shape
    time_s = (torch.arange(length) - (length - 1) / 2) / SAMPLE_RATE_HZ
    mels = torch.linspace(_mel(80.0), _mel(7600.0), filter_count // 4)
    centre_hz = (700 * (10 ** (mels / 2595) - 1)).repeat_interleave(4)[:, None]
    phase = (torch.arange(4) * torch.pi / 2).repeat(filter_count // 4)[:, None]
    bandwidth_hz = (0.12 * centre_hz).clamp(min=80.0)
    width_s = (1 / (torch.pi * bandwidth_hz)).clamp(max=length / 5 / SAMPLE_RATE_HZ)
    window = torch.exp(-0.5 * (time_s / width_s) ** 2)
    filters = window * torch.cos(2 * torch.pi * centre_hz * time_s + phase)
    weight.copy_((filters / filters.norm(dim=1, keepdim=True))[:, None])
    bias.zero_()


def _mel(frequency_hz: float) -> float:
    return float(2595 * np.log10(1 + frequency_hz / 700))


def save_processor(output_dir: Path) -> Wav2Vec2Processor:
    """Write vocabulary, tokenizer and feature extractor to the model's folder."""
    output_dir.mkdir(parents=True, exist_ok=True)
    vocabulary_path = output_dir / "vocab.json"
    vocabulary_path.write_text(json.dumps(LABEL_IDS))
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=SAMPLE_RATE_HZ, do_normalize=True, return_attention_mask=True
    )
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary_path))
    processor = Wav2Vec2Processor(extractor, tokenizer)
    processor.save_pretrained(output_dir)
    return processor


class Wav2Vec2Trainee:
    """The network, its processor and the folder they are saved to."""

    def __init__(
        self, output_dir: Path, development: Mapping[str, Sequence[Utterance]], seed: int
    ) -> None:
        torch.manual_seed(seed)
        self._development = development
        self.network = build_network()
        self._processor = save_processor(output_dir)
        self._output_dir = output_dir
        self._rng = np.random.default_rng(seed)

    def loss(self, batch: Sequence[Utterance]) -> Tensor:
        """Return the connectionist temporal classification loss, per letter."""
        emissions, frames = self._emit([augment(u.waveform, self._rng) for u in batch])
        letters = [[LABEL_IDS[letter] for letter in _spell(u.text)] for u in batch]
        return nn.functional.ctc_loss(
            emissions.transpose(0, 1),
            torch.tensor(list(chain.from_iterable(letters))),
            frames,
            torch.tensor([len(word) for word in letters]),
            blank=BLANK,
            zero_infinity=True,
        )

    def transcribe(self, utterances: Sequence[Utterance]) -> list[str]:
        """Take the likeliest label of each frame, merge repeats, drop blanks."""
        transcripts = []
        for start in range(0, len(utterances), 16):
            rows = [to_float(u.waveform) for u in utterances[start:][:16]]
            emissions, frames = self._emit(rows)
            for labels, length in zip(emissions.argmax(-1), frames, strict=True):
                text = self._processor.decode(labels[:length])
                transcripts.append(text.lower())
        return transcripts

    def report(self) -> str:
        """Return the word error rates of the development sets."""
        return report_errors(self.transcribe, self._development)

    def save(self) -> None:
        """Write a copy in half precision."""
        half = copy.deepcopy(self.network).half()
        half.save_pretrained(self._output_dir)

    def _emit(self, waveforms: list[Waveform]) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (batch, frames, labels) and the number of frames of each row."""
        inputs = self._processor(
            waveforms,
            sampling_rate=SAMPLE_RATE_HZ,
            padding=True,
            pad_to_multiple_of=PADDED_LENGTH_STEP,
            return_tensors="pt",
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.network(**inputs).logits
        frames = self.network._get_feat_extract_output_lengths(inputs.attention_mask.sum(1))
        return logits.float().log_softmax(-1), frames


def _spell(text: str) -> str:
    """Spell in the vocabulary's letters, with the word delimiter for spaces."""
    return text.upper().replace(" ", "|")


def _curriculum(utterances: list[Utterance]) -> Iterator[list[Utterance]]:
    drawn = batches(utterances, BATCH_DURATION_S, random.Random(SEED))
    return chain(shortest_first(drawn, SHORTEST_FIRST_BATCHES), drawn)


def train(output_dir: Path, workspace: Path) -> None:
    """Synthesise the corpus, train from nothing and write the model folder."""
    torch.set_num_threads(1)
    disable_progress_bar()
    training = speech_corpus.training(workspace)
    trainee = Wav2Vec2Trainee(output_dir, speech_corpus.development(workspace), SEED)
    fit(trainee, RECIPE, _curriculum(training))
