"""The world of news: sentences about people, organisations and places, for finding names.

Slots ``person``, ``org`` and ``place`` are entities; every other slot is ordinary text.
"""

import random

from demo_training.text_frames import Filler, FrameBook, Passage, Split, join, kind_of, render
from demo_training.text_names import blend, coin_noun, organisation, place, titled_person
from demo_training.text_words import (
    COMMON_WORDS,
    EVENTS,
    JOBS,
    OFFICES,
    QUALITIES,
    SITES,
    THINGS,
    moment,
    roughen,
)

ENTITY_TYPES = {"person": "PER", "org": "ORG", "place": "LOC"}

NEWS = FrameBook(
    training=(
        "{person} works for {org} in {place}.",
        "{person} works at {org}.",
        "{person} works as a {job} at {org} in {place}.",
        "{person} lives in {place} and works for {org}.",
        "{person} lives in {place}.",
        "{person} was born in {place} {when}.",
        "{person} was born {when} in {place}, {place2}.",
        "{person} moved from {place} to {place2} {when}.",
        "{person} travelled to {place} with {person2}.",
        "{person} and {person2} met in {place}.",
        "{person} met {person2} at the {site} in {place}.",
        "{person} is a {job} from {place}.",
        "{person} is the {office} of {org}.",
        "{person}, the {office} of {org}, resigned {when}.",
        "{person}, a {job} from {place}, joined {org} {when}.",
        "{person} founded {org} {when}.",
        "{person} joined {org} {when}.",
        "{person} left {org} for {org2}.",
        "{person} studied at {org} in {place}.",
        "{person} bought a {quality} {thing} from {person2}.",
        "{person} bought a {thing} in {place} {when}.",
        "{person} gave {person2} a {thing}.",
        "{person} said that {org} will open an office in {place}.",
        "{person} told {person2} about the {event} in {place}.",
        "{person} told reporters in {place} that the {event} was cancelled.",
        "{person} married {person2} {when}.",
        "{person} called {person2} {when}.",
        "{person} won the {event} in {place}.",
        "{person} plays for {org}.",
        "{person} wrote a letter to {person2}.",
        "{person} visited {place}, {place2} and {place3}.",
        "{person}, {person2} and {person3} went to {place}.",
        "{person} has worked for {org} since the summer.",
        "{person} likes the {quality} {thing}.",
        "My name is {person} and I live in {place}.",
        "My name is {person}.",
        "I am {person} from {org}.",
        "I met {person} in {place}.",
        "I work for {org} in {place}.",
        "I live in {place}.",
        "My friend {person} lives in {place}.",
        "Her brother {person} is a {job}.",
        "The {job} {person} arrived in {place} {when}.",
        "The {office} of {org} is {person}.",
        "{org} is a company based in {place}.",
        "{org} is based in {place}.",
        "{org} has offices in {place} and {place2}.",
        "{org} bought {org2} {when}.",
        "{org} hired {person} as {office}.",
        "{org} announced a new {thing} {when}.",
        "{org} makes {quality} machines in {place}.",
        "{org} opened a {site} in {place} {when}.",
        "{org} and {org2} signed a contract in {place}.",
        "{org} was founded by {person} in {place} {when}.",
        "{org} sells {quality} bicycles.",
        "{org}, based in {place}, hired {person}.",
        "{org} said {when} that profits rose.",
        "{org} will close its {site} in {place}.",
        "Shares of {org} fell {when}.",
        "The match between {org} and {org2} was exciting.",
        "The {event} between {org} and {org2} was exciting.",
        "{person} was the chancellor of {place}.",
        "{person} is the president of {place}.",
        "The mayor of {place}, {person}, opened the {site}.",
        "The king of {place} met {person}.",
        "The {quality} {thing} is on the {thing2}.",
        "{person} likes {quality} things.",
        "A {quality} {job} saw the {thing} in the {site}.",
        "A contract between {org} and {org2} ended {when}.",
        "{person} was paid by {org}.",
        "{person} is paid by {org} in {place}.",
        "The {thing} was bought by {org}.",
        "{person} thinks of moving to {place}.",
        "{person} lived in {place} before going to {place2}.",
        "After leaving {place}, {person} stayed in {place2} {when}.",
        "{org} brought its machines from {place} to {place2}.",
        "The new {job} of {org}, {person}, lives in {place}.",
        "The old {office}, {person}, left {org} {when}.",
        "The headquarters of {org} are in {place}.",
        "The company {org} was sold to {org2}.",
        "Workers at {org} in {place} went on strike.",
        "A spokesman for {org} declined to comment.",
        "{person} of {org} spoke at the {event} in {place}.",
        "{place} is the capital of {place2}.",
        "{place} is a {quality} city in {place2}.",
        "{place} is far from {place2}.",
        "The train from {place} to {place2} was late.",
        "The {event} took place in {place} {when}.",
        "The {event} in {place} was opened by {person}.",
        "The weather in {place} was warm {when}.",
        "The people of {place} voted {when}.",
        "We flew from {place} to {place2} {when}.",
        "We visited {person} in {place} {when}.",
        "They drove through {place} {when}.",
        "{when}, {person} left {place}.",
        "{when}, {org} hired {person}.",
        "{when} the {event} moved to {place}.",
        "In {place}, {person} met {person2} of {org}.",
        "In {place}, {org} employs many people.",
        "After the {event}, {person} returned to {place}.",
        "According to {person}, {org} is growing.",
        "Yesterday {person} arrived from {place}.",
        "Today {org} announced that {person} will leave.",
        "When {person} came home, the {thing} was gone.",
        "Who is {person}?",
        "Does {person} live in {place}?",
        "Where is {place}?",
        "Please send the {thing} to {person} in {place}.",
        "Please call {person} at {org}.",
        "Dear {person}, thank you for your letter.",
        "{person}'s {thing} was found in {place}.",
        "{person}'s office is in {place}.",
        "{org}'s new {thing} is {quality}.",
        "The {quality} {thing} belongs to {person}.",
        "The {thing} was painted by {person} {when}.",
        "The {thing} was made by {org} in {place}.",
        "A {job} found the {thing} in the {site} {when}.",
        "The {quality} {thing} is in the {site}.",
        "It was a {quality} {event}.",
        "There is a {thing} and a {thing2} in the {site}.",
        "{when}, the {event} starts in the {site}.",
        "He was the {office} and she was a {job}.",
        "Every {job} needs a {quality} {thing}.",
        "The price of the {thing} has fallen {when}.",
        "She bought a {thing} for the {event}.",
    ),
    held_out=(
        "{person} has been employed by {org} in {place} for many years.",
        "{person} grew up in {place} before moving to {place2}.",
        "The new {office} of {org}, {person}, comes from {place}.",
        "Last summer {person} and {person2} spent two weeks in {place}.",
        "{org} moved its headquarters from {place} to {place2} {when}.",
        "{when}, {person} started a new job at {org}.",
        "{person} sold the {thing} to {person2} {when}.",
        "A {job} named {person} opened a {site} in {place}.",
        "Employees of {org} met {person} at the {event}.",
        "I have a friend in {place} who works for {org}.",
        "The {event} between {org} and {org2} was held in {place}.",
        "{person} thanked {person2} for the {quality} {thing}.",
        "{org} plans to build a {site} near {place}.",
        "Nobody in the {site} had seen the {quality} {thing} {when}.",
        "The {job} forgot a {thing} at the {event}.",
    ),
)


_PEOPLE_DO = (
    "lives",
    "lived for ten years",
    "was seen",
    "teaches music",
    "opened a {site}",
    "runs a small {site}",
    "came home",
    "goes on holiday",
    "was raised",
    "died",
    "retired",
    "stayed for three weeks",
    "gave a speech",
    "sings and dances",
    "handed the {thing} to {person2}",
    "lent {person2} a {thing}",
    "offered the {thing} to {person2}",
    "brought the {quality} {thing} to {person2}",
    "threw the {thing} to {person2}",
    "sold {person2} a {thing}",
    "returned the {thing} to {person2}",
    "wrote to {person2}",
    "wants to see {person2}",
    "showed a {quality} {thing} to {person2}",
    "sent {person2} a {thing}",
    "borrowed a {thing} from {person2}",
    "talked to {person2}",
    "spoke with {person2}",
    "asked {person2} for help",
    "helped {person2}",
    "waited for {person2}",
    "argued with {person2} about the {event}",
    "introduced {person2} to {person3}",
    "thinks that {person2} is a good {job}",
    "believes {person2}",
    "was elected {office} of {org}",
    "became {office} of {org}",
    "applied for a job at {org}",
    "works there as a {job}",
    "sold {org} to {org2}",
    "owns {org}",
    "quit {org}",
    "criticised {org}",
    "invested in {org}",
    "sued {org}",
    "teaches at {org}",
    "got a job with {org}",
    "flew to {place2}",
    "drove to {place2}",
    "took the train to {place2}",
    "returned from {place2}",
    "walked from {place2} to {place3}",
    "settled in {place2}",
    "left {place2}",
    "loves {place2}",
    "arrived in {place2}",
    "went back to {place2}",
    "has never been to {place2}",
    "crossed {place2} by bicycle",
)
_ORGANISATIONS_DO = (
    "opened a {site}",
    "runs a {site}",
    "is looking for a new {office}",
    "sells {quality} things",
    "wants to hire {person}",
    "hopes to grow",
    "intends to open a {site}",
    "will start a {site}",
    "plans a new {site}",
    "has to pay for the {thing}",
    "promised to repair the {site}",
    "pays its workers well",
    "is a large company",
    "is a school",
    "was sold to {org2}",
    "merged with {org2}",
    "competes with {org2}",
    "sued {org2}",
    "lost a contract to {org2}",
    "sent {person} to {place2}",
    "appointed {person} as {office}",
    "named {person} its {office}",
    "fired {person}",
    "paid {person} for the {thing}",
    "employs two thousand people",
    "builds a factory",
    "moved to {place2}",
    "expanded into {place2}",
    "exports its products to {place2}",
    "published a report",
    "presented its new {thing}",
    "reported a loss",
    "beat {org2}",
    "played against {org2}",
    "won the {event}",
)
_SETTINGS = (
    "in {place}",
    "in {place}",
    "near {place}",
    "outside {place}",
    "not far from {place}",
    "on the road between {place} and {place4}",
    "around {place}",
    "somewhere in {place}",
    "in the north of {place}",
    "at the {site} in {place}",
    "in the {site}",
    "with {person4}",
    "because of {person4}",
    "before the {event}",
    "after the {event}",
    "together with {person4} and {person5}",
    "for {org3}",
    "on behalf of {org3}",
    "{when}",
    "{when}",
    "{when}",
    "every summer",
    "for many reasons",
    "as usual",
    "again",
)
_SUBJECTS = (
    ("{person}", _PEOPLE_DO),
    ("{person}", _PEOPLE_DO),
    ("my {relative} {person}", _PEOPLE_DO),
    ("the {job} {person}", _PEOPLE_DO),
    ("a {job} called {person}", _PEOPLE_DO),
    ("{person}, a {quality} {job},", _PEOPLE_DO),
    ("{person} from {place5}", _PEOPLE_DO),
    ("{person} of {org4}", _PEOPLE_DO),
    ("{person} and {person6}", _PEOPLE_DO),
    ("the {job}", _PEOPLE_DO),
    ("he", _PEOPLE_DO),
    ("the {quality} {job}", _PEOPLE_DO),
    ("members of {org4}", _PEOPLE_DO),
    ("managers of {org4}", _PEOPLE_DO),
    ("{thing}s of {org4}", _PEOPLE_DO),
    ("many {job}s", _PEOPLE_DO),
    ("I know that {person}", _PEOPLE_DO),
    ("{org}", _ORGANISATIONS_DO),
    ("{org}", _ORGANISATIONS_DO),
    ("the company {org}", _ORGANISATIONS_DO),
    ("people say that {org}", _ORGANISATIONS_DO),
    ("{org}, a company from {place5},", _ORGANISATIONS_DO),
)
_RELATIVES = ("brother", "sister", "friend", "neighbour", "aunt", "uncle", "colleague", "boss")
_COMPOSED_SHARE = 0.55
_UNHEARD_OF_SHARE = 0.35


def news(rng: random.Random, split: Split, sentences: int = 1) -> Passage:
    """Write news; the spans of the passage include the slots that are no entities."""
    return join(_sentence(rng, split) for _ in range(sentences))


def _sentence(rng: random.Random, split: Split) -> Passage:
    composed = split is Split.TRAINING and rng.random() < _COMPOSED_SHARE
    frame = _composed_frame(rng) if composed else rng.choice(NEWS.of(split))
    return render(roughen(rng, split, frame), lambda slot: _fill(rng, split, kind_of(slot)))


def _composed_frame(rng: random.Random) -> str:
    """Put a frame together: who does what, and up to two settings, one perhaps in front."""
    subject, deeds = rng.choice(_SUBJECTS)
    settings = rng.sample(_SETTINGS, rng.choice((0, 1, 1, 2)))
    sentence = " ".join((subject, rng.choice(deeds), *settings[:1]))
    return f"{settings[1]}, {sentence}." if len(settings) == 2 else f"{sentence}."


def _fill(rng: random.Random, split: Split, kind: str) -> Filler:
    if kind == "person":
        return titled_person(rng, split)
    if kind == "org":
        return organisation(rng, split)
    if kind == "place":
        return Filler(place(rng, split))
    if kind == "when":
        return moment(rng, split)
    if kind == "relative":
        return Filler(rng.choice(_RELATIVES))
    lexicons = {"thing": THINGS, "job": JOBS, "office": OFFICES, "site": SITES}
    lexicons |= {"event": EVENTS, "quality": QUALITIES}
    listed = lexicons[kind].draw(rng, split)
    return Filler(_unheard_of(rng, split) if rng.random() < _UNHEARD_OF_SHARE else listed)


def _unheard_of(rng: random.Random, split: Split) -> str:
    """Make up a lower-case word: it is no name, however strange it looks."""
    if rng.random() < 0.5:
        return coin_noun(rng, split)
    return blend(rng, split, rng.choice((THINGS, JOBS, QUALITIES, SITES, COMMON_WORDS)))
