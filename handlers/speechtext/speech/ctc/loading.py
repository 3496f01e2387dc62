"""Loading a CTC checkpoint: the model, its processor and the names of its labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCTC, AutoProcessor

from speechtext.devices import choose_dtype
from speechtext.speech.audio_checkpoints import load_encoder, load_extractor, load_network
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.frame_models import FrameModel
from speechtext.speech.openvino_encoder import OpenVinoEncoder, load_openvino_network


def load_model(
    folder: Path, settings: Wav2Vec2Settings, device: torch.device
) -> tuple[Any, Any, FrameModel]:
    """Return the model of a folder on its device, its processor, and what makes logits of frames.

    Raises `ValueError` or `OSError` where the folder has no such model.
    """
    load = _load_openvino if settings.save_mode == "openvino" else _load_pretrained
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model, labels, frame_model = load(folder, settings, device, processor)
    check_vocabulary(processor.tokenizer, labels)
    return model, processor, frame_model


def _load_pretrained(
    folder: Path, settings: Wav2Vec2Settings, device: torch.device, processor: Any
) -> tuple[Any, int, FrameModel]:
    model = load_network(AutoModelForCTC, folder, settings, device)
    if settings.target_lang:
        choose_language(model, processor, settings.target_lang)
    frame_model = FrameModel(load_encoder(folder, model), find_head(model))
    return model, count_labels(model), frame_model


def _load_openvino(
    folder: Path, settings: Wav2Vec2Settings, device: torch.device, _processor: Any
) -> tuple[Any, int, FrameModel]:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    dtype = choose_dtype(settings.dtype, device)
    network = load_openvino_network(folder, config, dtype, device)
    labels = network.compiled.output(0).partial_shape[-1].get_length()
    encoder = OpenVinoEncoder(network, load_extractor(folder))
    return network, labels, FrameModel(encoder, lambda logits: logits)


def find_head(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what makes logits, shape (frames, labels), of a model's hidden states."""
    head: Callable[[torch.Tensor], torch.Tensor] | None = getattr(model, "lm_head", None)
    # Parakeet's is a convolution of one frame.
    return head or (lambda frames: model.ctc_head(frames[None])[0])


def count_labels(model: Any) -> int:
    """Return how many labels a model's head tells apart."""
    head = getattr(model, "lm_head", None)
    return int(model.ctc_head.out_channels if head is None else head.out_features)


def find_delimiter(tokenizer: Any) -> int | None:
    """Return the label between words, None where labels are pieces of words or there is none.

    That is transformers' `word_delimiter_token`, of vocab.json itself: the id of one that it lacks
    is that of the unknown token, or of none of the model's labels. A delimiter that is a space is
    what transformers would write for it.
    """
    labels = getattr(tokenizer, "encoder", {})
    names = ("word_delimiter_token", "replace_word_delimiter_char")
    ids = (labels.get(getattr(tokenizer, name, None)) for name in names)
    return next((label for label in ids if label is not None), None)


def choose_language(model: Any, processor: Any, language: str) -> None:
    """Load a language's adapter, head and labels, as checkpoints of MMS have them for many.

    Raises `ValueError` where the checkpoint's folder has none for the language. Pratap et al. 2023,
    "Scaling Speech Technology to 1,000+ Languages".
    """
    try:
        processor.tokenizer.set_target_lang(language)
        model.load_adapter(language, local_files_only=True)
    except AttributeError:
        kind = model.config.model_type
        raise ValueError(
            f"handler.target_lang: expected a wav2vec2 checkpoint of MMS, got {kind}."
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"handler.target_lang: {error}") from error


def check_vocabulary(tokenizer: Any, labels: int) -> None:
    """Raise `ValueError` where the tokens of `vocab.json` are not the `labels` of the model's head.

    The tokenizer adds special tokens behind them, which the model never emits, where it lacks any.
    """
    vocabulary = tokenizer.get_vocab()
    if not set(range(labels)) <= set(vocabulary.values()):
        raise ValueError(
            f"vocab.json: expected a token for each of the model's {labels} labels, got "
            f"{len(vocabulary)} tokens."
        )
    silent = set(tokenizer.all_special_tokens) - {tokenizer.pad_token}
    spoken = [vocabulary[token] for token in vocabulary.keys() - silent]
    highest = max([*spoken, find_delimiter(tokenizer) or 0])
    if highest >= labels:
        raise ValueError(
            f"vocab.json: expected ids below {labels}, as many as the model has labels, got ids up "
            f"to {highest}."
        )


def name_labels(tokenizer: Any, count: int) -> list[str]:
    """Return what people call the labels of an emission."""
    names = [str(tokenizer.convert_ids_to_tokens(label)) for label in range(count)]
    if (delimiter := find_delimiter(tokenizer)) is not None:
        names[delimiter] = "space"
    names[tokenizer.pad_token_id] = "blank"
    return names
