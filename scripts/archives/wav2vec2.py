"""A model of waveforms, and its language model, from where they come to an archive's files."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from archives.configs import source_folder
from archives.errors import SourceError
from archives.hub import ADAPTER_FILE, load_pretrained, local_folder
from archives.layout import TORCHAUDIO, WEIGHTS_FILE
from archives.openvino_ctc import stage_openvino
from archives.wav2vec2_bundles import bundle_names, convert_bundle
from audio_modes import SpeakerEmbeddingMode, Transcription, find_mode
from speaker_requests import VOICES_FOLDER
from speechtext.checkpoints import check_complete
from speechtext.labels import LABELS_FILE
from speechtext.settings import read_settings
from speechtext.speech.audio_checkpoints import check_family
from speechtext.speech.ctc.beam import (
    LANGUAGE_MODEL_FILE,
    LabelNames,
    read_arpa_words,
    read_label_names,
    spell,
)
from speechtext.speech.ctc.loading import check_vocabulary, choose_language, count_labels
from speechtext.speech.ctc.settings import Wav2Vec2Settings

# KenLM's formats.
LANGUAGE_MODELS = (".arpa", ".bin", ".binary", ".gz")
# What pyctcdecode writes for every `Wav2Vec2ProcessorWithLM`, and its language model's folder.
ALPHABET_FILE, LANGUAGE_MODEL_FOLDER = "alphabet.json", "language_model"


def stage_wav2vec2(source: str, folder: Path, handler_settings: Mapping[str, Any]) -> str:
    """Write a checkpoint of the mode's head and its processor; return the weights file's name."""
    mode = find_mode({"handler": handler_settings})
    if mode is Transcription:
        return _stage_transcription(source, folder, handler_settings)
    stage_task(local_folder(source), folder, mode.auto_class, str(handler_settings["mode"]))
    return WEIGHTS_FILE


def stage_voices(handler_settings: Mapping[str, Any], folder: Path) -> None:
    """Write the model that tells speakers apart, where the YAML names one."""
    if name := handler_settings.get("speaker_model"):
        path = local_folder(str(source_folder(str(name)) or name))
        voices = folder / VOICES_FOLDER
        voices.mkdir()
        stage_task(path, voices, SpeakerEmbeddingMode.auto_class, "speaker_embedding")


def stage_task(path: Path, folder: Path, auto_class: Any, mode: str) -> None:
    """Write a model with another head than that of CTC, and its feature extractor."""
    model = _load_complete(path, auto_class, mode)
    load_pretrained(AutoFeatureExtractor, path).save_pretrained(folder)
    model.save_pretrained(folder)
    if (path / LABELS_FILE).is_file():
        shutil.copy(path / LABELS_FILE, folder)


def _stage_transcription(source: str, folder: Path, handler_settings: Mapping[str, Any]) -> str:
    """Write a model for CTC and its processor, with what it needs of a language.

    Return the name of the weights file.
    """
    settings = read_settings(Wav2Vec2Settings, {"handler": handler_settings}, "handler")
    language = settings.target_lang
    if source.startswith(f"{TORCHAUDIO}:"):
        model, processor = _speech_bundle(source.removeprefix(f"{TORCHAUDIO}:"))
    else:
        path = local_folder(source, language)
        source = str(path)
        model = _load_complete(path, AutoModelForCTC, "CTC speech recognition")
        processor = _load_processor(path)
    if language:
        choose_language(model, processor, language)
        adapter = {name: weight.detach() for name, weight in model._get_adapters().items()}
        save_file(adapter, folder / ADAPTER_FILE.format(language), {"format": "pt"})
    check_vocabulary(processor.tokenizer, count_labels(model))
    processor.save_pretrained(folder)
    _stage_language_model(Path(source), folder, handler_settings, processor.tokenizer)
    if settings.save_mode == "openvino":
        return stage_openvino(model, processor.feature_extractor, folder, settings)
    model.save_pretrained(folder)
    return WEIGHTS_FILE


def _load_processor(path: Path) -> Any:
    """Return the processor of a folder; that of a `Wav2Vec2ProcessorWithLM` without its decoder.

    Loading the decoder would need pyctcdecode. Here its language model is all that is taken.
    """
    if not (path / ALPHABET_FILE).is_file():
        return load_pretrained(AutoProcessor, path)
    return Wav2Vec2Processor(
        load_pretrained(AutoFeatureExtractor, path), load_pretrained(AutoTokenizer, path)
    )


def _stage_language_model(
    source: Path, folder: Path, settings: Mapping[str, Any], tokenizer: Any
) -> None:
    """Copy what the YAML names, and what a `Wav2Vec2ProcessorWithLM` keeps in its own folder."""
    for name in filter(None, (settings.get("lm"), settings.get("lexicon"))):
        if not (source / name).is_file():
            raise SourceError(f"Expected {name}, which the YAML names, in {source}.")
        shutil.copy(source / name, folder)
    packed, names = source / LANGUAGE_MODEL_FOLDER, read_label_names(tokenizer)
    if packed.is_dir() and names:
        _stage_packed_model(packed, folder, settings, names)


def _stage_packed_model(
    packed: Path, folder: Path, settings: Mapping[str, Any], names: LabelNames
) -> None:
    """Write the language model of a `Wav2Vec2ProcessorWithLM`, its words and its weights.

    Raises `SourceError` where there is none, or where a search with it would find no words.
    """
    models = (path for path in sorted(packed.iterdir()) if path.suffix in LANGUAGE_MODELS)
    model = next(models, None)
    if model is None:
        raise SourceError(
            f"Expected a language model, *{', *'.join(LANGUAGE_MODELS)}, in {packed}, got none."
        )
    shutil.copy(model, folder)
    weights = json.loads((packed / "attrs.json").read_text(encoding="utf-8"))
    options = {
        "lm": model.name,
        # pyctcdecode weighs natural logarithms, flashlight KenLM's own, of base 10.
        "lm_weight": weights["alpha"] * math.log(10),
        "word_score": weights["beta"],
    }
    # One that the YAML names goes before.
    if not settings.get("lexicon"):
        words = _read_words(packed, model)
        lines = spell(words, names.labels, names.between)
        if not lines and settings.get("decoder") == "beam":
            raise SourceError(
                f"Expected words that the labels of vocab.json can spell in {packed}/unigrams.txt, "
                f"got none of {len(words)}; name a lexicon in the YAML, or set decoder: greedy."
            )
        (folder / "lexicon.txt").write_text("".join(lines), encoding="utf-8")
        options["lexicon"] = "lexicon.txt"
    (folder / LANGUAGE_MODEL_FILE).write_text(json.dumps(options), encoding="utf-8")


def _read_words(packed: Path, model: Path) -> list[str]:
    """Return the words of a language model: an ARPA file has them where unigrams.txt is empty."""
    unigrams = packed / "unigrams.txt"
    words = unigrams.read_text(encoding="utf-8").split() if unigrams.is_file() else []
    return read_arpa_words(model) if not words and model.suffix == ".arpa" else words


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


def _load_complete(path: Path, auto_class: Any, mode: str) -> Any:
    """Return the model of a folder; raises `SourceError` or `ValueError` for another family."""
    check_family(path, auto_class)
    model, report = load_pretrained(auto_class, path, dtype="auto", output_loading_info=True)
    check_complete(report, mode)
    return model
