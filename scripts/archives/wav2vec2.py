"""A Wav2Vec2 and its language model, from where they come to the files of an archive."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from archives.errors import SourceError
from archives.hub import ADAPTER_FILE, load_pretrained, local_folder
from archives.layout import TORCHAUDIO, WEIGHTS_FILE
from archives.wav2vec2_bundles import bundle_names, convert_bundle
from speechtext.speech.ctc.beam import LANGUAGE_MODEL_FILE, spell
from speechtext.speech.ctc.loading import check_vocabulary, choose_language
from speechtext.text.loading import check_complete

# KenLM's formats.
LANGUAGE_MODELS = (".arpa", ".bin", ".binary", ".gz")
# Only pre-training uses it, so fine-tuned checkpoints such as base-960h lack it.
PRETRAINING_WEIGHTS = {"wav2vec2.masked_spec_embed"}


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
    check_vocabulary(processor.tokenizer, model.lm_head.out_features)
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
    processor = load_pretrained(Wav2Vec2Processor, path)
    model, report = load_pretrained(Wav2Vec2ForCTC, path, dtype="auto", output_loading_info=True)
    missing = set(report["missing_keys"]) - PRETRAINING_WEIGHTS
    check_complete({"missing_keys": missing}, "CTC speech recognition")
    return model, processor
