"""A little world of one hundred words: sentences for the speech demo models.

Voice commands follow templates whose slots are drawn from word lists. One command in eight is
replaced by scrambled words, so that a model has to listen instead of completing the template.
"""

import random
import re
from itertools import pairwise


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DIGITS = _words("zero one two three four five six seven eight nine")
TENS = _words("ten twenty thirty forty fifty sixty")

SLOTS: dict[str, tuple[str, ...]] = {
    "digit": DIGITS,
    "counting_digit": DIGITS[1:],
    "tens": TENS,
    "counting_tens": TENS[1:],
    "number": ("{digit}",) * 9 + ("{tens}",) * 5 + ("{counting_tens} {counting_digit}",) * 6,
    "phone_number": tuple(" ".join(["{digit}"] * length) for length in range(3, 7)),
    "colour": _words("red green blue yellow white black orange purple"),
    "room": _words("kitchen bedroom bathroom hallway garage garden office"),
    "device": _words("light lights lamp fan heater music radio television alarm"),
    "opening": _words("door window gate"),
    "direction": _words("left right up down forward back"),
    "turn": ("turn", "switch"),
    "on_off": ("on", "off"),
    "unlock": ("open", "close", "lock", "unlock"),
    "entrance": ("{room}",) * 7 + ("front", "back"),
    "warmth": ("temperature", "heater"),
    "dimmable": ("volume", "light", "lamp"),
    "time_unit": ("minutes", "seconds", "hours"),
    "make": ("make", "set"),
    "lamp": ("light", "lights", "lamp"),
    "go": ("go", "turn", "move"),
    "amount": ("steps", "degrees"),
    "play": ("play", "pause", "stop", "start"),
    "player": ("music", "radio", "television", "alarm", "timer"),
    "asked": ("time", "weather", "temperature"),
    "when": ("today", "tomorrow", "now", "in the {room}"),
    "raise": ("raise", "lower"),
    "adjustable": ("volume", "temperature", "light"),
    "short_answer": _words("yes no hello stop start go help"),
    "greeting": ("hello", "yes", "no"),
    "and_or": ("and", "or"),
    "thing": ("box", "ball"),
    "movable": ("box", "ball", "lamp"),
    "please": ("", "", "please "),
}

FRAMES = (
    "{turn} {on_off} the {room} {device}",
    "{turn} the {device} {on_off} in the {room}",
    "{unlock} the {entrance} {opening}",
    "set the {warmth} to {number} degrees",
    "set the {dimmable} to {number} percent",
    "set a timer for {number} {time_unit}",
    "{make} the {room} {lamp} {colour}",
    "{go} {direction} {number} {amount}",
    "{play} the {player}",
    "what is the {asked} {when}",
    "call {phone_number}",
    "{raise} the {adjustable} by {number}",
    "{short_answer}",
    "{greeting} {colour}",
    "{colour} {and_or} {colour}",
    "move the {colour} {movable} {direction}",
    "{colour} {thing} {number}",
    "{greeting} {turn} {on_off} the {device}",
)

SCRAMBLED_SHARE = 0.12

_SLOT = re.compile(r"\{(\w+)\}")


def _words_of_the_world() -> tuple[str, ...]:
    templates = [*FRAMES, *(choice for choices in SLOTS.values() for choice in choices)]
    return tuple(sorted({word for text in templates for word in _SLOT.sub(" ", text).split()}))


VOCABULARY = _words_of_the_world()


def fill(template: str, rng: random.Random) -> str:
    """Replace each `{slot}` by one of its choices, drawn anew at each place."""
    while _SLOT.search(template):
        template = _SLOT.sub(lambda slot: rng.choice(SLOTS[slot[1]]), template)
    return template


def command(rng: random.Random) -> str:
    """Draw a voice command or, at times, one to six scrambled words."""
    if rng.random() < SCRAMBLED_SHARE:
        return word_string(rng)
    return fill("{please}" + rng.choice(FRAMES), rng)


def word_string(rng: random.Random) -> str:
    """Draw one to six words of the vocabulary in no order."""
    return " ".join(rng.choices(VOCABULARY, k=rng.randint(1, 6)))


def digit_string(rng: random.Random) -> str:
    """Draw one to seven digits."""
    return " ".join(rng.choices(DIGITS, k=rng.randint(1, 7)))


def stuttering_digit_string(rng: random.Random) -> str:
    """Draw two to seven digits of which about half repeat the one before."""
    digits = [rng.choice(DIGITS)]
    for _ in range(rng.randint(1, 6)):
        digits.append(digits[-1] if rng.random() < 0.5 else rng.choice(DIGITS))
    return " ".join(digits)


def has_only_digits(text: str) -> bool:
    """Tell whether every word is a digit."""
    return all(word in DIGITS for word in text.split())


def repeats_a_word(text: str) -> bool:
    """Tell whether a word stands twice in a row, the case that transducers tend to merge."""
    return any(first == second for first, second in pairwise(text.split()))
