"""Measure what hotwords change: the demo models, unheard voices in noise, the rarest words named.

Needs espeak-ng, and for Wav2Vec2 the extra `lm`. The rarest words of the held-out
sentences are the hotwords of every request, also of those that say none of them.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archives.configs import choose_configs
from archives.errors import BuildError
from demo_models import speech_corpus
from demo_models.catalogue import WORKSPACE
from demo_models.espeak import EspeakMissingError
from demo_models.recordings import as_wav
from demo_models.score import add_noise
from demo_models.speech_corpus import Utterance
from demo_models.word_model import write_demo_model
from repository import ROOT
from serving.local import LocalModel, build_with_settings, load_archive

HOTWORDS = 20
BOOSTS = (0.25, 0.5, 1.0, 1.5, 2.0)
NOISE_DB = 0.0
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "Wav2Vec2": ("wav2vec2", {"decoder": "beam"}),
    "Wav2Vec2, language model": ("wav2vec2", {"decoder": "beam", "lm": "lm.arpa"}),
    "Emformer, beam_width 4": ("emformer_asr", {"beam_width": 4}),
}
HEADER = ("boost", "hotwords missed %", "false, of 100 sentences", "word error rate %", "time")


@dataclass(frozen=True)
class Outcome:
    """What came of a set of sentences with some hotwords."""

    missed_percent: float
    false_per_100: float
    word_error_rate: float
    seconds: float


def rarest_words(utterances: Sequence[Utterance], count: int = HOTWORDS) -> list[str]:
    """Return the words that are said least often."""
    said = Counter(word for utterance in utterances for word in utterance.text.split())
    return sorted(said, key=lambda word: (said[word], word))[:count]


def measure(
    model: LocalModel, utterances: Sequence[Utterance], hotwords: Sequence[str], fields: Any
) -> Outcome:
    """Transcribe sentences one by one with the fields of a request; compare with what was said.

    The time is this process's own, whatever else the machine does.
    """
    started_s = time.process_time()
    rows = [{"data": as_wav(utterance), **fields} for utterance in utterances]
    transcripts = [str(model.answer([row])[0].answer).lower() for row in rows]
    seconds = time.process_time() - started_s
    said, missed, false, without = 0, 0, 0, 0
    for utterance, transcript in zip(utterances, transcripts, strict=True):
        expected, found = (
            Counter(word for word in text.split() if word in hotwords)
            for text in (utterance.text, transcript)
        )
        said += expected.total()
        missed += (expected - found).total()
        if not expected:
            without += 1
            false += found.total()
    references = [utterance.text for utterance in utterances]
    error_rate = speech_corpus.word_error_rate(references, transcripts)
    return Outcome(100 * missed / said, 100 * false / without, error_rate, seconds)


def tabulate(
    model: LocalModel, utterances: Sequence[Utterance], boosts: Sequence[float]
) -> list[str]:
    """Return the rows of a table: without hotwords, and with each boost."""
    hotwords = rarest_words(utterances)
    plain = measure(model, utterances, hotwords, {})
    rows = [format_row("none", plain, plain)]
    for boost in boosts:
        fields = {"hotwords": list(hotwords), "hotword_boost": boost}
        rows.append(format_row(f"{boost:g}", measure(model, utterances, hotwords, fields), plain))
    return rows


def format_row(boost: str, found: Outcome, plain: Outcome) -> str:
    """Return a row; the time is that without hotwords times so much."""
    ratio = found.seconds / plain.seconds
    return (
        f"| {boost} | {found.missed_percent:.1f} | {found.false_per_100:.1f} | "
        f"{found.word_error_rate:.2f} | {ratio:.2f} |"
    )


def load_search(name: str, folder: Path) -> LocalModel:
    """Return the demo model of one of `SEARCHES`, with its settings."""
    archive, settings = SEARCHES[name]
    config = choose_configs([archive])[0]
    source = folder / "source"
    source.mkdir()
    for file in (ROOT / config.source).iterdir():
        (source / file.name).symlink_to(file)
    if "lm" in settings:
        write_demo_model(source / "lm.arpa")
    return load_archive(build_with_settings(config, source, folder, **settings))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each search; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take each such sentence; default 1")
    parser.add_argument("--noise-db", type=float, default=NOISE_DB, help="signal to noise")
    parser.add_argument("--boosts", type=float, nargs="+", default=BOOSTS)
    parser.add_argument("--only", choices=SEARCHES, help="one of the searches; default all")
    options = parser.parse_args(arguments)
    try:
        clear = speech_corpus.held_out(WORKSPACE)["unseen_voices"][:: options.every]
        utterances = add_noise(clear, options.noise_db)
        print(f"hotwords: {', '.join(rarest_words(utterances))}", flush=True)
        for name in [options.only] if options.only else SEARCHES:
            with tempfile.TemporaryDirectory() as folder:
                model = load_search(name, Path(folder))
                print(f"\n{name}, {len(utterances)} sentences\n")
                print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
                print("\n".join(tabulate(model, utterances, options.boosts)), flush=True)
    except (BuildError, EspeakMissingError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
