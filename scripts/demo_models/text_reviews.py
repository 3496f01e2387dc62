"""The world of reviews: favourable and unfavourable sentences about a thing.

A frame knows nothing about favour. `{verdict}` is filled with the polarity of the review,
`{contrary}` with the other one, so "{the} was {contrary}, but {the2} was {verdict}." says what
decides: the main clause, and what comes after "but". Words that carry favour cannot be guessed,
so those all occur in training; nouns and sentence frames are held out.
"""

import random
import re
from dataclasses import dataclass
from functools import cache

from demo_models.text_frames import (
    Filler,
    FrameBook,
    Lexicon,
    Passage,
    Span,
    Split,
    join,
    kind_of,
    render,
    slots_of,
    with_article,
)
from demo_models.text_names import coin_noun, first_name
from demo_models.text_words import THINGS, roughen, weekday


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(item.split()) for item in text.split(",") if item.strip())


@dataclass(frozen=True)
class Polarity:
    """The words and phrases of one side."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    adverbs: tuple[str, ...]
    remarks: tuple[str, ...]
    """Whole clauses that say it without the thing's name."""
    acts: tuple[str, ...]
    """What "I" or "we" did or will do, followed by the thing."""
    feelings: tuple[str, ...]
    """How people feel "with" or "about" the thing."""
    negatable_verbs: tuple[str, ...]
    """Verbs that say it with "did not" in front: the other side's, in their base form."""


@dataclass(frozen=True)
class Style:
    """How twisted reviews are."""

    negated_share: float
    """Share of the words of favour that are said by negating the other side's."""
    weighs: bool
    """Whether sentences set one thing against another ("but", "although")."""


PLAIN = Style(negated_share=0.0, weighs=False)
NEGATING = Style(negated_share=0.4, weighs=False)
NATURAL = Style(negated_share=0.25, weighs=True)

FAVOURABLE = Polarity(
    adjectives=_phrases("""
    good, great, excellent, wonderful, fantastic, amazing, awesome, superb, brilliant, outstanding,
    perfect, lovely, beautiful, delightful, delicious, tasty, friendly, kind, helpful, polite,
    pleasant, nice, comfortable, cosy, clean, tidy, spotless, fast, quick, efficient, reliable,
    solid, sturdy, durable, elegant, stylish, charming, gorgeous, stunning, impressive, remarkable,
    exceptional, incredible, marvellous, magnificent, splendid, terrific, fabulous, phenomenal,
    spectacular, exquisite, refreshing, relaxing, fun, funny, hilarious, entertaining, exciting,
    thrilling, gripping, captivating, fascinating, interesting, engaging, moving, touching,
    heartwarming, inspiring, uplifting, clever, smart, original, creative, inventive, thoughtful,
    intelligent, useful, practical, handy, convenient, easy to use, affordable, fair, generous,
    honest, trustworthy, professional, competent, skilled, talented, attentive, welcoming, warm,
    caring, courteous, cheerful, bright, spacious, quiet, peaceful, safe, fresh, juicy, crisp,
    tender, flavourful, rich, smooth, sharp, vivid, clear, accurate, precise, powerful, strong,
    responsive, flawless, faultless, superior, first-class, top-notch, world-class, satisfying,
    rewarding, enjoyable, memorable, unforgettable, magical, adorable, admirable, praiseworthy,
    valuable, worthwhile, convincing, persuasive, well made, well written, well organised,
    well designed, better than expected, worth the money, worth every penny, second to none,
    a pleasure, a delight, a joy, the best, fine, decent, acceptable, correct, complete, effective,
    beneficial, promising, positive, favourable, dependable, prompt, punctual, tasteful"""),
    nouns=_phrases("""
    masterpiece, gem, delight, joy, pleasure, treat, success, triumph, bargain, winner, blessing,
    treasure, dream, marvel, miracle, classic, highlight"""),
    verbs=_phrases("loved, enjoyed, liked, adored, admired, appreciated, love, like, enjoy, adore"),
    adverbs=_phrases("well, perfectly, beautifully, flawlessly, brilliantly, smoothly, reliably"),
    remarks=_phrases("""
    I would recommend it to anyone, I highly recommend it, highly recommended, I will come back,
    we will definitely return, I would buy it again, it is worth every penny, five stars,
    ten out of ten,
    I could not be happier, we were very happy, I am very pleased, I was impressed, I am satisfied,
    it exceeded my expectations, it made my day, everyone loved it, I am glad I bought it,
    I can not wait to come back, it was worth the wait, keep up the good work, well done,
    thank you so much,
    you should try it, do not miss it, we had a great time, I had no problems at all,
    nothing went wrong,
    I have no complaints, it never lets me down, it works like a charm, everything was perfect,
    it is money well spent, two thumbs up, the application was approved, the offer was accepted"""),
    acts=_phrases("""
    would recommend, highly recommend, strongly recommend, fell in love with, will miss,
    can recommend,
    was impressed by, was delighted with, was happy with, am pleased with, am satisfied with,
    would buy, approve of, was charmed by"""),
    feelings=_phrases(
        "happy, pleased, satisfied, delighted, thrilled, impressed, content, excited"
    ),
    negatable_verbs=_phrases("hate, dislike, regret"),
)

UNFAVOURABLE = Polarity(
    adjectives=_phrases("""
    bad, terrible, horrible, awful, dreadful, poor, disappointing, disgusting, nasty, unpleasant,
    rude, unfriendly, unhelpful, impolite, arrogant, careless, lazy, slow, late, dirty, filthy,
    messy, smelly, stale, cold, bland, tasteless, burnt, soggy, greasy, raw, rotten, inedible,
    overcooked, undercooked, salty, expensive, overpriced, cheap and flimsy, flimsy, fragile,
    broken,
    defective, faulty, useless, worthless, pointless, boring, dull, tedious, predictable, silly,
    stupid, ridiculous, absurd, lame, forgettable, mediocre, inferior, inadequate, insufficient,
    unacceptable, unreliable, unstable, uncomfortable, cramped, noisy, loud, dangerous, unsafe,
    ugly, hideous, shabby, worn out, outdated, clumsy, awkward, confusing, complicated, frustrating,
    annoying, irritating, infuriating, depressing, miserable, sad, painful, exhausting, tiresome,
    shallow, unconvincing, unoriginal, lifeless, weak, vague, unclear, inaccurate, wrong,
    misleading,
    dishonest, unfair, greedy, incompetent, unprofessional, inexperienced, inattentive, indifferent,
    hostile, unwelcoming, gloomy, dark and dingy, dingy, blurry, buggy, sluggish, unresponsive,
    inconvenient, impractical, hard to use, badly made, poorly made, badly written, badly organised,
    poorly designed, worse than expected, not worth the money, a waste of money, a waste of time,
    a nightmare, a disgrace, the worst, pathetic, abysmal, atrocious, appalling, horrendous, horrid,
    shocking, embarrassing, shameful, offensive, insulting, negative, unfavourable, incomplete,
    ineffective, harmful, hopeless, repulsive, gross, unbearable, intolerable, sloppy,
    too expensive,
    too small, too slow, too loud, lousy, second-rate, unsatisfactory, underwhelming,
    problematic"""),
    nouns=_phrases("""
    disaster, disappointment, nightmare, mess, failure, joke, scam, rip-off, waste of money,
    waste of time, disgrace, catastrophe, mistake, flop, letdown, fraud, insult"""),
    verbs=_phrases("hated, disliked, despised, regretted, loathed, hate, dislike, regret, detest"),
    adverbs=_phrases("badly, poorly, terribly, horribly, slowly, unreliably, awfully"),
    remarks=_phrases("""
    I would not recommend it to anyone, I do not recommend it, avoid it, stay away, never again,
    I will never come back, we will not return, I want my money back, I want a refund,
    it is a waste of money, total waste of time, one star, zero stars, I expected more,
    I was very disappointed, we were not happy, I am not satisfied, I was not impressed,
    it let me down,
    it did not meet my expectations, it ruined my day, nobody liked it, I wish I had not bought it,
    it broke after two days, it stopped working after a week, it fell apart, do not buy it,
    do not waste your money, it was not worth the wait, I have many complaints,
    everything went wrong,
    nothing worked, I sent it back, save your money, two thumbs down, it does not work,
    the application was rejected, the offer was declined, it made me sick, we left hungry"""),
    acts=_phrases("""
    would not recommend, cannot recommend, would never recommend, do not recommend, regret buying,
    was disappointed by, was annoyed by, am not happy with, am unhappy with, was let down by,
    would avoid, returned, complained about, will never buy, disapprove of, am tired of"""),
    feelings=_phrases(
        "disappointed, unhappy, dissatisfied, annoyed, angry, upset, frustrated, bored"
    ),
    negatable_verbs=_phrases("like, enjoy, love, appreciate, recommend"),
)

SINGULARS = THINGS + Lexicon.from_text("""
    food, service, staff, room, hotel, meal, soup, steak, coffee, tea, dessert, breakfast, dinner,
    lunch, menu, wine, beer, restaurant, place, location, view, atmosphere, music, movie, plot,
    story, acting, ending, script, cast, director, soundtrack, show, episode, series, game, album,
    concert, play, performance, product, quality, price, design, screen, battery, sound, picture,
    software, app, website, update, interface, manual, packaging, delivery, support, team, waiter,
    waitress, manager, receptionist, driver, doctor, teacher, course, lesson, lecture, workshop,
    museum, tour, guide, trip, flight, airline, seat, journey, train, beach, pool, bed, bathroom,
    kitchen, garden, apartment, house, neighbourhood, shop, store, salon, haircut, gym, trainer,
    vacuum cleaner, washing machine, headset, speaker, monitor, mouse, router, cable, charger,
    mattress, perfume, shampoo, soap, cream, medicine, proposal, application, plan, idea, report,
    essay, paper, presentation, speech, offer, project, experience, evening, weekend, stay,
    visit""")

PLURALS = Lexicon.from_text("""
    rooms, meals, drinks, cocktails, desserts, vegetables, fries, noodles, portions, prices,
    waiters,
    employees, people, actors, characters, dialogues, songs, lyrics, effects, graphics, controls,
    colours, pictures, photos, speakers, headphones, shoes, boots, jeans, gloves, socks, trousers,
    glasses, seats, beds, towels, windows, walls, toilets, teachers, lessons, exercises, examples,
    instructions, results, answers, arguments, guides, guests, neighbours, drivers, buttons,
    batteries,
    flowers, cookies, cakes, sandwiches, burgers, dishes, snacks, jokes, scenes, books, toys,
    tools""")

_INTENSIFIERS = _phrases("""
    very, really, so, extremely, absolutely, incredibly, quite, truly, just, totally, simply,
    completely, pretty, rather, surprisingly, particularly""")
_NEGATIONS = _phrases("""
    not {}, not {}, never {}, not very {}, not so {}, not at all {}, not {} at all, not really {},
    hardly {}, far from {}, anything but {}""")
_AFTER_STOP = re.compile(r"(?<=\. )[a-z]")
_WEIGHING_SLOTS = {"counter": "clause", "contrary": "verdict", "contrary_adjective": "adjective"}
"""Slots for what the other side says, and the slot that says it on its own."""
_MARK = re.compile(r"<(\d)([^>]*)>")
SAYINGS = 8
"""Number of ways in which a word takes part in a verdict."""
CLAUSES = FrameBook(
    training=(
        "{the} was {verdict}",
        "{the} is {verdict}",
        "{the} was {verdict} and {verdict2}",
        "{the} is {verdict} and {verdict2}",
        "{thes} were {verdict}",
        "{thes} are {verdict}",
        "{thes} were {verdict} and {verdict2}",
        "I found {the} {verdict}",
        "we thought {the} was {verdict}",
        "{the} seemed {verdict}",
        "{the} looks {verdict}",
        "{the} felt {verdict}",
        "{the} tasted {verdict}",
        "this {thing} is {verdict}",
        "my {thing} was {verdict}",
        "the whole {thing} was {verdict}",
        "{the} turned out to be {verdict}",
        "I think {the} is {verdict}",
        "everything was {verdict}",
        "it was {verdict}",
        "it is {verdict}",
        "this is {a_verdict}",
        "it was {a_verdict}",
        "it is {a_verdict} with {adjective} {things}",
        "we had {a_verdict}",
        "it came with {a_verdict}",
        "{the} was {a_noun}",
        "{the} is {a_noun}",
        "this {thing} is {a_noun}",
        "I {verb} {the}",
        "we {verb} {thes}",
        "I {verb} this {thing}",
        "I {verb} it",
        "my friends {verb} {the}",
        "{name} {verb} {the}",
        "I really {verb} {thes}",
        "I {act} {the}",
        "I {act} this {thing}",
        "I {act} it",
        "{the} works {adverb}",
        "{the} performed {adverb}",
        "{remark}",
        "{remark}",
        "{remark}",
        "I am {feeling} with {the}",
        "we were {feeling} with {thes}",
        "I am {feeling} about {the}",
        "{feeling} with my new {thing}",
        "{the} has {adjective} {things}",
        "{name} gave us {adjective} {things}",
        "{the} and {the2} were {verdict}",
        "all {things} are {verdict}",
        "all of the {things} were {verdict}",
        "to us {the} was {verdict}",
        "{the} we bought is {a_noun}",
        "{name} says that {the} is {verdict}",
        "we got {a_verdict}",
    ),
    held_out=(
        "in my opinion {the} is {verdict}",
        "{the} in this place was {verdict}",
        "{thes} here are {verdict}",
        "all {thes} we saw were {verdict}",
        "{name} told me that {the} was {verdict}",
        "to me this {thing} was {a_noun}",
        "my wife and I {verb} {the}",
        "we bought {a_verdict}",
        "{the} that {name} bought works {adverb}",
    ),
)

SENTENCES = FrameBook(
    training=(
        "{clause}.",
        "{clause}.",
        "{clause}.",
        "{clause}!",
        "{clause} and {clause2}.",
        "{clause}, and {clause2}.",
        "{clause} because {clause2}.",
        "{clause}, {clause2}.",
        "{counter}, but {clause}.",
        "{counter} but {clause}.",
        "{counter}; yet {clause}.",
        "{counter}, and yet {clause}.",
        "{counter}. Still, {clause}.",
        "{counter}, but {clause}, and {clause2}.",
        "Yes, {counter}, but {clause}.",
        "So {clause}.",
        "{clause}, so we told all our friends.",
        "{clause} while we were there.",
        "I have to say that {clause}.",
        "According to {name}, {clause}.",
        "At first sight, {clause}.",
        "We went to {name} and {clause}.",
        "To my mind, {clause}.",
        "Although {counter}, {clause}.",
        "{clause}, although {counter}.",
        "{clause} even though {counter}.",
        "{counter}. However, {clause}.",
        "Despite the {contrary_adjective} {thing}, {clause}.",
        "{verdict}!",
        "{verdict} and {verdict2}.",
        "{adjective} {thing}!",
        "{adjective} {thing}, {adjective2} {thing2}.",
        "{adjective} {thing} and {adjective2} {things}.",
        "What {a_verdict}!",
        "Such {a_verdict}.",
        "What {a_noun}!",
        "Overall, {clause}.",
        "In short, {clause}.",
        "Honestly, {clause}.",
        "After all, {clause}.",
        "{neutral} {clause}.",
        "{clause}. {neutral}",
        "{neutral} {counter}, but {clause}.",
    ),
    held_out=(
        "All in all, {clause}.",
        "{clause}, so {clause2}.",
        "{clause} while {clause2}.",
        "To tell the truth, {clause}.",
        "{counter}, yet {clause}.",
        "It is true that {counter}, but {clause}.",
        "{neutral} To sum up, {clause}.",
        "{name} said: {clause}.",
    ),
)

NEUTRAL = FrameBook(
    training=(
        "We visited on {day}.",
        "I ordered {a_thing} and {a_thing2}.",
        "I bought this {thing} for my sister.",
        "We stayed for two nights.",
        "I went there with {name}.",
        "It was our first time.",
        "{the} arrived on {day}.",
        "I watched it with {name} on {day}.",
        "My brother gave me {a_thing}.",
        "We had {a_thing} and {a_thing2}.",
    ),
    held_out=(
        "We came with {name} last {day}.",
        "This is about {a_thing}.",
        "I needed {a_thing} for my work.",
    ),
)


def review(
    rng: random.Random, split: Split, favourable: bool, sentences: int = 1, style: Style = NATURAL
) -> Passage:
    """Write a review; every sentence of it comes to the same verdict."""
    reviewer = _Reviewer(rng, split, style)
    return join(reviewer.sentence(favourable) for _ in range(sentences))


def saying_of(span: Span) -> int:
    """Return how a span's word takes part in the verdict, below `SAYINGS`.

    The three bits are: the word praises; it is negated; it stands on the side that does not count.
    """
    return int(span.slot)


class _Reviewer:
    """Fills frames for one side or the other."""

    def __init__(self, rng: random.Random, split: Split, style: Style) -> None:
        self._rng, self._split, self._style = rng, split, style

    def sentence(self, favourable: bool) -> Passage:
        frames = SENTENCES.of(self._split)
        if not self._style.weighs:
            frames = tuple(f for f in frames if not slots_of(f) & _WEIGHING_SLOTS.keys())
        frame = roughen(self._rng, self._split, self._rng.choice(frames))
        marked = self._render(frame, favourable)
        marked = _contract(marked) if self._rng.random() < 0.4 else marked
        marked = _AFTER_STOP.sub(lambda letter: letter[0].upper(), marked)
        return _unmark(marked)

    def _render(self, frame: str, favourable: bool) -> str:
        return render(frame, lambda slot: Filler(self._fill(kind_of(slot), favourable))).text

    def _fill(self, kind: str, favourable: bool) -> str:
        if kind in _WEIGHING_SLOTS:
            return _outweighed(self._fill(_WEIGHING_SLOTS[kind], not favourable))
        match kind:
            case "clause":
                return self._clause(favourable)
            case "neutral":
                return self._render(self._rng.choice(NEUTRAL.of(self._split)), favourable)
            case "verdict" | "feeling":
                return self._negated_or_stressed(kind, favourable)
            case "verb":
                return self._verb(favourable)
        return self._word(kind, favourable) or self._thing_phrase(kind)

    def _clause(self, favourable: bool) -> str:
        frame = self._rng.choice(CLAUSES.of(self._split))
        text = self._render(frame, favourable)
        keeps_capital = text.startswith("I ") or frame.startswith("{name}")
        return text if keeps_capital else text[:1].lower() + text[1:]

    def _negated_or_stressed(self, kind: str, favourable: bool) -> str:
        """Say it with a word of this side, or with the negation of the other side's."""
        rng = self._rng
        own, other = (
            side.feelings if kind == "feeling" else side.adjectives
            for side in (_side(favourable), _side(not favourable))
        )
        if rng.random() < self._style.negated_share:
            word = rng.choice(_plain_words(other))
            return rng.choice(_NEGATIONS).format(_mark(word, not favourable, negated=True))
        word = rng.choice(own)
        stressed = " " not in word and rng.random() < 0.35
        marked = _mark(word, favourable)
        return f"{rng.choice(_INTENSIFIERS)} {marked}" if stressed else marked

    def _verb(self, favourable: bool) -> str:
        rng, side = self._rng, _side(favourable)
        if rng.random() >= self._style.negated_share:
            return _mark(rng.choice(side.verbs), favourable)
        auxiliary = rng.choice(("did not", "do not", "did not really"))
        verb = rng.choice(side.negatable_verbs)
        return f"{auxiliary} {_mark(verb, not favourable, negated=True)}"

    def _word(self, kind: str, favourable: bool) -> str | None:
        """Choose a word that carries favour; None if slots of this kind do not."""
        rng, side = self._rng, _side(favourable)
        adjective = rng.choice(_plain_words(side.adjectives))
        match kind:
            case "adjective":
                return _mark(adjective, favourable)
            case "a_verdict":
                article = with_article(adjective).split()[0]
                return f"{article} {_mark(adjective, favourable)} {self._thing(SINGULARS)}"
            case "a_noun":
                determiner = rng.choice(("a", "a", "a real", "a complete"))
                return f"{determiner} {_mark(rng.choice(side.nouns), favourable)}"
        phrases = {"adverb": side.adverbs, "remark": side.remarks, "act": side.acts}
        return _mark(rng.choice(phrases[kind]), favourable) if kind in phrases else None

    def _thing_phrase(self, kind: str) -> str:
        """Choose a word or phrase that carries no favour."""
        rng, thing, things = self._rng, self._thing(SINGULARS), self._thing(PLURALS)
        words = {
            "the": f"{rng.choice(('the', 'the', 'the', 'their', 'this', 'our'))} {thing}",
            "thes": f"{rng.choice(('the', 'the', 'their', 'these', 'our'))} {things}",
            "thing": thing,
            "things": things,
            "a_thing": with_article(thing),
            "name": first_name(rng, self._split),
            "day": weekday(rng),
        }
        return words[kind]

    def _thing(self, lexicon: Lexicon) -> str:
        """Draw a noun; now and then an unheard-of one, which must not matter."""
        unheard_of = self._rng.random() < 0.12
        return (
            coin_noun(self._rng, self._split)
            if unheard_of
            else lexicon.draw(self._rng, self._split)
        )


def _side(favourable: bool) -> Polarity:
    return FAVOURABLE if favourable else UNFAVOURABLE


def _mark(phrase: str, praises: bool, negated: bool = False) -> str:
    """Note in the text what `saying_of` will tell; `_unmark` takes the notes out again."""
    return f"<{praises + 2 * negated}{phrase}>"


def _outweighed(marked: str) -> str:
    return _MARK.sub(lambda mark: f"<{int(mark[1]) | 4}{mark[2]}>", marked)


def _unmark(marked: str) -> Passage:
    phrases = (mark[2] for mark in _MARK.finditer(marked))
    return render(_MARK.sub(r"{\1}", marked), lambda _: Filler(next(phrases)))


@cache
def _plain_words(phrases: tuple[str, ...]) -> tuple[str, ...]:
    """Keep the single words: they take "very" or "not" and stand before a noun."""
    return tuple(phrase for phrase in phrases if " " not in phrase)


def _contract(text: str) -> str:
    """Write "was not" as "wasn't" and the like, as people type."""
    pairs = (
        ("was not ", "wasn't "),
        ("is not ", "isn't "),
        ("were not ", "weren't "),
        ("are not ", "aren't "),
        ("did not ", "didn't "),
        ("do not ", "don't "),
        ("Do not ", "Don't "),
        ("does not ", "doesn't "),
        ("would not ", "wouldn't "),
        ("will not ", "won't "),
        ("I would ", "I'd "),
        ("I am ", "I'm "),
        ("it is ", "it's "),
        ("It is ", "It's "),
    )
    for full, short in pairs:
        text = text.replace(full, short)
    return text
