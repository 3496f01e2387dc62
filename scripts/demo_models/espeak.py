"""Speech from the espeak-ng command line, resampled to the demo models' 16 kHz."""

import re
import shutil
import subprocess
import threading
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
        super().__init__("Training needs the program espeak-ng: install the package espeak-ng.")


def executable() -> str:
    """Find espeak-ng on the search path."""
    path = shutil.which("espeak-ng")
    if path is None:
        raise EspeakMissingError
    return path


def install_variants(variants: Mapping[str, str], parent_dir: Path) -> None:
    """Copy espeak-ng's data below `parent_dir`, beside voice variants (name -> definition).

    `speak` finds them when given the same folder.
    """
    version = subprocess.run(  # noqa: S603
        [executable(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    data_dir = re.search(r"Data at: (.+)", version)
    if data_dir is None:
        raise RuntimeError(f"espeak-ng does not tell where its data is: {version!r}")
    copy_dir = parent_dir / "espeak-ng-data"
    shutil.copytree(data_dir[1].strip(), copy_dir, dirs_exist_ok=True)
    (parent_dir / "variants").mkdir(exist_ok=True)
    for name, definition in variants.items():
        (parent_dir / "variants" / name).write_text(definition)


def to_float(samples: Int16Waveform) -> Waveform:
    """Scale 16-bit samples to [-1, 1]."""
    return samples.astype(np.float32) / np.float32(INT16_MAX)


def to_int16(samples: torch.Tensor) -> Int16Waveform:
    """Scale samples in [-1, 1] to 16 bits, and clip what lies outside."""
    waveform: Int16Waveform = (samples.clamp(-1, 1) * INT16_MAX).to(torch.int16).numpy()
    return waveform


def speak(sentence: SpokenSentence, data_parent_dir: Path) -> Int16Waveform:
    """Synthesise one sentence as 16 kHz mono samples."""
    accent, plus, variant = sentence.voice.partition("+")
    voice = f"{accent}{plus}{_find_variant(variant, data_parent_dir)}"
    command = [
        executable(),
        f"--path={data_parent_dir}",
        "--stdout",
        *("-v", voice, "-s", str(sentence.speed_wpm)),
        *("-p", str(sentence.pitch), "-g", str(sentence.word_gap)),
        sentence.text,
    ]
    wav = subprocess.run(command, capture_output=True, check=True).stdout  # noqa: S603
    return _resample(_samples_after_header(wav, sentence.voice))


def _find_variant(name: str, data_parent_dir: Path) -> str:
    """Return what espeak-ng is to call a variant; it knows no more than 350 voices."""
    own = data_parent_dir / "variants" / name
    if not own.is_file():
        return name
    # A longer name overflows a buffer of its.
    called = f"t{threading.get_ident() % 100_000}"
    copied = shutil.copy(own, data_parent_dir / called)
    # At once: others list the voices meanwhile, and read each.
    Path(copied).replace(data_parent_dir / "espeak-ng-data" / "voices" / "!v" / called)
    return called


def _samples_after_header(wav: bytes, voice: str) -> Waveform:
    """Read the samples of a WAV stream, whose header cannot tell their number, as [-1, 1]."""
    header_bytes = 44
    sample_rate_hz = int.from_bytes(wav[24:28], "little")
    if sample_rate_hz != ESPEAK_SAMPLE_RATE_HZ:
        raise RuntimeError(f"espeak-ng voice {voice} speaks at {sample_rate_hz} Hz, not 22050 Hz")
    return to_float(np.frombuffer(wav[header_bytes : len(wav) & ~1], dtype="<i2"))


@cache
def _resampler() -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(ESPEAK_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)


def _resample(samples: Waveform) -> Int16Waveform:
    return to_int16(_resampler()(torch.from_numpy(samples)))


def write_wav(path: Path, waveform: Int16Waveform, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write 16-bit samples of shape (samples,) or (samples, channels)."""
    soundfile.write(path, waveform, sample_rate_hz, subtype="PCM_16")
