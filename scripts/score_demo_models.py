"""Measure the demo models on held-out data, through their archives' own handlers.

Word error rates need espeak-ng, which speaks the held-out sentences anew.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile

from build_archives import ROOT, build_archive, read_configs
from demo_training import (
    speech_corpus,
    text_answers,
    text_classification,
    text_generation,
    text_tokens,
)
from demo_training.espeak import SAMPLE_RATE_HZ, EspeakMissingError
from local_serving import LocalModel, load_archive

WORKSPACE = ROOT / ".build" / "demo_training"
SPEECH_MODELS = ("wav2vec2", "emformer_asr")
TEXT_MODELS: dict[str, Any] = {
    "bert_seq_classification": text_classification,
    "bert_token_classification": text_tokens,
    "bert_question_answering": text_answers,
    "gpt2_text_generation": text_generation,
}
TEXT_EXAMPLES = 1000
SEED = 2
BATCH_SIZE = 8


def answer_all(model: LocalModel, payloads: Sequence[Any]) -> list[Any]:
    """Return the answer to each payload, asked in batches."""
    answers: list[Any] = []
    for start in range(0, len(payloads), BATCH_SIZE):
        rows = [{"body": payload} for payload in payloads[start : start + BATCH_SIZE]]
        answers += [reply.answer for reply in model.answer(rows)]
    return answers


def score_speech(model: LocalModel) -> dict[str, float]:
    """Return the word error rate in percent on each held-out set."""
    scores = {}
    for name, utterances in speech_corpus.held_out(WORKSPACE).items():
        transcripts = answer_all(model, [_as_wav(utterance) for utterance in utterances])
        rate = speech_corpus.word_error_rate(
            [utterance.text for utterance in utterances],
            [transcript.lower() for transcript in transcripts],
        )
        scores[f"word error rate %, {name.replace('_', ' ')}, {len(utterances)} sentences"] = rate
    return scores


def _as_wav(utterance: speech_corpus.Utterance) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, utterance.waveform, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()


def score_text(name: str, model: LocalModel) -> dict[str, float]:
    """Return the scores of a text model on held-out examples."""
    world = TEXT_MODELS[name]
    examples = world.held_out(TEXT_EXAMPLES, SEED)
    answers = answer_all(model, [example.payload for example in examples])
    scores: dict[str, float] = world.score(answers, examples)
    if hasattr(world, "perplexity"):
        scores |= world.perplexity(ROOT / "demo_models" / name, examples)
    return {f"{score}, {len(examples)} examples": value for score, value in scores.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scores of the models that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models to score; default all")
    names = parser.parse_args(arguments).models or [*SPEECH_MODELS, *TEXT_MODELS]
    configs = read_configs()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            config = configs[name]
            archive = build_archive(config, Path(folder), config.source, "no-archive")
            model = load_archive(archive)
            try:
                is_speech = name in SPEECH_MODELS
                scores = score_speech(model) if is_speech else score_text(name, model)
            except EspeakMissingError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            for label, value in scores.items():
                print(f"{name}: {label}: {value:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
