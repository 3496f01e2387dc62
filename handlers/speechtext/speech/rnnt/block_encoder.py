"""The encoder of an Emformer RNN-T's TorchScript file, a block of several recordings at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from speechtext.speech.rnnt.features import count_frames, count_whole_frames, cut_frames
from speechtext.speech.rnnt.recordings import Recording


class BlockEncoder:
    """Encodes the next frames of recordings, which carry their left context on."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._front_end = model.front_end
        self._encoder = model.encoder
        self._device = device
        self._silent = self._start()

    def start(self) -> torch.Tensor:
        """Return the left context of a recording that begins, for itself to change."""
        return self._silent.clone()

    def encode(
        self, recordings: Sequence[Recording], counts: Sequence[int], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return encodings of so many frames of each recording, and what `keep` takes of them.

        Shapes (batch, frames, dimension) and (layers, batch, ...). `length` is the number of frames
        of a whole number of segments and their right context.
        """
        samples = list(map(self._cut, recordings, counts))
        features = self._make_features(samples, length * self._encoder.stride)
        frames = torch.tensor(counts, device=self._device)
        before = torch.tensor([each.frames for each in recordings], device=self._device)
        left = self._gather([each.left for each in recordings])
        encodings, made = self._encoder(features, frames, left, before)
        return encodings, made

    def keep(self, recording: Recording, made: torch.Tensor, count: int) -> None:
        """Carry on what was made of a recording's next frames, so many of them."""
        self._encoder.keep(recording.left, made, count, recording.frames)

    def _start(self) -> torch.Tensor:
        silent: torch.Tensor = self._encoder.start()
        return silent

    def _cut(self, recording: Recording, count: int) -> torch.Tensor:
        """Return the samples that the next frames and their right context see."""
        stride = self._encoder.stride
        start = recording.frames * stride
        stop = start + (count + self._encoder.right) * stride
        stop = min(stop, count_frames(recording.received(), recording.ended))
        return cut_frames(recording.samples, recording.first_sample, start, stop)

    def _make_features(self, samples: Sequence[torch.Tensor], length: int) -> torch.Tensor:
        """Return features of shape (batch, length, bands), zero behind each recording's own."""
        together = pad_sequence(list(samples), batch_first=True).to(self._device)
        features: torch.Tensor = self._front_end(together)
        counts = torch.tensor([count_whole_frames(len(each)) for each in samples])
        missing = torch.arange(features.shape[1]) >= counts[:, None]
        features = features.masked_fill(missing.to(self._device)[:, :, None], 0)
        return pad(features, (0, 0, 0, length - features.shape[1]))

    def _gather(self, left: list[torch.Tensor]) -> Any:
        return left


class OlderBlockEncoder(BlockEncoder):
    """That of files that were built before: one recording's features, all left contexts at once."""

    def keep(self, recording: Recording, made: torch.Tensor, count: int) -> None:
        """Carry on what was made of a recording's next frames, so many of them."""
        # A copy, which does not keep the whole batch's alive.
        recording.left = made[:, None].clone()

    def _start(self) -> torch.Tensor:
        silent: torch.Tensor = self._encoder.start(1)
        return silent

    def _make_features(self, samples: Sequence[torch.Tensor], length: int) -> torch.Tensor:
        features = [self._front_end(each.to(self._device)) for each in samples]
        padded = pad_sequence(features, batch_first=True)
        return pad(padded, (0, 0, 0, length - padded.shape[1]))

    def _gather(self, left: list[torch.Tensor]) -> Any:
        return torch.cat(left, dim=1)


def open_block_encoder(model: Any, device: torch.device) -> BlockEncoder:
    """Return the encoder of a TorchScript file, by what its methods are."""
    of_this_version = hasattr(model.encoder, "keep")
    return BlockEncoder(model, device) if of_this_version else OlderBlockEncoder(model, device)
