"""The world of stories: a few sentences about one person and one thing, told in order.

A plot is a list of stages; a story takes one frame of each, and a slot keeps its filler to the
end, so the girl who buys apples carries apples home.
"""

import random
import re
from typing import NamedTuple

from demo_models.text_frames import Filler, Split, kind_of, render, with_article
from demo_models.text_names import FEMALE_NAMES, MALE_NAMES


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(item.split()) for item in text.split(","))


_FRUITS = _words("""apples, pears, plums, cherries, oranges, lemons, bananas, grapes,
    carrots, onions, potatoes, tomatoes, mushrooms, eggs, flowers, roses, peaches, beans, nuts""")
_ANIMALS = _words("""cat, dog, rabbit, horse, duck, goat, pony, parrot, hen, lamb, fox,
    bird, mouse, hedgehog, turtle, kitten, puppy, squirrel, owl, donkey, swan, frog""")
_THINGS = _words("""book, kite, ball, hat, scarf, lamp, drum, guitar, violin, camera,
    bicycle, boat, map, clock, ring, letter, puzzle, robot, painting, basket, umbrella, telescope,
    coat, watch, key, box, flute, phone""")
_PLACES = _words("""market, park, garden, forest, village, harbour, library, station,
    school, beach, castle, museum, bakery, meadow, mill, river, town square, farm, lake,
    bookshop""")
_ADJECTIVES = _words("""old, small, big, red, blue, green, yellow, golden, white, brown,
    wooden, strange, beautiful, quiet, little, shiny, soft, heavy, broken, lovely, black, tiny""")
_LASTING = _words("old, small, big, strange, beautiful, shiny, soft, heavy, lovely, light, pretty")
_SIZES = _words("small, big, old, little, yellow, white, red, wooden, quiet, lovely")
_MEALS = _words("""soup, bread, cake, pie, tea, rice, salad, pasta, stew, jam, porridge,
    pancakes, cookies, pudding""")
_WEATHER = _words("""sunny, rainy, windy, cold, warm, cloudy, foggy, snowy, stormy,
    bright, grey, hot""")
_FEELINGS = _words("""happy, proud, tired, glad, excited, calm, surprised, cheerful,
    thankful, hungry, curious, relieved""")
_TIMES = _words("""One day, One morning, One evening, On Monday, On Tuesday,
    On Wednesday, On Thursday, On Friday, On Saturday, On Sunday, In the morning,
    In the afternoon, In the evening, Last summer, Last winter, Yesterday, After breakfast,
    After school, After lunch""")
_COMPANIONS = _words("""friend, brother, sister, mother, father, grandmother,
    grandfather, uncle, aunt, neighbour, teacher, cousin""")

_LEXICONS = {
    "fruit": _FRUITS,
    "animal": _ANIMALS,
    "thing": _THINGS,
    "place": _PLACES,
    "adjective": _ADJECTIVES,
    "lasting": _LASTING,
    "size": _SIZES,
    "meal": _MEALS,
    "weather": _WEATHER,
    "feeling": _FEELINGS,
    "time": _TIMES,
    "companion": _COMPANIONS,
}
_PRONOUNS = {"she": ("she", "he"), "her": ("her", "his"), "herself": ("her", "him")}

Plot = tuple[tuple[str, ...], ...]
"""The stages of a story, each with alternative frames."""

_OPENINGS = (
    "{time} {name} went to the {place}.",
    "{time} {name} walked to the {place} with {her} {companion}.",
    "Once upon a time, a {child} called {name} lived near the {place}.",
    "{name} lived in {a_size} house near the {place}.",
    "It was {a_weather} day, and {name} went to the {place}.",
    "There was once a {child} called {name}.",
    "The weather was {weather} when {name} came to the {place}.",
    "A {child} called {name} lived with {her} {companion} near the {place}.",
)
_ENDINGS = (
    "{name} was very {feeling}.",
    "At the end of the day, {name} was {feeling}.",
    "{name} went home and slept well.",
    "Then {she} went home and told {her} {companion} everything.",
    "{name} smiled and walked home.",
    "It was a good day for {name}.",
    "From that day on, {name} was always {feeling}.",
)

TRAINING_PLOTS: tuple[Plot, ...] = (
    (
        _OPENINGS,
        (
            "{name} wanted to buy some {fruit}.",
            "{she} needed some {fruit} for a {meal} recipe.",
            "{her} {companion} had asked for some {fruit}.",
            "There {name} saw a basket of {fruit}.",
        ),
        (
            "The {fruit} were fresh and cheap.",
            "{name} bought the {fruit} and put them in {her} {adjective} bag.",
            "{a_adjective} woman sold the {fruit} to {herself}.",
        ),
        (
            "At home {name} made {meal} with the {fruit}.",
            "{her} {companion} cooked {meal} and they ate together.",
            "{she} gave half of the {fruit} to {her} {companion}.",
        ),
        _ENDINGS,
    ),
    (
        _OPENINGS,
        (
            "There {name} saw {a_adjective} {animal}.",
            "Suddenly {a_adjective} {animal} came out of the trees.",
            "{she} heard the voice of a {animal}.",
            "A little {animal} sat in the grass and looked at {name}.",
        ),
        (
            "The {animal} was hungry and cold.",
            "The {animal} had lost its mother.",
            "The {animal} was not afraid of {name}.",
        ),
        (
            "{name} gave the {animal} some {fruit}.",
            "{she} took the {animal} home and made a warm bed for it.",
            "{her} {companion} helped {herself} to carry the {animal} home.",
        ),
        (
            "Soon the {animal} was strong and happy.",
            "{name} and the {animal} became good friends.",
            "The {animal} stayed with {name} for many years.",
        ),
        _ENDINGS,
    ),
    (
        _OPENINGS,
        (
            "There {name} found {a_adjective} {thing} under a tree.",
            "In the grass {she} found {a_adjective} {thing}.",
            "{she} saw {a_adjective} {thing} in a window.",
        ),
        (
            "The {thing} belonged to {her} {companion}.",
            "{she} did not know who had lost the {thing}.",
            "The {thing} was very {lasting} and very {lasting2}.",
        ),
        (
            "{name} showed the {thing} to {her} {companion}.",
            "{she} brought the {thing} back to the {place2}.",
            "{she} put the {thing} on the table and looked at it.",
        ),
        _ENDINGS,
    ),
    (
        _OPENINGS,
        (
            "{her} {companion} gave {herself} {a_adjective} {thing}.",
            "There {she} bought {a_adjective} {thing}.",
            "For {her} birthday {she} got {a_adjective} {thing}.",
        ),
        (
            "Every day {name} played with the {thing}.",
            "{she} took the {thing} everywhere.",
            "{she} kept the {thing} in {her} room.",
        ),
        (
            "But one day the {thing} was gone.",
            "But one day the {thing} was broken.",
        ),
        (
            "{name} was sad, and {her} {companion} helped {herself}.",
            "{her} {companion} found the {thing} near the {place3}.",
            "{her} {companion} repaired the {thing} in the evening.",
        ),
        _ENDINGS,
    ),
    (
        _OPENINGS,
        (
            "It was {weather2}, and {she} could not see the way.",
            "Then it became {weather2}, and {name} had no coat.",
            "The train to the {place2} was late because the day was {weather2}.",
        ),
        (
            "{she} met {a_adjective} man with a {animal}.",
            "{she} waited for {her} {companion} near the {place3}.",
            "{name} sat down and ate some {meal}.",
        ),
        (
            "An old man said that the {place2} was not far.",
            "After an hour {her} {companion} came with {a_adjective2} {thing}.",
            "Then the sun came out again.",
        ),
        _ENDINGS,
    ),
)

_HELD_OUT_OPENINGS = (
    "{name} and {her} {companion} often went to the {place}.",
    "A long time ago, {name} lived in {a_size} village.",
    "{time} {name} came to the {place} for the first time.",
    "Near the {place} there was {a_size} house, and in it lived {name}.",
)
_HELD_OUT_ENDINGS = (
    "{name} and {her} {companion} were both {feeling}.",
    "In the evening {name} was {feeling} and slept well.",
    "{her} {companion} was {feeling} too.",
    "{name} was {feeling} for the rest of the day.",
)
HELD_OUT_PLOTS: tuple[Plot, ...] = tuple(
    (_HELD_OUT_OPENINGS, *plot[1:-1], _HELD_OUT_ENDINGS) for plot in TRAINING_PLOTS
)
"""The plots of training between new beginnings and new ends."""


class _Story:
    """The fillers of one story; the same slot always gets the same one."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng, self._split = rng, split
        self._is_male = rng.random() < 0.5
        self._words: dict[str, str] = {}

    def __call__(self, slot: str) -> Filler:
        kind = kind_of(slot)
        if kind in _PRONOUNS:
            return Filler(_PRONOUNS[kind][self._is_male])
        if slot not in self._words:
            self._words[slot] = self._draw(kind)
        return Filler(self._words[slot])

    def _draw(self, kind: str) -> str:
        if kind == "name":
            names = MALE_NAMES if self._is_male else FEMALE_NAMES
            return names.draw(self._rng, self._split)
        if kind == "child":
            return self._rng.choice(("boy", "man") if self._is_male else ("girl", "woman"))
        word = self._new_word(_LEXICONS[kind.removeprefix("a_")])
        return with_article(word) if kind.startswith("a_") else word

    def _new_word(self, words: tuple[str, ...]) -> str:
        """Draw a word that the story does not have yet: {place2} is another place."""
        return self._rng.choice([word for word in words if word not in self._words.values()])


class Story(NamedTuple):
    """The sentences of a story, in order."""

    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole story on one line."""
        return " ".join(self.sentences)


def story(rng: random.Random, split: Split) -> Story:
    """Tell a story."""
    plots = TRAINING_PLOTS if split is Split.TRAINING else HELD_OUT_PLOTS
    teller = _Story(rng, split)
    passages = [render(rng.choice(stage), teller) for stage in rng.choice(plots)]
    return Story(tuple(passage.text for passage in passages))


def is_of_this_world(sentence: str) -> bool:
    """Tell whether some frame of the training plots says this sentence."""
    return any(pattern.fullmatch(sentence) for pattern in _PATTERNS)


def _pattern(frame: str) -> re.Pattern[str]:
    """Turn a frame into the pattern of all its sentences; their first letter is a capital."""
    pieces = [
        _alternatives(kind_of(piece)) if index % 2 else re.escape(piece)
        for index, piece in enumerate(re.split(r"\{(\w+)\}", frame))
    ]
    return re.compile("".join(pieces), re.IGNORECASE)


def _alternatives(kind: str) -> str:
    if kind == "name":
        return r"\w+"
    if kind == "child":
        return "(?:boy|girl|man|woman)"
    words = _PRONOUNS[kind] if kind in _PRONOUNS else _LEXICONS[kind.removeprefix("a_")]
    if kind.startswith("a_"):
        words = tuple(map(with_article, words))
    return f"(?:{'|'.join(map(re.escape, words))})"


_PATTERNS = tuple(
    _pattern(frame)
    for frame in dict.fromkeys(f for plot in TRAINING_PLOTS for stage in plot for f in stage)
)
