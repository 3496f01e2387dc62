"""Whether the demo models answer on a device as they do on the CPU."""

import io
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from archives.configs import ArchiveConfig, known_configs
from demo_models.catalogue import TEXT_MODELS
from gpu.plan import Plan, Result
from repository import EXAMPLES, ROOT
from serving.local import LocalModel, build_with_settings, load_archive

TOLERANCE = 1e-4
SEED = 3
BATCH = 8
# A live model is asked in pieces: the handlers' tests compare those with the whole.
LIVE = "emformer_asr_live"
# Continuations part where two tokens are as likely as each other, so that they are only counted.
GENERATES = "gpt2_text_generation"
# One of each kind, which show that the section runs.
FEW = ["bert_question_answering", "gpt2_text_generation", "emformer_asr", "wav2vec2_commands"]
# The keys of a label of several, and the probability that bfloat16 may round off.
RANKED, NEARLY = {"label", "score"}, 0.02
MOST_NAMED = 10
JSON_ANSWER = {"Accept": "application/json"}
Row = Mapping[str, Any]


def compare(plan: Plan) -> Iterator[Result]:
    """Yield how each archive's answers on the device differ from those of float32 on the CPU."""
    waves, configs = recordings(plan), known_configs()
    for each in plan.amount([name for name in configs if name != LIVE], FEW):
        config = configs[each]
        rows = _rows(config, plan, waves)
        with tempfile.TemporaryDirectory() as name:
            archive = _build(config, Path(name), "float32")
            exact = answers(load_archive(archive), rows)
            found = answers(load_archive(archive, plan.gpu_id), rows)
            yield _judge_numbers(config.name, exact, found)
            archive = _build(config, Path(name), "bfloat16")
            found = answers(load_archive(archive, plan.gpu_id), rows)
            yield _judge_decisions(config.name, exact, found)


def recordings(plan: Plan) -> list[bytes]:
    """Return the examples, plain, quiet, in noise, one behind another, and the folder's files."""
    paths = sorted(EXAMPLES.glob("*.wav"))[: plan.amount(100, 3)]
    generator = np.random.default_rng(SEED)
    waves = [soundfile.read(path, dtype="float32", always_2d=True) for path in paths]
    plain = [(samples.mean(axis=1), rate_hz) for samples, rate_hz in waves]
    more = [
        *((samples * 0.05, rate_hz) for samples, rate_hz in plain),
        *(
            (samples + generator.normal(0, samples.std() / 5, len(samples)), rate_hz)
            for samples, rate_hz in plain
        ),
        *(
            (np.concatenate([one[0], other[0]]), one[1])
            for one, other in pairwise(plain)
            if one[1] == other[1]
        ),
    ]
    own = sorted(plan.recordings.glob("**/*.wav")) if plan.recordings else []
    return [*(_as_wav(*each) for each in (*plain, *more)), *(path.read_bytes() for path in own)]


def _as_wav(samples: Any, rate_hz: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.clip(-1, 1), rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _rows(config: ArchiveConfig, plan: Plan, waves: Sequence[bytes]) -> list[Row]:
    if config.name not in TEXT_MODELS:
        return [{"body": wave} for wave in waves]
    examples = TEXT_MODELS[config.name].held_out(plan.amount(500, 24), SEED)
    return [{"body": {"inputs": example.payload}} for example in examples]


def _build(config: ArchiveConfig, workspace: Path, dtype: str) -> Path:
    settings: dict[str, Any] = {"do_sample": False} if config.name == GENERATES else {}
    return build_with_settings(config, ROOT / config.source, workspace, dtype=dtype, **settings)


def answers(model: LocalModel, rows: Sequence[Row]) -> list[Any]:
    """Return what a model answers to rows, in batches, as JSON where it has that form.

    Raises `RuntimeError` for an answer that is an error.
    """
    found: list[Any] = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        for reply in model.answer(batch, [JSON_ANSWER] * len(batch)):
            if reply.status != 200:
                raise RuntimeError(f"expected an answer, got {reply.status}: {reply.answer}")
            found.append(read(reply.answer))
    return found


def read(answer: Any) -> Any:
    """Return an answer as a value of JSON; one that is none is a text."""
    text = answer.decode() if isinstance(answer, bytes) else answer
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text


def distance(one: Any, other: Any) -> float:
    """Return by how much the numbers of two answers differ at most, relatively above 1.

    Infinite where anything else does.
    """
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(1.0, abs(one))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((distance(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(distance, one, other), default=0.0)
    return 0.0 if one == other else math.inf


def decisions(answer: Any) -> Any:
    """Return what an answer decides: all of it but its numbers with a point."""
    if isinstance(answer, dict):
        return {key: decisions(each) for key, each in answer.items() if not isinstance(each, float)}
    if isinstance(answer, list):
        return [decisions(each) for each in answer if not isinstance(each, float)]
    return answer


def decide_alike(exact: Any, found: Any) -> bool:
    """Tell whether two answers decide alike.

    Of labels that are ranked, the first counts, and any that is nearly as probable is as good.
    """
    if not (_is_ranking(exact) and _is_ranking(found)):
        return bool(decisions(exact) == decisions(found))
    scores = {each["label"]: each["score"] for each in exact}
    return bool(scores.get(found[0]["label"], 0) >= exact[0]["score"] - NEARLY)


def _is_ranking(answer: Any) -> bool:
    labels = answer if isinstance(answer, list) else []
    return bool(labels) and all(isinstance(e, dict) and e.keys() == RANKED for e in labels)


def _judge_numbers(name: str, exact: Sequence[Any], found: Sequence[Any]) -> Result:
    furthest = max(map(distance, exact, found))
    what = f"{name}, float32, {len(exact)} answers: largest difference"
    return Result(what, f"{furthest:.1e}", f"{TOLERANCE}", furthest <= TOLERANCE)


def _judge_decisions(name: str, exact: Sequence[Any], found: Sequence[Any]) -> Result:
    pairs = enumerate(zip(exact, found, strict=True))
    other = [str(number) for number, pair in pairs if not decide_alike(*pair)]
    what = f"{name}, bfloat16, {len(exact)} answers: other decisions"
    bar = "" if name == GENERATES else "0"
    # Which, so that they can be looked at.
    named = f": numbers {', '.join(other[:MOST_NAMED])}" if bar and other else ""
    return Result(what, f"{len(other)}{named}", bar, not other if bar else None)
