"""Mirror's counters as Prometheus metrics, beside SGLang's own under `/metrics` (`--enable-metrics`)."""

from __future__ import annotations

import time
from dataclasses import asdict, fields

from prometheus_client import Counter, Gauge

from sglang_mirror.engine.metrics import Counters

PREFIX = "sglang:mirror_"
PERIOD_S = 1.0


class Metrics:
    """`sglang:mirror_steps_total` and so on, one metric a counter; times in seconds, `hits` by source.

    Args:
        counters: what is published; a counter's name is its metric's, `x_ms` becomes `x_seconds`.
        model_name: label of every metric, as of SGLang's own.
    """

    def __init__(self, counters: Counters, model_name: str) -> None:
        self._counters, self._labels = counters, {"model_name": model_name}
        self._said: dict[tuple[str, str], float] = {}
        self._metrics: dict[str, Counter] = {}
        for item in fields(counters):
            labels = [*self._labels, *(["source"] if item.name == "hits" else [])]
            name = _metric(item.name)
            self._metrics[name] = Counter(PREFIX + name, f"Mirror: {item.metadata['help']}.", labels)
        self._ready = Gauge(
            PREFIX + "draft_ready",
            "Mirror: 1 while a draft answers.",
            list(self._labels),
            multiprocess_mode="mostrecent",
        )
        self._next_s = 0.0
        self.publish(ready=False)

    def tick(self, *, ready: bool) -> None:
        """Publish, unless that was done in the last second."""
        if time.monotonic() >= self._next_s:
            self.publish(ready=ready)

    def publish(self, *, ready: bool) -> None:
        for key, value in self._values():
            name, source = key
            labels = {**self._labels, **({"source": source} if source else {})}
            self._metrics[name].labels(**labels).inc(max(value - self._said.get(key, 0.0), 0.0))
            self._said[key] = value
        self._ready.labels(**self._labels).set(int(ready))
        self._next_s = time.monotonic() + PERIOD_S

    def _values(self) -> list[tuple[tuple[str, str], float]]:
        """(metric, source) and value of every counter."""
        found: list[tuple[tuple[str, str], float]] = []
        for name, value in asdict(self._counters).items():
            if isinstance(value, dict):
                found += [((name, source), float(count)) for source, count in value.items()]
            else:
                found.append(((_metric(name), ""), value / 1000 if name.endswith("_ms") else float(value)))
        return found


def _metric(name: str) -> str:
    return name.removesuffix("_ms") + "_seconds" if name.endswith("_ms") else name
