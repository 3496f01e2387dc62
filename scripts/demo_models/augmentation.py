"""Waveform augmentation: what rooms, microphones and hurried speakers do to clean synthetic speech.

Every effect maps float32 samples in [-1, 1] to float32 samples and draws from the generator it is
given, so that a seed decides the result.
"""

import math

import numpy as np

from demo_models.espeak import SAMPLE_RATE_HZ, Int16Waveform, Waveform, to_float

LONGEST_SILENCE_S = 0.3
SLOWEST_SPEED, FASTEST_SPEED = 0.88, 1.12
LONGEST_AUGMENTED_FACTOR = 1 / SLOWEST_SPEED


def augment(samples: Int16Waveform, rng: np.random.Generator) -> Waveform:
    """Apply speed, tilt, echo, silence, noise, band limit and gain, each with its own chance."""
    waveform = to_float(samples)
    if rng.random() < 0.6:
        waveform = change_speed(waveform, rng.uniform(SLOWEST_SPEED, FASTEST_SPEED))
    if rng.random() < 0.5:
        waveform = tilt_spectrum(waveform, rng.uniform(-0.6, 0.6))
    if rng.random() < 0.3:
        waveform = add_echo(waveform, int(rng.integers(80, 1200)), rng.uniform(0.1, 0.4))
    waveform = np.pad(waveform, (_silence(rng, 1 / 3), _silence(rng, 1 / 2)))
    if rng.random() < 0.75:
        waveform = add_noise(waveform, rng.uniform(8, 40), is_dark=rng.random() < 0.4, rng=rng)
    if rng.random() < 0.2:
        waveform = limit_band(waveform, rng.uniform(3_300, 7_000))
    gain = np.float32(10 ** (rng.uniform(-20, 6) / 20))
    return (waveform * gain).clip(-1, 1)


def longest_augmented_s(duration_s: float) -> float:
    """Bound the length of an utterance after augmentation."""
    return duration_s * LONGEST_AUGMENTED_FACTOR + 2 * LONGEST_SILENCE_S


def change_speed(waveform: Waveform, speed: float) -> Waveform:
    """Play faster or slower, pitch and formants included, by linear interpolation."""
    positions = np.arange(int(len(waveform) / speed)) * speed
    interpolated = np.interp(positions, np.arange(len(waveform)), waveform)
    return np.asarray(interpolated, dtype=np.float32)


def tilt_spectrum(waveform: Waveform, tilt: float) -> Waveform:
    """Boost low (positive) or high (negative) frequencies with a first-order filter."""
    tilted = waveform.copy()
    tilted[1:] += np.float32(tilt) * waveform[:-1]
    return tilted


def add_echo(waveform: Waveform, delay: int, level: float) -> Waveform:
    """Add one reflection `delay` samples later."""
    echoed = waveform.copy()
    echoed[delay:] += np.float32(level) * waveform[:-delay]
    return echoed


def add_noise(
    waveform: Waveform, signal_to_noise_db: float, *, is_dark: bool, rng: np.random.Generator
) -> Waveform:
    """Add white noise or, if `is_dark`, noise whose power falls with frequency."""
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    if is_dark:
        noise = _darken(noise)
    level = np.sqrt(np.mean(waveform**2)) * 10 ** (-signal_to_noise_db / 20)
    return waveform + noise * np.float32(level)


def limit_band(waveform: Waveform, highest_hz: float) -> Waveform:
    """Take away all frequencies above, as telephones and lower sample rates do."""
    length = len(waveform) + -len(waveform) % 1_000  # small prime factors transform fast
    spectrum = np.fft.rfft(waveform, length)
    spectrum[math.ceil(highest_hz * length / SAMPLE_RATE_HZ) :] = 0
    limited = np.fft.irfft(spectrum, length)[: len(waveform)]
    return np.asarray(limited, dtype=np.float32)


def _darken(noise: Waveform, window: int = 64) -> Waveform:
    """Integrate white noise, and take away its slow drift by a moving average."""
    walk = np.cumsum(noise, dtype=np.float64)
    sums = np.cumsum(np.pad(walk, (window, 0), mode="edge"))
    drift = (sums[window:] - sums[:-window]) / window
    centred = walk - drift
    return np.asarray(centred / (centred.std() + 1e-6), dtype=np.float32)


def _silence(rng: np.random.Generator, chance: float) -> int:
    """Draw a number of silent samples, zero unless by `chance`."""
    if rng.random() >= chance:
        return 0
    return int(rng.integers(0, int(LONGEST_SILENCE_S * SAMPLE_RATE_HZ)))
