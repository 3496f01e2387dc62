"""The TorchScript file of an Emformer RNN-T: recordings through it, a batch and a block at a time.

A whole recording and one that is still being spoken take the same way: whole segments are encoded
and decoded as soon as their frames are there, and all that the next ones need is carried on.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from speechtext.allowance import check_time
from speechtext.cpu.packed import PACKED_ROWS, can_multiply_int8, can_pack
from speechtext.devices import DtypeName, choose_dtype
from speechtext.finite import check_finite
from speechtext.measurements import note_padding, stage
from speechtext.speech.rnnt.block_encoder import open_block_encoder
from speechtext.speech.rnnt.features import HOP_SAMPLES, SAMPLE_RATE_HZ, count_frames
from speechtext.speech.rnnt.gpu_greedy import GpuGreedy
from speechtext.speech.rnnt.hotword_search import (
    HotwordTrack,
    PieceScores,
    finish_hotwords,
    search_hotwords,
)
from speechtext.speech.rnnt.recordings import Recording
from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses

# The weights of the prediction and joint networks in int8, and what they are multiplied with as it
# comes; those of the encoder as well, where `dtype` is float32.
Quantization = Literal["int8_dynamic"]
# Segments in one block of a batch. A processor is fastest while they fit in its caches.
CPU_SEGMENTS, GPU_SEGMENTS = 128, 4096
# TorchScript profiles and optimises its first runs.
WARM_UPS = 3


class Transducer:
    """The TorchScript file of an Emformer RNN-T, ready for recordings."""

    def __init__(
        self,
        model: Any,
        device: torch.device,
        dtype_name: DtypeName,
        step_max_tokens: int,
        beam_width: int | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        self.model = model
        self._device = device
        self._step_max_tokens = step_max_tokens
        self._beam_width = beam_width
        self._segments = CPU_SEGMENTS if device.type == "cpu" else GPU_SEGMENTS
        self.frame_s: float = model.encoder.stride * HOP_SAMPLES / SAMPLE_RATE_HZ
        # Features, states and distributions stay float32.
        dtype = choose_dtype(dtype_name, device)
        if quantization:
            _quantize(model, device, dtype)
        model.encoder.to(dtype)
        model.decoder.set_dtype(dtype)
        self._greedy = GpuGreedy(model.decoder, step_max_tokens) if device.type == "cuda" else None
        # Archives that were built before cannot.
        if device.type == "cpu" and can_pack(dtype) and hasattr(model.encoder, "pack"):
            model.encoder.pack(PACKED_ROWS)
        # What every recording begins with: the prediction network takes 1.7 ms for it on an H200.
        with torch.inference_mode():
            self._encoder = open_block_encoder(model, device)
            self._nothing_said = Hypotheses(*model.decoder.start())

    def start(
        self,
        samples: torch.Tensor,
        ended: bool = True,
        keep_encodings: bool = False,
        hotwords: PieceScores | None = None,
    ) -> Recording:
        """Return a recording at its beginning; `hotwords` need a beam."""
        return Recording(
            samples,
            self._encoder.start(),
            self._nothing_said._replace(tokens=[[]], frames=[[]], probabilities=[[]], scores=[0.0]),
            ended,
            encodings=[] if keep_encodings else None,
            hotwords=HotwordTrack(hotwords) if hotwords else None,
        )

    def warm_up(self) -> None:
        """Recognise silence, as often as TorchScript needs to be at its best."""
        for _ in range(WARM_UPS):
            self.recognize([self.start(torch.zeros(SAMPLE_RATE_HZ))])

    def recognize(self, recordings: Sequence[Recording]) -> None:
        """Encode and decode all that recordings have so far, whole segments if more is to come."""
        while self.step(recordings):
            pass

    @torch.inference_mode()
    def step(self, recordings: Sequence[Recording]) -> bool:
        """Encode and decode the next block of recordings; tell whether there was one.

        Raises `NonFiniteOutputError`, with the recordings as they were, and `DeadlineError`.
        """
        check_time()
        ready = [each for each in recordings if self._count_ready(each)]
        if ready:
            self._advance(ready)
        return bool(ready)

    @torch.inference_mode()
    def find_path(self, recording: Recording) -> torch.Tensor:
        """Return the probabilities along the best path of a recording that kept its encodings.

        Shape (frames + tokens, labels): a row for each token of a frame and for the blank behind
        them.
        """
        tokens = recording.best_tokens()
        labels, frames = [token.label for token in tokens], [token.start for token in tokens]
        encodings = torch.cat(recording.encodings or [])
        path: torch.Tensor = self.model.decoder.align(encodings, labels, frames).exp().cpu()
        check_finite(path)
        return path

    def _count_ready(self, recording: Recording) -> int:
        """Return how many of the encoder's frames the samples that are there suffice for."""
        encoder = self.model.encoder
        stride: int = encoder.stride
        frames = count_frames(recording.received(), recording.ended) // stride
        if recording.ended:
            # Silent right context follows the last frame; less than one frame is filled with it.
            return max(1, frames) - recording.frames
        segment: int = encoder.segment
        right: int = encoder.right
        return max(0, (frames - right - recording.frames) // segment * segment)

    def _advance(self, recordings: Sequence[Recording]) -> None:
        encoder = self.model.encoder
        most = max(1, self._segments // len(recordings)) * encoder.segment
        counts = [min(most, self._count_ready(each)) for each in recordings]
        length = -(-max(counts) // encoder.segment) * encoder.segment + encoder.right
        note_padding((length - encoder.right) * len(recordings), sum(counts))
        with stage("model"):
            encodings, made = self._encoder.encode(recordings, counts, length)
            # Before it is decoded: of NaN, decoding makes as many tokens as it may. And here, as a
            # GPU works on while this thread goes on.
            own = [row[:count] for row, count in zip(encodings, counts, strict=True)]
            check_finite(torch.cat(own).abs())
        with stage("decode"):
            found = self._decode(encodings, counts, recordings)
        check_finite(torch.tensor([each.scores[:1] for each in found]))
        for row, (recording, count) in enumerate(zip(recordings, counts, strict=True)):
            self._encoder.keep(recording, made[:, row], count)
            recording.frames += count
            if recording.encodings is not None:
                recording.encodings.append(encodings[row, :count])
            recording.keep_certain(found[row])
            recording.drop_samples(encoder.stride)

    def _decode(
        self, encodings: torch.Tensor, frames: list[int], recordings: Sequence[Recording]
    ) -> list[Hypotheses]:
        """Return what each recording's hypotheses become: those without hotwords in one batch."""
        plain = [row for row, each in enumerate(recordings) if each.hotwords is None]
        # All of them are the tensor itself, and no copy.
        rows = encodings if len(plain) == len(recordings) else encodings[plain]
        before = [recordings[row].hypotheses for row in plain]
        found = iter(self._decode_plain(rows, [frames[row] for row in plain], before))
        return [
            next(found) if each.hotwords is None else self._decode_hotwords(each, own[:count])
            for each, own, count in zip(recordings, encodings, frames, strict=True)
        ]

    def _decode_plain(
        self, encodings: torch.Tensor, frames: list[int], before: list[Hypotheses]
    ) -> list[Hypotheses]:
        if not before:
            return []
        decoder, width = self.model.decoder, self._beam_width
        most_here = self._step_max_tokens
        if width is None and self._greedy:
            return self._greedy(encodings, frames, before)
        if width is None:
            found = decoder.greedy(encodings, frames, before, most_here)
        else:
            found = decoder.beam(encodings, frames, before, width, most_here)
        return [Hypotheses(*each) for each in found]

    def _decode_hotwords(self, recording: Recording, encodings: torch.Tensor) -> Hypotheses:
        track, width = recording.hotwords, self._beam_width
        assert track is not None and width is not None  # noqa: S101 - as `start` says
        limits = width, self._step_max_tokens
        found = search_hotwords(self.model.decoder, encodings, recording.hypotheses, track, *limits)
        last = recording.ended and len(encodings) == self._count_ready(recording)
        return finish_hotwords(found, track) if last else found


def _quantize(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Let a model that has its float32 weights yet multiply in int8.

    The encoder multiplies faster in bfloat16, which is about as exact, where it may. Raises
    `ValueError` where model or device cannot.
    """
    if device.type != "cpu" or not can_multiply_int8():
        raise ValueError(
            "handler.quantization: expected a CPU with AVX-512 VNNI, which multiplies int8, got "
            f"{device if device.type != 'cpu' else 'one without'}."
        )
    if not hasattr(model.decoder, "quantize"):
        raise ValueError(
            "handler.quantization: expected a TorchScript file of this version, got an older one: "
            "build the archive again."
        )
    model.decoder.quantize()
    if dtype == torch.float32:
        model.encoder.pack(PACKED_ROWS, in_int8=True)
