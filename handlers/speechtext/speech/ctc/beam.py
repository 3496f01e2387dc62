"""CTC beam search with an n-gram language model over words: torchaudio's `ctc_decoder`.

The search is flashlight's and the model KenLM's, which are the optional extra `lm`. A word model
needs a lexicon, the words that there are and their spelling in labels.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchaudio

from speechtext.speech.ctc.emissions import merge_path
from speechtext.speech.ctc.hotword_search import search_hotwords
from speechtext.speech.ctc.lexicon import (
    AnyWords,
    LanguageModel,
    LexiconWords,
    NoLanguageModel,
    check_lexicon,
    load_lexicon,
)
from speechtext.speech.ctc.loading import find_delimiter
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.hotword_scores import HotwordScores
from speechtext.speech.hotwords import Biasing
from speechtext.speech.transcripts import Token

# A checkpoint's language model and how it is weighed, written when an archive is built.
LANGUAGE_MODEL_FILE = "language_model.json"
# What is further behind the best hypothesis does not come back: of 3,600 searches in noise down to
# -6 dB, with weights of the language model from 0 to 3.5, none found other words than with 50.
LEAST_THRESHOLD, LM_THRESHOLD = 25.0, 10.0
# Tokens that are aligned at once: time and memory grow with tokens times frames.
ALIGNED_TOKENS = 200
# What a lexicon calls a label between words that is a space.
SPACE = "|"


class LabelNames(NamedTuple):
    """What a lexicon calls a model's labels, in their order, and which of them is between words."""

    names: Sequence[str]
    delimiter: int

    @property
    def labels(self) -> dict[str, int]:
        """Return the label of each name."""
        return {name: label for label, name in enumerate(self.names)}

    @property
    def between(self) -> str:
        """Return the name of the label between words."""
        return self.names[self.delimiter]


def read_label_names(tokenizer: Any) -> LabelNames | None:
    """Return the names of a tokenizer's labels, None where none of them is between words."""
    delimiter = find_delimiter(tokenizer)
    if delimiter is None:
        return None
    names = list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    if names[delimiter].isspace():
        # The tokenizer may have added one that is none of the model's labels.
        names = [names[delimiter] if name == SPACE else name for name in names]
        names[delimiter] = SPACE
    return LabelNames(names, delimiter)


class BeamDecoder:
    """Finds the tokens of an emission by a search; hotwords have a search of their own."""

    def __init__(
        self,
        decoder: Any,
        words: AnyWords | LexiconWords,
        beam_width: int,
        blank: int,
        delimiter: int,
    ) -> None:
        self._decoder = decoder
        self._words = words
        self._beam_width = beam_width
        self._blank = blank
        self._delimiter = delimiter

    def __call__(
        self, probabilities: torch.Tensor, hotwords: HotwordScores | None = None
    ) -> list[Token]:
        """Return the most probable tokens for probabilities of shape (frames, labels).

        Raises `DeadlineError`.
        """
        scores = probabilities.float().cpu().clamp(min=torch.finfo(torch.float32).tiny).log()
        if hotwords is None:
            best = self._decoder(scores[None].contiguous())[0][0]
            spoken = _spoken_labels(best, len(scores))
        else:
            words = self._words.extended(hotwords.words)
            silent = self._blank, self._delimiter
            spoken = search_hotwords(scores, hotwords, words, self._beam_width, *silent)
        return align(scores, spoken, self._blank)


def load_beam_decoder(settings: Wav2Vec2Settings, tokenizer: Any, folder: Path) -> BeamDecoder:
    """Return the search that the settings ask for.

    Raises `ValueError` where the extra `lm` or a file is missing, a file is damaged, or no label is
    between words.
    """
    names = read_label_names(tokenizer)
    if names is None:
        raise ValueError(
            "handler.decoder: expected greedy for a checkpoint whose labels do not tell where a "
            "word ends, got beam."
        )
    options = _read_options(settings, folder)
    with tempfile.TemporaryDirectory() as workspace:
        lexicon = _find_lexicon(options, folder, names, Path(workspace))
        if lexicon:
            check_lexicon(lexicon, names.labels)
        decoder = _build(
            lexicon=str(lexicon) if lexicon else None,
            tokens=names.names,
            lm=str(folder / options["lm"]) if options["lm"] else None,
            nbest=1,
            beam_size=settings.beam_width,
            beam_threshold=settings.beam_threshold or choose_threshold(options["lm_weight"]),
            lm_weight=options["lm_weight"],
            word_score=options["word_score"],
            blank_token=tokenizer.pad_token,
            sil_token=names.between,
            unk_word=tokenizer.unk_token,
        )
        words = _load_words(lexicon, options, folder, names)
    silent = tokenizer.pad_token_id, names.delimiter
    return BeamDecoder(decoder, words, settings.beam_width, *silent)


def choose_threshold(lm_weight: float) -> float:
    """Return how far behind the best a hypothesis may be, in natural logarithms.

    The further a language model can move it, the further. torchaudio's 50 finds the same words in
    up to five times the time.
    """
    return max(LEAST_THRESHOLD, LM_THRESHOLD * lm_weight)


def _load_words(
    lexicon: Path | None, options: Mapping[str, Any], folder: Path, names: LabelNames
) -> AnyWords | LexiconWords:
    """Return the words that a search for hotwords may find."""
    if lexicon is None:
        return AnyWords()
    model = LanguageModel(folder / options["lm"]) if options["lm"] else NoLanguageModel()
    return LexiconWords(
        load_lexicon(lexicon, names.labels, model),
        model,
        names.names,
        names.delimiter,
        options["lm_weight"],
        options["word_score"],
    )


def load_biasing(settings: Wav2Vec2Settings, tokenizer: Any) -> Biasing:
    """Return how hotwords are spelled in a model's labels, a letter each.

    Raises `ValueError` for hotwords of the YAML that they cannot spell.
    """
    delimiter, silent = find_delimiter(tokenizer), set(tokenizer.all_special_tokens)
    letters = {
        name: label
        for name, label in tokenizer.get_vocab().items()
        if name not in silent and label != delimiter
    }

    def spell_word(word: str) -> list[int] | None:
        return [letters[each] for each in word] if set(word) <= letters.keys() else None

    return Biasing(spell_word, delimiter, settings.hotwords, settings.hotword_boost)


def _build(**options: Any) -> Any:
    try:
        return _open_search()(**options)
    except ImportError as error:
        raise ValueError(
            "handler.decoder: beam needs the packages flashlight-text and kenlm, which make lm "
            f"installs ({error})."
        ) from error
    except RuntimeError as error:
        raise ValueError(
            "handler.lm: expected a language model that KenLM reads, got a damaged file."
        ) from error


def _open_search() -> Any:
    """Return torchaudio's search; raises `ImportError` where its packages are missing."""
    try:
        from torchaudio.models.decoder import ctc_decoder
    except RuntimeError as error:
        raise ImportError(str(error)) from error
    return ctc_decoder


def _read_options(settings: Wav2Vec2Settings, folder: Path) -> dict[str, Any]:
    """Return what the YAML says, and what it leaves open from the checkpoint."""
    options: dict[str, Any] = {"lm": None, "lexicon": None, "lm_weight": 1.0, "word_score": 0.0}
    stored = folder / LANGUAGE_MODEL_FILE
    if stored.is_file():
        options |= json.loads(stored.read_text(encoding="utf-8"))
    chosen = {name: getattr(settings, name) for name in options}
    options |= {name: value for name, value in chosen.items() if value is not None}
    for name in ("lm", "lexicon"):
        if options[name] and not (folder / options[name]).is_file():
            raise ValueError(f"handler.{name}: {options[name]} is not in the archive.")
    return options


def _find_lexicon(
    options: Mapping[str, Any], folder: Path, names: LabelNames, workspace: Path
) -> Path | None:
    """Return the lexicon: the archive's own, else the words of an ARPA file, spelled.

    Raises `ValueError` where the labels can spell none of them.
    """
    if options["lexicon"]:
        return folder / str(options["lexicon"])
    if not options["lm"]:
        return None
    if not options["lm"].endswith(".arpa"):
        raise ValueError("handler.lexicon: a binary language model needs one.")
    words = read_arpa_words(folder / options["lm"])
    lines = spell(words, names.labels, names.between)
    if not lines:
        raise ValueError(
            "handler.lm: expected words that the labels of vocab.json can spell, got none of "
            f"{len(words)}."
        )
    lexicon = workspace / "lexicon.txt"
    lexicon.write_text("".join(lines), encoding="utf-8")
    return lexicon


def read_arpa_words(path: Path) -> list[str]:
    """Return the unigrams of an ARPA file but for the marks of beginning, end and unknown."""
    words, reading = [], False
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("\\"):
                reading = line.strip() == "\\1-grams:"
            elif reading and line.strip():
                words.append(line.split()[1])
    return [word for word in words if word not in {"<s>", "</s>", "<unk>"}]


def spell(words: Sequence[str], vocabulary: Mapping[str, int], delimiter: str) -> list[str]:
    """Return lexicon lines, a word and its labels, for the words that the labels can spell."""
    spelled = (word for word in words if set(word) <= vocabulary.keys())
    return [f"{word} {' '.join(word)} {delimiter}\n" for word in spelled]


def _spoken_labels(hypothesis: Any, frames: int) -> list[tuple[int, int]]:
    """Return a hypothesis' labels with the frames where the search put them.

    flashlight counts frames from one, and adds a delimiter before the first and after the last.
    """
    steps = zip(hypothesis.tokens.tolist(), hypothesis.timesteps.tolist(), strict=True)
    return [(label, step - 1) for label, step in steps if 0 < step <= frames]


def align(scores: torch.Tensor, spoken: Sequence[tuple[int, int]], blank: int) -> list[Token]:
    """Return labels as tokens with the frames and probability of their best alignment.

    `scores` are log-probabilities, shape (frames, labels); `spoken` has labels and about where
    they are, which is where a long hypothesis is cut into parts that are aligned by themselves.
    """
    tokens: list[Token] = []
    for first in range(0, len(spoken), ALIGNED_TOKENS):
        part = spoken[first : first + ALIGNED_TOKENS]
        start = part[0][1] if first else 0
        following = spoken[first + ALIGNED_TOKENS : first + ALIGNED_TOKENS + 1]
        stop = following[0][1] if following else len(scores)
        tokens += _align_part(scores[start:stop], [label for label, _ in part], start, blank)
    return tokens


def _align_part(
    scores: torch.Tensor, labels: Sequence[int], offset: int, blank: int
) -> list[Token]:
    targets = torch.tensor([labels])
    path, logs = torchaudio.functional.forced_align(scores[None], targets, blank=blank)
    tokens = merge_path(path[0], logs[0].exp(), blank)
    return [t._replace(start=t.start + offset, stop=t.stop + offset) for t in tokens]
