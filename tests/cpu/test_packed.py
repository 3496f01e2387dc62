"""Packed layers, attention by heads and the front end compute what PyTorch's own layers compute."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from transformers import AutoModelForCTC, T5Config, T5EncoderModel

from benchmarks.random_text_models import KINDS, write_random_model
from speechtext.cpu.attention import NAME, attend_by_heads, attend_once
from speechtext.cpu.networks import leave_file, speed_up_network
from speechtext.cpu.packed import PackedLinear, can_pack, pack_linear_layers
from speechtext.speech.cpu_front_end import CpuFrontEnd
from speechtext.speech.rnnt.torchscript.encoder import PackedProduct
from speechtext.text.loading import use_linear_layers
from speechtext.text.tasks import find_task
from support.audio_models import random_model

SHAPES = [(1, 1), (7, 3), (64, 48), (100, 257), (768, 31)]
ROWS = [(0,), (1,), (2,), (3, 5), (17,), (2, 3, 4), (511,), (513,)]
GENERATING = ("gpt2", "llama", "opt", "qwen2")
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# Samples of the shortest waveforms, one by one around a frame, and of longer ones.
SAMPLES = [*range(400, 402), *range(719, 722), *range(1_039, 1_042), *range(2_000, 90_000, 7_777)]


def random_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("approximate", [None, "none", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_a_linear_layer(
    shape: tuple[int, int], bias: bool, approximate: str | None, dtype: torch.dtype
) -> None:
    if not can_pack(dtype):
        return
    width, out = shape
    weight = (random_of(out, width) / width**0.5).to(dtype)
    added = random_of(out).to(dtype) if bias else None
    layer = PackedLinear(weight, added, approximate)
    assert torch.equal(layer.weight, weight)
    for rows in ROWS:
        inputs = random_of(*rows, width).to(dtype)
        exact = linear(inputs.float(), weight.float(), None if added is None else added.float())
        expected = exact if approximate is None else gelu(exact, approximate=approximate)
        found = layer(inputs).float()
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=CLOSE[dtype], rtol=CLOSE[dtype])
        # Rows that do not lie next to each other in memory.
        apart = inputs.transpose(0, -2).contiguous().transpose(0, -2)
        torch.testing.assert_close(layer(apart).float(), found)


@pytest.mark.parametrize("approximate", [None, "none", "tanh"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_a_linear_layer(
    shape: tuple[int, int], approximate: str | None
) -> None:
    width, out = shape
    weight, added = random_of(out, width) / width**0.5, random_of(out)
    layer = PackedLinear(weight, added, approximate)
    for rows in ROWS:
        inputs = random_of(*rows, width).requires_grad_()
        outer = random_of(*rows, out)
        exact = linear(inputs, weight, added)
        expected = exact if approximate is None else gelu(exact, approximate=approximate)
        found = layer(inputs)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
        (right,) = torch.autograd.grad(expected, inputs, outer)
        (ours,) = torch.autograd.grad(found, inputs, outer)
        torch.testing.assert_close(ours, right, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weights_that_are_packed_leave_their_file(dtype: torch.dtype) -> None:
    """Buffers too; the others stay mapped, and so does all of what no CPU packs."""

    class Network(torch.nn.Module):
        """With what transformers adds to a module."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 5)
            self.register_buffer("scale", torch.arange(4.0))
            self.dtype, self.device = dtype, torch.device("cpu")

    network = Network().to(dtype)
    mapped = [*network.parameters(), *network.buffers()]
    places = [each.data_ptr() for each in mapped]
    values = [each.detach().clone() for each in mapped]
    leave_file(network)
    now = [*network.parameters(), *network.buffers()]
    moved = [each.data_ptr() != place for each, place in zip(now, places, strict=True)]
    assert moved == [can_pack(dtype)] * 3
    assert all(torch.equal(one, other) for one, other in zip(now, values, strict=True))


def test_layers_that_only_look_like_a_linear_one_stay() -> None:
    class Twice(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(inputs)

    plain = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16).half(), torch.nn.Linear(16, 2)
    network = torch.nn.Sequential(Twice(16, 16), *plain)
    pack_linear_layers(network)
    kinds = [type(layer) for layer in network]
    assert kinds == [Twice, PackedLinear, torch.nn.Linear, torch.nn.Linear]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 3])
def test_attention_by_heads_is_that_of_pytorch(rows: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for tokens in (1, 2, 3, 16, 149, 600, 1_025):
            query, key, value = (random_of(rows, 5, tokens, 16 + each) for each in range(3))
            key, value = key[..., :16], value[..., :16]
            expected = scaled_dot_product_attention(query, key, value)
            found = attend_by_heads(query / 4, key, value)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["none", "bool", "added"])
def test_one_query_sees_what_pytorch_says(kind: str, threads: int) -> None:
    """Of each row, over keys that lie apart, as in a cache with room for more."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        for keys in (*range(1, 40), 440, 1025):
            query = torch.randn(3, 12, 1, 16, generator=generator)
            key, value = (
                torch.randn(3, 12, keys + 9, 16, generator=generator)[:, :, :keys] for _ in range(2)
            )
            seen = torch.rand(3, 1, 1, keys, generator=generator) < 0.7
            seen[..., -1] = True
            mask = {
                "none": None,
                "bool": seen,
                "added": torch.zeros(3, 1, 1, keys).masked_fill(~seen, -1e9),
            }[kind]
            expected = scaled_dot_product_attention(query, key, value, mask)
            torch.testing.assert_close(
                attend_once(query / 4, key, value, mask), expected, atol=1e-5, rtol=0
            )
    torch.set_num_threads(1)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "qwen2"])
def test_networks_attend_as_before(family: str, tmp_path: Path) -> None:
    """In float32, where nothing is rounded away: alone, under a mask, and causally."""
    mode = "text_generation" if family in GENERATING else "token_classification"
    folder = write_random_model(tmp_path, family, mode)
    plain, ours = (find_task(mode).auto_model.from_pretrained(folder).eval() for _ in range(2))
    ours.set_attn_implementation(NAME)
    for tokens in (1, 2, 5, 30, 126):
        ids = torch.randint(5, plain.config.vocab_size, (3, tokens))
        for used in (tokens, tokens // 2 + 1):
            mask = torch.ones_like(ids)
            mask[-1, used:] = 0
            inputs = {"input_ids": ids, "attention_mask": mask}
            expected, found = (each(**inputs).logits[mask.bool()] for each in (plain, ours))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "sizes", [{}, {"conv_bias": True}, {"feat_extract_norm": "layer"}], ids=str
)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("family", ["wav2vec2", "sew", "data2vec-audio"])
def test_front_end_is_that_of_transformers(
    family: str, activation: str, sizes: dict[str, Any]
) -> None:
    options = {"feat_extract_activation": activation, **sizes}
    network = random_model(AutoModelForCTC, family, **options).base_model.feature_extractor
    ours = CpuFrontEnd(network.conv_layers)
    for samples in SAMPLES:
        waveform = 3 * random_of(1, samples) + 0.5
        with torch.inference_mode():
            expected, found = network(waveform), ours(waveform)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("sizes", [{}, {"feat_extract_norm": "layer"}], ids=str)
def test_gradients_of_the_front_end_are_those_of_transformers(sizes: dict[str, Any]) -> None:
    network = random_model(AutoModelForCTC, "wav2vec2", **sizes).base_model.feature_extractor
    ours = CpuFrontEnd(network.conv_layers)
    for samples in (400, 1_040, 8_000):
        waveform = random_of(1, samples).requires_grad_()
        expected, found = network(waveform), ours(waveform)
        outer = random_of(*expected.shape)
        (right,) = torch.autograd.grad(expected, waveform, outer)
        (gradient,) = torch.autograd.grad(found, waveform, outer)
        torch.testing.assert_close(gradient, right, atol=1e-4 * float(right.abs().max()), rtol=1e-3)


@torch.inference_mode()
def test_silence_has_no_spread_to_divide_by() -> None:
    network = random_model(AutoModelForCTC, "wav2vec2").base_model.feature_extractor
    waveform = torch.zeros(1, 4_000)
    found = CpuFrontEnd(network.conv_layers)(waveform)
    torch.testing.assert_close(found, network(waveform), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("family", KINDS)
def test_every_family_says_the_same_at_every_length(family: str, tmp_path: Path) -> None:
    mode = "text_generation" if family in GENERATING else "token_classification"
    folder = write_random_model(tmp_path, family, mode)
    network = find_task(mode).auto_model.from_pretrained(folder).eval()
    use_linear_layers(network)
    ours = copy.deepcopy(network)
    speed_up_network(ours)
    assert any(isinstance(layer, PackedLinear) for layer in ours.modules())
    for tokens in range(1, 127):
        ids = torch.randint(5, network.config.vocab_size, (1 + tokens % 3, tokens))
        mask = torch.ones_like(ids)
        mask[-1, tokens // 2 + 1 :] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        expected, found = (each(**inputs).logits[mask.bool()] for each in (network, ours))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


SPEECH: list[tuple[str, dict[str, Any]]] = [
    ("wav2vec2", {}),
    ("wavlm", {}),
    ("wav2vec2-bert", {}),
    ("wav2vec2-conformer", {"position_embeddings_type": "relative"}),
    ("wav2vec2-conformer", {"position_embeddings_type": "rotary"}),
]


@torch.inference_mode()
@pytest.mark.parametrize(("family", "sizes"), SPEECH, ids=str)
def test_positions_of_speech_count_as_before(family: str, sizes: dict[str, Any]) -> None:
    """In float32: positions that are added to scores are not forgotten."""
    plain = random_model(AutoModelForCTC, family, **sizes)
    for weight in plain.parameters():
        weight.mul_(3)
    ours = copy.deepcopy(plain)
    ours.set_attn_implementation(NAME)
    for frames in (30, 61):
        shape = (1, frames, 160) if family == "wav2vec2-bert" else (1, frames * 320)
        inputs = random_of(*shape)
        torch.testing.assert_close(ours(inputs).logits, plain(inputs).logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_biases_of_t5_count_as_before() -> None:
    config = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    torch.manual_seed(0)
    plain = T5EncoderModel(config).eval()
    ours = copy.deepcopy(plain)
    speed_up_network(ours)
    ours.set_attn_implementation(NAME)
    for tokens in (1, 7, 40):
        ids = torch.randint(5, 99, (2, tokens))
        expected, found = (each(input_ids=ids).last_hidden_state for each in (plain, ours))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(("family", "sizes"), SPEECH, ids=str)
def test_bfloat16_is_as_near_to_float32_as_before(family: str, sizes: dict[str, Any]) -> None:
    exact = random_model(AutoModelForCTC, family, **sizes)
    plain, ours = (copy.deepcopy(exact).bfloat16() for _ in range(2))
    speed_up_network(ours)
    errors = {"plain": 0.0, "ours": 0.0}
    for frames in (30, 61, 200):
        shape = (1, frames, 160) if family == "wav2vec2-bert" else (1, frames * 320)
        inputs = random_of(*shape)
        right = exact(inputs).logits
        for name, network in (("plain", plain), ("ours", ours)):
            found = network(inputs.bfloat16()).logits.float()
            errors[name] += float((found - right).square().mean())
    assert errors["ours"] < 1.5 * errors["plain"]


def test_front_end_runs_where_gradients_are_on_and_none_is_asked_for() -> None:
    network = random_model(AutoModelForCTC, "wav2vec2", feat_extract_norm="layer")
    front_end = network.base_model.feature_extractor
    waveform = random_of(1, 4_000)
    found = CpuFrontEnd(front_end.conv_layers)(waveform)
    torch.testing.assert_close(found, front_end(waveform), atol=2e-5, rtol=1e-4)


def test_transducer_may_be_packed_twice() -> None:
    layer = PackedProduct(torch.nn.Linear(20, 30))
    rows = random_of(7, 20)
    expected = layer(rows)
    for _ in range(2):
        layer.pack(512)
        torch.testing.assert_close(layer(rows), expected, atol=1e-5, rtol=1e-5)
