"""What must exist at the vendors, and how it is judged; the lists are what our code really writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import ROOT

from app import mapping
from app.accounts import (
    KOMMO,
    Finding,
    Need,
    Standing,
    attribute_types,
    differences,
    encharge_needs,
    findings,
    kommo_needs,
    ortto_needs,
)
from app.clients.fields import ACTIVITY, Field
from app.mapping import Rules

IDS = {"KOMMO_CF_EMAIL_ACTIVITY": 800110, "KOMMO_CF_EMAIL_STATUS": None}
MOVED = "act:cm:crm-stage-changed"


def rules(tmp_path: Path, text: str) -> Rules:
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    return mapping.load(path, IDS)


@pytest.fixture
def shipped() -> Rules:
    return mapping.load(ROOT / "config" / "mapping.yaml", IDS)


def judged(need: Need, *fields: Field) -> Finding:
    (finding,) = findings([need], fields)
    return finding


class TestNeeds:
    def test_of_kommo(self, shipped: Rules) -> None:
        activity, status = kommo_needs(shipped, IDS)
        assert (activity.id, activity.name, activity.values) == ("800110", "Last email activity", ())
        assert (status.id, status.name, status.values) == ("", "Email status", ("Unsubscribed", "Subscribed"))
        assert [str(need) for need in kommo_needs(None, IDS)] == [str(activity), str(status)]

    def test_a_field_that_the_mapping_names_by_its_id_is_needed_and_not_made(self, tmp_path: Path) -> None:
        text = "version: 1\nactions:\n  mark:\n    field: {id: 800199, value: 'x'}\n"
        *_, need = kommo_needs(rules(tmp_path, text), IDS)
        assert (need.id, need.kind, need.values, str(need)) == ("800199", "", ("x",), "deal field 800199")

    def test_of_encharge(self, shipped: Rules) -> None:
        own = ["kommo_lead_id", "kommo_current_stage", "kommo_last_event"]
        assert [need.id for need in encharge_needs(None)] == own
        assert [need.id for need in encharge_needs(shipped)] == [*own, "jobTitle", "companySize", "industry"]
        assert encharge_needs(shipped)[3].name == "Job title"

    def test_of_ortto(self, shipped: Rules) -> None:
        found = [(need.id, need.name, need.kind, need.types) for need in ortto_needs(shipped)]
        assert found == [
            ("str:cm:kommo-lead-id", "Kommo lead ID", "text", ()),
            ("str:cm:kommo-stage", "Kommo stage", "text", ()),
            ("str:cm:job-title", "Job title", "text", ()),
            ("int:cm:company-size", "Company size", "integer", ("integer",)),
            ("str:cm:industry", "Industry", "text", ()),
            (MOVED, "crm-stage-changed", ACTIVITY, (ACTIVITY,)),
            ("str:cm:lead-id", "lead-id", "", ()),
            ("str:cm:stage", "stage", "", ()),
            ("int:cm:deal-value", "deal-value", "", ("currency", "decimal")),
        ]
        assert attribute_types() == {"lead-id": "text", "stage": "text", "deal-value": "currency"}

    def test_money_and_orttos_own_fields(self, tmp_path: Path) -> None:
        text = """
version: 1
stages: [{stage: won, status: 142, ortto: false}, {stage: lost, status: 143, ortto: act:cm:deal-lost}]
fields:
  - {from: lead.price, encharge: dealValue, ortto: int:cm:deal-worth}
  - {from: contact.PHONE, ortto: phn::phone}
"""
        loaded = rules(tmp_path, text)
        assert encharge_needs(loaded)[-1].kind == "number"
        worth, phone, activity, *_ = ortto_needs(loaded)[2:]
        assert (worth.kind, worth.types) == ("currency", ("currency", "decimal"))
        assert (phone.kind, phone.id) == ("", "phn::phone")
        assert activity.id == "act:cm:deal-lost"


STATUS = Need(KOMMO, "", "Email status", ("text", "textarea"), ("Subscribed",), "text", "KOMMO_CF_EMAIL_STATUS")
STATUS_9 = Need(KOMMO, "9", "Email status", ("text", "textarea"), (), "text", "KOMMO_CF_EMAIL_STATUS")


class TestKommo:
    def test_a_field_is_known_by_its_id_whatever_its_name(self) -> None:
        finding = judged(STATUS_9, Field("9", "State of mails", "textarea"))
        assert (finding.standing, finding.words) == (Standing.FOUND, "")

    def test_one_whose_id_is_not_set_is_known_by_its_name(self) -> None:
        finding = judged(STATUS, Field("7", "email STATUS", "date"), Field("8", "Email Status", "text"))
        assert (finding.standing, finding.field and finding.field.id) == (Standing.UNNAMED, "8")
        assert finding.words == "KOMMO_CF_EMAIL_STATUS is not set, so it is not written: put 8 there."

    def test_one_whose_id_is_wrong_is_known_by_its_name_too(self) -> None:
        finding = judged(STATUS_9, Field("8", "Email status", "text"))
        assert finding.standing == Standing.UNNAMED
        assert finding.words == "KOMMO_CF_EMAIL_STATUS is 9, which is no deal field in Kommo: put 8 there."

    def test_a_missing_one(self) -> None:
        assert judged(STATUS).standing == judged(STATUS_9).standing == Standing.MISSING
        assert judged(STATUS).words == "Kommo has no deal field 'Email status': run `flask setup`."
        assert "KOMMO_CF_EMAIL_STATUS is 9, which is no deal field there" in judged(STATUS_9).words

    @pytest.mark.parametrize("need", [STATUS, STATUS_9])
    def test_a_wrong_type(self, need: Need) -> None:
        finding = judged(need, Field("9", "Email status", "date"))
        assert finding.standing == Standing.WRONG
        assert "is of type date and must be text or textarea" in finding.words
        assert "set KOMMO_CF_EMAIL_STATUS to the new field's id" in finding.words

    def test_a_choice_will_do_if_it_has_all_that_is_written(self) -> None:
        assert (
            judged(STATUS, Field("8", "Email status", "select", ("Subscribed", "No"))).standing == Standing.UNNAMED
        )
        finding = judged(STATUS, Field("8", "Email status", "select", ("No",)))
        assert finding.standing == Standing.WRONG
        assert "a choice without the option Subscribed" in finding.words
        # One that gets any text may get a word that is none of its options.
        assert judged(STATUS_9, Field("9", "Email status", "select", ("No",))).standing == Standing.WRONG


class TestEncharge:
    def test_ours_are_known_by_their_exact_names(self) -> None:
        need = encharge_needs(None)[0]
        assert judged(need, Field("kommo_lead_id", "x", "string")).standing == Standing.FOUND
        assert judged(need, Field("KommoleadID", "Kommo lead ID", "string")).standing == Standing.MISSING
        wrong = judged(need, Field("kommo_lead_id", "Kommo lead ID", "number"))
        assert wrong.standing == Standing.WRONG
        assert "is of type number and must be string or any" in wrong.words
        assert judged(need, Field("kommo_lead_id", "x", "string[]")).standing == Standing.WRONG

    def test_a_mapped_one_that_goes_by_another_name_is_told(self, shipped: Rules) -> None:
        need = encharge_needs(shipped)[3]
        finding = judged(need, Field("NewcustomField", "Job title", "string"))
        assert finding.standing == Standing.WRONG
        assert finding.words == (
            "Encharge knows 'Job title' as NewcustomField, and we write jobTitle. "
            "Write NewcustomField into the mapping file."
        )

    def test_one_that_was_made_under_another_name_is_told(self) -> None:
        need = encharge_needs(None)[0]
        assert differences([need], [Field("kommo_lead_id", "Kommo lead ID", "string")]) == []
        (words,) = differences([need], [Field("KommoLeadId", "Kommo lead ID", "string")])
        assert words.startswith(
            "Encharge knows 'Kommo lead ID' as KommoLeadId, and we write kommo_lead_id. Delete it"
        )


class TestOrtto:
    def test_another_id_of_our_name_stands_in_the_way(self) -> None:
        need = ortto_needs(None)[0]
        finding = judged(need, Field("txt:cm:kommo-lead-id", "Kommo lead id", "large_text"))
        assert finding.standing == Standing.WRONG
        assert "as txt:cm:kommo-lead-id, and we write str:cm:kommo-lead-id. Delete it" in finding.words

    def test_what_ortto_has_itself_does_not(self, shipped: Rules) -> None:
        industry = next(need for need in ortto_needs(shipped) if need.id == "str:cm:industry")
        finding = judged(
            industry, Field("str:o:industry", "Industry", "text"), Field("str::industry", "Industry", "text")
        )
        assert finding.standing == Standing.MISSING

    def test_attributes_of_a_missing_activity_are_not_told_of(self) -> None:
        found = findings(ortto_needs(None), [])
        assert [finding.need.id for finding in found] == ["str:cm:kommo-lead-id", "str:cm:kommo-stage", MOVED]
        assert {finding.standing for finding in found} == {Standing.MISSING}

    def test_attributes_of_an_activity(self) -> None:
        known = [
            Field(MOVED, "crm-stage-changed", ACTIVITY),
            Field("str:cm:lead-id", "lead-id", "text_dictionary", of=MOVED),
            Field("int:cm:deal-value", "deal-value", "integer", of=MOVED),
            Field("str:cm:stage", "stage", "text", of="act:cm:another"),
        ]
        activity, lead_id, stage, value = findings(ortto_needs(None), known)[2:]
        assert (activity.standing, lead_id.standing) == (Standing.FOUND, Standing.FOUND)
        assert stage.standing == Standing.MISSING
        assert stage.words == (
            f"Ortto has no attribute str:cm:stage of {MOVED}: add it to the activity in Ortto, type text."
        )
        assert value.standing == Standing.WRONG
        assert "is of type integer and must be currency or decimal" in value.words

    def test_money_in_a_field_of_whole_numbers_and_the_other_way_round(self, tmp_path: Path) -> None:
        text = """
version: 1
fields:
  - {from: lead.price, ortto: int:cm:worth}
  - {from: company.SIZE, ortto: int:cm:size}
"""
        worth, size = ortto_needs(rules(tmp_path, text))[2:4]
        assert judged(worth, Field("int:cm:worth", "Worth", "integer")).standing == Standing.WRONG
        assert judged(size, Field("int:cm:size", "Size", "decimal")).standing == Standing.WRONG
        assert judged(size, Field("int:cm:size", "Size", "integer")).standing == Standing.FOUND
