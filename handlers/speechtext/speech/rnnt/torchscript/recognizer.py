"""The whole recogniser as one TorchScript module."""

from pathlib import Path

import torch
import torchaudio

from speechtext.checkpoints import name_products
from speechtext.speech.rnnt.features import LogMelFeatures
from speechtext.speech.rnnt.torchscript.decoders import Decoder
from speechtext.speech.rnnt.torchscript.encoder import SegmentEncoder


class ScriptedEmformer(torch.nn.Module):
    """Front end, encoder and decoder of an Emformer RNN-T.

    The file loads with `torch.jit.load` alone, without this repository. Its methods:

    - `front_end(samples)`: features, see `LogMelFeatures.forward`;
    - `encoder.start()`, `encoder(features, frames, left, before)` and `encoder.keep(...)`:
      encodings, see `SegmentEncoder`; `encoder.stride`, `.segment` and `.right` are its frame
      counts;
    - `decoder.start()`, `decoder.greedy(...)`, `decoder.beam(...)` and `decoder.align(...)`: tokens
      and probabilities, see `Decoder`; `decoder.blank` is the blank's number;
    - `decoder.set_dtype(dtype)` and `encoder.to(dtype)`: bfloat16 or float32;
    - `encoder.pack(rows, in_int8)`: lays weights out for a CPU, once they have their dtype;
    - `decoder.quantize()`: lets a CPU multiply in int8, instead.
    """

    def __init__(self, model: torchaudio.models.RNNT, front_end: LogMelFeatures) -> None:
        super().__init__()
        self.front_end = front_end
        self.encoder = SegmentEncoder(model.transcriber)
        self.decoder = Decoder(model)


def save_recognizer(model: torchaudio.models.RNNT, front_end: LogMelFeatures, path: Path) -> None:
    """Write the TorchScript file of a model; raises `ValueError` where it has a memory bank."""
    name_products()
    recognizer = ScriptedEmformer(model, front_end).eval().requires_grad_(False)
    torch.jit.script(recognizer).save(str(path))
