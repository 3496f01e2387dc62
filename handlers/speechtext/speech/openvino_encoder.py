"""Networks of waveforms for CTC that OpenVINO runs whole, their heads included."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from speechtext.cpu.openvino_network import (
    OPENVINO_FILE,
    OpenVinoNetwork,
    check_device,
    compile_openvino,
)
from speechtext.measurements import note_padding
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.encoders import SampleEncoder


class OpenVinoEncoder(SampleEncoder):
    """What a network says of frames in the place of their hidden states, a waveform at a time."""

    pads = False
    has_gradients = False

    def encode(self, pieces: Sequence[torch.Tensor], layers: bool = False) -> list[torch.Tensor]:
        """Return logits of shape (frames, labels) for normalised waveforms.

        One of no whole frame has silence. There are no `layers`.
        """
        return [self._encode(piece) for piece in pieces]

    def _encode(self, piece: torch.Tensor) -> torch.Tensor:
        count = self.grid.count_frames(len(piece))
        note_padding(count, count)
        logits: torch.Tensor = self.network(waveform=self._extend(piece)[None])[0]
        return logits[0, :count]


def load_openvino_network(
    folder: Path, config: Any, dtype: torch.dtype, device: torch.device
) -> OpenVinoNetwork:
    """Return the network of an archive's file, with its configuration.

    Raises `ValueError` for another device than a CPU, where the package is missing, and for a
    damaged file.
    """
    check_device(device)
    network = OpenVinoNetwork(compile_openvino(folder / OPENVINO_FILE, dtype))
    network.config = config
    # OpenVINO 2026.4 plans by the first input: after one of a single frame, others come out wrong.
    network(waveform=torch.zeros(1, SAMPLE_RATE_HZ))
    return network
