"""Counters, gauges and histograms that cost well under a microsecond to record, and their exposition text.

Metrics are plain attributes of children bound once to their label values, because a request records several
of them. They belong to the event loop's thread: nothing here locks.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_CHILDREN: Final = 2000
"""Label values that one metric tells apart; what comes after shares one child, marked :data:`OVERFLOW`."""
OVERFLOW: Final = "_overflow_"

SECONDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0),
)
"""Upper bounds in seconds, the real server's."""
BYTES: Final = tuple(float(1024 << step) for step in range(15))
"""Upper bounds in bytes, the real server's."""

Sample = tuple[Mapping[str, str], float]


class Counter:
    """A number that only rises. Add to ``value``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Gauge:
    """A number that rises and falls. Set or add to ``value``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """Observations counted by upper bound."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one observation, in the unit of the bounds."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


Child = TypeVar("Child", bound=Counter | Gauge | Histogram)


class Family(Generic[Child]):
    """One metric: its children by label values."""

    def __init__(self, name: str, labels: tuple[str, ...], new_child: Callable[[], Child]) -> None:
        self.name = name
        self._labels = labels
        self._new_child = new_child
        self._children: dict[tuple[str, ...], Child] = {}

    def child(self, *values: str) -> Child:
        """Returns the child bound to ``values``, one for each label, in their order. Keep it."""
        child = self._children.get(values)
        if child is None:
            if len(self._children) >= MAX_CHILDREN:
                values = (OVERFLOW,) * len(self._labels)
            child = self._children.setdefault(values, self._new_child())
        return child

    def samples(self) -> Iterable[tuple[dict[str, str], Child]]:
        """Yields each child with its labels."""
        for values, child in self._children.items():
            yield dict(zip(self._labels, values, strict=True)), child


AnyFamily = Family[Counter] | Family[Gauge] | Family[Histogram]


class Registry:
    """All metrics of a process."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str, AnyFamily | None]] = {}
        self._collectors: dict[str, Callable[[], Iterable[Sample]]] = {}
        self._bounds: dict[str, tuple[str, ...]] = {}

    def counter(self, name: str, description: str, labels: tuple[str, ...] = ()) -> Family[Counter]:
        """Adds a counter."""
        family = Family(name, labels, Counter)
        self._add(name, "counter", description, family)
        return family

    def gauge(self, name: str, description: str, labels: tuple[str, ...] = ()) -> Family[Gauge]:
        """Adds a gauge."""
        family = Family(name, labels, Gauge)
        self._add(name, "gauge", description, family)
        return family

    def histogram(
        self, name: str, description: str, labels: tuple[str, ...] = (), bounds: Sequence[float] = SECONDS
    ) -> Family[Histogram]:
        """Adds a histogram over ``bounds``, which rise."""
        family: Family[Histogram] = Family(name, labels, partial(Histogram, bounds))
        self._bounds[name] = (*(_number(bound) for bound in bounds), "+Inf")
        self._add(name, "histogram", description, family)
        return family

    def collected(
        self, name: str, kind: str, description: str, collect: Callable[[], Iterable[Sample]]
    ) -> None:
        """Adds a ``counter`` or ``gauge`` whose samples ``collect`` makes up at each scrape."""
        self._collectors[name] = collect
        self._add(name, kind, description, None)

    def _add(
        self,
        name: str,
        kind: str,
        description: str,
        family: AnyFamily | None,
    ) -> None:
        if name in self._families:
            raise ValueError(f"the metric {name} exists already")
        self._families[name] = (kind, description, family)

    def render(self) -> str:
        """Returns the text that Prometheus scrapes; a metric without samples is left out."""
        lines: list[str] = []
        for name, (kind, description, family) in self._families.items():
            rendered = self._samples(name, family)
            if rendered:
                lines.append(f"# HELP {name} {_escaped(description)}")
                lines.append(f"# TYPE {name} {kind}")
                lines.extend(rendered)
        return "\n".join(lines) + "\n"

    def _samples(self, name: str, family: AnyFamily | None) -> list[str]:
        if family is None:
            return [f"{name}{_labels(labels)} {_number(value)}" for labels, value in self._collectors[name]()]
        lines: list[str] = []
        for labels, child in family.samples():
            if isinstance(child, Histogram):
                lines.extend(self._buckets(name, labels, child))
            else:
                lines.append(f"{name}{_labels(labels)} {_number(child.value)}")
        return lines

    def _buckets(self, name: str, labels: dict[str, str], histogram: Histogram) -> Iterable[str]:
        below = 0
        for bound, count in zip(self._bounds[name], histogram.counts, strict=True):
            below += count
            yield f"{name}_bucket{_labels({**labels, 'le': bound})} {below}"
        yield f"{name}_sum{_labels(labels)} {_number(histogram.total)}"
        yield f"{name}_count{_labels(labels)} {below}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_quoted(value)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _quoted(value: str) -> str:
    return _escaped(value).replace('"', '\\"')
