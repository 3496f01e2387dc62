"""What a search adds to hypotheses that say hotwords: an automaton over what is said.

The prefix tree of the hotwords with failure links: Aho and Corasick 1975, "Efficient String
Matching". Shallow fusion with such a tree: Zhao et al. 2019, "Shallow-Fusion End-to-End Contextual
Biasing", which takes the weight of a match that breaks off back, as here.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

# Nodes: behind a boundary between words, where a hotword may begin, and within another word.
BEGINNING, ELSEWHERE = 0, -1


class Step(NamedTuple):
    """Where a symbol leads, and what it adds to the score."""

    state: int
    gain: float


class HotwordScores:
    """The scores of hotwords: each letter of one that is said in full adds the boost, once.

    A hotword is whole words: it begins and ends at a boundary, or where the text does. A letter of
    several hotwords counts once. While a hotword is being said, the letters so far count too, so
    that the search does not lose it on its way; what they added is taken back where it breaks off.

    Boundaries in a row are one. A state is a number, that of a node of the tree and of which of its
    letters have counted; the states that come up are numbered as they do.
    """

    start = 0

    def __init__(
        self, phrases: Iterable[Sequence[Sequence[Hashable]]], boundary: Hashable, boost: float
    ) -> None:
        self._boundary = boundary
        self._boost = boost
        phrases = list(phrases)
        self.words = {tuple(word) for phrase in phrases for word in phrase}
        # For each node: the next by symbol, its letters, those of the longest hotword that ends.
        self._children: list[dict[Hashable, int]] = [{}]
        self._letters = [0]
        self._ended = [0]
        self._failures = [ELSEWHERE]
        self._behind_boundary = [True]
        for phrase in phrases:
            self._plant([symbol for word in phrase for symbol in (*word, boundary)])
        self._link()
        self._states = [(BEGINNING, 0)]
        self._numbers = {(BEGINNING, 0): self.start}
        self._steps: dict[tuple[int, Hashable], Step] = {}
        # The state within a word that begins no hotword.
        self.elsewhere = self._number(ELSEWHERE, 0)

    def _plant(self, symbols: Sequence[Hashable]) -> None:
        node = BEGINNING
        for symbol in symbols:
            if symbol not in self._children[node]:
                self._children[node][symbol] = len(self._children)
                self._children.append({})
                self._letters.append(self._letters[node] + (symbol != self._boundary))
                self._ended.append(0)
                self._failures.append(ELSEWHERE)
                self._behind_boundary.append(symbol == self._boundary)
            node = self._children[node][symbol]
        self._ended[node] = self._letters[node]

    def _link(self) -> None:
        """Set what each node fails to: the longest hotword that begins at a later word of it."""
        level = [BEGINNING]
        while level:
            for node in level:
                for symbol, child in self._children[node].items():
                    self._failures[child] = fallback = self._go(self._failures[node], symbol)
                    if not self._ended[child] and fallback != ELSEWHERE:
                        self._ended[child] = self._ended[fallback]
            level = [child for node in level for child in self._children[node].values()]

    def _go(self, node: int, symbol: Hashable) -> int:
        while node != ELSEWHERE:
            if symbol in self._children[node]:
                return self._children[node][symbol]
            node = self._failures[node]
        return BEGINNING if symbol == self._boundary else ELSEWHERE

    def step(self, state: int, symbol: Hashable) -> Step:
        """Return the state after another symbol of the text, and what it adds to the score."""
        key = state, symbol
        if key not in self._steps:
            self._steps[key] = self._step(state, symbol)
        return self._steps[key]

    def _step(self, state: int, symbol: Hashable) -> Step:
        node, counted = self._states[state]
        if symbol == self._boundary and node != ELSEWHERE and self._behind_boundary[node]:
            return Step(state, 0.0)
        after = self._go(node, symbol)
        letters = self._letters[after] if after != ELSEWHERE else 0
        if symbol != self._boundary:
            counted <<= 1
        # One bit for each letter of the node, the last one said the lowest.
        counted &= (1 << letters) - 1
        ended = (1 << self._ended[after]) - 1 if after != ELSEWHERE else 0
        gained = (ended & ~counted).bit_count()
        number = self._number(after, counted | ended)
        return Step(number, self._boost * gained + self.pending(number) - self.pending(state))

    def _number(self, node: int, counted: int) -> int:
        key = node, counted
        if key not in self._numbers:
            self._numbers[key] = len(self._states)
            self._states.append(key)
        return self._numbers[key]

    def pending(self, state: int) -> float:
        """Return what is taken back where the hotword that is being said breaks off."""
        node, counted = self._states[state]
        letters = self._letters[node] - counted.bit_count() if node != ELSEWHERE else 0
        return self._boost * letters

    def finish(self, state: int) -> float:
        """Return what the end of the text adds: a last hotword ends, or breaks off."""
        after, gain = self.step(state, self._boundary)
        return gain - self.pending(after)

    def score(self, symbols: Iterable[Hashable]) -> float:
        """Return what a whole text gets."""
        state, total = self.start, 0.0
        for symbol in symbols:
            state, gain = self.step(state, symbol)
            total += gain
        return total + self.finish(state)

    def live_symbols(self, state: int) -> set[Hashable]:
        """Return the symbols after which a state matters: those of a hotword, or a boundary."""
        node, _ = self._states[state]
        behind = node != ELSEWHERE and self._behind_boundary[node]
        found: set[Hashable] = {self._boundary} if behind else set()
        while node != ELSEWHERE:
            found |= self._children[node].keys()
            node = self._failures[node]
        return found
