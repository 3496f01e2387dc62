"""Models of random weights, in folders laid out exactly like the published ones."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import torchaudio
from safetensors.torch import save_file
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from archives.emformer import BUNDLE_FILES
from archives.layout import BASE_960H_LABELS

# The published file uses the older names of the weight-normalised convolution.
PUBLISHED_NAMES = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
BUNDLE_PIECES = 4096


def write_base_960h(folder: Path, **sizes: Any) -> Wav2Vec2ForCTC:
    """Write a model laid out as facebook/wav2vec2-base-960h on the hub, and return it.

    `sizes` are keys of its configuration, of a model of another size.
    """
    torch.manual_seed(0)
    config = Wav2Vec2Config(vocab_size=len(BASE_960H_LABELS), **sizes)
    model: Wav2Vec2ForCTC = Wav2Vec2ForCTC(config).eval()
    model.config.architectures = ["Wav2Vec2ForCTC"]
    model.config.save_pretrained(folder)
    save_file(_published_weights(model), folder / "model.safetensors", {"format": "pt"})
    write_processor(folder)
    return model


def _published_weights(model: Wav2Vec2ForCTC) -> dict[str, torch.Tensor]:
    weights = {}
    for name, weight in model.state_dict().items():
        for ours, published in PUBLISHED_NAMES.items():
            name = name.replace(ours, published)
        weights[name] = weight
    # Fine-tuned checkpoints lack the vector that only pre-training uses.
    del weights["wav2vec2.masked_spec_embed"]
    return weights


def write_processor(folder: Path) -> None:
    """Write the processor files of facebook/wav2vec2-base-960h."""
    files: dict[str, dict[str, Any]] = {
        "preprocessor_config.json": {
            "do_normalize": True,
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
            "sampling_rate": 16000,
        },
        "vocab.json": {label: index for index, label in enumerate(BASE_960H_LABELS)},
        "tokenizer_config.json": {
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "do_lower_case": False,
            "return_attention_mask": False,
            "do_normalize": True,
        },
        "special_tokens_map.json": {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def write_mms(folder: Path, labels: Mapping[str, Sequence[str]], **sizes: Any) -> None:
    """Write a model laid out as facebook/mms-1b-all: an adapter and labels for each language."""
    torch.manual_seed(0)
    special = ["<pad>", "<s>", "</s>", "<unk>", "|"]
    vocabulary = {
        language: {label: index for index, label in enumerate([*special, *each])}
        for language, each in labels.items()
    }
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    first = next(iter(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang=first)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            conv_bias=True,
            vocab_size=len(vocabulary[first]),
            adapter_attn_dim=16,
            **sizes,
        )
    )
    model.save_pretrained(folder)
    for language, each in vocabulary.items():
        model.lm_head = torch.nn.Linear(model.config.hidden_size, len(each))
        adapter = {name: torch.randn_like(part) for name, part in model._get_adapters().items()}
        save_file(adapter, folder / f"adapter.{language}.safetensors", {"format": "pt"})


def write_speech_bundle(bundle: Any, folder: Path) -> None:
    """Write what a `Wav2Vec2ASRBundle` downloads into the folder where torch.hub looks for it."""
    torch.manual_seed(0)
    model = torchaudio.models.wav2vec2_model(**bundle._params)
    weights = model.state_dict()
    # fairseq trained classes without use, which torchaudio drops.
    unused = len(bundle._remove_aux_axis)
    for name in ("aux.weight", "aux.bias"):
        head, labels = weights[name][:1], weights[name][1:]
        weights[name] = torch.cat([head, torch.randn(unused, *labels.shape[1:]), labels])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / bundle._path)


def write_bundle(folder: Path) -> Any:
    """Write what torchaudio's Emformer RNN-T bundle downloads, and return the model."""
    torch.manual_seed(0)
    model = torchaudio.models.emformer_rnnt_base(BUNDLE_PIECES + 1).eval()
    with torch.no_grad():
        # Random weights would emit tokens without end; so they emit about one for four frames.
        model.joiner.linear.bias[-1] = 1.5
    torch.save(model.state_dict(), folder / BUNDLE_FILES["weights"])
    statistics = {"mean": [8.0] * 80, "invstddev": [0.25] * 80}
    (folder / BUNDLE_FILES["statistics"]).write_text(json.dumps(statistics))
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnop", k=8)) for _ in range(4000)]
    with (folder / BUNDLE_FILES["pieces"]).open("wb") as pieces:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            model_writer=pieces,
            vocab_size=BUNDLE_PIECES,
            model_type="bpe",
            minloglevel=2,
        )
    return model
