"""The routes of the page: let in, ask for what is to be shown, render."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import structlog
from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, HTTPException, NotFound

from app.ids import LARGEST_ID
from app.journal import JournalError, Search
from app.ops import queries
from app.ops.access import guard
from app.ops.forms import Forms, set_cookie
from app.ops.headers import allow_page
from app.ops.page import REPLAYED_AT_ONCE, Page
from app.strangers import Strangers

log = structlog.get_logger("relay.ops")


class Desk:
    """Answers the requests of people who were let in."""

    def __init__(self, page: Page, forms: Forms, clock: Callable[[], float] = time.time) -> None:
        self._page = page
        self._forms = forms
        self._clock = clock

    def overview(self) -> ResponseReturnValue:
        """Show how it stands and the events that were asked for."""
        now = self._clock()
        model = self._page.overview(queries.read(request.args, now=now), now=now, replayed=_replayed())
        return render_template("ops/overview.html", **model)

    def now(self) -> ResponseReturnValue:
        """Show only how it stands, for a page that is open already."""
        now = self._clock()
        query = queries.read(request.args, now=now)
        return render_template("ops/now.html", **self._page.now(query, newest=query.search.above or 0, now=now))

    def story(self, event_id: int) -> ResponseReturnValue:
        """Show the whole story of an event."""
        known = event_id <= LARGEST_ID
        model = self._page.story(event_id, now=self._clock(), replayed=_replayed()) if known else None
        if model is None:
            raise NotFound(f"There is no event {event_id}: it was forgotten, or never came.")
        return render_template("ops/story.html", **model)

    def confirm(self) -> ResponseReturnValue:
        """Show what a replay would do, of the events that are named or were searched for."""
        now = self._clock()
        named = _ids(request.args.getlist("id"))
        query = queries.read(request.args, now=now, limit=REPLAYED_AT_ONCE + 1)
        if query.faults or not (named or query.written):
            raise BadRequest(" ".join(query.faults) or "Say which events: choose some of them first.")
        found = self._page.journal.find(Search(ids=named, limit=len(named)) if named else query.search)
        cut = len(found) > REPLAYED_AT_ONCE
        model = self._page.confirmation(found[:REPLAYED_AT_ONCE], cut=cut, now=now)
        signature, cookie = self._forms.sign(model["ids"])
        answer = make_response(render_template("ops/confirm.html", **model, signature=signature))
        set_cookie(answer, cookie)
        return answer

    def replay(self) -> ResponseReturnValue:
        """Take up again what was confirmed."""
        told = request.form.get("ids", "")
        self._forms.check(told, request.form.get("signature", ""))
        ids = _ids(told.split(","))
        count = self._page.journal.take_up_again(ids, now=self._clock())
        log.info("replayed", events=ids, jobs=count)
        target = url_for("ops.story", event_id=ids[0]) if len(ids) == 1 else url_for("ops.overview")
        return redirect(f"{target}?replayed={count}", 303)


def make_blueprint(desk: Desk, tokens: Collection[str], strangers: Strangers) -> Blueprint:
    """Build the blueprint of /ops; without a token it is off."""
    blueprint = Blueprint("ops", __name__, url_prefix="/ops", template_folder="templates", static_folder="static")
    guard(blueprint, tokens, strangers)
    blueprint.after_request(allow_page)
    blueprint.add_url_rule("", "overview", desk.overview, strict_slashes=False)  # people type /ops/ too
    blueprint.add_url_rule("/now", "now", desk.now)
    blueprint.add_url_rule("/events/<int:event_id>", "story", desk.story)
    blueprint.add_url_rule("/replay", "confirm", desk.confirm)
    blueprint.add_url_rule("/replay", "replay", desk.replay, methods=["POST"])
    blueprint.register_error_handler(HTTPException, _explain)
    blueprint.register_error_handler(JournalError, _unreadable)
    return blueprint


def _explain(error: HTTPException) -> ResponseReturnValue:
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return render_template("ops/error.html", words=error.description), error.code or 500, headers


def _unreadable(error: JournalError) -> ResponseReturnValue:
    return render_template("ops/error.html", words=f"The journal does not answer: {error}"), 503


def _replayed() -> int | None:
    """Return how many jobs the replay made due that led here."""
    return request.args.get("replayed", type=int)


def _ids(words: Sequence[str]) -> list[int]:
    """Return the ids of events. Raises BadRequest."""
    numbers = all(word.isascii() and word.isdecimal() and len(word) < 19 for word in words)
    if len(words) > REPLAYED_AT_ONCE or not numbers:
        raise BadRequest(f"These are no ids of events, or more than {REPLAYED_AT_ONCE}.")
    return [int(word) for word in words]
