"""The speech recognition bundles of `torchaudio.pipelines`, in the layout of Hugging Face."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torchaudio
from torchaudio.pipelines import Wav2Vec2ASRBundle
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

BLANK = "<pad>"
LAYER_NORM_EPSILON = 1e-5


def bundle_names() -> list[str]:
    """Return the names of the bundles that recognise speech with CTC."""
    pipelines = vars(torchaudio.pipelines).items()
    return sorted(name for name, each in pipelines if type(each) is Wav2Vec2ASRBundle)


def convert_bundle(name: str) -> tuple[Wav2Vec2ForCTC, Wav2Vec2Processor]:
    """Return a bundle's model and its processor; raises `OSError` where it can't be downloaded.

    torchaudio has dropped the classes that fairseq trained without use; the rest are the labels.
    """
    bundle = getattr(torchaudio.pipelines, name)
    trained = bundle.get_model(dl_kwargs={"weights_only": True})
    # Bundles that normalise the waveform wrap the model.
    trained = getattr(trained, "model", trained)
    model = Wav2Vec2ForCTC(convert_config(bundle._params)).eval()
    for part, weights in (
        (model.wav2vec2.feature_extractor, trained.feature_extractor),
        (model.wav2vec2.feature_projection, trained.encoder.feature_projection),
        (model.wav2vec2.encoder, trained.encoder.transformer),
        (model.lm_head, trained.aux),
    ):
        part.load_state_dict(weights.state_dict())
    return model, _build_processor(bundle.get_labels(blank=BLANK), bundle)


def convert_config(parameters: Mapping[str, Any]) -> Wav2Vec2Config:
    """Return the configuration of a model that `torchaudio.models.wav2vec2_model` makes."""
    channels, kernels, strides = zip(*parameters["extractor_conv_layer_config"], strict=True)
    return Wav2Vec2Config(
        feat_extract_norm=parameters["extractor_mode"].removesuffix("_norm"),
        conv_dim=channels,
        conv_kernel=kernels,
        conv_stride=strides,
        conv_bias=parameters["extractor_conv_bias"],
        hidden_size=parameters["encoder_embed_dim"],
        num_conv_pos_embeddings=parameters["encoder_pos_conv_kernel"],
        num_conv_pos_embedding_groups=parameters["encoder_pos_conv_groups"],
        num_hidden_layers=parameters["encoder_num_layers"],
        num_attention_heads=parameters["encoder_num_heads"],
        intermediate_size=parameters["encoder_ff_interm_features"],
        do_stable_layer_norm=parameters["encoder_layer_norm_first"],
        vocab_size=parameters["aux_num_out"],
    )


def _build_processor(labels: Sequence[str], bundle: Wav2Vec2ASRBundle) -> Wav2Vec2Processor:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.json"
        vocabulary.write_text(json.dumps({label: index for index, label in enumerate(labels)}))
        tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary), pad_token=BLANK)
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=int(bundle.sample_rate),
        do_normalize=bundle._normalize_waveform,
        # Not a key of transformers, but its file keeps it: torchaudio uses its layer norm here.
        normalization_epsilon=LAYER_NORM_EPSILON,
    )
    return Wav2Vec2Processor(extractor, tokenizer)
