"""The account as it stands at the start: Example Bakery, and the people of all vendors' example webhooks."""

from __future__ import annotations

from typing import Any

from sandbox.kommo.fields import Field, Fields, Option
from sandbox.kommo.records import INCOMING, LOST, WON, Account, Company, Contact, Kind, Lead, Pipeline, Stage, Tag

SALES, WHOLESALE = 7_100_010, 7_100_020
USERS = {9_200_001: "Ines Example", 9_200_002: "Omar Example"}
OWNER = 9_200_001
RELAY_FIELDS = {800_110: "Last email activity", 800_111: "Email status"}
JANUARY = 1_767_606_700
"""5 January 2026, 09:51:40 UTC: what the account knew before the examples happened."""

COLORS = ("#c1c1c1", "#99ccff", "#ffff99", "#ffcc66", "#ffc8c8")


def account() -> Account:
    """Return a new account with everything in it."""
    made = Account(dict(USERS), pipelines(), fields())
    for kind, tag in (
        ("leads", Tag(70_011, "trial")),
        ("leads", Tag(70_012, "EU")),
        ("contacts", Tag(71_001, "vip")),
    ):
        made.tags[kind].ensure(tag.name, tag.id)  # type: ignore[index]
    _bakery(made)
    _email_people(made)
    for entity in (*made.leads.values(), *made.contacts.values(), *made.companies.values()):
        entity.index_text(0)
    return made


def pipelines() -> list[Pipeline]:
    """Return both pipelines."""
    sales = ["New", "Qualified", "Proposal", "Negotiation"]
    wholesale = ["First call", "Квалификация"]
    return [
        Pipeline(SALES, "Sales", 1, is_main=True, stages=_stages(61_000_100, sales)),
        Pipeline(WHOLESALE, "Wholesale", 2, is_main=False, stages=_stages(61_000_200, wholesale)),
    ]


def _stages(incoming: int, names: list[str]) -> dict[int, Stage]:
    stages = [
        Stage(incoming, "Incoming leads", 10, COLORS[0], INCOMING),
        *(Stage(incoming + n, name, 10 + 10 * n, COLORS[n]) for n, name in enumerate(names, start=1)),
        Stage(WON, "Closed - won", 10_000, "#CCFF66"),
        Stage(LOST, "Closed - lost", 11_000, "#D5D8DB"),
    ]
    return {stage.id: stage for stage in stages}


def fields() -> dict[Kind, Fields]:
    """Return the custom fields of each kind."""
    plans = _options(510_201, "Solo", "Duo", "Team", "Business")
    interests = _options(510_301, "Bread", "Cakes & tarts", "Catering")
    phones = _codes(520_101, "WORK", "WORKDD", "MOB", "FAX", "HOME", "OTHER")
    emails = _codes(520_201, "WORK", "PRIV", "OTHER")
    return {
        "leads": Fields(
            [
                Field(800_101, "Plan", "select", options=plans),
                Field(800_102, "Interests", "multiselect", options=interests),
                Field(800_103, "Demo date", "date"),
                Field(800_104, "Newsletter", "checkbox"),
                Field(800_105, "utm_source", "tracking_data", "UTM_SOURCE", is_predefined=True),
                *(Field(number, name, "text") for number, name in RELAY_FIELDS.items()),
            ]
        ),
        "contacts": Fields(
            [
                Field(800_201, "Position", "text", "POSITION", is_predefined=True),
                Field(800_202, "Phone", "multitext", "PHONE", phones, is_predefined=True),
                Field(800_203, "Email", "multitext", "EMAIL", emails, is_predefined=True),
                Field(800_204, "Birthday", "birthday"),
            ]
        ),
        "companies": Fields(
            [
                Field(800_301, "Company size", "numeric", "COMPANY_SIZE"),
                Field(800_302, "Industry", "text", "INDUSTRY"),
            ]
        ),
    }


def _options(first: int, *values: str) -> list[Option]:
    return [Option(first + index, value, index + 1) for index, value in enumerate(values)]


def _codes(first: int, *codes: str) -> list[Option]:
    return [Option(first + index, code, index + 1, code) for index, code in enumerate(codes)]


def _bakery(made: Account) -> None:
    """Add what Kommo's own examples speak of."""
    company = Company(52_300_099, "Example Bakery Ltd", OWNER, OWNER, OWNER, JANUARY, JANUARY)
    company.fields = {800_301: [{"value": "12"}], 800_302: [{"value": "Food"}]}
    made.companies[company.id] = company
    zoe = _contact(made, 52_300_021, "Zoë Example", "zoe@example.com", company_id=company.id, tags=[71_001])
    zoe.updated_at, zoe.updated_by = JANUARY + 1_800, 9_200_002
    zoe.fields |= {
        800_201: [{"value": "Owner"}],
        800_202: [{"value": "+1 415 555 0142", "enum_id": 520_101, "enum_code": "WORK"}],
        800_204: [{"value": 632_102_400}],
    }
    zoe.fields[800_203].append({"value": "zoe.private@example.org", "enum_id": 520_202, "enum_code": "PRIV"})
    order = _lead(
        made, 41_500_011, "Website order #1042", 61_000_102, zoe, 1_767_607_200, 1_767_607_800, price=1_500
    )
    order.tags = [70_011, 70_012]
    order.company_id = company.id
    order.fields = {
        800_101: [{"value": "Team", "enum_id": 510_203, "enum_code": None}],
        800_102: [
            {"value": "Bread", "enum_id": 510_301, "enum_code": None},
            {"value": "Cakes & tarts", "enum_id": 510_302, "enum_code": None},
        ],
        800_103: [{"value": 1_768_176_000}],
        800_104: [{"value": True}],
        800_105: [{"value": "spring_campaign"}],
    }
    _lead(made, 41_500_012, "Café wholesale", WON, zoe, 1_767_520_800, 1_767_607_900, price=12_000)
    lost = _lead(
        made, 41_500_013, "", LOST, None, 1_767_434_400, 1_767_607_900, pipeline_id=WHOLESALE, updated_by=0
    )
    made.delete_lead(lost.id)
    ada = _contact(made, 52_300_022, "Ada Example", "ada@example.com")
    form = _lead(
        made,
        41_500_014,
        "Contact form: Ada Example",
        61_000_101,
        ada,
        1_767_608_100,
        1_767_608_100,
        created_by=0,
        updated_by=0,
    )
    form.fields = {800_105: [{"value": "newsletter"}]}
    _lead(made, 41_500_015, "Tasting", 61_000_101, ada, 1_767_608_200, 1_767_608_200)


def _email_people(made: Account) -> None:
    """Add the people that Encharge's and Ortto's examples speak of, with active leads."""
    people = (
        (52_300_031, "Marta Keller", "marta.keller@northbay-logistics.example", 40_518_833, 61_000_103),
        (52_300_032, "Tomas Ibarra", "tomas.ibarra@cedarworks.example", 39_900_417, 61_000_102),
        (52_300_033, "Jonas Weir", "jonas.weir@plainfieldtools.example", 40_518_834, 61_000_102),
        (52_300_034, "Ann Keller", "ann.keller@example.test", 7_351, 61_000_102),
        (52_300_035, "Bo Lind", "bo.lind@example.test", 7_420, 61_000_101),
        (52_300_036, "Chi Mori", "chi.mori@example.test", 7_498, 61_000_103),
    )
    for contact_id, name, email, lead_id, status_id in people:
        contact = _contact(made, contact_id, name, email)
        _lead(made, lead_id, f"{name}: trial", status_id, contact, JANUARY, JANUARY, price=900)


def _contact(made: Account, number: int, name: str, email: str, **more: Any) -> Contact:
    first, last = name.split(" ", 1)
    contact = Contact(number, name, OWNER, OWNER, OWNER, JANUARY, JANUARY, first_name=first, last_name=last, **more)
    contact.fields = {800_203: [{"value": email, "enum_id": 520_201, "enum_code": "WORK"}]}
    made.add_contact(contact)
    return contact


def _lead(
    made: Account,
    number: int,
    name: str,
    status_id: int,
    contact: Contact | None,
    created_at: int,
    updated_at: int,
    *,
    price: int = 0,
    pipeline_id: int = SALES,
    created_by: int = OWNER,
    updated_by: int = OWNER,
) -> Lead:
    lead = Lead(
        number,
        name,
        OWNER,
        created_by,
        updated_by,
        created_at,
        updated_at,
        price=price,
        pipeline_id=pipeline_id,
        status_id=status_id,
        contact_ids=[contact.id] if contact else [],
    )
    lead.closed_at = updated_at if lead.is_closed else None
    made.add_lead(lead)
    made.events.add("lead_added", "leads", number, created_by, created_at)
    return lead
