"""The soak's verdict: it must be able to go red. The hour itself is run by hand."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.clients.kommo import KommoClient, NewNote
from bench.chaos import load
from bench.chaos.audit import Findings, audit
from bench.chaos.load import Fact, Hook, Ledger
from bench.chaos.weather import Tally
from bench.soak import report, verdict
from bench.soak.run import Options, Result, in_the_image
from bench.soak.verdict import MEGABYTE, Answer
from bench.soak.watch import Downs, JournalSample, Life, Sample, lives, look
from sandbox.town import Town

MINUTES = 30


def life(*, memory: float = 0, handles: float = 0, threads: float = 0, warm_up: bool = False) -> Life:
    """Return a noisy life that takes so much more each minute, with peaks as a burst makes them."""
    chance = random.Random(1)
    samples = []
    for number in range(MINUTES * 12):
        minute = number / 12
        rested = min(minute, MINUTES / 3) if warm_up else minute
        peak = 30 * MEGABYTE if number % 50 == 0 else 0
        samples.append(
            Sample(
                at=minute * 60,
                name="steady",
                role="worker",
                pid=7,
                rss=round((90 + memory * rested + chance.uniform(-2, 2)) * MEGABYTE) + peak,
                handles=round(40 + handles * rested + chance.randint(0, 20)),
                threads=round(30 + threads * rested + chance.randint(0, 9)),
            )
        )
    return Life("steady", "worker", 7, samples)


def test_noise_peaks_and_a_warm_up_are_no_leak() -> None:
    assert verdict.growth_faults(life()) == []
    assert verdict.growth_faults(life(memory=5, handles=2, threads=1, warm_up=True)) == []


def test_a_pool_that_is_filled_once_is_no_leak() -> None:
    flat = life().samples
    step = len(flat) * 5 // 8
    filled = [replace(s, handles=s.handles + 12, threads=s.threads + 8) for s in flat[step:]]
    seen = Life("steady", "worker", 7, [*flat[:step], *filled])

    assert verdict.trend(seen, verdict.handles).growth > verdict.HANDLES
    assert verdict.trend(seen, verdict.threads).growth > verdict.THREADS
    assert verdict.growth_faults(seen) == []


@pytest.mark.parametrize(
    ("grows", "what"),
    [({"memory": 1.0}, "memory"), ({"handles": 1.0}, "open handles"), ({"threads": 0.7}, "threads")],
)
def test_a_leak_is_found(grows: dict[str, float], what: str) -> None:
    [fault] = verdict.growth_faults(life(**grows))

    assert fault.startswith("steady, worker 7: ")
    assert what in fault
    assert "in the second half of its life" in fault


def test_too_many_at_once_are_found_where_none_come_any_more() -> None:
    [fault] = verdict.growth_faults(life(handles=30, warm_up=True))
    assert fault.endswith("handles at once; 256 are plenty")


def test_a_replica_that_nobody_restarts_has_one_life_that_was_looked_at() -> None:
    seen = life()
    reborn = [replace(sample, pid=8) for sample in seen.samples]
    seconds = MINUTES * 60

    assert verdict.life_faults(lives(seen.samples), "steady", seconds) == []
    assert verdict.life_faults(lives([*seen.samples, *reborn]), "steady", seconds) == [
        "steady: nobody restarted it, and it had 2 lives"
    ]
    for too_little in ([], seen.samples[: len(seen.samples) // 2]):
        assert verdict.life_faults(lives(too_little), "steady", seconds) == [
            "steady: it was not looked at throughout: no proof"
        ]


def test_a_process_is_seen_as_it_is() -> None:
    program = "open_files = [open('/dev/null') for _ in range(40)]; print(flush=True); input()"
    with subprocess.Popen(
        (sys.executable, "-c", program), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        of_ours = SimpleNamespace(name="a", url="", pid=process.pid, pids=lambda: {process.pid})
        [sample] = look(of_ours, at=1.0)  # type: ignore[arg-type]
        process.stdin.close()
    assert (sample.at, sample.name, sample.role, sample.pid) == (1.0, "a", "worker", process.pid)
    assert 43 <= sample.handles <= 60
    assert sample.threads == 1
    assert MEGABYTE < sample.rss < 200 * MEGABYTE


def test_a_write_ahead_log_without_end_is_found() -> None:
    seen = [JournalSample(minute, 0, minute * 10 * MEGABYTE) for minute in range(10)]
    assert verdict.journal_faults(seen[:6], 64 * MEGABYTE) == []
    assert verdict.journal_faults(seen, 64 * MEGABYTE) == ["the write-ahead log grew to 90 MB; 64 are bearable"]


def test_only_a_restart_excuses_an_answer() -> None:
    restarted = {"restless": (10.0, 12.0)}

    def excused(name: str, began: float, ended: float) -> bool:
        start, end = restarted.get(name, (0.0, -1.0))
        return began <= end and ended >= start

    answers = [
        Answer("steady", 1, 2, 200),
        Answer("restless", 9, 11, 0),  # it was killed in the middle of it
        Answer("restless", 11, 11, 503),
        Answer("restless", 13, 14, 503),
        Answer("steady", 11, 12, 0),
    ]
    assert verdict.answer_faults(answers, excused) == [
        "1 webhooks got 503 from restless outside of its restarts",
        "1 webhooks got no answer from steady outside of its restarts",
    ]


def test_a_restart_is_over_when_it_answers_again() -> None:
    downs = Downs()
    assert not downs.excuse("restless", 0, float("inf"))
    downs.begin("restless")
    assert downs.excuse("restless", 0, float("inf"))
    assert not downs.excuse("steady", 0, float("inf"))
    downs.end("restless")
    assert downs.excuse("restless", 0, float("inf"))
    assert not downs.excuse("restless", float("inf"), float("inf"))


def test_memory_is_seen_as_in_the_image() -> None:
    assert in_the_image() == {"MALLOC_ARENA_MAX": "2"}


# -- a whole run, as it would have been seen -----------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    kept = Ledger(tmp_path / "ledger.jsonl")
    yield kept
    kept.close()


def result(ledger: Ledger, findings: Findings) -> Result:
    """Return a run of half an hour in which all else was well."""
    tally = Tally()
    tally.kills["kill -9"] = tally.faults["kommo: slow"] = 1
    seen = life()
    return Result(
        options=Options(minutes=0.001),
        seconds=seen.seconds,
        ledger=ledger,
        findings=findings,
        tally=tally,
        answers=[Answer("steady", 1, 2, 200)],
        downs=Downs(),
        lives=[seen],
        journal=[JournalSample(1, 50 * MEGABYTE, 4 * MEGABYTE)],
        visits=[("/ops", 3)],
        visit_failures=[],
        queue=[3, 0],
        owed=0,
        dead=[],
        sent_again=set(),
        deals=1,
        over_the_limit=0,
        calls={"kommo": 7},
        tracebacks=[],
    )


def acknowledge(ledger: Ledger, *facts: Fact) -> None:
    """Write facts down as acknowledged, each in a webhook of its own."""
    for number, fact in enumerate(facts):
        ledger.keep(Hook(number, "kommo", load.FORM, b"", (fact,)))


def test_a_run_holds_and_is_told(ledger: Ledger) -> None:
    acknowledge(ledger, Fact(1, "stage", stage=1), Fact(1, "encharge click", campaign="One"))
    ended = result(ledger, Findings(expected=4, delivered=4))

    assert ended.faults() == []
    text = report.pages(ended)
    assert "| effects expected, found | 4, 4 |" in text
    assert "| steady, worker | 0–30 min | 90." in text


def test_a_lost_and_a_doubled_effect_are_found(town: Town, ledger: Ledger) -> None:
    load.add_stages(town)
    [deal] = load.add_deals(town, 1)
    acknowledge(ledger, Fact(deal.id, "encharge click", campaign="One"))
    told = town.environment()
    kommo = KommoClient(told["KOMMO_API_URL"], told["KOMMO_ACCESS_TOKEN"])
    kommo.add_notes([NewNote(deal.id, "Encharge: somebody clicked a link: 'Two'")])

    faults = result(ledger, audit(town, ledger, [deal])).faults()

    # The note and the task of the click are nowhere.
    assert faults == ["2 effects are lost", "1 notes are duplicates"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"owed": 1}, "1 jobs are still owed at the end"),
        ({"dead": ["lead:1 kommo no"]}, "1 jobs are dead"),
        ({"visit_failures": ["steady: GET /ops got 500"]}, "1 looks at health, numbers or pages failed"),
        ({"tracebacks": ["Traceback (most recent call last):"]}, "1 tracebacks are in the logs"),
        ({"tally": Tally()}, "no kill or no fault happened: no proof"),
        ({"lives": [life(memory=1)]}, "memory grew"),
        ({"journal": [JournalSample(1, 0, 999 * MEGABYTE)]}, "the write-ahead log grew"),
        ({"answers": [Answer("steady", 1, 2, 500)]}, "1 webhooks got 500"),
        ({"options": Options(minutes=60)}, "only 1 webhooks acknowledged: no proof"),
    ],
)
def test_whatever_is_wrong_breaks_it(ledger: Ledger, change: dict[str, object], fault: str) -> None:
    acknowledge(ledger, Fact(1, "stage", stage=1))
    [said] = replace(result(ledger, Findings()), **change).faults()  # type: ignore[arg-type]
    assert fault in said
