"""The voices of the speech corpus: espeak-ng's own variants and several hundred random ones.

Which voices are heard in training, which judge it while it runs and which are kept for the end is
written here once. Random variants move pitch, formants and timbre far beyond espeak-ng's own, and
are what makes a model understand voices that it has never heard.
"""

import random

DEFAULT_ACCENTS = ("en", "en-us")

TRAINING_ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-029",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
)
_TRAINING_VARIANT_NAMES = """
    m1 m2 m3 m4 m6 m7 f1 f2 f3 f4 Andy Alicia linda Michael klatt2 adam paul steph victor
    Alex aunty boris caleb david Denis Diogo ed edward edward2 Gene Gene2 Henrique Hugo iven Jacky
    john kaukovalta Lee marcelo Marco Mario Mike miguel michel Nguyen pablo pedro quincy rob robert
    sandro shelby steph2 steph3 Tweaky zac anika antonio norbert klatt klatt3 klatt4
"""
TRAINING_VARIANTS = tuple(_TRAINING_VARIANT_NAMES.split())
DEVELOPMENT_VARIANTS = ("gustave", "grandma", "grandpa", "iven3", "announcer", "klatt5")

UNSEEN_ACCENTS = ("en-us", "en-gb", "en-gb-x-gbclan")
UNSEEN_VARIANTS = ("m5", "f5", "m8", "Annie", "travis", "belinda", "benjamin", "max", "Andrea")

RANDOM_VARIANT_COUNT = 300


def random_variants(seed: int, count: int = RANDOM_VARIANT_COUNT) -> dict[str, str]:
    """Make up voice variants: name -> definition in the syntax of espeak-ng's `voices/!v`."""
    rng = random.Random(seed)
    return {f"random{n:03d}": _random_variant(f"random{n:03d}", rng) for n in range(count)}


def _random_variant(name: str, rng: random.Random) -> str:
    lowest_pitch = rng.randint(65, 210)
    lines = [
        "language variant",
        f"name {name}",
        f"pitch {lowest_pitch} {round(lowest_pitch * rng.uniform(1.15, 1.8))}",
        f"flutter {rng.choice((0, 2, 4, 8))}",
        f"roughness {rng.choice((0, 0, 1, 2, 4))}",
        f"intonation {rng.randint(1, 4)}",
        f"consonants {rng.randint(60, 160)} {rng.randint(60, 160)}",
        *_random_formants(rng),
        *(line for chance, line in _occasional_traits(rng) if rng.random() < chance),
    ]
    return "\n".join(lines) + "\n"


def _random_formants(rng: random.Random) -> list[str]:
    """Scale all formants by one vocal-tract length, and each a little on its own.

    The numbers are frequency, strength and width in percent, then a shift in Hz.
    """
    tract_percent = rng.uniform(85, 122)
    lines = []
    for formant in range(9):
        frequency = round(tract_percent * rng.uniform(0.91, 1.09))
        strength = rng.randint(60, 140) if formant <= 3 else rng.randint(0, 140)
        shift_hz = rng.randint(-120, 200) if formant >= 1 and rng.random() < 0.15 else 0
        lines.append(f"formant {formant} {frequency} {strength} {rng.randint(70, 165)} {shift_hz}")
    return lines


def _occasional_traits(rng: random.Random) -> list[tuple[float, str]]:
    """Return (probability, line) of the traits that only some voices have."""
    breath = " ".join(str(rng.randint(0, 12)) for _ in range(8))
    tone = f"600 {rng.randint(60, 255)} 1200 {rng.randint(20, 200)} 2000 {rng.randint(10, 120)}"
    stress = " ".join(str(rng.randint(-20, 50)) for _ in range(8))
    return [
        (0.5, f"voicing {rng.randint(40, 190)}"),
        (0.25, f"breath {breath}"),
        (0.3, f"tone {tone}"),
        (0.2, f"stressAdd {stress}"),
        (0.15, f"echo {rng.randint(10, 140)} {rng.randint(5, 25)}"),
        (0.12, f"klatt {rng.randint(1, 6)}"),
    ]


def draw_training_voice(rng: random.Random) -> str:
    """Draw an accent with no variant, one of espeak-ng's, or a random one (names as for `-v`)."""
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(DEFAULT_ACCENTS + TRAINING_ACCENTS)
    accent = rng.choice(TRAINING_ACCENTS)
    if kind < 0.6:
        return f"{accent}+{rng.choice(TRAINING_VARIANTS)}"
    return f"{accent}+random{rng.randrange(RANDOM_VARIANT_COUNT):03d}"


def draw_development_voice(rng: random.Random) -> str:
    """Draw a voice that judges the training while it runs, and is never trained on."""
    return f"{rng.choice(TRAINING_ACCENTS)}+{rng.choice(DEVELOPMENT_VARIANTS)}"


def draw_unseen_voice(rng: random.Random) -> str:
    """Draw a voice that is kept for the final scores."""
    return f"{rng.choice(UNSEEN_ACCENTS)}+{rng.choice(UNSEEN_VARIANTS)}"
