"""The vendor: its server, its levers, its switches."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from flask import Response, request

from sandbox.courier import Courier
from sandbox.kommo import control, oauth, reading, routes, seed
from sandbox.kommo.bodies import Bodies
from sandbox.kommo.fields import SEVERAL
from sandbox.kommo.hooks import MOST_HOOKS, SETTINGS, Hook, Hooks
from sandbox.kommo.limits import Limiter
from sandbox.kommo.oauth import OAuth
from sandbox.kommo.records import KINDS, LOST, WON, Account, Kind, Pipeline
from sandbox.kommo.refusals import Problems, Refusal, html, problem
from sandbox.kommo.render import Data, Render
from sandbox.kommo.work import Draft, Work
from sandbox.vendor import Vendor, json_answer

PROBLEM = "application/problem+json"
API = "/api/v4"
TOKEN = "sandbox-kommo-token"
SWITCHES: dict[str, float | bool] = {
    "rate": 7.0,
    "others": 0.0,
    "block_after": 10,
    "block_seconds": 10.0,
    "rate_html": False,
    "account_last": False,
    "patch_wrapped": False,
    "query_lag_seconds": 0.0,
    "dp_retries": True,
    "admin": True,
    "saving_enables": True,
    "access_seconds": 86_400.0,
    "refresh_seconds": 90 * 86_400.0,
    "refresh_grace": True,
}
"""What can be switched, with the values at the start."""


class Kommo(Vendor):
    """Kommo's API v4, webhooks and OAuth, without `leads/complex`, incoming leads' own calls, and chats.

    Switches, as attributes: `rate` (calls a second, 0 = no limit); `others`, how many of them other integrations of
    the account make; `block_after` 429s in a minute follow `block_seconds` of 403; `rate_html` makes the 429 a
    page; `account_last` moves the account to the end of settings webhooks; `patch_wrapped` wraps the answer of a
    single PATCH; `query_lag_seconds` is how long `query` does not find what was just written; `dp_retries` off
    sends pipeline webhooks once; `admin` off makes the token a plain user's; `saving_enables` off: a webhook that
    was given up stays so when it is set again by the API; `access_seconds` and `refresh_seconds` are the lives of
    OAuth's tokens; `refresh_grace` off: a refresh token counts once, on: until what came of it is used.
    """

    name = "kommo"
    subdomain = "examplebakery"
    account_id = 30_900_001
    user_id = seed.OWNER
    """Whose token it is."""

    rate: float
    others: float
    block_after: int
    block_seconds: float
    rate_html: bool
    account_last: bool
    patch_wrapped: bool
    query_lag_seconds: float
    dp_retries: bool
    admin: bool
    saving_enables: bool
    access_seconds: float
    refresh_seconds: float
    refresh_grace: bool

    def __init__(self, courier: Courier, clock: Callable[[], float] = time.time, token: str = TOKEN) -> None:
        super().__init__(courier, clock)
        self.token = token
        self.user_ids = dict(seed.USERS)
        self._start_over()
        self.app.register_error_handler(Refusal, self._refuse)
        self.app.after_request(_with_request_id)
        self.app.register_blueprint(routes.blueprint(self))
        self.app.register_blueprint(oauth.blueprint(self))
        control.add_routes(self)

    def _start_over(self) -> None:
        for key, value in SWITCHES.items():
            setattr(self, key, value)
        self.account: Account = seed.account()
        self.inactive_users: set[int] = set()
        self.limiter = Limiter()
        self.oauth = OAuth(self)
        bodies = Bodies(self.account, self.account_id, self.subdomain)
        self.hooks = Hooks(bodies, self)
        self.work = Work(self.account, self.hooks, lambda: self.clock())

    # -- the frame ------------------------------------------------------------------------------------------

    def error(self, status: int, detail: str = "") -> Response:
        """Return a problem, or a page for 429 if so switched."""
        if status == 429 and self.rate_html:
            return Response(html(429), 429, content_type="text/html")
        return json_answer(problem(status, detail), status, PROBLEM)

    def check(self) -> Response | None:
        """Refuse a call over the rate, and one to the API without a token that is good."""
        if not request.path.startswith((f"{API}/", "/oauth2/")):
            return None
        with self.lock:
            verdict = self.limiter.judge(self.clock(), self.rate, self.block_after, self.block_seconds, self.others)
        if verdict == "blocked":
            return Response(html(403), 403, content_type="text/html")
        if verdict == "too many":
            return self.error(429)
        if not request.path.startswith(f"{API}/"):
            return None
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        with self.lock:
            good = kind == "Bearer" and (token == self.token or self.oauth.lets_in(token))
        return None if good else self.error(401)

    def state(self) -> dict[str, Any]:
        """Return the whole account; entities by id as text, in the shape of the API."""
        with self.lock:
            render = Render(self.account, self.account_id, f"{self.url}{API}")
            links = ("contacts", "leads")
            return {
                **{
                    kind: {
                        str(key): render.entity(kind, item, links) for key, item in self.account.of(kind).items()
                    }
                    for kind in KINDS
                },
                "deleted_leads": {str(key): render.deleted(lead) for key, lead in self.account.deleted.items()},
                "tasks": {str(key): render.task(task) for key, task in self.account.tasks.items()},
                "notes": {
                    kind: [render.note(note) for note in notes.values()]
                    for kind, notes in self.account.notes.items()
                },
                "tags": {
                    kind: {str(tag.id): tag.name for tag in tags.by_id.values()}
                    for kind, tags in self.account.tags.items()
                },
                "custom_fields": {
                    kind: {str(key): render.field(kind, item) for key, item in fields.by_id.items()}
                    for kind, fields in self.account.fields.items()
                },
                "pipelines": {str(key): render.pipeline(item) for key, item in self.account.pipelines.items()},
                "users": {str(key): name for key, name in self.user_ids.items()},
                "events": [render.event(event) for event in self.account.events.all],
                "hooks": self.hooks.state(),
                "switches": self.switches(),
            }

    def reset(self) -> None:
        """Restore the start: the seeded account, no webhooks, all switches as they were."""
        super().reset()
        with self.lock:
            self._start_over()

    # -- for the routes -------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock for a change; send the webhooks that it raised when the lock is free again."""
        with self.lock:
            hooks = self.hooks
            yield
            parcels = hooks.take()
        for parcel in parcels:
            hooks.send(parcel)

    def patched(self, kind: str, answer: Data, request_id: str) -> Response:
        """Return the answer of a single PATCH: at the root as the official library reads it, or wrapped."""
        if self.patch_wrapped:
            return routes.written(kind, [answer | {"request_id": request_id}])
        return routes.hal(answer)

    def require_admin(self) -> None:
        """Refuse a token that is not an administrator's."""
        if not self.admin:
            raise Refusal(403)

    def require_room(self, url: str) -> None:
        """Refuse a webhook too many."""
        if url not in self.hooks.by_url and len(self.hooks.by_url) >= MOST_HOOKS:
            raise Refusal(422, f"Limit {MOST_HOOKS} webhooks per account")

    def webhook_data(self, hook: Hook) -> Data:
        """Return a webhook as the API shows it."""
        return {
            "id": hook.id,
            "destination": hook.url,
            "created_at": hook.created_at,
            "updated_at": hook.updated_at,
            "account_id": self.account_id,
            "created_by": hook.created_by,
            "sort": hook.sort,
            "disabled": hook.disabled,
            "settings": hook.settings,
        }

    def account_data(self, with_: set[str]) -> Data:
        """Return the account.

        https://developers.kommo.com/reference/account-parameters
        """
        task_types = [
            {"id": number, "name": name, "color": None, "icon_id": None, "code": name.upper().replace("-", "_")}
            for number, name in reading.TASK_TYPES.items()
        ]
        embedded = {
            "task_types": task_types,
            "users_groups": [{"id": 0, "name": "Sales department", "uuid": None}],
            "datetime_settings": {"timezone": "UTC", "timezone_offset": "+00:00", "date_pattern": "d.m.Y H:i"},
        }
        return {
            "id": self.account_id,
            "name": "Example Bakery",
            "subdomain": self.subdomain,
            "created_at": seed.JANUARY,
            "created_by": 0,
            "updated_at": seed.JANUARY,
            "updated_by": 0,
            "current_user_id": self.user_id,
            "country": "US",
            "currency": "USD",
            "currency_symbol": "$",
            "is_unsorted_on": True,
            "language": "en",
            **({"version": 12} if "version" in with_ else {}),
            "_links": {"self": {"href": request.url}},
            "_embedded": {key: value for key, value in embedded.items() if key in with_},
        }

    def user_data(self, user_id: int) -> Data:
        """Return a user; one who left has no rights any more."""
        rights = {
            "mail_access": True,
            "catalog_access": True,
            "is_admin": user_id == self.user_id,
            "is_free": False,
            "is_active": user_id not in self.inactive_users,
            "group_id": None,
            "role_id": None,
        }
        name = self.account.users[user_id]
        email = f"{name.split()[0].lower()}@examplebakery.example"
        return {"id": user_id, "name": name, "email": email, "lang": "en", "rights": rights}

    def _refuse(self, refusal: Refusal) -> Response:
        return json_answer(refusal.body(), refusal.status, PROBLEM)

    # -- levers ---------------------------------------------------------------------------------------------

    def switches(self) -> dict[str, float | bool]:
        """Return the switches as they are."""
        return {key: getattr(self, key) for key in SWITCHES}

    def switch(self, **switches: float | bool) -> None:
        """Set switches; an unknown one, or a value of the wrong kind, is a ValueError."""
        for key, value in switches.items():
            if key not in SWITCHES:
                raise ValueError(f"no such switch: {key}")
            wanted = bool if isinstance(SWITCHES[key], bool) else int | float
            if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool) or value < 0:
                raise ValueError(f"{key} cannot be {value!r}")
        for key, value in switches.items():
            setattr(self, key, value)

    def forget_relay(self) -> None:
        """Take away what is made for a relay: webhooks, and the fields in which it writes."""
        with self.lock:
            self.hooks.by_url.clear()
            for number in seed.RELAY_FIELDS:
                self.account.fields["leads"].by_id.pop(number, None)
                for lead in self.account.leads.values():
                    lead.fields.pop(number, None)

    def renumber_stages(self, by: int = 1_000_000) -> None:
        """Give pipelines and stages other ids, as each account has its own; won and lost are the same in all."""
        with self.lock:
            account = self.account
            others = [_renumbered(pipeline, by) for pipeline in account.pipelines.values()]
            account.pipelines = {pipeline.id: pipeline for pipeline in others}
            for lead in (*account.leads.values(), *account.deleted.values()):
                lead.pipeline_id += by
                lead.status_id = _other_id(lead.status_id, by)

    def hook(
        self,
        url: str,
        settings: Sequence[str] = ("status_lead", "add_lead"),
        kind: str = "settings",
        status_ids: Sequence[int] | None = None,
    ) -> int:
        """Register a webhook of the settings, or one ("dp") that fires when a deal enters one of the stages."""
        if not reading.resolves(url):
            raise ValueError(f"not an address: {url!r}")
        unknown = {settings} if isinstance(settings, str) else set(settings) - SETTINGS
        if unknown:
            raise ValueError(f"no such settings: {', '.join(sorted(unknown))}")
        if kind not in ("settings", "dp"):
            raise ValueError('kind must be "settings" or "dp"')
        with self.lock:
            if kind == "dp":
                known = {number for pipeline in self.account.pipelines.values() for number in pipeline.stages}
                if set(status_ids or ()) - known:
                    raise ValueError(f"no such stages: {sorted(set(status_ids or ()) - known)}")
                return self.hooks.register_pipeline(url, status_ids, self.user_id).id
            return self.hooks.register(url, settings, self.user_id).id

    def add_contact(
        self,
        name: str,
        emails: Sequence[str] = (),
        *,
        first_name: str = "",
        last_name: str = "",
        company_id: int | None = None,
        fields: Mapping[str | int, Any] | None = None,
        contact_id: int | None = None,
    ) -> int:
        """Add a contact with these work e-mails, without webhooks, and return its id."""
        with self.changing():
            self._require("companies", company_id)
            values: dict[str | int, Any] = dict(fields or {})
            if emails:
                values["EMAIL"] = list(emails)
            plain = {"name": name, "first_name": first_name, "last_name": last_name}
            draft = self._draft("contacts", plain, values, company_id)
            return self.work.create("contacts", draft, self.user_id, contact_id, quiet=True)

    def add_company(
        self, name: str, *, fields: Mapping[str | int, Any] | None = None, company_id: int | None = None
    ) -> int:
        """Add a company, without webhooks, and return its id."""
        with self.changing():
            draft = self._draft("companies", {"name": name}, fields)
            return self.work.create("companies", draft, self.user_id, company_id, quiet=True)

    def add_deal(
        self,
        name: str,
        status_id: int,
        *,
        pipeline_id: int = seed.SALES,
        price: int = 0,
        contact_ids: Sequence[int] = (),
        responsible_user_id: int = seed.OWNER,
        company_id: int | None = None,
        fields: Mapping[str | int, Any] | None = None,
        deal_id: int | None = None,
        quiet: bool = True,
    ) -> int:
        """Add a deal and return its id; the first contact is the main one; `quiet=False` fires webhooks."""
        with self.changing():
            self._require_stage(pipeline_id, status_id)
            self._require_user(responsible_user_id)
            self._require("companies", company_id)
            for contact_id in contact_ids:
                self._require("contacts", contact_id)
            plain = {
                "name": name,
                "price": price,
                "pipeline_id": pipeline_id,
                "status_id": status_id,
                "responsible_user_id": responsible_user_id,
            }
            draft = self._draft("leads", plain, fields, company_id)
            draft.contact_ids = list(contact_ids)
            return self.work.create("leads", draft, responsible_user_id, deal_id, quiet=quiet)

    def crowd(self, count: int, status_id: int, *, start: int = 0) -> dict[int, str]:
        """Add many deals with a contact each, numbered from `start`; return the emails by deal."""
        emails = [f"person{number:05d}@crowd.example" for number in range(start, start + count)]
        return {
            self.add_deal(
                f"Deal of {email}", status_id, price=100, contact_ids=[self.add_contact(f"Person {email}", [email])]
            ): email
            for email in emails
        }

    def move(self, deal_id: int, status_id: int, pipeline_id: int | None = None, *, by: int = seed.OWNER) -> None:
        """Move a deal to a stage, as a person does (`by` 0 = a robot)."""
        self._move([deal_id], status_id, pipeline_id, by, 1)

    def move_many(
        self,
        deal_ids: Iterable[int],
        status_id: int,
        pipeline_id: int | None = None,
        *,
        per_hook: int = 1,
    ) -> None:
        """Move deals in one bulk action; `per_hook` is how many stand in one webhook."""
        if per_hook < 1:
            raise ValueError("per_hook must be 1 or more")
        self._move(list(deal_ids), status_id, pipeline_id, self.user_id, per_hook)

    def delete_deal(self, deal_id: int) -> None:
        """Delete a deal."""
        with self.changing():
            self._require("leads", deal_id)
            self.work.delete_lead(deal_id, self.user_id)

    def _move(self, deal_ids: list[int], status_id: int, pipeline_id: int | None, by: int, per_hook: int) -> None:
        with self.changing():
            if by:
                self._require_user(by)
            for deal_id in deal_ids:
                self._require("leads", deal_id)
            leads = [self.account.leads[deal_id] for deal_id in deal_ids]
            for lead in leads:
                self._require_stage(pipeline_id or lead.pipeline_id, status_id)
            self.work.move(leads, pipeline_id, status_id, by, per_hook)

    def _draft(
        self,
        kind: Kind,
        plain: dict[str, Any],
        values: Mapping[str | int, Any] | None,
        company_id: int | None = None,
    ) -> Draft:
        """Return what a lever makes, its fields given by code or id; what the API would refuse is a ValueError."""
        known = self.account.fields[kind]
        items = []
        for key, value in (values or {}).items():
            found = known.find(key)
            several = value if isinstance(value, list | tuple) and found.type in SEVERAL else [value]
            items.append({"field_id": found.id, "values": [{"value": part} for part in several]})
        problems = Problems("0")
        good = reading.plain(self.account, plain, reading.CHECKS[kind], problems)
        draft = Draft(good, known.read(items, problems), company_id=company_id)
        if problems.errors:
            raise ValueError("; ".join(f"{error['path']}: {error['detail']}" for error in problems.errors))
        return draft

    def _require(self, kind: Kind, number: int | None) -> None:
        if number is not None and number not in self.account.of(kind):
            raise KeyError(f"no such {kind}: {number}")

    def _require_user(self, user_id: int) -> None:
        if user_id not in self.account.users:
            raise KeyError(f"no such user: {user_id}")

    def _require_stage(self, pipeline_id: int, status_id: int) -> None:
        if not self.account.stage(pipeline_id, status_id):
            raise ValueError(f"no stage {status_id} in pipeline {pipeline_id}")


def _with_request_id(response: Response) -> Response:
    response.headers["X-Request-Id"] = f"{random.getrandbits(128):032x}"
    return response


def _renumbered(pipeline: Pipeline, by: int) -> Pipeline:
    stages = [replace(stage, id=_other_id(stage.id, by)) for stage in pipeline.stages.values()]
    return replace(pipeline, id=pipeline.id + by, stages={stage.id: stage for stage in stages})


def _other_id(status_id: int, by: int) -> int:
    return status_id if status_id in (WON, LOST) else status_id + by
