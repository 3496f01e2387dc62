"""An n-gram model of words as an ARPA file, for the beam search of the speech demo model."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from demo_models import command_grammar

ORDER = 3
SENTENCES = 40_000
SEED = 11

Ngram = tuple[str, ...]


def write_demo_model(path: Path) -> None:
    """Write the model of the demo world, from sentences drawn as the training draws them."""
    rng = random.Random(SEED)
    draws = (command_grammar.command, command_grammar.command, command_grammar.digit_string)
    sentences = [draws[index % 3](rng).upper().split() for index in range(SENTENCES)]
    path.write_text(format_arpa(*estimate(sentences)), encoding="utf-8")


def estimate(
    sentences: Sequence[Sequence[str]], order: int = ORDER
) -> tuple[dict[Ngram, float], dict[Ngram, float]]:
    """Return the log10 probability of each n-gram, and the log10 back-off weight of each context.

    Witten-Bell smoothing: Chen and Goodman 1999, "An Empirical Study of Smoothing Techniques for
    Language Modeling", section 2.5. A context gives the shorter one as much weight as it has kinds
    of followers.
    """
    counts = Counter(chain.from_iterable(_ngrams(sentence, order) for sentence in sentences))
    followers: dict[Ngram, Counter[str]] = defaultdict(Counter)
    for ngram, count in counts.items():
        followers[ngram[:-1]][ngram[-1]] += count
    vocabulary = len(followers[()]) + 1
    probabilities: dict[Ngram, float] = {("<unk>",): 1 / (2 * vocabulary)}
    weights: dict[Ngram, float] = {}
    for context in sorted(followers, key=len):
        seen = followers[context]
        total, kinds = sum(seen.values()), len(seen)
        weights[context] = kinds / (total + kinds)
        for word, count in seen.items():
            lower = probabilities[(*context[1:], word)] if context else 1 / vocabulary
            own = count / (total + kinds)
            probabilities[(*context, word)] = own + weights[context] * lower
    return _as_logarithms(probabilities), _as_logarithms(weights)


def _ngrams(sentence: Sequence[str], order: int) -> Iterator[Ngram]:
    words = ("<s>", *sentence, "</s>")
    for end in range(2, len(words) + 1):
        for length in range(1, min(order, end) + 1):
            yield words[end - length : end]


def _as_logarithms(values: Mapping[Ngram, float]) -> dict[Ngram, float]:
    return {ngram: math.log10(value) for ngram, value in values.items()}


def format_arpa(probabilities: Mapping[Ngram, float], weights: Mapping[Ngram, float]) -> str:
    """Return a model in the ARPA format, which KenLM reads."""
    # The beginning of a sentence is never predicted.
    entries = {("<s>",): -99.0, **probabilities}
    orders = sorted({len(ngram) for ngram in entries})
    grams = {order: sorted(ngram for ngram in entries if len(ngram) == order) for order in orders}
    lines = ["\\data\\", *(f"ngram {order}={len(grams[order])}" for order in orders)]
    for order in orders:
        lines += ["", f"\\{order}-grams:"]
        lines += [_format_ngram(ngram, entries, weights) for ngram in grams[order]]
    return "\n".join([*lines, "", "\\end\\", ""])


def _format_ngram(
    ngram: Ngram, probabilities: Mapping[Ngram, float], weights: Mapping[Ngram, float]
) -> str:
    line = f"{probabilities[ngram]:.6f}\t{' '.join(ngram)}"
    return f"{line}\t{weights[ngram]:.6f}" if ngram in weights else line
