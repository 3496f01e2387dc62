"""Measure the demo models on held-out data, through their archives' own handlers.

Needs espeak-ng, which speaks the held-out sentences anew.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from archives.building import build_archive
from archives.configs import ArchiveConfig, choose_configs
from archives.emformer import load_emformer
from archives.errors import BuildError
from demo_models import speech_corpus
from demo_models.audio_scores import SCORES, score_words
from demo_models.catalogue import SPEECH_MODELS, TEXT_MODELS, WORKSPACE
from demo_models.espeak import EspeakMissingError, to_float
from demo_models.pauses import score_pauses
from demo_models.recordings import answer_all, as_wav
from demo_models.word_model import write_demo_model
from repository import ROOT
from serving.local import LocalModel, build_with_settings, load_archive
from speechtext.speech.rnnt.features import load_features, whole_features
from speechtext.speech.rnnt.scripted_beam_search import STATISTICS_FILE

TEXT_EXAMPLES = 1000
SEED = 2
NOISE_DB = 5
SEARCHED_WIDTHS = (1, 4, 10)
SEARCHED_EVERY = 4
SCORE_TOLERANCE = 1e-3


def score_speech(model: LocalModel) -> dict[str, float]:
    """Return the word error rate in percent on each held-out set."""
    return {
        f"word error rate %, {name.replace('_', ' ')}, {len(utterances)} sentences": _error_rate(
            model, utterances
        )
        for name, utterances in speech_corpus.held_out(WORKSPACE).items()
    }


def score_language_model(model: LocalModel, source: Path, folder: Path) -> dict[str, float]:
    """Return the word error rate of unheard voices in noise, without and with a language model."""
    shutil.copytree(source, folder / "source")
    write_demo_model(folder / "source" / "lm.arpa")
    config = choose_configs(["wav2vec2"])[0]
    settings: dict[str, Any] = {"decoder": "beam", "lm": "lm.arpa"}
    beam = load_archive(build_with_settings(config, folder / "source", folder, **settings))
    utterances = speech_corpus.held_out(WORKSPACE)["unseen_voices"]
    noisy = add_noise(utterances)
    label = f"word error rate %, unseen voices{{}}, {len(utterances)} sentences"
    return {
        label.format(", language model"): _error_rate(beam, utterances),
        label.format(f" in noise of {NOISE_DB} dB"): _error_rate(model, noisy),
        label.format(f" in noise of {NOISE_DB} dB, language model"): _error_rate(beam, noisy),
    }


def score_bfloat16(config: ArchiveConfig, model: LocalModel, folder: Path) -> dict[str, float]:
    """Return how often `dtype: auto` gives the transcript of float32, in percent."""
    source = ROOT / config.source
    fast = load_archive(build_with_settings(config, source, folder, dtype="auto"))
    utterances = _all_held_out()
    recordings = [as_wav(utterance) for utterance in utterances]
    pairs = zip(answer_all(fast, recordings), answer_all(model, recordings), strict=True)
    equal = sum(transcript == expected for transcript, expected in pairs)
    label = f"transcripts of dtype auto as those of float32 %, {len(utterances)} sentences"
    return {label: 100 * equal / len(utterances)}


def score_beam_search(config: ArchiveConfig, folder: Path) -> dict[str, float]:
    """Return how often the search finds torchaudio's hypothesis, with a score within 1e-3."""
    source = ROOT / config.source
    network = load_emformer(source)
    front_end = load_features(source / STATISTICS_FILE)
    blank = network.joiner.linear.out_features - 1
    reference = torch.jit.script(torchaudio.models.RNNTBeamSearch(network, blank))
    utterances = _all_held_out()[::SEARCHED_EVERY]
    shares = {}
    for width in SEARCHED_WIDTHS:
        archive = build_with_settings(config, source, folder, beam_width=width)
        transducer = load_archive(archive).handler.recognizer.transducer
        equal = 0
        for utterance in utterances:
            waveform = torch.from_numpy(to_float(utterance.waveform))
            features = whole_features(front_end, waveform)
            expected = reference(features, torch.tensor([len(features)]), width)[0]
            found = transducer.start(waveform)
            transducer.recognize([found])
            tokens = [token.label for token in found.best_tokens()]
            close = abs(found.score() - expected[3]) < SCORE_TOLERANCE
            equal += tokens == expected[0][1:] and close
        label = f"hypotheses of torchaudio's search %, width {width}, {len(utterances)} sentences"
        shares[label] = 100 * equal / len(utterances)
    return shares


def _all_held_out() -> list[speech_corpus.Utterance]:
    return [each for several in speech_corpus.held_out(WORKSPACE).values() for each in several]


def _error_rate(model: LocalModel, utterances: Sequence[speech_corpus.Utterance]) -> float:
    transcripts = answer_all(model, [as_wav(utterance) for utterance in utterances])
    return speech_corpus.word_error_rate(
        [utterance.text for utterance in utterances],
        [transcript.lower() for transcript in transcripts],
    )


def add_noise(
    utterances: Sequence[speech_corpus.Utterance], noise_db: float = NOISE_DB
) -> list[speech_corpus.Utterance]:
    """Return utterances with white noise, their signal so far above it."""
    generator = np.random.default_rng(SEED)
    noisy = []
    for utterance in utterances:
        loudness = utterance.waveform.std() * 10 ** (-noise_db / 20)
        samples = utterance.waveform + generator.normal(0, loudness, utterance.waveform.shape)
        waveform = samples.clip(-32768, 32767).astype(np.int16)
        noisy.append(replace(utterance, waveform=waveform))
    return noisy


def score_text(name: str, model: LocalModel) -> dict[str, float]:
    """Return the scores of a text model on held-out examples."""
    world = TEXT_MODELS[name]
    examples = world.held_out(TEXT_EXAMPLES, SEED)
    answers = answer_all(model, [example.payload for example in examples])
    scores: dict[str, float] = world.score(answers, examples)
    if hasattr(world, "perplexity"):
        scores |= world.perplexity(ROOT / "demo_models" / name, examples)
    return {f"{score}, {len(examples)} examples": value for score, value in scores.items()}


def score(config: ArchiveConfig) -> dict[str, float]:
    """Return the scores of a demo model, asked through an archive built from it."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_archive(build_archive(config, Path(folder), config.source, "no-archive"))
        if config.name in SCORES:
            return SCORES[config.name](model, WORKSPACE)
        if config.name not in SPEECH_MODELS:
            return score_text(config.name, model)
        scores = score_speech(model)
        recognizer = model.handler.recognizer
        scores |= score_pauses(recognizer.transcribe, speech_corpus.held_out(WORKSPACE))
        scores |= score_words(model, WORKSPACE)
        scores |= score_bfloat16(config, model, Path(folder))
        if config.name == "emformer_asr":
            return scores | score_beam_search(config, Path(folder))
        # The extra lm is optional.
        if not find_spec("kenlm"):
            return scores
        return scores | score_language_model(model, ROOT / config.source, Path(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scores of the models that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models to score; default all")
    names = parser.parse_args(arguments).models
    try:
        # The bare model's hidden states are neither right nor wrong.
        for config in choose_configs(names or [*SPEECH_MODELS, *SCORES, *TEXT_MODELS]):
            print(f"{config.name}: scoring, some minutes ...", file=sys.stderr, flush=True)
            for label, value in score(config).items():
                print(f"{config.name}: {label}: {value:.2f}", flush=True)
    except (BuildError, EspeakMissingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
