"""Tables, ratios, promises and a plot of what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any


@dataclass(frozen=True)
class Check:
    """A promised figure, what was measured, and whether it held."""

    promise: str
    measured: str
    held: bool


@dataclass
class Table:
    """Values by row (a case and a figure) and side; each side's ratio is to the baseline's median."""

    title: str
    baseline: str
    note: str = ""
    remarks: list[str] = field(default_factory=list)
    _rows: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)

    def add(self, case: str, figure: str, side: str, value: float) -> None:
        """Add a measured value."""
        self._rows.setdefault((case, figure), {}).setdefault(side, []).append(value)

    def remark(self, text: str) -> None:
        """Add a sentence below the table."""
        self.remarks.append(text)

    def values(self, case: str, figure: str, side: str) -> list[float]:
        """Return what was measured."""
        return self._rows[case, figure][side]

    def ratio(self, case: str, figure: str, side: str) -> float:
        """Return the ratio of a side's median to the baseline's."""
        row = self._rows[case, figure]
        return statistics.median(row[side]) / statistics.median(row[self.baseline])

    @property
    def sides(self) -> list[str]:
        """Return the sides, the baseline last."""
        found = dict.fromkeys(side for row in self._rows.values() for side in row)
        return sorted(found, key=lambda side: side == self.baseline)

    def line(self, case: str, figure: str) -> str:
        """Return one row as a sentence."""
        cells = ", ".join(f"{side} {self._cell(case, figure, side)}" for side in self.sides)
        return f"  {case}: {figure}: {cells}"

    def _cell(self, case: str, figure: str, side: str) -> str:
        row = self._rows[case, figure]
        if side not in row:
            return "–"
        values = row[side]
        text = number(statistics.median(values))
        if len(values) > 1:
            text += f" ({number(min(values))}–{number(max(values))})"
        if side != self.baseline and row.get(self.baseline) and statistics.median(row[self.baseline]):
            text += f" **{number(self.ratio(case, figure, side))}×**"
        return text

    def markdown(self) -> str:
        """Return the table as Markdown."""
        sides = self.sides
        lines = [f"### {self.title}", ""]
        if self.note:
            lines += [self.note, ""]
        lines += [f"| case | figure | {' | '.join(sides)} |", f"| --- | --- |{' ---: |' * len(sides)}"]
        last = ""
        for case, figure in self._rows:
            cells = " | ".join(self._cell(case, figure, side) for side in sides)
            lines.append(f"| {case if case != last else ''} | {figure} | {cells} |")
            last = case
        return "\n".join([*lines, *(["", *[f"- {text}" for text in self.remarks]] if self.remarks else []), ""])

    def data(self) -> dict[str, Any]:
        """Return everything as plain data."""
        rows = [{"case": case, "figure": figure, "values": values} for (case, figure), values in self._rows.items()]
        return {"title": self.title, "baseline": self.baseline, "rows": rows, "remarks": self.remarks}


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def promises(checks: Sequence[Check]) -> str:
    """Return the promises as Markdown."""
    lines = ["### What must hold", "", "| | promise | measured |", "| --- | --- | ---: |"]
    lines += [
        f"| {'held' if check.held else '**MISSED**'} | {check.promise} | {check.measured} |" for check in checks
    ]
    return "\n".join([*lines, ""])


# -- the plot --

WIDTH, LEFT, BAR, GAP = 760, 250, 16, 18
COLOURS = ("#2563eb", "#9ca3af")


def plot(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Return bars as SVG, on a logarithmic scale: groups of (side, value a second)."""
    values = [value for _, bars in groups for _, value in bars if value > 0]
    if not values:
        return ""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 0.05)
    scale = (WIDTH - LEFT - 70) / (high - low)
    parts = []
    y = 50
    for label, bars in groups:
        parts.append(f'<text x="{LEFT - 10}" y="{y + BAR}" text-anchor="end">{escape(label)}</text>')
        for number_of, (_, value) in enumerate(bars):
            width = max(1.0, (math.log10(value) - low) * scale) if value > 0 else 0
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.0f}" height="{BAR - 2}" fill="{COLOURS[number_of % 2]}"/>'
                f'<text x="{LEFT + width + 6:.0f}" y="{y + BAR - 4}">{number(value)}</text>'
            )
            y += BAR
        y += GAP
    for power in range(low, high + 1):
        x = LEFT + (power - low) * scale
        parts.append(
            f'<line x1="{x:.0f}" y1="44" x2="{x:.0f}" y2="{y - GAP}" stroke="#d1d5db" stroke-width="0.5"/>'
        )
    sides = [side for side, _ in groups[0][1]]
    legend = "".join(
        f'<rect x="{LEFT + 150 * index}" y="{y}" width="10" height="10" fill="{COLOURS[index % 2]}"/>'
        f'<text x="{LEFT + 150 * index + 16}" y="{y + 10}">{escape(side)}</text>'
        for index, side in enumerate(sides)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 24}" width="{WIDTH}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#374151">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="10" y="24" font-size="15" font-weight="600">{escape(title)}</text>'
        f"{''.join(parts)}{legend}</svg>\n"
    )
