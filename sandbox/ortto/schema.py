"""The schema of an account: built-in and custom person fields, system and custom activities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox.ortto import builtin
from sandbox.ortto.fields import PREFIXES, SELECTS, slug
from sandbox.ortto.wire import RefusedError, milliseconds

CUSTOM_FIELDS = 100
FLAGS = {"track_conversion_value": False, "touch": True, "filterable": True, "visible_in_feeds": True}
CONVERSION_VALUE = "int::v"
DEFAULT_ICON = "flag-activities-illustration-icon"


@dataclass
class CustomField:
    """A person field that the user made."""

    id: str
    name: str
    display_type: str
    values: list[str] | None
    tracked: bool

    def created(self) -> dict[str, Any]:
        """Return what custom-field/create answers."""
        made = {"name": self.name, "field_id": self.id, "display_type": self.display_type}
        return made if self.values is None else {**made, "values": self.values}

    def described(self) -> dict[str, Any]:
        """Return how the schema describes the field."""
        described = {
            "id": self.id,
            "name": self.name,
            "display_type": self.display_type,
            "liquid_name": f"people.custom.{slug(self.name)}",
        }
        return described if self.values is None else {**described, "dic_items": self.values}


class Schema:
    """All fields and activities by their ids."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.custom: dict[str, CustomField] = {}
        self.definitions: dict[str, dict[str, Any]] = {}
        """Custom activities as the API shows them, by `activity_field_id`."""
        self.archived: dict[str, dict[str, Any]] = {}
        self._attributes: dict[str, frozenset[str]] = {}

    def clear(self) -> None:
        """Forget all custom fields and activities."""
        self.custom.clear()
        self.definitions.clear()
        self.archived.clear()
        self._attributes.clear()

    # -- person fields --------------------------------------------------------------------------------------

    def has_field(self, field_id: object) -> bool:
        """Tell whether a person field of this id exists."""
        return isinstance(field_id, str) and (field_id in builtin.FIELDS or field_id in self.custom)

    def create_field(self, body: dict[str, Any], duplicate_status: int) -> CustomField:
        """Make a custom person field (help.ortto.com: custom-field/create)."""
        name, kind = body.get("name"), body.get("type")
        if not isinstance(name, str) or not slug(name):
            raise RefusedError(400, "Invalid field name")
        if not isinstance(kind, str) or kind not in PREFIXES:
            raise RefusedError(400, f"Invalid field type {kind}")
        field_id = f"{PREFIXES[kind]}:cm:{slug(name)}"
        if any(field.name.lower() == name.lower() or field.id == field_id for field in self.custom.values()):
            # 423 is what Ortto's own script of 2022 met; the page names no status.
            raise RefusedError(duplicate_status, f"Field {name} already exists")
        if len(self.custom) >= CUSTOM_FIELDS:
            raise RefusedError(400, f"An account has at most {CUSTOM_FIELDS} custom fields")
        values = _select_values(kind, body.get("values"))
        field = CustomField(field_id, name, kind, values, bool(body.get("track_changes", False)))
        self.custom[field_id] = field
        return field

    def list_fields(self) -> dict[str, Any]:
        """Return what custom-field/get answers; `fields` is null without any."""
        shown = [{"field": field.described(), "tracked_value": field.tracked} for field in self.custom.values()]
        return {"fields": shown or None}

    def update_field(self, body: dict[str, Any]) -> dict[str, Any]:
        """Change the values or the tracking of a custom field (help.ortto.com/a-752)."""
        field = self.custom.get(str(body.get("field_id")))
        if field is None:
            raise RefusedError(400, f"{body.get('field_id')}: Object not found")
        changes = {key: body[key] for key in ("replace_values", "add_values", "remove_values") if key in body}
        if changes and field.display_type not in SELECTS:
            raise RefusedError(400, f"Field {field.id} takes no values")
        for key, value in changes.items():
            field.values = _changed(field.values or [], key, _strings(value, key))
        field.tracked = bool(body.get("track_changes", field.tracked))
        return {"field_id": field.id, "values": field.values, "track_changes": field.tracked}

    # -- activities -----------------------------------------------------------------------------------------

    def has_activity(self, activity_id: object) -> bool:
        """Tell whether activities of this id may be created."""
        if not isinstance(activity_id, str):
            return False
        return activity_id in self.definitions or activity_id in builtin.ACTIVITIES

    def has_attribute(self, activity_id: str, attribute_id: str) -> bool:
        """Tell whether an activity takes this attribute."""
        if activity_id not in self._attributes:
            # Recorded calls with odd attributes on system activities were accepted.
            return True
        return attribute_id == CONVERSION_VALUE or attribute_id in self._attributes[activity_id]

    def create_definition(self, body: dict[str, Any]) -> dict[str, Any]:
        """Make a custom activity (help.ortto.com/a-273)."""
        name = body.get("name")
        if not isinstance(name, str) or not slug(name):
            raise RefusedError(400, "Invalid activity name")
        activity_id = f"act:cm:{slug(name)}"
        if activity_id in self.definitions or activity_id in self.archived:
            raise RefusedError(400, f"Activity {name} already exists")
        now = milliseconds(self._clock())
        definition = {
            "name": name,
            "activity_field_id": activity_id,
            "state": "awaiting_implementation",
            "display_mode": {"type": "activity"},
            "attributes": [],
            "icon_id": DEFAULT_ICON,
            **FLAGS,
            "created_by": "Public API",
            "created_at": now,
            "edited_at": now,
        }
        definition.update(self._settings(slug(name), body))
        self._keep(activity_id, definition)
        return {"custom_activity": definition}

    def modify_definition(self, body: dict[str, Any]) -> dict[str, Any]:
        """Change a custom activity; attributes given replace all there are."""
        definition = self._find(body)
        activity_id = definition["activity_field_id"]
        changed = {**definition, **self._settings(slug(definition["name"]), body)}
        self._keep(activity_id, {**changed, "edited_at": milliseconds(self._clock())})
        return {"custom_activity": self.definitions[activity_id]}

    def archive_definition(self, body: dict[str, Any]) -> dict[str, Any]:
        """Archive a custom activity; no event of it can be created after that."""
        activity_id = self._find(body)["activity_field_id"]
        self.archived[activity_id] = self.definitions.pop(activity_id)
        del self._attributes[activity_id]
        return {"archived_activity": activity_id}

    def set_live(self, activity_id: str) -> None:
        """Note that an event of this activity came in."""
        if activity_id in self.definitions:
            self.definitions[activity_id]["state"] = "live"

    def _find(self, body: dict[str, Any]) -> dict[str, Any]:
        # Sources differ on whether `name` or `activity_field_id` names the activity: both do.
        activity_id = body.get("activity_field_id") or f"act:cm:{slug(str(body.get('name', '')))}"
        if activity_id not in self.definitions:
            raise RefusedError(404, f"{activity_id}: Object not found")
        return self.definitions[activity_id]

    def _settings(self, activity_slug: str, body: dict[str, Any]) -> dict[str, Any]:
        settings: dict[str, Any] = {key: bool(body[key]) for key in FLAGS if key in body}
        if body.get("icon_id"):
            settings["icon_id"] = body["icon_id"]
        if "attributes" in body:
            settings["attributes"] = self._made_attributes(activity_slug, body["attributes"])
        if isinstance(body.get("display_style"), dict):
            settings["display_mode"] = _display_mode(body["display_style"], settings.get("attributes", []))
        return settings

    def _made_attributes(self, activity_slug: str, attributes: Any) -> list[dict[str, Any]]:
        if not isinstance(attributes, list):
            raise RefusedError(400, "attributes must be a list")
        made = {}
        for attribute in attributes:
            shown = self._made_attribute(activity_slug, attribute)
            if shown["field_id"] in made:
                raise RefusedError(400, f"Duplicate attribute {shown['name']}")
            made[shown["field_id"]] = shown
        return list(made.values())

    def _made_attribute(self, activity_slug: str, attribute: Any) -> dict[str, Any]:
        name = attribute.get("name") if isinstance(attribute, dict) else None
        if not isinstance(name, str) or not slug(name):
            raise RefusedError(400, "Invalid attribute name")
        kind = attribute.get("display_type")
        if not isinstance(kind, str) or kind not in PREFIXES:
            raise RefusedError(400, f"Invalid display type {kind} of attribute {name}")
        mapped = attribute.get("field_id")
        if mapped not in (None, "", "do-not-map") and not self.has_field(mapped):
            raise RefusedError(400, f"{mapped}: Object not found")
        return {
            "name": name,
            "field_id": f"{PREFIXES[kind]}:cm:{slug(name)}",
            "display_type": kind,
            "liquid_name": f"activity.custom.{activity_slug}.{slug(name)}",
        }

    def _keep(self, activity_id: str, definition: dict[str, Any]) -> None:
        self.definitions[activity_id] = definition
        self._attributes[activity_id] = frozenset(made["field_id"] for made in definition["attributes"])

    # -- the whole ------------------------------------------------------------------------------------------

    def described(self, wanted: list[str]) -> dict[str, Any]:
        """Return what instance-schema/get answers; a namespace without fields is absent."""
        custom = {field.id: field.described() for field in self.custom.values()}
        custom |= {activity_id: _described_activity(made) for activity_id, made in self.definitions.items()}
        namespaces = {"": _built_in(), "cm": custom}
        shown = {
            name: {"id": name, "fields": fields}
            for name, fields in namespaces.items()
            if fields and (not wanted or name in wanted)
        }
        return {"namespaces": shown}


def _built_in() -> dict[str, Any]:
    described: dict[str, Any] = {}
    for field_id, (name, kind) in builtin.FIELDS.items():
        liquid_name = f"people.{slug(name)}"
        described[field_id] = {"id": field_id, "name": name, "display_type": kind, "liquid_name": liquid_name}
        if field_id in builtin.FLAGGED_READ_ONLY:
            described[field_id]["read_only"] = True
    for activity_id, (name, attributes) in builtin.ACTIVITIES.items():
        shown = [
            {
                "id": attribute_id,
                "name": title,
                "display_type": _display_type(attribute_id),
                "liquid_name": f"activity.{slug(name)}.{slug(title)}",
            }
            for attribute_id, title in attributes.items()
        ]
        described[activity_id] = {"id": activity_id, "name": name, "display_type": "activity", "attributes": shown}
    return described


def _display_type(attribute_id: str) -> str:
    return {"bol": "bool", "int": "integer", "obj": "object"}.get(attribute_id.split(":")[0], "text")


def _described_activity(definition: dict[str, Any]) -> dict[str, Any]:
    attributes = [
        {
            "id": made["field_id"],
            "name": made["name"],
            "display_type": made["display_type"],
            "liquid_name": made["liquid_name"],
        }
        for made in definition["attributes"]
    ]
    return {
        "id": definition["activity_field_id"],
        "name": definition["name"],
        "display_type": "activity",
        "attributes": attributes,
    }


def _display_mode(style: dict[str, Any], attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """Turn the display style of a request into that of an answer, which names the attribute by its id."""
    mode: dict[str, Any] = {"type": style.get("type", "activity")}
    wanted = style.get("attribute_name") or style.get("attribute")
    for made in attributes:
        if made["name"] == wanted:
            mode["attribute_field_id"] = made["field_id"]
    if "template" in style:
        mode["template"] = style["template"]
    return mode


def _select_values(kind: str, values: Any) -> list[str] | None:
    if kind in SELECTS:
        return _strings(values or [], "values")
    if values:
        raise RefusedError(400, f"A field of type {kind} takes no values")
    return None


def _strings(values: Any, key: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RefusedError(400, f"{key} must be a list of strings")
    return list(dict.fromkeys(values))


def _changed(values: list[str], how: str, given: list[str]) -> list[str]:
    if how == "replace_values":
        return given
    if how == "add_values":
        return list(dict.fromkeys(values + given))
    return [value for value in values if value not in given]
