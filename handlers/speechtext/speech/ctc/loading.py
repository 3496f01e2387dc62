"""Loading a Wav2Vec2 checkpoint: the model, its processor and the names of its labels."""

from pathlib import Path

import torch
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC, Wav2Vec2Processor

from speechtext.checkpoints import load_checkpoint
from speechtext.devices import choose_dtype
from speechtext.speech.ctc.cpu_convolutions import speed_up_convolutions
from speechtext.speech.ctc.settings import Wav2Vec2Settings


def load_model(
    folder: Path, settings: Wav2Vec2Settings, device: torch.device
) -> tuple[Wav2Vec2ForCTC, Wav2Vec2Processor]:
    """Return the model of a folder on its device, ready for inference, and its processor.

    Raises `ValueError` or `OSError` where the folder has no such model.
    """
    dtype = choose_dtype(settings.dtype, device)
    processor = Wav2Vec2Processor.from_pretrained(folder)
    model = load_checkpoint(
        Wav2Vec2ForCTC, folder, dtype=dtype, attn_implementation=settings.attn_implementation
    )
    check_architecture(model)
    if settings.target_lang:
        choose_language(model, processor, settings.target_lang)
    check_vocabulary(processor.tokenizer, model.lm_head.out_features)
    model = model.to(device, dtype).eval()
    if device.type == "cpu":
        speed_up_convolutions(model.wav2vec2.feature_extractor.conv_layers)
    return model, processor


def check_architecture(model: Wav2Vec2ForCTC) -> None:
    """Raise `ValueError` for what emissions leave out: convolutions after the encoder."""
    if model.config.add_adapter:
        raise ValueError(
            "config.json: expected add_adapter to be false for CTC speech recognition."
        )


def choose_language(model: Wav2Vec2ForCTC, processor: Wav2Vec2Processor, language: str) -> None:
    """Load a language's adapter, head and labels, as checkpoints of MMS have them for many.

    Raises `ValueError` where the checkpoint's folder has none for the language. Pratap et al. 2023,
    "Scaling Speech Technology to 1,000+ Languages".
    """
    try:
        processor.tokenizer.set_target_lang(language)
        model.load_adapter(language, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"handler.target_lang: {error}") from error


def check_vocabulary(tokenizer: Wav2Vec2CTCTokenizer, labels: int) -> None:
    """Raise `ValueError` where the tokens of `vocab.json` are not the `labels` of the model's head.

    The tokenizer adds special tokens behind them, which the model never says, where it lacks any.
    """
    vocabulary = tokenizer.get_vocab()
    if not set(range(labels)) <= set(vocabulary.values()):
        raise ValueError(
            f"vocab.json: expected a token for each of the model's {labels} labels, got "
            f"{len(vocabulary)} tokens."
        )
    silent = set(tokenizer.all_special_tokens)
    silent -= {tokenizer.pad_token, tokenizer.word_delimiter_token}
    spoken = vocabulary.keys() - silent
    highest = max((vocabulary[token] for token in spoken), default=0)
    if highest >= labels:
        raise ValueError(
            f"vocab.json: expected ids below {labels}, as many as the model has labels, got ids up "
            f"to {highest}."
        )


def name_labels(tokenizer: Wav2Vec2CTCTokenizer, count: int) -> list[str]:
    """Return what people call the labels of an emission."""
    names = [str(tokenizer.convert_ids_to_tokens(label)) for label in range(count)]
    if tokenizer.word_delimiter_token_id is not None:
        names[tokenizer.word_delimiter_token_id] = "space"
    names[tokenizer.pad_token_id] = "blank"
    return names
