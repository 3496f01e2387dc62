"""Linear layers in int8: exact but for rounding, and the same for a row whoever is beside it."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from repository import ROOT
from speechtext.cpu.int8 import Int8Linear
from speechtext.cpu.packed import can_multiply_int8
from speechtext.errors import RequestError
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings

pytestmark = pytest.mark.skipif(
    not can_multiply_int8(), reason="This processor does not multiply int8."
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "width", "out"), [(1, 1, 1), (7, 48, 20), (64, 300, 130)])
@torch.inference_mode()
def test_row_is_multiplied_exactly_but_for_rounding(
    rows: int, width: int, out: int, bias: bool
) -> None:
    torch.manual_seed(rows)
    layer = nn.Linear(width, out, bias=bias)
    # Rows of all sizes beside each other, and one of nothing.
    given = torch.randn(2, rows, width) * torch.logspace(-4, 4, rows)[:, None]
    given[1, -1] = 0
    found = Int8Linear(layer)(given)
    assert found.shape == (2, rows, out)
    largest = layer.weight.abs().amax(dim=1) * given.abs().amax(dim=-1, keepdim=True)
    # Half a step of 127 on either side, and what float32 rounds.
    most = largest * width / 127 * 1.01 + 1e-6
    assert ((found - layer(given)).abs() <= most).all()


@torch.inference_mode()
def test_row_gets_the_same_whoever_is_beside_it() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(96, 40))
    given = torch.randn(9, 96) * torch.logspace(-2, 3, 9)[:, None]
    given[4, 7] = torch.nan
    found = layer(given)
    for row, own in zip(given, found, strict=True):
        assert torch.equal(layer(row[None])[0].nan_to_num(9.0), own.nan_to_num(9.0))
    # What is no number makes none, in its own row.
    assert found.isfinite().all(dim=1).tolist() == [True] * 4 + [False] + [True] * 4


PROMPTS = ["the cat", "once upon a time there was a girl", "her mother said", "a dog in the house"]


def test_text_is_continued_in_int8_as_it_is_alone() -> None:
    settings = TextSettings(mode="text_generation", quantization="int8_dynamic", do_sample=False)
    predictor = TextPredictor.load(ROOT / "demo_models" / "gpt2_text_generation", settings)
    asked = [
        predictor.read({"text": f"{one} {other}", "parameters": {"max_new_tokens": 30}})
        for one in PROMPTS
        for other in ("and", "who lived")
    ]
    alone = [predictor.answer([each])[0] for each in asked]
    assert predictor.answer(asked) == alone


def test_text_is_read_in_int8_as_it_is_alone() -> None:
    """But for what float32 rounds; a scale for all would be a hundred times as far off."""
    settings = TextSettings(quantization="int8_dynamic")
    predictor = TextPredictor.load(ROOT / "demo_models" / "bert_seq_classification", settings)
    asked = [predictor.read({"inputs": one, "parameters": {"top_k": None}}) for one in PROMPTS]
    for together, one in zip(predictor.answer(asked), asked, strict=True):
        (alone,) = predictor.answer([one])
        assert not isinstance(together, RequestError)
        assert not isinstance(alone, RequestError)
        for found, expected in zip(together.content, alone.content, strict=True):
            assert found == {**expected, "score": pytest.approx(expected["score"], abs=1e-6)}


MULTIPLY = """
import torch
from speechtext.cpu.int8 import Int8Linear
layer = Int8Linear(torch.nn.Linear(96, 40))
with torch.inference_mode():
    for rows in (1, 2, 7, 64, 700):
        layer(torch.randn(rows, 96))
"""


def test_products_are_computed_by_code_for_this_processor() -> None:
    """The reference of oneDNN says the same, hundreds of times slower."""
    run = subprocess.run(
        [sys.executable, "-c", MULTIPLY],
        env={**os.environ, "ONEDNN_VERBOSE": "1", "PYTHONPATH": str(ROOT / "handlers")},
        capture_output=True,
        text=True,
        check=True,
    )
    executed = [line.split(",") for line in run.stdout.splitlines() if ",exec," in line]
    products = [fields[6] for fields in executed if fields[5] == "matmul"]
    assert len(products) == 5
    assert not [name for name in products if name.startswith("ref")]
