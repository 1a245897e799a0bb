"""Kommo's stages in the text of a mapping file: what is added, what is marked, and that all else stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT

from app.mapping import MappingError, parse
from app.mapping.file import plain
from app.mapping.stage_list import GONE, LiveStage, Merged, fresh, merge, slug

PATH = Path("mapping.yaml")
VARIABLES = {"KOMMO_CF_EMAIL_ACTIVITY": None, "KOMMO_CF_EMAIL_STATUS": None}
SHIPPED = (ROOT / "config" / "mapping.yaml").read_text(encoding="utf-8")


def stage(
    status_id: int, name: str, pipeline_id: int = 7, pipeline: str = "Sales", listed: bool = True
) -> LiveStage:
    return LiveStage(pipeline_id, pipeline, status_id, name, listed)


NEW, DEMO = stage(71, "New"), stage(72, "Demo booked")
CLOSED = [stage(142, "Won!"), stage(143, "Lost")]
PARTNERS = [stage(81, "New", 8, "Partners"), stage(142, "Won!", 8, "Partners"), stage(143, "Lost", 8, "Partners")]
LIVE = [stage(70, "Incoming leads", listed=False), NEW, DEMO, *CLOSED, *PARTNERS]


def merged(text: str, live: list[LiveStage] = LIVE) -> Merged:
    """Merge; what comes out is accepted, and a second time nothing is done."""
    done = merge(PATH, text, live)
    parse(PATH, done.text, VARIABLES)
    again = merge(PATH, done.text, live)
    assert (again.text, again.added) == (done.text, [])
    return done


def stages(text: str) -> list[tuple[str, int | None, int]]:
    return [(row.name, row.pipeline_id, row.status_id) for row in parse(PATH, text, VARIABLES).stages]


ALL = [("new", 7, 71), ("demo_booked", 7, 72), ("partners_new", 8, 81), ("won", None, 142), ("lost", None, 143)]


def test_a_fresh_list_has_every_stage_with_kommos_names_in_comments() -> None:
    done = merged(fresh(SHIPPED))
    assert stages(done.text) == ALL
    head, _, tail = SHIPPED.partition("stages:\n")
    assert done.text.startswith(head)
    assert done.text.endswith(tail[tail.index("# -- When several") :])
    first = "  - stage: new\n    pipeline: 7  # Sales\n    status: 71  # New\n    label: New\n"
    assert f"stages:\n{first}\n  - stage: demo_booked\n" in done.text
    assert '  - stage: won\n    status: 142  # Won!\n    label: "Won!"\n\n' in done.text


def test_what_is_there_stays_and_new_ones_stand_with_those_of_their_pipeline() -> None:
    text = """\
version: 1
stages:   # ours
  - stage: demo   # the words of marketing
    status: 72
    pipeline: 7
    # label: Demo

  # Partners
  - {stage: partner, pipeline: 8, status: 81, ortto: false}   # in braces
  - stage: won
    status: 142
  # the end
rules: []
"""
    assert (
        merged(text).text
        == """\
version: 1
stages:   # ours
  - stage: demo   # the words of marketing
    status: 72
    pipeline: 7
    # label: Demo

  - stage: new
    pipeline: 7  # Sales
    status: 71  # New
    label: New

  # Partners
  - {stage: partner, pipeline: 8, status: 81, ortto: false}   # in braces
  - stage: won
    status: 142

  - stage: lost
    status: 143  # Lost
    label: Lost
  # the end
rules: []
"""
    )


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\n",
        "version: 1",
        "version: 1\nstages:\n",
        "version: 1\nstages:",
        "version: 1\nstages:  # none yet\n# more\nrules: []\n",
        "version: 1\nstages: []\n",
        "version: 1\nstages: []",
        "version: 1\nstages: ~  # none\nrules: []\n",
        "version: 1\nstages: [\n]  # none\nrules: []\n",
        "---\nversion: 1\nstages:\n",
        "version: 1\r\nstages: []\r\nrules: []\r\n",
    ],
)
def test_an_empty_list_is_filled_however_it_is_written(text: str) -> None:
    done = merged(text)
    assert stages(done.text) == ALL
    assert {line.strip() for line in text.splitlines() if "#" in line} <= {
        line.replace("[]", "").strip() for line in done.text.splitlines()
    } | {"stages: ~  # none"} | {"]  # none"}
    if "\r\n" in text:
        assert done.text.count("\n") == done.text.count("\r\n")


@pytest.mark.parametrize(
    "text",
    [
        "stages: [{stage: demo, status: 72}]\n",
        "stages: [\n  {stage: demo, status: 72},  # ours\n]\n",
        "stages: [{stage: demo,\n  status: 72}  # ours\n  ,]\nrules: []\n",
        "stages:\n- stage: demo\n  status: 72\n",
        "stages:\n-\n  stage: demo\n  status: 72",
        'stages:\n    - "stage": \'demo\'\n      status: 72\n      label: "a # b\n\n        c"  # of two lines\n',
        "stages:\n  - stage: demo\n    status: 72\n    label: >-\n      folded\n      text\n\n\nrules: []\n",
        "stages:\n  - {stage: demo,\n     status: 72}\n",
    ],
)
def test_entries_are_added_however_the_others_are_written(text: str) -> None:
    done = merged("version: 1\n" + text)
    assert sorted(stages(done.text), key=str) == sorted(
        [("demo", None, 72), *(row for row in ALL if row[2] != 72)], key=str
    )
    assert [line for line in text.splitlines() if "#" in line and line not in done.text] == []


def test_a_stage_that_is_gone_is_marked_once_and_cleared_when_it_is_back() -> None:
    text = "version: 1\nstages:\n  - stage: demo  # ours\n    status: 72\n  - stage: won\n    status: 142\n"
    without = [one for one in LIVE if one is not DEMO]

    gone = merged(text, without)

    assert gone.gone == ["demo"]
    assert f"  - stage: demo  # ours  {GONE}\n    status: 72\n" in gone.text
    assert gone.text.count(GONE) == 1
    assert merge(PATH, gone.text, without).gone == ["demo"]
    assert GONE not in merged(gone.text, LIVE).text
    assert "  - stage: demo  # ours\n    status: 72\n" in merged(gone.text, LIVE).text


def test_an_entry_of_another_pipeline_is_gone_and_one_of_an_archived_is_not() -> None:
    live = [*LIVE, stage(91, "Old", 9, "Archive", listed=False)]
    text = "version: 1\nstages: [{stage: a, pipeline: 8, status: 72}, {stage: b, pipeline: 9, status: 91}]\n"
    assert merged(text, live).gone == ["a"]


def test_what_is_commented_out_stays_out() -> None:
    text = "version: 1\nstages:\n  # - stage: new\n  #   status: 71  # New\n  #   pipeline: 7\n"
    done = merged(text)
    assert [one.status_id for one in done.commented_out] == [71]
    assert ("new", 7, 71) not in stages(done.text)


def test_won_and_lost_of_single_pipelines_are_completed() -> None:
    text = "version: 1\nstages: [{stage: won, status: 142, pipeline: 7}]\n"
    assert set(stages(merged(text).text)) >= {("won", 7, 142), ("partners_won", 8, 142), ("lost", None, 143)}


def test_the_examples_of_the_shipped_file_give_way_to_the_accounts_own() -> None:
    done = merged(SHIPPED)
    assert done.examples == ["qualified", "proposal_sent", "negotiation", "won", "lost"]
    assert stages(done.text) == ALL
    assert (done.gone, "61000102" in done.text) == ([], False)


def test_the_examples_stay_where_they_are_somebodys_own() -> None:
    live = [*LIVE, stage(61000102, "Qualified", 7100010)]
    assert merged(SHIPPED, live).examples == []
    assert merged(SHIPPED.replace("7100010", "7100011")).gone == ["qualified", "proposal_sent", "negotiation"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 2: 3\n", "line 1: not valid YAML"),
        ("version: 1\nstages:\n\t- stage: a\n", "line 3: a tab; indent with spaces"),
        ("{version: 1}\n", "line 1: it is written in braces"),
        ("version: 1\n...\n", "written in a way that cannot be added to"),
    ],
)
def test_what_cannot_be_edited_is_refused(text: str, words: str) -> None:
    with pytest.raises(MappingError, match=words):
        merge(PATH, text, LIVE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Demo booked", "demo_booked"),
        ("Квалификация", "kvalifikatsiya"),
        ("  Été / nº 2 ", "ete_no_2"),
        ("資格", "zige"),
        ("—", ""),
        ("x" * 99, "x" * 60),
    ],
)
def test_names_in_any_script_become_plain(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_names_that_yaml_would_take_for_something_else_stand_in_quotes() -> None:
    live = [stage(71, "1"), stage(72, "Yes"), stage(73, "null"), stage(74, "—"), stage(75, "a: #b\n")]
    done = merged("version: 1\n", live)
    assert [name for name, _, _ in stages(done.text)] == ["1", "yes", "null", "status_74", "a_b"]
    assert [row.label for row in parse(PATH, done.text, VARIABLES).stages] == ["1", "Yes", "null", "—", "a: #b"]


NAMES = st.one_of(
    st.text(max_size=12), st.sampled_from(["New", "new", "#", "yes", "1", "null", "a: b", "- x", '"', "\u2028"])
)
ACCOUNTS = st.lists(
    st.tuples(st.sampled_from([7, 8]), st.integers(100, 112) | st.sampled_from([142, 143]), NAMES), max_size=12
)
FILLERS = st.sampled_from(
    ["", "# a comment", "  # indented", "    # - stage: x", "      # deep", "# status: 1", "   ", "# - {stage: y}"]
)
ENTRIES = st.lists(
    st.tuples(st.sampled_from([None, 7, 8]), st.integers(100, 112) | st.sampled_from([142, 143])),
    unique=True,
    max_size=5,
)


@settings(deadline=None)
@given(account=ACCOUNTS, entries=ENTRIES, data=st.data(), newline=st.sampled_from(["\n", "\r\n"]))
def test_no_line_of_anybody_is_lost_or_moved(
    account: list[tuple[int, int, str]], entries: list[tuple[int | None, int]], data: st.DataObject, newline: str
) -> None:
    live = list({key[:2]: stage(key[1], key[2], key[0], f"P{key[0]}") for key in account}.values())
    lines = ["version: 1", "stages:"]
    for number, (pipeline, status) in enumerate(entries):
        own = [f"  - stage: s{number}", f"    status: {status}"] + (
            [f"    pipeline: {pipeline}"] if pipeline else []
        )
        lines += [
            line for one in own for line in (data.draw(FILLERS), one + data.draw(st.sampled_from(["", "  # c"])))
        ]
    lines += [data.draw(FILLERS), "rules: []", data.draw(FILLERS)]
    text = newline.join(lines) + data.draw(st.sampled_from(["", newline]))

    done = merged(text, live)

    unmarked = [line.removesuffix(f"  {GONE}") for line in done.text.replace("\r\n", "\n").split("\n")]
    rest = iter(unmarked)
    assert all(line in rest for line in text.replace("\r\n", "\n").split("\n"))  # all of them, in their order
    mapped = {(row.get("pipeline"), row["status"]) for row in plain(PATH, done.text).get("stages", [])}
    for one in live:
        assert {(one.pipeline_id, one.status_id), (None, one.status_id)} & mapped or one in done.commented_out
    assert done.text.count("\r\n") in (0, done.text.count("\n"))
