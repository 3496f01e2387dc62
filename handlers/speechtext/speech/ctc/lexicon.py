"""The words that a CTC search may find, and how a language model scores them."""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Labels = Sequence[Any]


class LexiconState(NamedTuple):
    """Where in a word a hypothesis is, as a node of the lexicon, and the words before it."""

    node: int
    context: Any


class NoLanguageModel:
    """Scores no word."""

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
    """No lexicon: any label may follow, and adds nothing."""

    start = None

    def step(self, state: None, label: int) -> Sequence[tuple[None, float]]:
        """Return where a label leads, and the scores."""
        return ((None, 0.0),)

    def may_end(self, state: None) -> bool:
        """Tell whether the text may end here."""
        return True

    def finish(self, state: None) -> float:
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
        self.start = LexiconState(lexicon.root, model.begin())

    def step(self, state: LexiconState, label: int) -> list[tuple[LexiconState, float]]:
        """Return where a label leads, and the scores: on in a word, to its end, or both."""
        node, context = state
        lexicon = self._lexicon
        if node == lexicon.root and label == self._delimiter:
            return [(state, 0.0)]
        following = lexicon.child(node, label)
        if following is None:
            return []
        expected = lexicon.best(node)
        found = []
        if lexicon.goes_on(following):
            gain = lexicon.best(following) - expected
            found.append((LexiconState(following, context), self._lm_weight * gain))
        for word in lexicon.words(following):
            score, then = self._model.score(context, word)
            gain = self._lm_weight * (score - expected) + self._word_score
            found.append((LexiconState(lexicon.root, then), gain))
        return found

    def may_end(self, state: LexiconState) -> bool:
        """Tell whether the text may end here: behind a word."""
        return state.node == self._lexicon.root

    def finish(self, state: LexiconState) -> float:
        """Return the score of an end here."""
        return self._lm_weight * self._model.score(state.context, "</s>")[0]

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
    """Return the words of a file of lines such as `THE T H E |`; raises as `read_lexicon`."""
    lexicon, context = Lexicon(), model.begin()
    for word, spelled in read_lexicon(path, labels):
        score, _ = model.score(context, word)
        lexicon.add(word, spelled, score)
    return lexicon


def check_lexicon(path: Path, labels: Mapping[str, int]) -> None:
    """Raise `ValueError` as `read_lexicon` does: flashlight's messages do not say what is wrong."""
    for _ in read_lexicon(path, labels):
        pass


def read_lexicon(path: Path, labels: Mapping[str, int]) -> Iterator[tuple[str, list[int]]]:
    """Yield the words of such a file, and the labels that spell them.

    Raises `ValueError` with one sentence for a line that is none, and for a file without words.
    """
    line = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for line, text in enumerate(lines, 1):
                yield _read_line(line, text.split(), labels)
    except UnicodeDecodeError as error:
        raise ValueError("handler.lexicon: expected UTF-8, got a damaged file.") from error
    if not line:
        raise ValueError("handler.lexicon: expected words, such as THE T H E |, got an empty file.")


def _read_line(line: int, parts: Sequence[str], labels: Mapping[str, int]) -> tuple[str, list[int]]:
    if len(parts) < 2:
        raise ValueError(
            f"handler.lexicon: line {line}: expected a word and its labels, such as THE T H E |, "
            f"got {'a word alone' if parts else 'an empty line'}."
        )
    word, *spelled = parts
    strange = next((each for each in spelled if each not in labels), None)
    if strange is not None:
        raise ValueError(
            f"handler.lexicon: line {line}: expected labels of vocab.json, got {strange!r}."
        )
    return word, [labels[each] for each in spelled]
