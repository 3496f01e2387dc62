"""What a worker learns of a model when it loads it: what a token takes, and that it answers."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.ao.nn.quantized.dynamic import Linear as QuantizedLinear
from transformers import AutoConfig, AutoTokenizer

from repository import ROOT
from speechtext.allowance import run_timed
from speechtext.cpu.int8 import Int8Linear
from speechtext.text import trial
from speechtext.text.base import LoadedModel, TextTask
from speechtext.text.explanation.explanation import Explanation
from speechtext.text.loading import check_settings, load_network
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import TASKS
from speechtext.text.trial import count_words, try_task

DEMO = ROOT / "demo_models" / "bert_seq_classification"
DEMOS = {
    "question_answering": "bert_question_answering",
    "sequence_classification": "bert_seq_classification",
    "text_generation": "gpt2_text_generation",
    "token_classification": "bert_token_classification",
}
CPU, GPU = torch.device("cpu"), torch.device("cuda")
# [CLS] and [SEP].
FRAME = 2


class Timed(torch.nn.Module):
    """Answers nothing in particular, in a time that is known."""

    def __init__(self, spend: Callable[[float], None], call_s: float, token_s: float) -> None:
        super().__init__()
        self._spend, self._call_s, self._token_s = spend, call_s, token_s

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        self._spend(self._call_s + input_ids.numel() * self._token_s)
        return (torch.zeros(len(input_ids), 2),)


@pytest.fixture
def spend(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what lets the processor's clock go on, which else stands still."""
    now_s = 0.0

    def spend(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(time, "thread_time", lambda: now_s)
    return spend


def make_task(network: Any, **keys: Any) -> TextTask:
    config = AutoConfig.from_pretrained(DEMO, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(DEMO, local_files_only=True)
    model = LoadedModel(network, tokenizer, config, {0: "no", 1: "yes"}, CPU, 512, ["input_ids"])
    settings = TextSettings(**keys)
    return TASKS[settings.mode](model, settings)


def test_token_takes_what_a_long_text_takes_more(spend: Callable[[float], None]) -> None:
    costs = try_task(make_task(Timed(spend, 0.505, 0.01), max_length=150))
    long = 150 // 2 - 4 + FRAME
    assert costs.token_s == pytest.approx(0.01)
    # What a call takes beside its tokens, as tokens.
    assert costs.window_tokens == 50
    assert costs.new_token_s == pytest.approx(0.505 + 0.01 * long)
    assert costs.character_s == 0


def test_token_takes_its_share_where_texts_hardly_differ(spend: Callable[[float], None]) -> None:
    """As of a model that is so small that its tokens are lost in the rest."""
    costs = try_task(make_task(Timed(spend, 10, 0.01), max_length=150))
    long, short = 150 // 2 - 4 + FRAME, 2 + FRAME
    token_s = (10 + 0.01 * long) / long
    assert costs.token_s == pytest.approx(token_s)
    assert costs.window_tokens == int((10 + 0.01 * short) / token_s) - short


def test_long_text_is_no_longer_than_the_model_takes(spend: Callable[[float], None]) -> None:
    lengths: list[int] = []
    network = Timed(spend, 0.1, 0.1)
    network.register_forward_pre_hook(
        lambda _, __, keys: lengths.append(keys["input_ids"].shape[1]), with_kwargs=True
    )
    for most in (8, 20, 512):
        lengths.clear()
        costs = try_task(make_task(network, max_length=most))
        assert lengths[-1] == min(256, max(1, most // 2 - 4)) + FRAME
        assert costs.token_s > 0


@pytest.mark.parametrize(
    ("tokens", "words"), [(1, 1), (8, 1), (9, 1), (10, 1), (12, 2), (13, 2), (150, 71)]
)
def test_words_that_fit_are_two_tokens_each_and_a_frame(tokens: int, words: int) -> None:
    assert count_words(tokens) == words


def test_settings_that_refuse_every_text_stop_the_load() -> None:
    task = make_task(None, mode="text_generation", max_new_tokens=11, max_new_tokens_limit=10)
    with pytest.raises(ValueError, match=r"^handler: expected settings under which requests are"):
        try_task(task)


@pytest.mark.parametrize(
    ("keys", "device", "said"),
    [
        ({"quantization": "int8_dynamic"}, GPU, "a CPU and dtype: float32 with it, got cuda and f"),
        ({"quantization": "int8_dynamic", "dtype": "bfloat16"}, CPU, "got cpu and bfloat16"),
        (
            {"quantization": "int8_dynamic", "captum_explanation": True},
            CPU,
            r"^handler\.captum_explanation: expected no quantization with it\.$",
        ),
        (
            {"quantization": "int8_dynamic", "prompt_lookup_num_tokens": 8},
            CPU,
            r"^handler\.prompt_lookup_num_tokens: expected no quantization with it\.$",
        ),
        ({"model_parallel": True}, CPU, r"^handler\.model_parallel: expected GPUs to spread over"),
        (
            {"mode": "text_generation", "save_mode": "torchscript"},
            CPU,
            r"^handler\.save_mode: expected pretrained or openvino for text_generation\.$",
        ),
        (
            {"mode": "text_generation", "save_mode": "openvino", "quantization": "int8_static"},
            CPU,
            r"^handler\.quantization: expected int8_weight_only or int4_weight_only for text_gen",
        ),
        (
            {"quantization": "int4_weight_only"},
            CPU,
            r"^handler\.quantization: expected save_mode: openvino with it\.$",
        ),
        (
            {"save_mode": "torchscript", "captum_explanation": True},
            CPU,
            r"^handler\.captum_explanation: expected save_mode: pretrained with it\.$",
        ),
        (
            {"save_mode": "torchscript", "quantization": "int8_dynamic"},
            CPU,
            r"^handler\.quantization: expected save_mode: pretrained with it\.$",
        ),
        (
            {"quantization": "int8_static"},
            CPU,
            r"^handler\.quantization: expected save_mode: openvino with it\.$",
        ),
        ({"save_mode": "openvino"}, GPU, "a CPU with openvino, got cuda"),
    ],
)
def test_settings_that_exclude_each_other_are_told(
    keys: dict[str, Any], device: torch.device, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_settings(TextSettings(**keys), device)


@pytest.mark.parametrize(
    "keys", [{"quantization": "int8_dynamic"}, {"model_parallel": True}, {"dtype": "bfloat16"}]
)
def test_settings_that_go_together_are_taken(keys: dict[str, Any]) -> None:
    device = GPU if "model_parallel" in keys else CPU
    check_settings(TextSettings(**keys), device)


# By whether the processor has VNNI.
INT8_LAYERS: Any = {False: QuantizedLinear, True: Int8Linear}


@pytest.mark.parametrize("vnni", [False, torch.cpu._is_vnni_supported()])
def test_quantized_model_multiplies_whole_numbers(
    vnni: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    text = "The food was wonderful."
    predictors = [
        TextPredictor.load(DEMO, TextSettings(quantization=each)) for each in (None, "int8_dynamic")
    ]
    answers = [each.answer([each.read(text)])[0] for each in predictors]
    assert answers[0] == answers[1]
    network: Any = predictors[1].task.model.network
    assert torch.nn.Linear not in map(type, network.modules())
    layers = [each for each in network.modules() if isinstance(each, INT8_LAYERS[vnni])]
    assert len(layers) > 0
    if vnni:
        return
    assert {layer.weight().dtype for layer in layers} == {torch.qint8}
    if "onednn" in torch.backends.quantized.supported_engines:
        assert torch.backends.quantized.engine == "onednn"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_network_has_the_dtype_of_the_settings(dtype: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO, local_files_only=True)
    network = load_network(DEMO, tokenizer, TextSettings(), CPU, dtype)
    assert {each.dtype for each in network.parameters()} == {getattr(torch, dtype)}
    assert not network.training


def test_sizes_that_are_not_those_of_the_weights_stop_the_load(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "intermediate_size": config["intermediate_size"] + 8}))
    with pytest.raises(
        ValueError, match=r"^config\.json: expected the sizes of the weights beside"
    ):
        TextPredictor.load(tmp_path / "model")


@pytest.mark.parametrize("mode", sorted(TASKS))
def test_explanations_load_where_the_first_run_is_not_counted(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is asked twice; every archive that explains once refused to load on one."""
    asked: list[torch.device] = []

    def run_as_on_gpu(run: Callable[[], Any], device: torch.device = CPU) -> tuple[float, Any]:
        asked.append(device)
        return run_timed(run, GPU)

    monkeypatch.setattr(trial, "run_timed", run_as_on_gpu)
    settings = TextSettings(mode=mode, captum_explanation=True)
    folder = ROOT / "demo_models" / DEMOS[mode]
    predictor = TextPredictor.load(folder, settings)
    (explained,) = predictor.explain([predictor.read(predictor.task.sample(4), explain=True)])
    assert isinstance(explained, Explanation)
    assert len(asked) == 4
