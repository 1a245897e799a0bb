"""The page in a real Chromium, against a real service: what it looks like, and what hands and eyes can do with it.

With `--screenshots` the pictures of the docs are made anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from a_day import CAMPAIGNS, PEOPLE, live_through
from browser import Browser, Keys, require_chromium, running_browser, until
from ops_support import TOKEN
from support import (
    FORM,
    QUALIFIED,
    ROOT,
    Service,
    environment,
    eventually,
    in_the_end,
    rows,
    stage_hook,
    wait_until_nobody_is_inside,
)

from app.journal import Journal
from sandbox.town import Town

DEAL = 41_500_011
IMAGES = ROOT / "docs" / "img"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def day(running_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a day behind it."""
    require_chromium()
    folder = tmp_path_factory.mktemp("day")
    env = {**environment(running_town, folder), "OPS_TOKEN": TOKEN}
    journal = Journal(env["DATABASE_URL"])
    live_through(journal, now=time.time())
    journal.close()
    service = Service(env, folder / "service.log")
    service.wait_until_ready()
    yield service
    service.kill()
    for vendor in running_town.vendors.values():
        wait_until_nobody_is_inside(vendor)


@pytest.fixture
def visit(browser: Browser, day: Service) -> Callable[[str], None]:
    """Open a page of the day as somebody who is logged in, in a light window of a desk."""
    log_in(browser, day)
    browser.look(1280)
    browser.complaints()
    return lambda path: browser.driver.get(f"{day.url}{path}")


def log_in(browser: Browser, service: Service) -> None:
    """Answer the browser's question for a password, which it then sends along by itself."""
    browser.driver.get(f"http://anybody:{TOKEN}@{service.url.removeprefix('http://')}/ops")
    assert "How it stands" in browser.driver.page_source


def dead_event(service: Service) -> int:
    ((found,),) = rows(service.variables, "SELECT max(event_id) FROM jobs WHERE state = 'dead'")
    return int(found)


# First: the others leave traces.
def test_the_docs_show_it(
    browser: Browser, visit: Callable[[str], None], day: Service, pytestconfig: pytest.Config
) -> None:
    story = f"/ops/events/{dead_event(day)}"
    pictures = {
        "page-light.png": ("/ops", 1280, 900, False),
        "page-dark.png": ("/ops", 1280, 900, True),
        "page-story.png": (story, 1280, 1180, False),
        "page-phone.png": ("/ops?state=dead", 390, 844, False),
        "page-phone-dark.png": (story, 390, 844, True),
    }
    for name, (path, width, height, dark) in pictures.items():
        if pytestconfig.getoption("--screenshots"):
            browser.look(width, height, dark=dark)
            browser.driver.get(f"{day.url}{path}")
            assert browser.driver.save_screenshot(str(IMAGES / name))
        assert (IMAGES / name).stat().st_size < 200_000
    assert sorted(path.name for path in IMAGES.glob("page-*.png")) == sorted(pictures)
    shown = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in pictures if f"img/{name}" not in shown] == []


def test_without_the_password_there_is_nothing_to_see(day: Service, tmp_path: Path) -> None:
    with running_browser(tmp_path) as nobody:
        nobody.driver.get(f"{day.url}/ops")
        assert "How it stands" not in nobody.driver.page_source
        assert "@" not in nobody.text
        log_in(nobody, day)
        nobody.driver.get(f"{day.url}/ops")
        assert "Latest events" in nobody.text


def test_a_deal_a_person_and_a_campaign_are_searched_for_and_opened(
    browser: Browser, visit: Callable[[str], None]
) -> None:
    visit("/ops")
    for words, column in (("41500007", ".of"), (PEOPLE[0][1], ".of"), (CAMPAIGNS[0].upper(), ".what")):
        browser.press("/")
        browser.press(Keys.CONTROL, "a")
        browser.press(words, Keys.ENTER)
        until(lambda words=words: browser.find("#q").get_attribute("value") == words)
        shown = [cell.text for cell in browser.all(f".events tbody {column}")]
        assert shown
        assert all(words.lower() in cell.lower() for cell in shown)
    browser.all(".events .open")[0].click()
    until(lambda: "What happened" in browser.text)
    assert browser.complaints() == []


def test_keys_lead_through_the_list(browser: Browser, visit: Callable[[str], None]) -> None:
    visit("/ops?state=dead")
    first, second = browser.all(".events .open")[:2]
    browser.press("j")
    assert browser.driver.switch_to.active_element == first
    browser.press("j")
    assert browser.driver.switch_to.active_element == second
    browser.press("k")
    browser.press("x")
    chosen = browser.all(".events input:checked")
    assert [box.get_attribute("value") for box in chosen] == [first.get_attribute("href").rpartition("/")[2]]
    # What is typed into a field is text.
    browser.press("/")
    browser.press("jkx")
    assert browser.find("#q").get_attribute("value") == "jkx"
    browser.press(Keys.ESCAPE)
    browser.press("j")
    browser.press(Keys.ENTER)
    until(lambda: "/ops/events/" in browser.driver.current_url)
    browser.press("r")
    until(lambda: browser.driver.current_url.endswith("/ops"))
    assert browser.complaints() == []


def test_each_key_that_works_is_told_on_the_page(browser: Browser, visit: Callable[[str], None]) -> None:
    visit("/ops")
    told = {key.text for key in browser.all(".keys kbd")}
    assert told == {*browser.run("return Object.keys(KEYS)"), "Enter"}


def test_new_events_are_announced_and_not_shifted_in(
    browser: Browser, visit: Callable[[str], None], day: Service
) -> None:
    visit("/ops")
    before = [link.text for link in browser.all(".events .open")]
    answer = day.post("kommo", stage_hook(41_500_999, status=1), FORM)
    assert answer.status_code == 200
    assert browser.find(".fresh").text == ""
    browser.run("document.activeElement.blur(); return look()")
    until(lambda: browser.find(".fresh").text == "1 new event: show")
    assert browser.find(".fresh").get_attribute("role") == "status"
    day.post("kommo", stage_hook(41_500_998, status=1), FORM)
    browser.run("return look()")
    until(lambda: browser.find(".fresh").text == "2 new events: show")
    assert [link.text for link in browser.all(".events .open")] == before
    browser.find(".fresh a").click()
    until(lambda: [link.text for link in browser.all(".events .open")][2:] == before[:-2])
    assert browser.complaints() == []


def test_a_dead_event_is_replayed_and_arrives(
    browser: Browser, town: Town, start_service: Callable[..., Service]
) -> None:
    service = start_service(OPS_TOKEN=TOKEN)
    town.ortto.faults.add(status=400, times=1000)
    answer = in_the_end(service, service.post("kommo", stage_hook(DEAL, status=QUALIFIED), FORM))
    assert "Ortto" in answer["events"][0]["reason"]
    assert town.ortto.state()["activities"] == []
    town.ortto.faults.clear()

    log_in(browser, service)
    browser.look(1280)
    browser.complaints()
    browser.driver.get(f"{service.url}/ops?state=dead")
    browser.find(".events input[type=checkbox]").click()
    browser.find("#choice button").click()
    until(lambda: "Replay 1 event?" in browser.text)
    assert "answered 400" in browser.text
    browser.find("form[method=post] button").click()
    until(lambda: "Due again: 1 job." in browser.text)

    (activity,) = eventually(lambda: town.ortto.state()["activities"])
    assert activity["attributes"]["str:cm:lead-id"] == str(DEAL)
    event_id = answer["events"][0]["id"]

    def done() -> bool:
        browser.driver.get(f"{service.url}/ops/events/{event_id}")
        return browser.find("h1 .chip").text == "done"

    until(done)
    assert "taken up again by a person" in browser.text
    assert "given up" in browser.text
    assert browser.complaints() == []


POSTED_FROM_ELSEWHERE = """
const [action, fields] = arguments;
const form = document.createElement("form");
form.method = "post";
form.action = action;
for (const [name, value] of Object.entries(fields)) {
  const field = document.createElement("input");
  field.name = name;
  field.value = value;
  form.append(field);
}
document.body.append(form);
form.submit();
"""


def test_another_site_cannot_make_the_browser_replay(
    browser: Browser, visit: Callable[[str], None], day: Service
) -> None:
    event_id = dead_event(day)
    visit(f"/ops/replay?id={event_id}")
    fields = {name: browser.find(f"[name={name}]").get_attribute("value") for name in ("ids", "signature")}
    # Even if it knew the signature. Our own pages let no form be sent elsewhere; another site's do.
    browser.driver.get("data:text/html,<title>another site</title>")
    browser.driver.execute_script(POSTED_FROM_ELSEWHERE, f"{day.url}/ops/replay", fields)
    until(lambda: "That did not work" in browser.text)
    assert dead_event(day) == event_id


def test_all_works_without_javascript(day: Service, tmp_path: Path) -> None:
    with running_browser(tmp_path, javascript=False) as plain:
        log_in(plain, day)
        plain.driver.get(f"{day.url}/ops")
        plain.press("/")
        assert plain.driver.switch_to.active_element != plain.find("#q")
        plain.find("#q").send_keys(PEOPLE[1][1], Keys.ENTER)
        until(lambda: "Events that fit" in plain.text)
        plain.find("select[name=state] option:nth-child(4)").click()
        plain.find(".filters button").click()
        until(lambda: "state=skipped" in plain.driver.current_url)
        plain.driver.get(f"{day.url}/ops?source=kommo")
        plain.find("[rel=next]").click()
        until(lambda: plain.find("#list-title").text == "Earlier events")
        plain.driver.get(f"{day.url}/ops/replay?id={dead_event(day)}")
        plain.find("form[method=post] button").click()
        until(lambda: "Due again: 1 job." in plain.text)
        assert plain.complaints() == []


PAGES = {
    "list": "/ops",
    "search": "/ops?state=skipped&since=2d",
    "nothing": "/ops?q=nobody@example.com",
    "faults": "/ops?since=soon",
    "story": "/ops/events/{dead}",
    "delivered": "/ops/events/{dead}0",
    "replay": "/ops/replay?state=skipped",
    "missing": "/ops/events/999999",
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
def test_pages_fit_their_window_and_hinder_nobody(
    browser: Browser, visit: Callable[[str], None], day: Service, dark: bool, width: int
) -> None:
    browser.look(width, dark=dark)
    for name, path in PAGES.items():
        visit_path = path.format(dead=dead_event(day)) if name == "story" else path.format(dead=1)
        browser.driver.get(f"{day.url}{visit_path}")
        for summary in browser.all("summary"):
            summary.click()
        assert browser.too_wide() == [], name
        # On a phone a row is a card: what happened has nearly its width.
        assert [cell for cell in browser.all(".events .what") if cell.size["width"] < 180] == [], name
        assert browser.axe() == [], name
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 3 * 64) == dark
