"""Speech from the library espeak-ng, resampled to the demo models' 16 kHz."""

import ctypes
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio

SAMPLE_RATE_HZ = 16_000
ESPEAK_SAMPLE_RATE_HZ = 22_050
INT16_MAX = 32_767

Int16Waveform = npt.NDArray[np.int16]
Waveform = npt.NDArray[np.float32]

# Of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_POSITION_OF_CHARACTERS = 1
_END_PAUSE = 0x1000
_RATE, _PITCH, _WORD_GAP = 1, 3, 7
_Listener = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class SpokenSentence:
    """What espeak-ng is asked to say, and how; the defaults are espeak-ng's own."""

    text: str
    voice: str = "en"
    speed_wpm: int = 175
    pitch: int = 50
    word_gap: int = 0


class EspeakMissingError(RuntimeError):
    """espeak-ng is not installed."""

    def __init__(self) -> None:
        super().__init__("Expected the package espeakng-loader: uv sync --group training.")


def _data_dir() -> Path:
    """Return the folder of espeak-ng's own voices; raises `EspeakMissingError`."""
    try:
        from espeakng_loader import get_data_path
    except ModuleNotFoundError as error:
        raise EspeakMissingError from error
    return Path(get_data_path())


def install_variants(variants: Mapping[str, str], parent_dir: Path) -> None:
    """Copy espeak-ng's data below ``parent_dir``, beside voice variants (name -> definition).

    ``speak`` finds them when given the same folder. Raises `EspeakMissingError`.
    """
    shutil.copytree(_data_dir(), parent_dir / "espeak-ng-data", dirs_exist_ok=True)
    (parent_dir / "variants").mkdir(exist_ok=True)
    for name, definition in variants.items():
        (parent_dir / "variants" / name).write_text(definition)


class _Espeak:
    """The library, which speaks for all of a process: one voice at a time."""

    def __init__(self, data_parent_dir: Path) -> None:
        from espeakng_loader import get_library_path

        self._parent_dir = data_parent_dir
        self._library = ctypes.CDLL(get_library_path())
        self._spoken: list[Int16Waveform] = []
        self._listener = _Listener(self._listen)
        rate_hz = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data_parent_dir).encode(), 0
        )
        if rate_hz != ESPEAK_SAMPLE_RATE_HZ:
            raise RuntimeError(f"Expected espeak-ng to speak at 22050 Hz, got {rate_hz}.")
        self._library.espeak_SetSynthCallback(self._listener)

    def _listen(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if count:
            self._spoken.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, sentence: SpokenSentence) -> Int16Waveform:
        """Return samples at 22,050 Hz."""
        accent, plus, variant = sentence.voice.partition("+")
        # The library calls British English by its language alone.
        accent = "en" if accent == "en-gb" else accent
        voice = f"{accent}{plus}{self._find_variant(variant)}"
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"Expected a voice that espeak-ng has, got {sentence.voice!r}.")
        for key, value in (
            (_RATE, sentence.speed_wpm),
            (_PITCH, sentence.pitch),
            (_WORD_GAP, sentence.word_gap),
        ):
            self._library.espeak_SetParameter(key, value, 0)
        text = sentence.text.encode()
        self._spoken.clear()
        self._library.espeak_Synth(
            text, len(text) + 1, 0, _POSITION_OF_CHARACTERS, 0, _END_PAUSE, None, None
        )
        self._library.espeak_Synchronize()
        return np.concatenate(self._spoken)

    def _find_variant(self, name: str) -> str:
        """Return what the library is to call a variant; it knows no more than 350 voices."""
        own = self._parent_dir / "variants" / name
        if not own.is_file():
            return name
        called = f"process{os.getpid()}"
        shutil.copy(own, self._parent_dir / "espeak-ng-data" / "voices" / "!v" / called)
        return called


_espeak = cache(_Espeak)


def to_float(samples: Int16Waveform) -> Waveform:
    """Scale 16-bit samples to [-1, 1]."""
    return samples.astype(np.float32) / np.float32(INT16_MAX)


def to_int16(samples: torch.Tensor) -> Int16Waveform:
    """Scale samples in [-1, 1] to 16 bits, and clip what lies outside."""
    waveform: Int16Waveform = (samples.clamp(-1, 1) * INT16_MAX).to(torch.int16).numpy()
    return waveform


def speak(sentence: SpokenSentence, data_parent_dir: Path) -> Int16Waveform:
    """Synthesise one sentence as 16 kHz mono samples.

    Not for several threads: the library has one voice. Its data is that of the first call.
    """
    return _resample(to_float(_espeak(data_parent_dir).speak(sentence)))


@cache
def _resampler() -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(ESPEAK_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)


def _resample(samples: Waveform) -> Int16Waveform:
    return to_int16(_resampler()(torch.from_numpy(samples)))


def write_wav(path: Path, waveform: Int16Waveform, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write 16-bit samples of shape (samples,) or (samples, channels)."""
    soundfile.write(path, waveform, sample_rate_hz, subtype="PCM_16")
