"""The gateway's settings: gateway.yaml and the command line, checked into frozen dataclasses."""

import json
from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass

from gateway.engine import Kind
from gateway.sentences import lower_first

CONFIG_FILE = Path(__file__).resolve().parent.parent / "gateway.yaml"
# No unknown keys, no conversions such as "yes" to true.
STRICT = ConfigDict(extra="forbid", strict=True)

Address = Annotated[str, KeyOptions(pattern=r"^https?://[^/?#]+$")]
Seconds = Annotated[float, KeyOptions(gt=0)]
Count = Annotated[int, KeyOptions(ge=1)]


class SettingsError(Exception):
    """What is wrong with the settings, one sentence for each mistake."""


@dataclass(frozen=True, config=STRICT)
class TorchServeSettings:
    """Where TorchServe is, and how long it may take.

    Without `management_address` the kinds of models are those in `models`. `key_file` is
    TorchServe's own file of tokens, `certificate_file` a certificate to trust.
    """

    inference_address: Address = "http://127.0.0.1:8080"
    management_address: Address | None = "http://127.0.0.1:8081"
    key_file: str | None = None
    certificate_file: str | None = None
    connect_timeout_s: Seconds = 5.0
    answer_timeout_s: Seconds = 150.0
    describe_timeout_s: Seconds = 5.0
    max_connections: Count = 1000


@dataclass(frozen=True, config=STRICT)
class ClientLimits:
    """What one client may ask for; None is no limit.

    A client is the name of a token, or an address.
    """

    requests_per_minute: Count | None = None
    requests_at_once: Count | None = None
    sessions: Count | None = None
    session_seconds: Seconds | None = None


@dataclass(frozen=True, config=STRICT)
class Settings:
    """How the gateway serves."""

    host: str = "127.0.0.1"
    port: Annotated[int, KeyOptions(ge=0, le=65535)] = 8000
    certificate_file: str | None = None
    private_key_file: str | None = None
    torchserve: TorchServeSettings = field(default_factory=TorchServeSettings)
    # What a model is that does not say so itself, or cannot be asked.
    models: Mapping[str, Kind] = field(default_factory=dict)
    models_refresh_s: Seconds = 2.0
    max_body_bytes: Count = 157_286_400
    shutdown_timeout_s: Seconds = 120.0
    tokens_file: str | None = None
    cors_origins: tuple[str, ...] = ()
    # The model of live speech for who names none; where it is the only one, it needs no name.
    live_model: str | None = None
    limits: ClientLimits = field(default_factory=ClientLimits)
    # Whether /metrics needs no token.
    open_metrics: bool = False
    traces: bool = False
    max_sessions: Count = 64
    session_idle_timeout_s: Seconds = 300.0
    session_answer_timeout_s: Seconds = 30.0


_SETTINGS = TypeAdapter(Settings)
SECTIONS: Mapping[str, type] = {"torchserve": TorchServeSettings, "limits": ClientLimits}


def read_settings(path: Path = CONFIG_FILE, changes: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a YAML file, with `changes` by dotted name over them.

    Paths in the file are relative to it. Raises `SettingsError`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise SettingsError(f"{path}: expected a file, got none that can be read.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name}: expected YAML, got something else.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path.name}: expected keys and values.")
    for name, value in (changes or {}).items():
        _change(content, name, value)
    return parse_settings(_resolve_files(content, path.resolve().parent), path.name)


def parse_settings(content: Mapping[str, Any], name: str = CONFIG_FILE.name) -> Settings:
    """Return settings from keys and values as YAML has them; raises `SettingsError`."""
    try:
        # As JSON, in which a section is one and a list may be a tuple.
        settings = _SETTINGS.validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        said = " ".join(f"{name}: {_describe(each)}." for each in error.errors())
        raise SettingsError(said) from error
    if bool(settings.certificate_file) != bool(settings.private_key_file):
        raise SettingsError(
            f"{name}: certificate_file: expected private_key_file with it, got one alone."
        )
    return settings


def _resolve_files(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return keys and values with paths that do not depend on the working directory."""
    resolved: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            resolved[key] = _resolve_files(value, folder)
        elif str(key).endswith("_file") and isinstance(value, str):
            resolved[key] = str(folder / value)
        else:
            resolved[key] = value
    return resolved


def _change(content: dict[str, Any], name: str, value: Any) -> None:
    section, _, key = name.rpartition(".")
    target = content.setdefault(section, {}) if section else content
    if isinstance(target, dict):
        target[key] = value


def _describe(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        section = SECTIONS.get(name.partition(".")[0], Settings)
        choices = ", ".join(each.name for each in fields(section))
        return f"{name}: expected one of the keys {choices}"
    return f"{name}: {lower_first(problem['msg'])}, got {problem['input']!r}"
