"""From where a model comes to the files that its archive holds.

A source is a Hugging Face hub name, a local folder, or `torchaudio` for its Emformer RNN-T bundle.
Each function here loads the source with the library it belongs to and writes an archive's files
into a folder: weights as safetensors or TorchScript, whatever format they came in.
"""

import json
import math
import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import torch
import torchaudio
from huggingface_hub import HfApi, snapshot_download
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Wav2Vec2ForCTC, Wav2Vec2Processor
from transformers.utils import logging as transformers_logging

from speechtext.speech.ctc.beam import LANGUAGE_MODEL_FILE, spell
from speechtext.speech.ctc.loading import choose_language
from speechtext.speech.rnnt.features import LogMelFeatures, load_features
from speechtext.speech.rnnt.loading import SENTENCEPIECE_FILE
from speechtext.speech.rnnt.scripted_beam_search import STATISTICS_FILE
from speechtext.speech.rnnt.torchscript.recognizer import save_recognizer
from speechtext.text.loading import LABELS_FILE, check_complete, count_positions
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task
from speechtext.text.windows import find_input_names
from wav2vec2_bundles import bundle_names, convert_bundle

# Loading takes a moment; downloads keep their progress bar.
transformers_logging.disable_progress_bar()

WEIGHTS_FILE = "model.safetensors"
SCRIPTED_FILE = "model.pt"
# KenLM's formats.
LANGUAGE_MODELS = (".arpa", ".bin", ".binary", ".gz")
ADAPTER_FILE = "adapter.{}.safetensors"
TORCHAUDIO = "torchaudio"
# What torchaudio's bundle downloads, under the names that it gives the files.
BUNDLE_FILES = {
    "weights": "emformer_rnnt_base_librispeech.pt",
    "statistics": "global_stats_rnnt_librispeech.json",
    "pieces": "spm_bpe_4096_librispeech.model",
}
# Weights of other frameworks, which a hub repository may hold too.
OTHER_FRAMEWORKS = ["*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite"]
HUB_TIMEOUT_S = 10.0
TRACED_TOLERANCE = 1e-4
# Only pre-training uses it, so fine-tuned checkpoints such as base-960h lack it.
PRETRAINING_WEIGHTS = {"wav2vec2.masked_spec_embed"}


class SourceError(Exception):
    """A source that cannot become an archive, in one sentence that says what to pass instead."""


def stage_wav2vec2(source: str, folder: Path, handler_settings: Mapping[str, Any]) -> str:
    """Write a `Wav2Vec2ForCTC` and its processor; return the name of the weights file."""
    language = handler_settings.get("target_lang")
    if source.startswith(f"{TORCHAUDIO}:"):
        model, processor = _speech_bundle(source.removeprefix(f"{TORCHAUDIO}:"))
    else:
        path = local_folder(source, language)
        source = str(path)
        model, processor = _pretrained_speech(path)
    if language:
        choose_language(model, processor, language)
        adapter = {name: weight.detach() for name, weight in model._get_adapters().items()}
        save_file(adapter, folder / ADAPTER_FILE.format(language), {"format": "pt"})
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    _stage_language_model(Path(source), folder, handler_settings, processor.tokenizer)
    return WEIGHTS_FILE


def _stage_language_model(
    source: Path, folder: Path, settings: Mapping[str, Any], tokenizer: Any
) -> None:
    """Copy what the YAML names, and what a `Wav2Vec2ProcessorWithLM` keeps in its own folder."""
    for name in filter(None, (settings.get("lm"), settings.get("lexicon"))):
        if not (source / name).is_file():
            raise SourceError(f"Expected {name}, which the YAML names, in {source}.")
        shutil.copy(source / name, folder)
    packed = source / "language_model"
    if not packed.is_dir():
        return
    weights = json.loads((packed / "attrs.json").read_text(encoding="utf-8"))
    model = next(path for path in sorted(packed.iterdir()) if path.suffix in LANGUAGE_MODELS)
    shutil.copy(model, folder)
    words = (packed / "unigrams.txt").read_text(encoding="utf-8").split()
    lines = spell(words, tokenizer.get_vocab(), tokenizer.word_delimiter_token)
    (folder / "lexicon.txt").write_text("".join(lines), encoding="utf-8")
    options = {
        "lm": model.name,
        "lexicon": "lexicon.txt",
        # pyctcdecode weighs natural logarithms, flashlight KenLM's own, of base 10.
        "lm_weight": weights["alpha"] * math.log(10),
        "word_score": weights["beta"],
    }
    (folder / LANGUAGE_MODEL_FILE).write_text(json.dumps(options), encoding="utf-8")


def _speech_bundle(name: str) -> tuple[Wav2Vec2ForCTC, Wav2Vec2Processor]:
    if name not in bundle_names():
        raise SourceError(
            f"Expected {TORCHAUDIO}: and one of {', '.join(bundle_names())}; got {name}."
        )
    try:
        return convert_bundle(name)
    except OSError as error:
        raise SourceError(
            f"torchaudio's bundle {name} could not be reached over the network; pass a "
            "SOURCE=path/to/folder with a Hugging Face checkpoint."
        ) from error


def _pretrained_speech(path: Path) -> tuple[Wav2Vec2ForCTC, Wav2Vec2Processor]:
    processor = _from_pretrained(Wav2Vec2Processor, path)
    model, report = _from_pretrained(Wav2Vec2ForCTC, path, dtype="auto", output_loading_info=True)
    missing = set(report["missing_keys"]) - PRETRAINING_WEIGHTS
    check_complete({"missing_keys": missing}, "CTC speech recognition")
    return model, processor


def stage_text(source: str, folder: Path, handler_settings: Mapping[str, Any]) -> str:
    """Write a text model and its tokenizer; return the name of the weights file."""
    settings = TextSettings(**handler_settings)
    path = local_folder(source)
    tokenizer = _from_pretrained(AutoTokenizer, path)
    auto_model = find_task(settings.mode).auto_model
    model, report = _from_pretrained(auto_model, path, dtype="auto", output_loading_info=True)
    check_complete(report, settings.mode)
    # A TorchScript file does not tell.
    tokenizer.model_max_length = min(
        tokenizer.model_max_length, count_positions(model, model.config)
    )
    tokenizer.save_pretrained(folder)
    labels = path / LABELS_FILE
    if labels.is_file():
        shutil.copy(labels, folder)
    if settings.save_mode == "torchscript":
        model.config.save_pretrained(folder)
        trace_text_model(model.float().eval(), tokenizer, folder / SCRIPTED_FILE)
        return SCRIPTED_FILE
    model.save_pretrained(folder)
    return WEIGHTS_FILE


class _Heads(torch.nn.Module):
    """A model that takes its inputs in a fixed order and returns its heads alone."""

    def __init__(self, model: Any, input_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.input_names = list(input_names)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        values = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        output = self.model(**{name: values[name] for name in self.input_names})
        return tuple(head for head in output.to_tuple() if isinstance(head, torch.Tensor))


def trace_text_model(model: Any, tokenizer: Any, path: Path) -> None:
    """Write a model as TorchScript, for any number of rows of any length.

    It is traced with two rows of unlike length, so that neither size becomes a constant, and tried
    with one of another. Raises `SourceError` where the two models do not agree on it.
    """
    names = find_input_names(model, tokenizer)
    texts = ["a few words", "a few more words than that, and a mark"]
    heads = _Heads(model, names).eval()
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing says of each size that it reads that it might become a constant.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(heads, _tokenize(tokenizer, texts, names), strict=False)
        other = _tokenize(tokenizer, [" ".join(texts)], names)
        for found, expected in zip(traced(*other), heads(*other), strict=True):
            if not torch.allclose(found, expected, atol=TRACED_TOLERANCE):
                raise SourceError(
                    f"Expected a model that can be traced, got a {type(model).__name__} whose "
                    "TorchScript depends on the length of its texts; use save_mode: pretrained."
                )
    traced.save(str(path))


def _tokenize(tokenizer: Any, texts: list[str], names: Sequence[str]) -> tuple[torch.Tensor, ...]:
    rows = tokenizer(texts, padding=True, return_tensors="pt")
    return tuple(rows[name] for name in names)


def stage_emformer(source: str, folder: Path, _settings: Mapping[str, Any]) -> str:
    """Write an Emformer RNN-T as one TorchScript file, and its pieces; return the file's name."""
    if source == TORCHAUDIO:
        return stage_bundle(torchaudio.pipelines.EMFORMER_RNNT_BASE_LIBRISPEECH, folder)
    path = Path(source)
    if (path / BUNDLE_FILES["weights"]).is_file():
        return stage_bundle(local_bundle(path), folder)
    needed = ("config.json", WEIGHTS_FILE, STATISTICS_FILE, SENTENCEPIECE_FILE)
    if not all((path / name).is_file() for name in needed):
        raise SourceError(
            f"Expected {source} to be {TORCHAUDIO} or a folder with {', '.join(needed)}, or with "
            f"torchaudio's bundle files {', '.join(BUNDLE_FILES.values())}."
        )
    shutil.copy(path / SENTENCEPIECE_FILE, folder)
    return _script_recognizer(load_emformer(path), load_features(path / STATISTICS_FILE), folder)


def load_emformer(folder: Path) -> Any:
    """Return the Emformer RNN-T of a folder with `config.json` and safetensors, in float32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = torchaudio.models.emformer_rnnt_model(**config)
    weights = load_file(folder / WEIGHTS_FILE)
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model.eval()


def stage_bundle(bundle: Any, folder: Path) -> str:
    """Write what a `torchaudio.pipelines.RNNTBundle` holds; return the name of its TorchScript."""
    try:
        model = bundle.get_decoder().model
        normalization = bundle.get_feature_extractor().pipeline[3]
        pieces = bundle.get_token_processor().sp_model
    except OSError as error:
        raise SourceError(
            "torchaudio's Emformer RNN-T bundle could not be reached over the network; pass "
            f"SOURCE=path/to/folder with {', '.join(BUNDLE_FILES.values())}."
        ) from error
    (folder / SENTENCEPIECE_FILE).write_bytes(pieces.serialized_model_proto())
    front_end = LogMelFeatures(normalization.mean, normalization.invstddev)
    return _script_recognizer(model, front_end, folder)


def _script_recognizer(model: Any, front_end: LogMelFeatures, folder: Path) -> str:
    try:
        save_recognizer(model, front_end, folder / SCRIPTED_FILE)
    except ValueError as error:
        raise SourceError(str(error)) from error
    return SCRIPTED_FILE


def local_bundle(folder: Path) -> Any:
    """Return torchaudio's own bundle, its files taken from `folder`: an absolute path is kept."""
    paths = {kind: str((folder / name).resolve()) for kind, name in BUNDLE_FILES.items()}
    return replace(
        torchaudio.pipelines.EMFORMER_RNNT_BASE_LIBRISPEECH,
        _rnnt_path=paths["weights"],
        _global_stats_path=paths["statistics"],
        _sp_model_path=paths["pieces"],
    )


def local_folder(source: str, language: str | None = None) -> Path:
    """Return the folder of a source: the local one, else what the Hugging Face hub has of it.

    Of a checkpoint with an adapter for each language, the hub gives that of `language` only.

    Raises `SourceError` where it is neither a folder nor a model that the hub can give.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, ignore_patterns=_unused_files(source, language)))
    except (httpx2.HTTPError, OSError, ValueError):
        return _cached_folder(source)


def _unused_files(source: str, language: str | None) -> list[str]:
    """Return patterns of what no archive needs; asking the hub fails fast where it is away."""
    files = HfApi().model_info(source, timeout=HUB_TIMEOUT_S).siblings or ()
    names = [file.rfilename for file in files]
    pickled = ["*.bin"] if any(name.endswith(".safetensors") for name in names) else []
    kept = ADAPTER_FILE.format(language)
    adapters = [name for name in names if name.startswith("adapter.") and name != kept]
    return [*OTHER_FRAMEWORKS, *pickled, *adapters]


def _cached_folder(source: str) -> Path:
    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{source} is neither a local folder nor a model that could be reached on the Hugging "
            "Face hub; pass SOURCE=path/to/folder with the files of the model."
        ) from error


def _from_pretrained(loader: Any, folder: Path, **options: Any) -> Any:
    try:
        return loader.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SourceError(f"{folder} is not a folder of such a model: {reason}") from error


STAGERS: dict[str, Callable[[str, Path, Mapping[str, Any]], str]] = {
    "wav2vec2_handler.py": stage_wav2vec2,
    "emformer_rnnt_handler.py": stage_emformer,
    "emformer_live_handler.py": stage_emformer,
    "transformers_handler.py": stage_text,
}
