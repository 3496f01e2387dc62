"""The words that a CTC search may find, and what a language model says of them."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Labels = Sequence[Any]


class Place(NamedTuple):
    """Where in a word a hypothesis is, as a node of the lexicon, and the words before it."""

    node: int
    context: Any


class NoLanguageModel:
    """Says nothing of words."""

    def begin(self) -> Any:
        """Return what comes before the first word."""
        return None

    def score(self, context: Any, word: str) -> tuple[float, Any]:
        """Return the score of a word, and the context of the next one."""
        return 0.0, None


class LanguageModel:
    """An n-gram model of words: KenLM's, of the extra `lm`.

    flashlight's search has one of its own: of a KenLM binary they share the memory.
    """

    def __init__(self, path: Path) -> None:
        self._kenlm = importlib.import_module("kenlm")
        self._model = self._kenlm.Model(str(path))

    def begin(self) -> Any:
        """Return what comes before the first word."""
        state = self._kenlm.State()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, context: Any, word: str) -> tuple[float, Any]:
        """Return the decimal logarithm of a word's probability, and the context of the next one."""
        following = self._kenlm.State()
        return float(self._model.BaseScore(context, word, following)), following


class AnyWords:
    """No lexicon: any label may follow, and nothing is said of it."""

    start = None

    def step(self, place: None, label: int) -> Sequence[tuple[None, float]]:
        """Return where a label leads, and the scores."""
        return ((None, 0.0),)

    def may_end(self, place: None) -> bool:
        """Tell whether the text may end here."""
        return True

    def finish(self, place: None) -> float:
        """Return the score of an end here."""
        return 0.0

    def extended(self, words: Iterable[Labels]) -> "AnyWords":
        """Return what allows these words, too."""
        return self


class Lexicon:
    """Words as a prefix tree of their labels, of which each node expects its best word's score.

    One with a `base` has its words too, and adds others without a copy.
    """

    root = 0

    def __init__(self, base: "Lexicon | None" = None) -> None:
        self._base = base
        self._count: int = base._count if base else 1
        self._children: dict[tuple[int, int], int] = {}
        self._inner: set[int] = set()
        self._words: dict[int, list[str]] = {}
        self._best: dict[int, float] = {}

    def add(self, word: str, labels: Sequence[int], score: float) -> None:
        """Add a word with the score that a language model gives it at a text's beginning."""
        node = self.root
        for label in labels:
            following = self.child(node, label)
            if following is None:
                following = self._children[node, label] = self._count
                self._count += 1
                self._inner.add(node)
            node = following
            self._best[node] = max(self.best(node), score)
        self._words.setdefault(node, list(self.words(node))).append(word)

    def child(self, node: int, label: int) -> int | None:
        """Return the node that a label leads to."""
        found = self._children.get((node, label))
        return self._base.child(node, label) if found is None and self._base else found

    def goes_on(self, node: int) -> bool:
        """Tell whether a node is within a longer word."""
        return node in self._inner or (self._base is not None and self._base.goes_on(node))

    def words(self, node: int) -> Sequence[str]:
        """Return the words that end at a node."""
        found = self._words.get(node)
        return self._base.words(node) if found is None and self._base else found or ()

    def best(self, node: int) -> float:
        """Return the highest score of the words that go through a node; 0 at the root."""
        if node == self.root:
            return 0.0
        found = self._best.get(node)
        if found is None and self._base:
            return self._base.best(node)
        return -float("inf") if found is None else found


class LexiconWords:
    """The words of a lexicon, scored by a language model where there is one."""

    def __init__(
        self,
        lexicon: Lexicon,
        model: LanguageModel | NoLanguageModel,
        names: Sequence[str],
        delimiter: int,
        lm_weight: float,
        word_score: float,
    ) -> None:
        self._lexicon = lexicon
        self._model = model
        self._names = names
        self._delimiter = delimiter
        self._lm_weight = lm_weight
        self._word_score = word_score
        self.start = Place(lexicon.root, model.begin())

    def step(self, place: Place, label: int) -> list[tuple[Place, float]]:
        """Return where a label leads, and the scores: on in a word, to its end, or both."""
        node, context = place
        lexicon = self._lexicon
        if node == lexicon.root and label == self._delimiter:
            return [(place, 0.0)]
        following = lexicon.child(node, label)
        if following is None:
            return []
        expected = lexicon.best(node)
        found = []
        if lexicon.goes_on(following):
            gain = lexicon.best(following) - expected
            found.append((Place(following, context), self._lm_weight * gain))
        for word in lexicon.words(following):
            score, then = self._model.score(context, word)
            gain = self._lm_weight * (score - expected) + self._word_score
            found.append((Place(lexicon.root, then), gain))
        return found

    def may_end(self, place: Place) -> bool:
        """Tell whether the text may end here: behind a word."""
        return place.node == self._lexicon.root

    def finish(self, place: Place) -> float:
        """Return the score of an end here."""
        return self._lm_weight * self._model.score(place.context, "</s>")[0]

    def extended(self, words: Iterable[Labels]) -> "LexiconWords":
        """Return what allows these words, too, as words that the language model does not know."""
        lexicon, context = Lexicon(self._lexicon), self._model.begin()
        for labels in words:
            spelled = (*labels, self._delimiter)
            if not _has(lexicon, spelled):
                word = "".join(self._names[label] for label in labels)
                lexicon.add(word, spelled, self._model.score(context, word)[0])
        scores = self._lm_weight, self._word_score
        return LexiconWords(lexicon, self._model, self._names, self._delimiter, *scores)


def _has(lexicon: Lexicon, labels: Sequence[int]) -> bool:
    node: int | None = lexicon.root
    for label in labels:
        node = None if node is None else lexicon.child(node, label)
    return node is not None and bool(lexicon.words(node))


def load_lexicon(
    path: Path, labels: Mapping[str, int], model: LanguageModel | NoLanguageModel
) -> Lexicon:
    """Return the words of a file of lines such as `THE T H E |`."""
    lexicon, context = Lexicon(), model.begin()
    with path.open(encoding="utf-8") as lines:
        for word, *spelled in filter(None, map(str.split, lines)):
            score, _ = model.score(context, word)
            lexicon.add(word, [labels[each] for each in spelled], score)
    return lexicon
