"""Networks of waveforms for CTC as OpenVINO's, and recordings for the scales of their int8."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from archives.errors import SourceError
from archives.openvino_files import check_installed, quantize, save_openvino
from repository import ROOT
from speechtext.cpu.openvino_network import OPENVINO_FILE
from speechtext.errors import RequestError
from speechtext.speech.audio import decode_audio
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.encoders import SampleEncoder, find_encoder, fix_weights

# The lengths of the examples that a network is traced with, and then tried with.
TRACED_SAMPLES, TRIED_SAMPLES = 20_000, 33_333
TRACED_TOLERANCE = 1e-3
# Recordings that int8 is chosen by, at most.
MOST_RECORDINGS = 300
INPUT = "waveform"


class _Logits(torch.nn.Module):
    """A network that returns its logits alone."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(waveform).logits
        return logits


def stage_openvino(network: Any, extractor: Any, folder: Path, settings: Wav2Vec2Settings) -> str:
    """Write a network and its configuration; return the name of its file.

    Raises `SourceError` for a family that OpenVINO does not run, and for calibration that is none.
    """
    check_installed()
    model = convert_ctc(network)
    if settings.quantization:
        model = quantize(model, read_recordings(settings, extractor))
    network.config.save_pretrained(folder)
    save_openvino(model, folder / OPENVINO_FILE)
    return OPENVINO_FILE


def convert_ctc(network: Any) -> Any:
    """Return a network as OpenVINO's, from a normalised waveform of any length to its logits.

    Raises `SourceError` for one that is not given samples, or that cannot be traced.
    """
    import openvino

    if not issubclass(find_encoder(network.config.model_type), SampleEncoder):
        raise _unfit(network)
    network = network.float().eval()
    fix_weights(network)
    logits = _Logits(network)
    example, other = (torch.randn(1, each) for each in (TRACED_SAMPLES, TRIED_SAMPLES))
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing says of each size that it reads that it might become a constant.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(logits, example, strict=False, check_trace=False)
        if not _says_the_same(traced, logits, other):
            raise _unfit(network)
        model = openvino.convert_model(traced, example_input=example)
    model.inputs[0].get_tensor().set_names({INPUT})
    model.reshape({INPUT: [1, -1]})
    return model


def _says_the_same(traced: Any, logits: torch.nn.Module, waveform: torch.Tensor) -> bool:
    try:
        found, expected = traced(waveform), logits(waveform)
    except RuntimeError:
        # Some size is a constant.
        return False
    return found.shape == expected.shape and torch.allclose(found, expected, atol=TRACED_TOLERANCE)


def _unfit(network: Any) -> SourceError:
    return SourceError(
        "handler.save_mode: expected a network of samples that can be traced with openvino, got "
        f"{type(network).__name__}; use pretrained."
    )


def read_recordings(settings: Wav2Vec2Settings, extractor: Any) -> Sequence[Mapping[str, Any]]:
    """Return the network's input for each recording of the folder that the settings name.

    Of a long one that is the first window. Raises `SourceError` where there is no folder, or a file
    of it is no recording.
    """
    if settings.calibration is None:
        raise SourceError("handler.calibration: expected a folder of recordings with int8_static.")
    folder = ROOT / settings.calibration
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise SourceError(f"handler.calibration: expected recordings in {settings.calibration}.")
    longest = round(settings.chunk_length_s * SAMPLE_RATE_HZ)
    samples = []
    for path in paths[:MOST_RECORDINGS]:
        try:
            waveform = decode_audio(path.read_bytes(), SAMPLE_RATE_HZ, settings.max_audio_seconds)
        except RequestError as error:
            raise SourceError(f"{path.name}: {error}") from error
        given = extractor(
            waveform[:longest].numpy(), sampling_rate=SAMPLE_RATE_HZ, return_tensors="np"
        )
        samples.append({INPUT: given["input_values"]})
    return samples
