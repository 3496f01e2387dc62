"""Beam search of an RNN-T with hotwords: against all hypotheses, and against the search without."""

import random
import tracemalloc
from pathlib import Path

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from repository import ROOT
from speechtext.speech.hotword_scores import HotwordScores
from speechtext.speech.rnnt.hotword_search import (
    HotwordTrack,
    PieceScores,
    finish_hotwords,
    search_hotwords,
)
from speechtext.speech.rnnt.torchscript.decoders import Decoder
from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses
from speechtext.speech.rnnt.vocabulary import WORD_START, Vocabulary
from support.speech import SMALL

PIECES = Path(ROOT / "demo_models" / "emformer_asr" / "spm.model")
VOCABULARY = Vocabulary(SentencePieceProcessor(model_file=str(PIECES)))
TEXTS = VOCABULARY.texts()
PHRASES = [["kitchen"], ["kitchen", "lights"], ["the"], ["lights", "on"], ["on", "the"], ["a"]]


def said_by(phrases: list[list[str]], boost: float = 0.5) -> HotwordScores:
    return HotwordScores(phrases, WORD_START, boost)


def test_a_hotword_counts_in_whatever_pieces_it_comes() -> None:
    """Each walk over random pieces gets what its letters get, and each piece's gain is its own."""
    generator = random.Random(0)
    scores = said_by(PHRASES)
    pieces = PieceScores(scores, TEXTS)
    likely = [label for label, text in enumerate(TEXTS) if set(text) <= set("▁kitchenlightsonthea")]
    hits = 0
    for _ in range(400):
        labels = generator.choices(likely, k=generator.randrange(12))
        if generator.random() < 0.5:
            words = generator.choices([word for each in PHRASES for word in each], k=3)
            labels = [label for word in words for label in VOCABULARY._pieces.encode(word)]

        state, total = scores.start, 0.0
        for label in labels:
            step = pieces.step(state, label)
            assert pieces.gains(state)[label] == pytest.approx(step.gain)
            state, total = step.state, total + step.gain
        text = "".join(TEXTS[label] for label in labels)
        total += scores.finish(state)
        assert total == pytest.approx(scores.score(text))
        hits += total > 0
    assert hits > 100


def test_states_of_a_large_vocabulary_keep_a_number_for_each_piece_alone() -> None:
    """With a step for each, those of a recording with many hotwords took hundreds of megabytes."""
    generator = random.Random(0)
    texts = ["", *("".join(generator.choices("abcdefgh", k=4)) for _ in range(4_000))]
    word = "".join(generator.choices("abcdefgh", k=100))
    scores = said_by([[word]])
    pieces = PieceScores(scores, texts)
    states = [scores.start]
    for letter in word:
        states.append(scores.step(states[-1], letter).state)
    tracemalloc.start()
    for state in states:
        pieces.gains(state)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Beside the numbers, which are PyTorch's.
    assert held_bytes < len(states) * len(texts) * 8


def make_decoder() -> Decoder:
    torch.manual_seed(1)
    model = torchaudio.models.emformer_rnnt_model(**(SMALL | {"num_symbols": 3})).eval()
    return Decoder(model).eval()


DECODER = make_decoder()
# Three frames of at most one token of two: 15 hypotheses, of which a beam of 16 drops none.
FRAMES, WIDTH = 3, 16


@torch.inference_mode()
@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.lists(st.sampled_from(["a", "ab", "abb"]), min_size=1, max_size=2), max_size=3),
    st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    st.integers(1, FRAMES),
)
def test_search_finds_the_best_of_all_hypotheses(
    seed: int, phrases: list[list[str]], boost: float, cut: int
) -> None:
    """Also where the recording comes in two pieces; the scores that are told are the model's."""
    generator = torch.manual_seed(seed)
    encodings = torch.randn(FRAMES, SMALL["encoding_dim"], generator=generator)
    (every,) = DECODER.beam(encodings[None], [FRAMES], [DECODER.start()], WIDTH, 1)
    scores = said_by(phrases, boost)
    texts = [f"{WORD_START}a", "b", ""]
    track = HotwordTrack(PieceScores(scores, texts))
    found = Hypotheses(*DECODER.start())
    for part in (encodings[:cut], encodings[cut:]):
        found = search_hotwords(DECODER, part, found, track, WIDTH, 1)
    found = finish_hotwords(found, track)
    expected = {
        tuple(tokens): (score, score + scores.score("".join(texts[token] for token in tokens)))
        for tokens, score in zip(every.tokens, every.scores, strict=True)
    }
    assert {tuple(tokens) for tokens in found.tokens} == expected.keys()
    keys = []
    for tokens, score, probabilities in zip(
        found.tokens, found.scores, found.probabilities, strict=True
    ):
        own, biased = expected[tuple(tokens)]
        assert score == pytest.approx(own, abs=1e-3)
        assert all(0 < each <= 1 for each in probabilities)
        keys.append(biased / (len(tokens) + 2))
    assert keys == pytest.approx(sorted(keys, reverse=True), abs=1e-3)


def test_spelling_is_that_of_the_pieces() -> None:
    assert VOCABULARY.spell_word("kitchen") == "kitchen"
    assert VOCABULARY.spell_word("Kitchen") is None
    assert VOCABULARY.spell_word("7") is None
