"""Everyday words of the text worlds that are no names: things, jobs, places to be, times."""

import random

from demo_models.text_frames import Filler, Lexicon, Split, listed
from demo_models.text_names import coin_noun

THINGS = Lexicon.from_text("""
    bicycle, car, guitar, piano, violin, camera, laptop, phone, book, letter, map, painting, table,
    chair, lamp, clock, watch, ring, necklace, bracelet, coat, jacket, hat, scarf, shirt, dress,
    umbrella, suitcase, backpack, basket, bottle, cup, plate, knife, spoon, teapot, kettle, mirror,
    carpet, blanket, pillow, candle, radio, television, computer, printer, keyboard, tablet, drone,
    telescope, microscope, boat, canoe, kite, ball, doll, puppet, puzzle, toy, drum, flute,
    trumpet, tent, rope, hammer, saw, drill, ladder, bucket, shovel, wallet, purse, key, ticket,
    passport, newspaper, magazine, notebook, pencil, statue, vase, sofa, desk, bookshelf, fridge,
    oven, toaster, tractor, truck, motorcycle, scooter, skateboard, surfboard, snowboard, helmet,
    horse, cat, dog, parrot, rabbit, goat, cow, sheep, apple, cake, sandwich, pizza, pie, salad,
    house, cottage, farm, bridge, tower, museum, school, library, poem, novel, song, report, film,
    document, contract, parcel, box, jar, coin, stamp, treasure, robot, engine, machine,
    telephone""")

QUALITIES = Lexicon.from_text("""
    red, blue, green, yellow, black, white, brown, grey, purple, orange, golden, silver, old, new,
    small, large, big, tiny, huge, heavy, light, long, short, broken, used, wooden, metal, plastic,
    beautiful, strange, famous, expensive, cheap, rare, lost, stolen, round, square, soft, warm,
    ugly, empty, ancient, elegant, enormous, iron, unusual, oily, icy""")

JOBS = Lexicon.from_text("""
    teacher, doctor, nurse, engineer, lawyer, painter, singer, dancer, writer, poet, journalist,
    baker, butcher, farmer, gardener, carpenter, plumber, electrician, mechanic, pilot, sailor,
    soldier, scientist, chemist, physicist, biologist, mathematician, programmer, designer,
    architect, accountant, banker, manager, director, secretary, waiter, chef, cook, barber, tailor,
    photographer, actor, musician, composer, pianist, guitarist, librarian, dentist, surgeon,
    veterinarian, firefighter, detective, judge, politician, professor, student, translator,
    historian, philosopher, economist, astronaut, footballer, swimmer, boxer, coach, driver""")

OFFICES = Lexicon.from_text("""
    president, director, manager, chief executive, chairman, founder, owner, captain, head coach,
    treasurer, secretary, vice president, editor, chief engineer, spokesman, spokeswoman, leader,
    chief scientist, head of research, finance director, sales manager, deputy director""")

SITES = Lexicon.from_text("""
    station, market, airport, library, museum, park, garden, kitchen, office, school, hospital,
    theatre, cinema, restaurant, hotel, bakery, harbour, castle, church, forest, village, town hall,
    beach, stadium, university, factory, laboratory, supermarket, bookshop, cafe, garage, barn,
    living room, bedroom, bathroom, cellar, attic, main hall, conference room, old town,
    city centre,
    shopping centre, post office, bank, swimming pool, gym, zoo, farm, workshop, gallery""")

EVENTS = Lexicon.from_text("""
    meeting, concert, party, wedding, conference, lecture, exhibition, race, match, game, festival,
    ceremony, class, lesson, workshop, exam, interview, auction, parade, show, play, film, tour,
    flight, dinner, lunch, breakfast, trial, election, tournament, picnic, seminar, fair""")

_DAYS = listed("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
_MONTHS = listed("""
    January, February, March, April, May, June, July, August, September, October, November,
    December""")
_HOURS = listed("one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve")
_PERIODS = ("week", "month", "year", "night", "weekend", "spring", "summer", "autumn", "winter")
_UNITS = ("minutes", "hours", "days", "weeks", "months", "years")
_RELATIVE = Lexicon(
    [
        *("yesterday", "the other day", "a moment ago", "an hour ago", "a week ago", "a year ago"),
        *(f"last {period}" for period in (*_PERIODS, *_DAYS, *_MONTHS)),
        *(f"this {part}" for part in ("morning", "afternoon", "evening", "week", "summer")),
        *(f"{number} {unit} ago" for number in _HOURS[1:] for unit in _UNITS),
    ]
)


def moment(rng: random.Random, split: Split) -> Filler:
    """Draw a past time; day, month, year and clock time stand behind a preposition."""
    day, month = rng.choice(_DAYS), rng.choice(_MONTHS)
    number, year = rng.randint(1, 28), rng.randint(1780, 2030)
    forms = (
        Filler(
            rng.choice((day, f"{day} {rng.choice(('morning', 'evening', 'afternoon'))}")), "on "
        ),
        Filler(rng.choice((month, f"{month} {year}")), "in "),
        Filler(str(year), "in "),
        Filler(rng.choice((f"{number} {month} {year}", f"{month} {number}, {year}")), "on "),
        Filler(f"{month} {number}", "on "),
        clock_time(rng),
        Filler(_RELATIVE.draw(rng, split)),
    )
    return rng.choices(forms, (4, 2, 4, 3, 2, 3, 4))[0]


def clock_time(rng: random.Random) -> Filler:
    """Draw a time of day."""
    hour = rng.randrange(12)
    core = rng.choice(
        (
            f"{_HOURS[hour]} o'clock",
            f"{hour + 1}:{rng.choice(('00', '15', '30', '45'))}",
            f"{hour + 1} {rng.choice(('am', 'pm'))}",
            rng.choice(("noon", "midnight")),
        )
    )
    return Filler(core, "at ")


def weekday(rng: random.Random) -> str:
    """Draw a day of the week."""
    return rng.choice(_DAYS)


def plural(noun: str) -> str:
    """Form a regular plural."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


COMMON_WORDS = Lexicon.from_text("""
    able, about, above, across, actually, afternoon, again, against, ago, agreed, air, almost,
    along,
    already, also, always, among, animal, another, answered, anybody, anyone, anything, appeared,
    around, arrived, asked, baby, back, became, before, began, behind, believed, below, between,
    body,
    both, breath, brother, brought, building, business, called, came, can, carried, caught, century,
    changed, child, children, choose, city, closely, clothes, colleague, colleagues, come, comes,
    common,
    company, could, country, couple, course, cousin, customer, customers, daily, daughter, day,
    days,
    decided, decides, deep, described, did, does, door, doing, done, down, during, each, early,
    earth,
    east, economy, eight, either, else, employee, end, enough, entered, even, evening, ever,
    every, everybody, everyone, example, except, explained, eye, face, family, far, farmers, father,
    feel, felt, few, field, figure, finally, find, finds, fire, first, five, floor, followed,
    food, foot,
    former, forward, four, friend, friends, from, full, game, gave, gets, girl, give, given, gives,
    global, go, goes, gone, got, government, grandmother, ground, group, had, half, hand, hands,
    happened,
    has, have, having, head, hear, heard, held, here, herself, himself, hour, hours, house,
    human, husband, ice, idea, inside, into, itself, job, just, keep, kept,
    knew,
    know, known, knows, lady, land, language, later, law, learned, led, left, level,
    life,
    line, listened, little, living, local, looked, made, man, many, market, may,
    maybe, meant,
    men, might, mile, mind, minister, minute, minutes, moment, money, month, months, more,
    morning, most,
    mother, mountain, move, moving, much, music, must, myself, named, national, near, nearly, need,
    needs, neighbour, neighbours, next, night, nine, noon, north, noticed, now,
    number,
    off, often, once, one, only, onto, opinion, other, others, ourselves, outside, over, own,
    page, paid,
    parents, part, party, passed, people, perhaps, picture, piece, planned, plans, played, player,
    players, point, police, power, presented, public, publish, put, question,     quietly,
    rain, ran, reached, reason, recently, region, remained, remembered, report, reported,
    rest,
    result, river, road, rock, said, same, sat, saw, say, says, sea, second, seemed, seen, sent,
    seven,
    several, shall, she, should, showed, side, since, single, sister, sitting, six, slept,
    smiled, so,
    some, somebody, someone, something, sometimes, son, soon, south, speaks, spends, spent,
    spoke, stand,
    started, starts, state, stayed, stood, stopped, story, street, student, students, study,
    such, summer, sun, surely, taken, talked, tea, teaches, team, ten, than, that, them,
    themselves, then,
    these, they, think, thinks, third, those, thought, thousand, three, through, time,
    times,
    today, together, told, tomorrow, tonight, took, toward, town, tree, tried, turned, two, under,
    understood, until, used, usually, village, visitor, visitors, waited, walked, wants, war,
    watched,
    water, way, week, weeks, went, were, west, when, where, which, while, who, whole, whose, why,
    wife,
    will, wind, window, winter, within, woman, women, word, words, worked, workers, world,
    would, writes, wrote, year, years, young""")

_ROUGH_SHARE = 0.5
_INSERTED_SHARE = 0.13


def roughen(rng: random.Random, split: Split, frame: str) -> str:
    """Put ordinary or unheard-of words between those of every other training frame.

    A frame is a narrow piece of English. With these words around it a model learns that an unknown
    lower-case word is no name, no answer and no verdict. Held-out frames stay as they are.
    """
    if split is Split.HELD_OUT or rng.random() > _ROUGH_SHARE:
        return frame
    words = []
    if rng.random() < _INSERTED_SHARE:
        words.append(COMMON_WORDS.draw(rng, split))
        frame = frame if frame.startswith("I ") else frame[0].lower() + frame[1:]
    for word in frame.split(" "):
        words.append(word)
        if rng.random() < _INSERTED_SHARE and word[-1] not in ".?!":
            coined = rng.random() < 0.3
            words.append(coin_noun(rng, split) if coined else COMMON_WORDS.draw(rng, split))
    return " ".join(words)
