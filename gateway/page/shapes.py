"""What the page is told about the models."""

from collections.abc import Sequence
from typing import Self

from pydantic.dataclasses import dataclass

from gateway.engine import Kind, Model


@dataclass(frozen=True)
class PageModel:
    """A model: its kind, whether it answers, and what it can do; None where it does not say."""

    name: str
    version: str
    kind: Kind | None
    ready: bool
    explainable: bool
    speakers: bool
    decoder: str | None
    media_types: Sequence[str]
    streams: Sequence[str]
    labels: Sequence[str]
    limits: dict[str, float]

    @classmethod
    def of(cls, model: Model) -> Self:
        """Return what the page shows of a model of the engine."""
        about = model.about
        return cls(
            name=model.name,
            version=model.default_version,
            kind=about.kind,
            ready=model.ready,
            explainable=about.explainable,
            speakers=about.speakers,
            decoder=about.decoder,
            media_types=about.media_types,
            streams=about.streams,
            labels=about.labels,
            limits=dict(about.limits),
        )


@dataclass(frozen=True)
class PageModels:
    """The models by name, and the bytes that a request may have."""

    models: Sequence[PageModel]
    max_body_bytes: int
