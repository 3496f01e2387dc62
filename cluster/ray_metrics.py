"""The handlers' metrics on Ray, whose agent on each node shows them to Prometheus."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from ray.serve import metrics

from cluster.own_ray import ROOT
from cluster.worker import NoMetrics

# Names and labels, as TorchServe is told them.
METRICS_FILE = ROOT / "metrics.yaml"


class RayMetrics(NoMetrics):
    """Stands where TorchServe's metrics are: what a handler emits becomes a metric of Ray's.

    Labels are those of `metrics.yaml`, to which Ray adds the replica; so are names, but as Ray has
    them: `AudioSeconds` is `ray_audio_seconds_total`.
    """

    def __init__(self) -> None:
        named = yaml.safe_load(METRICS_FILE.read_text(encoding="utf-8"))["model_metrics"]
        self.cache: Mapping[str, Any] = {
            kind: {
                each["name"]: _Metric(KINDS[kind], in_words(each["name"]), each["dimensions"])
                for each in listed
            }
            for kind, listed in named.items()
        }


def in_words(name: str) -> str:
    """Return a name in small letters, with underscores between its words."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()


class _Metric:
    """Takes values as a metric of TorchServe's does, and gives them to one of Ray's."""

    def __init__(self, kind: Any, name: str, labels: Sequence[str]) -> None:
        self._labels = labels
        self._metric = kind(name, tag_keys=tuple(labels))

    def add_or_update(self, value: float, values: Sequence[str]) -> None:
        """Add a value, which may be nothing, to a counter, or set a gauge, under its labels."""
        labels = dict(zip(self._labels, values, strict=True))
        if isinstance(self._metric, metrics.Gauge):
            self._metric.set(value, labels)
        elif value > 0:
            self._metric.inc(value, labels)


KINDS = {"counter": metrics.Counter, "gauge": metrics.Gauge}
