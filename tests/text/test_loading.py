"""Checkpoints as people hand them over: their tokenizers, what they need, and their traces."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, pipeline

from archives.text import stage_text
from benchmarks.random_text_models import make_tokenizer, write_random_model, write_random_weights
from speechtext.errors import RequestError
from speechtext.text.loading import load_tokenizer
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from support.common import TRACED, lines

MODE = "sequence_classification"
TEXT = "KALO Miren, sTOBA ÉRIC vitu."


def change(path: Path, **keys: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **keys}))


def write_tokenizer(folder: Path, family: str, lower: bool = False, **keys: Any) -> Any:
    """Write the tokenizer of a family, which may lower-case texts; return it."""
    tokenizer = make_tokenizer(family, 128)
    if lower:
        tokenizer.backend_tokenizer.normalizer.lowercase = True
    tokenizer.save_pretrained(folder)
    change(folder / "tokenizer_config.json", **keys)
    return tokenizer


@pytest.mark.parametrize(
    ("family", "tokenizer_class"),
    [
        ("bert", "TokenizersBackend"),
        ("bert", "PreTrainedTokenizerFast"),
        ("roberta", "RobertaTokenizer"),
        ("gpt2", "GPT2Tokenizer"),
        ("albert", "TokenizersBackend"),
    ],
)
def test_texts_are_lower_cased_whatever_the_class_of_the_tokenizer(
    family: str, tokenizer_class: str, tmp_path: Path
) -> None:
    own = write_tokenizer(tmp_path, family, tokenizer_class=tokenizer_class)
    lowering = load_tokenizer(tmp_path, TextSettings(do_lower_case=True))
    assert lowering(TEXT)["input_ids"] == own(TEXT.lower())["input_ids"]
    assert own(TEXT)["input_ids"] != own(TEXT.lower())["input_ids"]
    # In small letters, a special token would be none.
    special = own.sep_token or own.eos_token
    assert lowering(f"KALO{special}")["input_ids"] == own(f"kalo{special}")["input_ids"]
    for lower in (None, False):
        plain = load_tokenizer(tmp_path, TextSettings(do_lower_case=lower))
        assert plain(TEXT)["input_ids"] == own(TEXT)["input_ids"]
        small = plain(TEXT.lower(), return_offsets_mapping=True)
        assert lowering(TEXT, return_offsets_mapping=True) == small


def test_a_tokenizer_that_lower_cases_cannot_be_told_not_to(tmp_path: Path) -> None:
    own = write_tokenizer(tmp_path, "bert", lower=True)
    for given in (None, True):
        found = load_tokenizer(tmp_path, TextSettings(do_lower_case=given))
        assert found(TEXT)["input_ids"] == own(TEXT)["input_ids"]
    with pytest.raises(ValueError, match=r"^handler\.do_lower_case: expected true with this tok"):
        load_tokenizer(tmp_path, TextSettings(do_lower_case=False))


def test_a_tokenizer_of_python_is_refused_where_it_is_built_and_loaded(tmp_path: Path) -> None:
    source = write_random_model(tmp_path / "source", "bert", MODE)
    for path in source.glob("*token*"):
        path.unlink()
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    said = r"^Expected a tokenizer of the tokenizers library, .* got CanineTokenizer\.$"
    with pytest.raises(ValueError, match=said):
        stage_text(str(source), tmp_path, {"mode": MODE})
    with pytest.raises(ValueError, match=said):
        TextPredictor.load(source)


@pytest.mark.parametrize(
    ("config", "keys", "said"),
    [
        (
            {},
            {"attn_implementation": "flash_attention_2"},
            r"^handler\.attn_implementation: expected one whose package is installed, got "
            r"'flash_attention_2': .*FlashAttention2.*$",
        ),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            {},
            r"^config\.json: expected a checkpoint whose packages are installed: .*GPTQ.*optimum",
        ),
    ],
)
def test_what_needs_a_package_that_is_missing_is_told(
    config: dict[str, Any], keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = write_random_model(tmp_path, "bert", MODE)
    change(folder / "config.json", **config)
    with pytest.raises(ValueError, match=said) as caught:
        TextPredictor.load(folder, TextSettings(**keys))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save_mode", TRACED)
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "t5", "bart"])
def test_decoders_that_classify_are_traced(family: str, save_mode: Any, tmp_path: Path) -> None:
    """With a cache of their own, and without a token to pad with, GPT-2's and Llama's."""
    source = write_decoder(tmp_path / "source", family)
    folder = tmp_path / "model"
    folder.mkdir()
    file = stage_text(str(source), folder, {"mode": MODE, "save_mode": save_mode})
    traced = TextPredictor.load(folder, TextSettings(save_mode=save_mode), file=file)
    network = traced.task.model.network
    assert type(network).__name__ == TRACED[save_mode]
    texts = [*lines(5, 30), "kalo"]
    asked = {"top_k": 3, "function_to_apply": "none"}
    found = traced.answer([traced.read({"inputs": each, "parameters": asked}) for each in texts])
    reference: Any = pipeline("text-classification", str(source))
    for each, text in zip(found, texts, strict=True):
        assert not isinstance(each, RequestError)
        expected = reference(text, **asked)
        assert [label["label"] for label in each.content] == [label["label"] for label in expected]
        scores = [label["score"] for label in each.content]
        assert scores == pytest.approx([label["score"] for label in expected], abs=1e-4)


def write_decoder(folder: Path, family: str) -> Path:
    """Write a tiny model with a decoder, of random weights, that has three labels."""
    if family not in ("t5", "bart"):
        return write_random_model(folder, family, MODE, num_labels=3)
    tokenizer = make_tokenizer("roberta", 128)
    sizes: dict[str, Any] = {"d_model": 32, "num_labels": 3, "vocab_size": len(tokenizer)}
    if family == "t5":
        sizes |= {"d_kv": 8, "num_heads": 4, "num_layers": 2, "d_ff": 64}
    for part in ("encoder", "decoder") if family == "bart" else ():
        sizes |= {f"{part}_layers": 2, f"{part}_attention_heads": 4, f"{part}_ffn_dim": 64}
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(family, **sizes, **ids)
    return write_random_weights(folder, config, tokenizer, MODE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pair", [False, True])
def test_a_long_text_loses_the_end_that_its_tokenizer_says(
    side: str, pair: bool, tmp_path: Path
) -> None:
    folder = write_random_model(tmp_path, "bert", MODE, num_labels=3)
    change(folder / "tokenizer_config.json", truncation_side=side, model_max_length=12)
    predictor = TextPredictor.load(folder)
    reference: Any = pipeline("text-classification", str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, other in zip(lines(8, 12), lines(8, 12, seed=2), strict=True):
        texts = (text, other) if pair else (text,)
        inputs = {"text": text, "text_pair": other} if pair else text
        batch = predictor.task.encode([predictor.read({"inputs": inputs})])
        assert batch.input_ids.tolist() == [tokenizer(*texts, truncation=True)["input_ids"]]
        parameters = {"top_k": None, "function_to_apply": "none"}
        (found,) = predictor.answer([predictor.read({"inputs": inputs, "parameters": parameters})])
        assert not isinstance(found, RequestError)
        expected = reference(inputs, truncation=True, **parameters)
        assert [each["label"] for each in found.content] == [each["label"] for each in expected]
        scores = torch.tensor([each["score"] for each in found.content])
        torch.testing.assert_close(
            scores, torch.tensor([each["score"] for each in expected]), atol=1e-4, rtol=0
        )
