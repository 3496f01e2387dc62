"""Loading a text archive: tokenizer, model and labels, from the archive's folder alone."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from tokenizers import normalizers
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.pytorch_utils import Conv1D

from speechtext.checkpoints import check_complete, load_checkpoint, load_script
from speechtext.cpu.int8 import quantize_linear_layers
from speechtext.cpu.networks import leave_file, speed_up_network
from speechtext.cpu.openvino_network import (
    OpenVinoModel,
    OpenVinoNetwork,
    check_device,
    compile_openvino,
)
from speechtext.cpu.packed import can_multiply_int8
from speechtext.devices import DtypeName, choose_dtype
from speechtext.labels import load_labels
from speechtext.settings import STRICT
from speechtext.text.base import LoadedModel
from speechtext.text.openvino_generator import OpenVinoGenerator, is_generator
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task
from speechtext.text.windows import find_input_names

logger = logging.getLogger(__name__)

MODEL_FILE = "model.pt"
# How a model that is quantized that way is saved.
QUANTIZED = {
    "int8_dynamic": "pretrained",
    "int8_static": "openvino",
    "int8_weight_only": "openvino",
    "int4_weight_only": "openvino",
}
# Modes of `torch.compile` that record CUDA graphs, which belong to the thread that first imported
# them: engines load a model in one thread and ask it in another.
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")


# The activation of gated layers, as in Llama. On processors with AMX, OpenVINO 2026.4 divides by
# zero where it compiles them in bfloat16 for one thread.
GATED = "silu"


@dataclass(frozen=True, config=STRICT)
class CompileSettings:
    """The `pt2: compile:` keys of an archive's YAML, as `torch.compile` takes them."""

    enable: bool = False
    backend: str = "inductor"
    mode: str | None = None
    dynamic: bool | None = None


def load_text_model(
    folder: Path, serialized_file: str, settings: TextSettings, device: torch.device
) -> LoadedModel:
    """Return what an archive holds, the model on its device and ready for inference.

    Raises `ValueError` for settings that exclude each other or do not fit the checkpoint.
    """
    check_settings(settings, device)
    tokenizer = load_tokenizer(folder, settings)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if settings.save_mode == "torchscript":
        network = load_script(folder / serialized_file, device)
    elif settings.save_mode == "openvino":
        dtype = choose_dtype(settings.dtype, device)
        network = load_openvino(folder / serialized_file, config, dtype)
    else:
        network = load_network(folder, tokenizer, settings, device, settings.dtype)
        if settings.quantization:
            network = quantize(network)
        config = network.config
    check_vocabulary(tokenizer, config)
    _check_label_count(settings, config.num_labels)
    return LoadedModel(
        network,
        tokenizer,
        config,
        load_labels(folder, config) if find_task(settings.mode).has_labels else {},
        device,
        min(tokenizer.model_max_length, count_positions(network, config)),
        find_input_names(network, tokenizer),
    )


def check_settings(settings: TextSettings, device: torch.device) -> None:
    """Raise `ValueError` for settings that exclude each other or need what is not there."""
    task = find_task(settings.mode)
    if settings.BetterTransformer:
        logger.warning("BetterTransformer is deprecated: attn_implementation sdpa does the same.")
    if settings.save_mode != "pretrained":
        if settings.save_mode == "torchscript" and not task.single_call:
            raise ValueError(
                f"handler.save_mode: expected pretrained or openvino for {settings.mode}."
            )
        _check_traced(settings, device)
    if settings.model_parallel and device.type != "cuda":
        raise ValueError("handler.model_parallel: expected GPUs to spread over, got none.")
    if settings.quantization == "int8_static" and not task.single_call:
        raise ValueError(
            "handler.quantization: expected int8_weight_only or int4_weight_only for "
            f"{settings.mode}, got int8_static."
        )
    if settings.quantization:
        _check_quantization(settings.quantization, settings, device)


def _check_traced(settings: TextSettings, device: torch.device) -> None:
    if settings.captum_explanation:
        raise ValueError("handler.captum_explanation: expected save_mode: pretrained with it.")
    if settings.save_mode == "openvino":
        check_device(device)


def _check_quantization(quantization: str, settings: TextSettings, device: torch.device) -> None:
    needed = QUANTIZED[quantization]
    if settings.save_mode != needed:
        raise ValueError(f"handler.quantization: expected save_mode: {needed} with it.")
    if quantization == "int8_static":
        return
    if device.type != "cpu" or settings.dtype != "float32":
        raise ValueError(
            f"handler.quantization: expected a CPU and dtype: float32 with it, got {device.type} "
            f"and {settings.dtype}."
        )
    if needed == "openvino":
        return
    if settings.captum_explanation:
        raise ValueError("handler.captum_explanation: expected no quantization with it.")
    if settings.prompt_lookup_num_tokens:
        # On some processors, what a token is rounded to depends on those that are read with it.
        raise ValueError("handler.prompt_lookup_num_tokens: expected no quantization with it.")


def load_tokenizer(folder: Path, settings: TextSettings) -> Any:
    """Return the archive's tokenizer; `do_lower_case` overrides its own casing where it is set.

    Raises `ValueError` where there is none, for one that does not know which characters a token is
    made of, for one without a token to pad with, and for one that lower-cases texts in any case.
    """
    casing = {} if settings.do_lower_case is None else {"do_lower_case": settings.do_lower_case}
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **casing)
    check_tokenizer(folder, tokenizer)
    choose_padding(tokenizer)
    if settings.do_lower_case is not None:
        _set_casing(tokenizer.backend_tokenizer, settings.do_lower_case)
    return tokenizer


def check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Raise `ValueError` for a tokenizer without a file, and for one of Python's.

    Transformers makes up an empty one where there is no file, and those that are written in Python
    do not know which characters a token is made of.
    """
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if tokenizer.vocab_files_names and not any((folder / name).exists() for name in files):
        raise ValueError(f"Expected a tokenizer ({', '.join(sorted(files))}), got no such file.")
    if not tokenizer.is_fast:
        raise ValueError(
            f"Expected a tokenizer of the tokenizers library, with a tokenizer.json, got "
            f"{type(tokenizer).__name__}."
        )


def choose_padding(tokenizer: Any) -> None:
    """Let a tokenizer pad with the token for the end, or the unknown one, where it has no other.

    Raises `ValueError` for one that has none of them.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ValueError("Expected a tokenizer with a token for padding, end or unknown, got none.")


def pad_as(tokenizer: Any, config: Any) -> None:
    """Tell a model what its tokenizer pads with: decoders that classify find the last token so."""
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def _set_casing(backend: Any, lower: bool) -> None:
    """Let a tokenizer lower-case texts, or not, where its class does not know of that."""
    before = backend.normalizer
    lowers = before is not None and before.normalize_str("A") == before.normalize_str("a")
    if lowers and not lower:
        raise ValueError(
            "handler.do_lower_case: expected true with this tokenizer, whose tokenizer.json "
            "lower-cases all texts, got false."
        )
    if lower and not lowers:
        first = normalizers.Lowercase()
        backend.normalizer = normalizers.Sequence([first, *([before] if before else [])])


def check_vocabulary(tokenizer: Any, config: Any) -> None:
    """Raise `ValueError` for a tokenizer without a vocabulary, or with that of another model."""
    own = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    if own.keys() <= set(tokenizer.all_special_tokens):
        raise ValueError("Expected a tokenizer with a vocabulary, got one of special tokens only.")
    # What a model has no embedding for ends its request.
    embeddings = getattr(config.get_text_config(), "vocab_size", None)
    highest = max(tokenizer.get_vocab().values())
    if embeddings is not None and highest >= embeddings:
        raise ValueError(
            f"Expected a tokenizer with ids below {embeddings}, the model's vocab_size, got one "
            f"with ids up to {highest}."
        )


def load_network(
    folder: Path,
    tokenizer: Any,
    settings: TextSettings,
    device: torch.device,
    dtype_name: DtypeName,
) -> Any:
    """Return the archive's model of transformers on its device, ready for inference."""
    try:
        model, report = load_checkpoint(
            find_task(settings.mode).auto_model,
            folder,
            dtype=choose_dtype(dtype_name, device),
            output_loading_info=True,
            **_choose_options(settings),
        )
    except ImportError as error:
        raise ValueError(_name_missing(settings, error)) from error
    check_complete(report, settings.mode)
    pad_as(tokenizer, model.config)
    model = model if settings.model_parallel else model.to(device)
    if device.type == "cpu":
        leave_file(model)
        use_linear_layers(model)
    return model.eval()


def _name_missing(settings: TextSettings, error: ImportError) -> str:
    """Return what asks for a package that is missing, and what transformers says of it."""
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if settings.model_parallel and "accelerate" in said.lower():
        wanted = "the package accelerate, of the extra model-parallel"
        return f"handler.model_parallel: expected {wanted}."
    attention = settings.attn_implementation
    if attention:
        wanted = "one whose package is installed"
        return f"handler.attn_implementation: expected {wanted}, got {attention!r}: {said}"
    return f"config.json: expected a checkpoint whose packages are installed: {said}"


def load_openvino(path: Path, config: Any, dtype: torch.dtype) -> OpenVinoModel:
    """Return what runs a file of OpenVINO's: token after token, where that is how it was made.

    Raises `ValueError` where the package is missing, for a damaged file, and where OpenVINO would
    end the process.
    """
    if config.to_dict().get("hidden_act") == GATED and dtype == torch.bfloat16:
        _check_threads()
    compiled = compile_openvino(path, dtype)
    if not is_generator(compiled):
        return OpenVinoNetwork(compiled)
    return OpenVinoGenerator(
        compiled, config, GenerationConfig.from_pretrained(path.parent, local_files_only=True)
    )


def _check_threads() -> None:
    if torch.get_num_threads() == 1:
        raise ValueError(
            "handler.threads: expected 2 or more for gated layers in bfloat16 with openvino, got 1."
        )


def load_exact(folder: Path, tokenizer: Any, settings: TextSettings, device: torch.device) -> Any:
    """Return the archive's model in float32, as this device is fastest."""
    network = load_network(folder, tokenizer, settings, device, "float32")
    return speed_up(network, CompileSettings(), device)


def _choose_options(settings: TextSettings) -> dict[str, str]:
    attention = "sdpa" if settings.BetterTransformer else settings.attn_implementation
    options = {"attn_implementation": attention} if attention else {}
    return options | ({"device_map": "auto"} if settings.model_parallel else {})


def use_linear_layers(model: Any) -> None:
    """Replace GPT-2's layers, whose weights lie the other way round, by linear ones.

    They compute the same. A few rows at a time, a CPU reads them faster: 0.49 ms a layer instead of
    0.69 in bfloat16 on an Intel Xeon; and only linear layers can be quantized.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv1D):
                linear = torch.nn.Linear(1, 1, device="meta")
                linear.weight = torch.nn.Parameter(layer.weight.detach().t().contiguous())
                linear.bias = layer.bias
                setattr(parent, name, linear)


def quantize(model: Any) -> Any:
    """Return a model whose linear layers multiply in int8: weights now, activations as they come.

    Where the processor multiplies int8 well, each row of those has a scale of its own, so that no
    text depends on the others. Else all rows of a call share one, as
    `torch.ao.quantization.quantize_dynamic` has it.
    """
    if can_multiply_int8():
        quantize_linear_layers(model)
        return model
    if "onednn" in torch.backends.quantized.supported_engines:
        # About 1.4 times as fast as PyTorch's own choice, on an Intel Xeon with AMX.
        torch.backends.quantized.engine = "onednn"
    with warnings.catch_warnings():
        # PyTorch recommends torchao, whose int8 needs a compiler on the machine.
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)


def _check_label_count(settings: TextSettings, labels: int) -> None:
    # Configurations for models without labels say 0.
    expected = settings.num_labels
    if find_task(settings.mode).has_labels and expected and expected != labels:
        raise ValueError(f"handler.num_labels: expected {labels} as in the model, got {expected}.")


def count_positions(network: Any, config: Any) -> int:
    """Return how many tokens a model has positions for; those of RoBERTa begin behind padding."""
    positions = getattr(config, "max_position_embeddings", None)
    # XLNet, which has as many as are asked for, says -1.
    if not positions or positions < 0:
        return sys.maxsize
    for name, module in network.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return int(positions) - int(module.padding_idx) - 1
    return int(positions)


def speed_up(model: Any, settings: CompileSettings, device: torch.device) -> Any:
    """Return the model, compiled where the YAML asks for it, else as this device is fastest.

    Raises `ValueError` for a mode that records CUDA graphs, and for what is compiled already.
    """
    if settings.enable and isinstance(model, OpenVinoModel):
        raise ValueError("pt2.compile.enable: expected false with save_mode: openvino, got true.")
    if not settings.enable:
        if device.type == "cpu":
            speed_up_network(model)
        return model
    if device.type == "cuda" and settings.mode in CUDA_GRAPHS:
        raise ValueError(
            "pt2.compile.mode: expected one without CUDA graphs, such as "
            f"max-autotune-no-cudagraphs, got {settings.mode!r}."
        )
    return torch.compile(
        model, backend=settings.backend, mode=settings.mode, dynamic=settings.dynamic
    )
