"""Models that padding changes: each text gets what it gets alone, whoever is beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, pipeline

from benchmarks.random_text_models import TINY, make_tokenizer, write_random_weights
from repository import ROOT
from speechtext.errors import RequestError
from speechtext.text.generation import TextGeneration
from speechtext.text.open_texts import OpenText, OpenTexts
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from support.common import assert_alike, counted_calls
from support.text_models import BART_SIZES

# What the sizes of a tiny model are called where no other family calls them so.
FAMILIES: dict[str, dict[str, Any]] = {
    # Its heads are those of the text, and a hidden state of each position.
    "bart": {**BART_SIZES, "eos_token_id": 3},
    "bert": {},
    "convbert": {},
    "fnet": {},
    "gpt2": {},
    "llama": {},
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "git": {},
    "openai-gpt": {},
    # Of three kinds of layers; what it has read is on the layers themselves.
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8},
    "roformer": {"is_decoder": True},
    "rwkv": {"attention_hidden_size": 32},
    "xlnet": {"d_model": 32, "d_inner": 64, "n_layer": 2, "n_head": 4},
    "yoso": {},
}
READING, WRITING = "sequence_classification", "text_generation"
LABELS = dict(enumerate(("O", "B-PER", "B-LOC")))
SHORT, LONG = "kalo miren", "kalo miren stoba vitu ler. Gorpe shido na lobavi"
TEXTS = [SHORT, LONG, "stoba vitu", "vitu", LONG]


def choose_sizes(family: str) -> dict[str, Any]:
    """Return sizes of a tiny model, under the names that are the configuration's own."""
    default = AutoConfig.for_model(family)
    names = {name for name in TINY if hasattr(default, name)} - default.attribute_map.keys()
    # XLNet has as many positions as are asked for.
    return {name: TINY[name] for name in names if getattr(default, name) != -1}


def write_family(folder: Path, family: str, mode: str) -> Path:
    """Write a tiny model of random weights, with BERT's tokenizer or GPT-2's."""
    tokenizer = make_tokenizer("gpt2" if mode == WRITING else "bert", 128)
    ids = {"pad_token_id": tokenizer.pad_token_id or 0, "eos_token_id": None}
    sizes = {"vocab_size": len(tokenizer), **choose_sizes(family), **ids, **FAMILIES[family]}
    config = AutoConfig.for_model(family, id2label=LABELS, **sizes)
    return write_random_weights(folder, config, tokenizer, mode)


def load(folder: Path, family: str, mode: str, **keys: Any) -> TextPredictor:
    return TextPredictor.load(write_family(folder, family, mode), TextSettings(mode=mode, **keys))


def answers(predictor: TextPredictor, texts: Sequence[str], **parameters: Any) -> list[Any]:
    asked = [predictor.read({"inputs": text, "parameters": parameters}) for text in texts]
    found = predictor.answer(asked)
    assert not any(isinstance(each, RequestError) for each in found), found
    return [each.content for each in found if not isinstance(each, RequestError)]


@pytest.mark.parametrize("family", ["fnet", "convbert", "xlnet", "yoso", "bart", "bert"])
def test_text_is_classified_as_it_is_alone(family: str, tmp_path: Path) -> None:
    predictor = load(tmp_path, family, READING)
    assert predictor.task.pads == (family in ("bart", "bert"))
    reference = pipeline("text-classification", str(tmp_path))
    with counted_calls(predictor.task.model.network) as calls:
        found = answers(predictor, TEXTS, top_k=3)
    assert_alike(found, [reference(text, top_k=3) for text in TEXTS])
    # Those of one length go together all the same.
    assert len(calls) == len(set(calls)) < len(TEXTS)


@pytest.mark.parametrize(
    "family", ["git", "roformer", "rwkv", "gpt2", "llama", "mamba", "recurrent_gemma"]
)
def test_prompt_is_continued_as_it_is_alone(family: str, tmp_path: Path) -> None:
    """Whether prompts come together or join others."""
    predictor = load(tmp_path, family, WRITING, do_sample=False)
    task = predictor.task
    assert isinstance(task, TextGeneration)
    assert task.pads == (family in ("gpt2", "llama", "mamba"))
    assert task.takes_turns == (family != "recurrent_gemma")
    asked = {"max_new_tokens": 12, "return_full_text": False, "details": True, "seed": 1}
    expected = [answers(predictor, [text], **asked)[0] for text in TEXTS]
    assert_alike(answers(predictor, TEXTS, **asked), expected)
    texts, opened = OpenTexts(predictor, task), list[OpenText]()
    for text in TEXTS:
        found = texts.begin([predictor.read({"inputs": text, "parameters": asked})], print)
        opened += [each for each in found if isinstance(each, OpenText)]
        texts.advance()
    while not all(each.ended for each in opened):
        texts.advance()
    joined: list[Any] = list(map(texts.finish, opened))
    assert_alike([each.content for each in joined], expected)


def test_model_that_reads_its_text_again_for_each_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^config\.json: expected a model with a cache of what"):
        load(tmp_path, "openai-gpt", WRITING)


@pytest.mark.parametrize("demo", ["bert_question_answering", "gpt2_text_generation"])
@pytest.mark.parametrize("keys", [{"dtype": "bfloat16"}, {"quantization": "int8_dynamic"}])
def test_rounding_is_not_taken_for_padding(demo: str, keys: dict[str, Any]) -> None:
    mode = demo.partition("_")[2]
    predictor = TextPredictor.load(ROOT / "demo_models" / demo, TextSettings(mode=mode, **keys))
    assert predictor.task.pads


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_is_found_in_each_dtype(dtype: Any, tmp_path: Path) -> None:
    predictor = load(tmp_path, "convbert", "token_classification", dtype=dtype)
    assert not predictor.task.pads
