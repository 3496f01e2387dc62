"""Texts that OpenVINO writes: those of PyTorch, whoever comes and goes, and in int8 as good."""

import copy
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.masking_utils import create_causal_mask

from archives.errors import SourceError
from archives.openvino_files import save_openvino
from archives.openvino_generators import ATTENTION, convert_generator
from archives.text import stage_text
from benchmarks.random_text_models import write_random_model
from demo_models.catalogue import TEXT_MODELS
from repository import ROOT
from speechtext.text.decoding import Decoder
from speechtext.text.loading import load_openvino
from speechtext.text.openvino_generator import OpenVinoGenerator
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from support.common import counted_calls
from support.continuations import (
    FAMILIES,
    ROWLESS,
    finish,
    finish_each,
    network,
    repetitive_network,
    repetitive_rows,
    rows,
)
from support.openvino import answers, load

DEMO = ROOT / "demo_models" / "gpt2_text_generation"
CONVERTED = [family for family in FAMILIES if family not in ROWLESS]
GENERATION = {"mode": "text_generation", "save_mode": "openvino"}


def convert(model: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Return a network of transformers as OpenVINO runs it."""
    model.generation_config.save_pretrained(folder)
    save_openvino(convert_generator(model), folder / "model.xml")
    return load_openvino(folder / "model.xml", model.config, dtype)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what converts the small network of a family, once."""

    @cache
    def of(family: str) -> Any:
        return convert(network(family), tmp_path_factory.mktemp(family))

    return of


@pytest.mark.parametrize("family", CONVERTED)
def test_tokens_are_those_of_pytorch(family: str, converted: Any) -> None:
    """Greedy ones, drawn ones and penalised ones, of prompts of unlike length."""
    expected = finish(Decoder(network(family), pad_id=0), rows(36))
    assert finish(Decoder(converted(family), pad_id=0), rows(36)) == expected


@pytest.mark.parametrize("family", ["gpt2", "llama", "falcon"])
def test_who_joins_and_leaves_changes_no_row(family: str, converted: Any) -> None:
    model = converted(family)
    alone = [finish(Decoder(model, pad_id=0), [row])[0] for row in rows(30)]
    chance = random.Random(5)
    given, decoder = rows(30), Decoder(model, pad_id=0)
    waiting = list(given)
    with counted_calls(model) as calls:
        while waiting or decoder.rows:
            if waiting and chance.random() < 0.6:
                decoder.add([waiting.pop(0)])
            decoder.step()
    assert [row.ids for row in given] == alone
    # Rows that joined share a call.
    assert len(calls) < sum(map(len, alone)) / 2


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_guesses_change_no_row(family: str, tmp_path: Path) -> None:
    model = convert(repetitive_network(family), tmp_path)
    alone, found = repetitive_rows(12), repetitive_rows(12)
    plain, guessing = finish_each(model, alone), finish_each(model, found, guessed_tokens=8)
    assert guessing < plain
    assert [row.ids for row in found] == [row.ids for row in alone]


def test_gated_layers_in_bfloat16_are_given_more_than_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one, OpenVINO ends the process on processors with AMX."""
    model = network("llama")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    converted = convert(model, tmp_path, torch.bfloat16)
    assert all(len(ids) > 0 for ids in finish(Decoder(converted, pad_id=0), rows(6)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.raises(ValueError, match=r"^handler\.threads: expected 2 or more for gated layers"):
        load_openvino(tmp_path / "model.xml", model.config, torch.bfloat16)


@pytest.mark.parametrize("family", ROWLESS)
def test_network_that_keeps_something_else_is_told(family: str) -> None:
    with pytest.raises(SourceError, match=r"^handler\.save_mode: expected a network that keeps"):
        convert_generator(network(family))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, OpenVinoGenerator]:
    """Return two of GPT-2's twelve layers, each as wide as published, and the same in OpenVINO."""
    folder = tmp_path_factory.mktemp("wide")
    source = write_random_model(folder / "source", "gpt2", "text_generation", tiny=False, n_layer=2)
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    return model, convert(model, folder)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 150, 333, 1000])
def test_wide_model_says_what_transformers_says_at_every_length(
    length: int, wide: tuple[Any, OpenVinoGenerator]
) -> None:
    """Of a prompt with padding, of tokens after it, with a row fewer, and of some read again."""
    model, own = wide
    total = length + 6
    ids = torch.randint(5, model.config.vocab_size, (3, total))
    mask = torch.ones_like(ids)
    mask[1, : length // 2] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, position_ids=positions).logits
    cache = own.make_cache()

    def check(first: int, end: int, kept: list[int]) -> None:
        found = own(
            ids[kept, first:end],
            mask[kept, :end],
            positions[kept, first:end],
            cache,
            logits_to_keep=end - first if first else 1,
        ).logits
        right = expected[kept, first or end - 1 : end]
        torch.testing.assert_close(found, right, atol=1e-4, rtol=0)

    check(0, length, [0, 1, 2])
    check(length, length + 1, [0, 1, 2])
    cache.keep_rows([1, 2], 0)
    check(length + 1, length + 4, [1, 2])
    cache.crop(-2)
    check(length + 2, length + 3, [1, 2])
    cache.keep_rows([0], 0)
    check(length + 3, total, [1])


def test_padding_is_tried_by_the_logits_of_each_token(tmp_path: Path) -> None:
    """Those of OpenVINO lie where the next call writes its own."""
    predictor = load(DEMO, tmp_path / "model", **GENERATION)
    exact = TextPredictor.load(DEMO, TextSettings(mode="text_generation"))
    found, expected = (
        each.task.compute_together([each.read("Once upon a time")])[0]
        for each in (predictor, exact)
    )
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("bits", "most_bytes"), [(8, 1.2e6), (4, 0.8e6)])
def test_weights_of_few_bits_write_as_well(bits: int, most_bytes: float, tmp_path: Path) -> None:
    """The demo model's 1.1 million weights take 4.5 MB in float32."""
    world = TEXT_MODELS["gpt2_text_generation"]
    examples = world.held_out(300, seed=3)
    payloads = [each.payload for each in examples]
    settings: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False}
    exact = TextPredictor.load(DEMO, TextSettings(mode="text_generation", **settings))
    smaller = load(
        DEMO, tmp_path / "model", **GENERATION, quantization=f"int{bits}_weight_only", **settings
    )
    assert (tmp_path / "model" / "model.bin").stat().st_size < most_bytes
    exact_scores = world.score(answers(exact, payloads), examples)
    found = world.score(answers(smaller, payloads), examples)
    for name, score in found.items():
        assert score >= exact_scores[name] - 0.3, name


def test_settings_that_a_worker_would_refuse_are_told_at_build(tmp_path: Path) -> None:
    for keys, said in (
        ({"captum_explanation": True}, r"^handler\.captum_explanation: expected save_mode"),
        ({"quantization": "int8_static"}, r"^handler\.quantization: expected int8_weight_only or"),
    ):
        with pytest.raises(SourceError, match=said):
            stage_text(str(DEMO), tmp_path, {**GENERATION, **keys})


def test_padding_sees_something_and_nothing_else_changes() -> None:
    """A query that sees nothing is no number in some of OpenVINO's kernels."""
    attention_mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    masks = []
    for name in ("sdpa", ATTENTION):
        config = copy.deepcopy(network("gpt2").config)
        config._attn_implementation = name
        mask = create_causal_mask(config, torch.zeros(2, 4, 32), attention_mask, None)
        assert isinstance(mask, torch.Tensor)
        masks.append(mask)
    expected, found = masks
    assert not expected[0, 0, 0].any()
    assert found[0, 0, :2].all()
    assert torch.equal(found[0, 0, 2:], expected[0, 0, 2:])
    assert torch.equal(found[1], expected[1])
