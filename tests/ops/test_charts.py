"""Numbers become places in a drawing."""

from __future__ import annotations

from itertools import pairwise

import pytest

from app.journal import Hour
from app.ops.charts import BOTTOM, TOP, WIDTH, delay, throughput

BEGIN = 1_767_571_200.0  # 2026-01-05 00:00:00 UTC
QUIET = [Hour(BEGIN + 3600 * number, 0, 0, None, None) for number in range(24)]


def test_a_quiet_day_is_drawn_flat() -> None:
    for chart in (throughput(QUIET), delay(QUIET)):
        assert len(chart.bars) == 24
        assert {(bar.y, bar.height, bar.marked_height) for bar in chart.bars} == {(BOTTOM, 0.0, 0.0)}
        assert chart.bars[0].x >= 0
        assert chart.bars[-1].x + chart.bars[-1].width <= WIDTH


def test_the_largest_bar_reaches_a_round_number_at_most() -> None:
    hours = [Hour(BEGIN, 60, 15, None, None), Hour(BEGIN + 3600, 30, 0, None, None), *QUIET[2:]]
    chart = throughput(hours)
    half = (TOP + BOTTOM) / 2
    assert chart.lines == [(TOP, "60"), (half, "30")]
    first, second = chart.bars[:2]
    assert (first.y, first.height, first.words) == (TOP, BOTTOM - TOP, "from 00:00: 60 received, 15 dead")
    assert first.marked_height == pytest.approx((BOTTOM - TOP) / 4, abs=0.1)
    assert (second.y, second.marked_height, second.words) == (half, 0.0, "from 01:00: 30 received")
    assert chart.words == "90 events in the last 24 hours, at most 60 in an hour; 15 ended dead."


@pytest.mark.parametrize(("most", "top"), [(0, 4), (4, 4), (5, 6), (9, 10), (11, 20), (21, 40), (999, 1000)])
def test_an_axis_ends_at_a_round_number(most: int, top: int) -> None:
    assert throughput([Hour(BEGIN, most, 0, None, None)]).lines[0][1] == str(top)


def test_delays_of_all_sizes_have_their_place() -> None:
    spans = [(0.01, 0.02), (0.5, 1.0), (20.0, 60.0), (600.0, 3600.0)]
    chart = delay([Hour(BEGIN + 3600 * place, 9, 0, *span) for place, span in enumerate(spans)])
    heights = [bar.height for bar in chart.bars]
    assert heights == sorted(heights)
    assert heights[0] > 0
    assert (chart.bars[-1].y, chart.lines[0]) == (TOP, (TOP, "1 h"))
    assert all(bar.marked_height <= bar.height for bar in chart.bars)
    assert chart.bars[2].words == "from 02:00: half within 20 s, 19 of 20 within 60 s"
    places = [y for y, _ in chart.lines]
    assert min(below - above for above, below in pairwise(places)) >= 15
    assert chart.words == "Half of all was usually done within 20 s; in the slowest hour 19 of 20 within 1 h."
