"""An Emformer RNN-T and its vocabulary, from where they come to the files of an archive."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torchaudio
from safetensors import SafetensorError
from safetensors.torch import load_file

from archives.errors import SourceError
from archives.hub import find_reason
from archives.layout import SCRIPTED_FILE, TORCHAUDIO, WEIGHTS_FILE
from speechtext.speech.rnnt.features import LogMelFeatures, load_features
from speechtext.speech.rnnt.loading import SENTENCEPIECE_FILE, check_vocabulary, load_vocabulary
from speechtext.speech.rnnt.scripted_beam_search import STATISTICS_FILE
from speechtext.speech.rnnt.torchscript.recognizer import save_recognizer

# What torchaudio's bundle downloads, under the names that it gives the files.
BUNDLE_FILES = {
    "weights": "emformer_rnnt_base_librispeech.pt",
    "statistics": "global_stats_rnnt_librispeech.json",
    "pieces": "spm_bpe_4096_librispeech.model",
}


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
    """Return the Emformer RNN-T of a folder with `config.json` and safetensors, in float32.

    Raises `SourceError` where the two do not belong together, or are not of such a model.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = torchaudio.models.emformer_rnnt_model(**config)
        weights = load_file(folder / WEIGHTS_FILE)
        model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    except (RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise SourceError(
            f"{folder} is not a folder of an Emformer RNN-T: {find_reason(folder, error)}"
        ) from error
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
    check_vocabulary(load_vocabulary(folder), model.joiner.linear.out_features - 1)
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
