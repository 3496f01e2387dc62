"""YAML files for models of one's own, after those of the demo models."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from archives.configs import (
    ArchiveConfig,
    lasting_source,
    more_configs,
    read_config,
    read_configs,
)
from archives.errors import BuildError
from repository import CONFIG_FOLDER

# What a model of one's own can be, and which YAML shows how such a model is served.
KINDS = {
    "wav2vec2": "wav2vec2",
    "emformer_asr": "emformer_asr",
    "emformer_asr_live": "emformer_asr_live",
    "sequence_classification": "bert_seq_classification",
    "token_classification": "bert_token_classification",
    "question_answering": "bert_question_answering",
    "text_generation": "gpt2_text_generation",
}
# Those of these are served by their names only.
AUDIO_KINDS = {
    "audio_classification": "wav2vec2_commands",
    "frame_classification": "wav2vec2_speakers",
    "speaker_embedding": "wav2vec2_voices",
    "features": "wav2vec2_features",
}
TEMPLATES = KINDS | {each: each for each in KINDS.values()}
TEMPLATES |= AUDIO_KINDS
# What torch-model-archiver takes, at a length that is fine for files, too.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# TorchServe serves every archive of the store for a model called so.
EVERY_MODEL = "all"
# The demo models are small and exact; a model of one's own is as fast as its machine can.
DEMO_SETTINGS = {
    r"^  (?:# )?dtype: .*$": "  dtype: auto",
    r"^  threads: .*\n": "",
    # One that is trained on synthetic voices is of no use to others.
    r"^  speaker_(model|threshold): ": r"  # speaker_\1: ",
    r"^  threshold: \S+ {3}": r"  # threshold: 0.86 ",
    r"^  num_labels: .*\n": "",
    # What holds of the demo models alone: their language, and in how few steps one is explained.
    r"^  language: (\w+)( {2})?": r"  # language: \1",
    r"^  # Each token .*\n  n_steps: .*\n": "",
}


def demo_configs() -> dict[str, ArchiveConfig]:
    """Return the archives of the demo models, by name, whatever is beside them."""
    configs = read_configs()
    return {name: configs[name] for name in sorted(KINDS.values())}


@contextmanager
def own_config(
    name: str, kind: str | None, source: str | None, folder: Path = CONFIG_FOLDER
) -> Iterator[ArchiveConfig]:
    """Yield the archive of a model of one's own; its YAML is written where there is none.

    Where the block raises, a YAML that was written for it is removed. Raises `BuildError` for a
    name that TorchServe cannot take, and for a kind that is unknown or not that of the YAML.
    """
    check_name(name)
    path = folder / f"{name}.yaml"
    if path.exists():
        config = read_config(path)
        _check_kind(config, kind)
        yield config
        return
    path.write_text(_own_yaml(name, kind, source), encoding="utf-8")
    try:
        yield read_config(path)
    except BaseException:
        path.unlink()
        raise
    print(f"{name}: wrote {path}, which says how it is served", flush=True)


def check_name(name: str) -> None:
    """Raise `BuildError` for a name that TorchServe or its archiver cannot take."""
    if not NAME.fullmatch(name) or name.lower() == EVERY_MODEL:
        raise BuildError(
            "Expected NAME to have up to 100 letters, digits, dots, hyphens and underscores, the "
            f"first a letter or digit, and not to be {EVERY_MODEL}; got {name[:200]!r}."
        )


def _check_kind(config: ArchiveConfig, kind: str | None) -> None:
    if kind is None:
        return
    if _kind_of(_template(config.name, kind)) != _kind_of(config):
        raise BuildError(
            f"{config.path} is not that of HANDLER={kind}; choose another NAME, or change the file."
        )


def _kind_of(config: ArchiveConfig) -> tuple[str, str | None]:
    return config.handler, config.handler_settings.get("mode")


def _template(name: str, kind: str | None) -> ArchiveConfig:
    """Return the YAML that shows how a kind of model is served."""
    if kind not in TEMPLATES:
        given = f"got {kind}" if kind else f"for there is no model {name} yet"
        expected = ", ".join((*KINDS, *AUDIO_KINDS))
        raise BuildError(f"Expected HANDLER as one of {expected}; {given}.")
    # A YAML that somebody has put before one of more/ is theirs, and no example of its kind.
    configs = more_configs() if kind in AUDIO_KINDS else read_configs()
    return configs[TEMPLATES[kind]]


def _own_yaml(name: str, kind: str | None, source: str | None) -> str:
    """Return the YAML of a model like others of its kind."""
    template = _template(name, kind)
    if source is None:
        raise BuildError(f"Expected SOURCE with a new NAME, as there is no model {name} yet.")
    text = template.path.read_text(encoding="utf-8")
    for pattern, replacement in DEMO_SETTINGS.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    for key in ("model_name", "source"):
        line = yaml.safe_dump({key: lasting_source(source)}, width=float("inf")).strip()
        escaped = line.replace("\\", r"\\")
        text = re.sub(rf"^  {key}: .*$", f"  {escaped}", text, flags=re.MULTILINE)
    return text
