"""Result lines: what was measured, the value, the target, and the limit of the same run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """A value with its unit; `target` and `limit` (measured beside it) as text.

    `is_met`: None without a target.
    """

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
    """Format a value with three significant digits."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def print_result(result: Result) -> Result:
    """Print a result at once, which shows the progress of a long run."""
    print(result, flush=True)
    return result


def percentile(sorted_values: list[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]
