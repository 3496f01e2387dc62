"""The text worlds keep their promises: held-out material is new, gold answers are exact."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_models import text_answers, text_classification, text_generation, text_tokens
from demo_models.catalogue import TEXT_MODELS
from demo_models.text_facts import inquiry
from demo_models.text_frames import (
    Example,
    Filler,
    FrameBook,
    Lexicon,
    Split,
    join,
    kind_of,
    render,
    slots_of,
    with_article,
)
from demo_models.text_names import (
    COMPANIES,
    FIRST_NAMES,
    PLACES,
    SURNAMES,
    company,
    first_name,
    place,
    surname,
)
from demo_models.text_news import NEWS, news
from demo_models.text_reviews import (
    CLAUSES,
    FAVOURABLE,
    NEUTRAL,
    PLAIN,
    SENTENCES,
    UNFAVOURABLE,
    review,
    saying_of,
)
from demo_models.text_stories import HELD_OUT_PLOTS, TRAINING_PLOTS, is_of_this_world, story
from demo_models.text_tokens import Entity, entities_from_labels
from demo_models.text_training import write_label_names

SEEDS = st.integers(min_value=0, max_value=2**32)


@pytest.mark.parametrize("lexicon", [FIRST_NAMES, SURNAMES, PLACES, COMPANIES])
def test_name_lists_are_cut_in_two(lexicon: Lexicon) -> None:
    training, held_out = (set(lexicon.members[split]) for split in Split)
    assert training.isdisjoint(held_out)
    assert training | held_out == set(lexicon)
    assert len(held_out) >= 8


@pytest.mark.parametrize("draw", [first_name, surname, place])
@given(seed=SEEDS)
def test_drawn_names_belong_to_their_half(
    draw: Callable[[random.Random, Split], str], seed: int
) -> None:
    for split in Split:
        words = draw(random.Random(seed), split).split()
        # "North Velmora": the coined part decides, a listed "New York" does as a whole
        assert any(split.owns(part) for part in (*words, " ".join(words)))


@given(seed=SEEDS)
def test_held_out_companies_name_nobody_known(seed: int) -> None:
    name = company(random.Random(seed), Split.HELD_OUT)
    assert name not in COMPANIES.members[Split.TRAINING]


@pytest.mark.parametrize("book", [NEWS, CLAUSES, SENTENCES, NEUTRAL])
def test_held_out_frames_are_not_trained_on(book: FrameBook) -> None:
    assert book.held_out
    assert set(book.training).isdisjoint(book.held_out)


def test_held_out_stories_begin_and_end_as_none_in_training() -> None:
    trained = {frame for plot in TRAINING_PLOTS for stage in plot for frame in stage}
    for plot in HELD_OUT_PLOTS:
        assert trained.isdisjoint(plot[0] + plot[-1])


def test_no_word_of_favour_stands_on_both_sides() -> None:
    for field in ("adjectives", "nouns", "verbs", "adverbs", "remarks", "acts", "feelings"):
        assert set(getattr(FAVOURABLE, field)).isdisjoint(getattr(UNFAVOURABLE, field)), field


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_held_out_examples_depend_on_the_seed_alone(name: str) -> None:
    held_out = TEXT_MODELS[name].held_out
    assert held_out(20, seed=3) == held_out(20, seed=3)
    assert held_out(20, seed=3) != held_out(20, seed=4)
    assert len(held_out(20, seed=3)) == 20


def test_rendering_remembers_where_fillers_stand() -> None:
    fillers = {"when": Filler("Monday", "on "), "person": Filler("Ada King")}
    passage = render("{when}, {person} left.", fillers.__getitem__)
    assert passage.text == "On Monday, Ada King left."
    assert passage.text[slice(*passage.span("when")[:2])] == "Monday"
    assert passage.text[slice(*passage.span("person")[:2])] == "Ada King"


def test_joining_moves_the_spans_along() -> None:
    one = render("{a} sat.", lambda _: Filler("Tom"))
    both = join((one, one))
    assert both.text == "Tom sat. Tom sat."
    assert [(s.start, s.end) for s in both.spans] == [(0, 3), (9, 12)]


def test_a_filler_with_a_stop_ends_the_sentence_once() -> None:
    assert render("He left {org}.", lambda _: Filler("Acme Inc.")).text == "He left Acme Inc."


@pytest.mark.parametrize(
    ("noun", "phrase"), [("oven", "an oven"), ("car", "a car"), ("used car", "a used car")]
)
def test_articles(noun: str, phrase: str) -> None:
    assert with_article(noun) == phrase


@given(seed=SEEDS, split=st.sampled_from(Split), sentences=st.integers(1, 4))
def test_entities_cover_whole_words_of_the_text(seed: int, split: Split, sentences: int) -> None:
    passage = news(random.Random(seed), split, sentences)
    for start, end, kind in text_tokens.entities_of(passage):
        name = passage.text[start:end]
        assert name == name.strip()
        assert kind in {"PER", "ORG", "LOC"}
        assert not passage.text[start - 1 : start].isalnum()
        assert not passage.text[end : end + 1].isalnum()


@given(seed=SEEDS, split=st.sampled_from(Split), sentences=st.integers(1, 4))
def test_answers_are_words_of_their_context(seed: int, split: Split, sentences: int) -> None:
    asked = inquiry(random.Random(seed), split, sentences)
    text, (start, end, _) = asked.context.text, asked.gold
    assert asked.evidence.start <= start < end <= asked.evidence.end <= len(text)
    assert asked.answer == asked.answer.strip()
    assert not text[start - 1 : start].isalnum()
    assert not text[end : end + 1].isalnum()


@given(seed=SEEDS, favourable=st.booleans(), split=st.sampled_from(Split))
def test_every_word_of_a_review_comes_to_its_verdict(
    seed: int, favourable: bool, split: Split
) -> None:
    told = review(random.Random(seed), split, favourable, sentences=3)
    assert not set("<>{}") & set(told.text)
    for span in told.spans:
        praises, negated, outweighed = (bool(saying_of(span) & bit) for bit in (1, 2, 4))
        assert praises ^ negated ^ outweighed == favourable, told.text[span.start : span.end]


@given(seed=SEEDS, favourable=st.booleans())
def test_plain_reviews_neither_negate_nor_weigh(seed: int, favourable: bool) -> None:
    told = review(random.Random(seed), Split.TRAINING, favourable, style=PLAIN)
    assert {saying_of(span) for span in told.spans} <= {int(favourable)}


@given(seed=SEEDS)
def test_stories_are_of_their_own_world(seed: int) -> None:
    assert all(map(is_of_this_world, story(random.Random(seed), Split.TRAINING).sentences))


def test_nonsense_is_of_no_world() -> None:
    assert not is_of_this_world("The apples bought Anna and slept well.")


def test_slots_of_one_kind() -> None:
    assert slots_of("{person} met {person2}.") == {"person", "person2"}
    assert kind_of("person2") == "person"


PARIS = "Maria Rossi works for Acme in Paris."


@pytest.mark.parametrize(
    ("pairs", "entities"),
    [
        ([], ()),
        ([("Maria", "B-PER"), ("Rossi", "I-PER")], (Entity(0, 11, "PER"),)),
        ([("Maria", "B-PER"), ("Rossi", "B-PER")], (Entity(0, 5, "PER"), Entity(6, 11, "PER"))),
        ([("Maria", "I-PER"), ("works", "O")], (Entity(0, 5, "PER"),)),
        ([("maria", "B-PER"), ("rossi", "I-ORG")], (Entity(0, 5, "PER"), Entity(6, 11, "ORG"))),
        ([("Ac", "B-ORG"), ("##me", "O"), ("Paris", "B-LOC")], (Entity(22, 26, "ORG"),
                                                                  Entity(30, 35, "LOC"))),
        ([("[CLS]", "O"), ("Paris", "B-LOC")], (Entity(30, 35, "LOC"),)),
    ],
)  # fmt: skip
def test_entities_from_labels(pairs: list[tuple[str, str]], entities: tuple[Entity, ...]) -> None:
    assert entities_from_labels(pairs, PARIS) == entities


def test_entity_f1_counts_exact_spans_and_types() -> None:
    gold = (Entity(0, 11, "PER"), Entity(22, 26, "ORG"), Entity(30, 35, "LOC"))
    pairs = [("Maria", "B-PER"), ("Rossi", "I-PER"), ("Acme", "B-LOC")]
    scores = text_tokens.score([pairs], [Example(PARIS, gold)])
    assert scores == {
        "entity_precision": 50.0,
        "entity_recall": pytest.approx(100 / 3),
        "entity_f1": 40.0,
    }


def test_accuracy() -> None:
    examples = [Example("Good.", "Accepted"), Example("Bad.", "Not Accepted")]
    assert text_classification.score(["Accepted", "Accepted"], examples) == {"accuracy": 50.0}


@pytest.mark.parametrize(
    ("answer", "right"),
    [("the garden", True), ("Garden.", True), ("garden gate", False), ("", False)],
)
def test_exact_match_ignores_articles_case_and_punctuation(answer: str, right: bool) -> None:
    example = Example({"question": "Where?", "context": "In the garden."}, "the garden")
    assert text_answers.score([answer], [example]) == {"exact_match": 100.0 * right}


def test_generated_sentences_count_without_the_first_and_the_unfinished() -> None:
    answer = "My own start. There she saw a brown cat. The cat is cat. She was"
    examples = [Example("My own", "")]
    scores = text_generation.score([answer], examples)
    assert scores == {"well_formed_sentences": 50.0}


def test_answers_must_be_as_many_as_examples() -> None:
    with pytest.raises(ValueError):
        text_generation.score([], [Example("One", "")])


def test_label_names_are_keyed_by_index(tmp_path: Path) -> None:
    write_label_names(("Not Accepted", "Accepted"), tmp_path)
    written = (tmp_path / "index_to_name.json").read_text()
    assert written == '{\n  "0": "Not Accepted",\n  "1": "Accepted"\n}\n'
