"""One result line a measurement: what was measured, the figure, the target, and the limit of the same run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """`figure` in `unit`; `target` and `limit` (what was measured beside it) in words. `is_met`: None where open."""

    name: str
    figure: float
    unit: str
    target: str
    is_met: bool | None = None
    limit: str = ""

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: "-"}[self.is_met]
        beside = f" | beside it: {self.limit}" if self.limit else ""
        return f"{self.name:<44} {number(self.figure):>10} {self.unit:<18} | target {self.target} | {verdict}{beside}"


def number(figure: float) -> str:
    """A figure with three digits that mean something."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def tell(result: Result) -> Result:
    """Print it at once: a long run shows where it is."""
    print(result, flush=True)
    return result


def percentile(sorted_values: list[float], share: float) -> float:
    """The value below which `share` of the values lie; they are sorted."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]
