"""CTC beam search with an n-gram language model over words: torchaudio's `ctc_decoder`.

The search is flashlight's and the model KenLM's, which are the optional extra `lm`. A word model
needs a lexicon, the words that there are and their spelling in labels.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchaudio

from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.transcripts import Token

Decode = Callable[[torch.Tensor], list[Token]]
# What a checkpoint with a language model says of it, written when an archive is built.
LANGUAGE_MODEL_FILE = "language_model.json"
# Tokens that are aligned at once: time and memory grow with tokens times frames.
ALIGNED_TOKENS = 200
HOTWORD_SCORE = 10.0


def load_beam_decoder(settings: Wav2Vec2Settings, tokenizer: Any, folder: Path) -> Decode:
    """Return a function from probabilities, shape (frames, labels), to the tokens that fit best.

    Raises `ValueError` where the extra `lm` or a file is missing.
    """
    options = _read_options(settings, folder)
    with tempfile.TemporaryDirectory() as workspace:
        lexicon = _find_lexicon(options, folder, tokenizer, Path(workspace))
        decoder = _build(
            lexicon=str(lexicon) if lexicon else None,
            tokens=tokenizer.convert_ids_to_tokens(range(len(tokenizer))),
            lm=str(folder / options["lm"]) if options["lm"] else None,
            nbest=settings.beam_width if settings.hotwords else 1,
            beam_size=settings.beam_width,
            lm_weight=options["lm_weight"],
            word_score=options["word_score"],
            blank_token=tokenizer.pad_token,
            sil_token=tokenizer.word_delimiter_token,
            unk_word=tokenizer.unk_token,
        )

    def decode(probabilities: torch.Tensor) -> list[Token]:
        scores = probabilities.float().cpu().clamp(min=torch.finfo(torch.float32).tiny).log()
        hypotheses = decoder(scores[None].contiguous())[0]
        best = max(hypotheses, key=lambda each: _score(each, settings.hotwords or ()))
        return align(scores, _spoken_labels(best, len(scores)), tokenizer.pad_token_id)

    return decode


def _build(**options: Any) -> Any:
    try:
        from torchaudio.models.decoder import ctc_decoder

        return ctc_decoder(**options)
    except (ImportError, ModuleNotFoundError, RuntimeError) as error:
        raise ValueError(
            "handler.decoder: beam needs the packages flashlight-text and kenlm, which make lm "
            f"installs ({error})."
        ) from error


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
    options: Mapping[str, Any], folder: Path, tokenizer: Any, workspace: Path
) -> Path | None:
    """Return the lexicon: the archive's own, else the words of an ARPA file, spelled."""
    if options["lexicon"]:
        return folder / str(options["lexicon"])
    if not options["lm"]:
        return None
    if not options["lm"].endswith(".arpa"):
        raise ValueError("handler.lexicon: a binary language model needs one.")
    words = read_arpa_words(folder / options["lm"])
    lines = spell(words, tokenizer.get_vocab(), tokenizer.word_delimiter_token)
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


def _score(hypothesis: Any, hotwords: Sequence[str]) -> float:
    wanted = {word.lower() for word in hotwords}
    found = sum(word.lower() in wanted for word in hypothesis.words)
    return float(hypothesis.score) + HOTWORD_SCORE * found


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
    spans = torchaudio.functional.merge_tokens(path[0], logs[0].exp(), blank)
    return [Token(s.token, s.start + offset, s.end + offset, s.score) for s in spans]
