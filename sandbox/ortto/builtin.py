"""What every Ortto account knows from the start: person fields and system activities.

The ids, names and attribute keys are those of a recorded `instance-schema/get`; fields and activities that
no integration of a CRM would touch are left out.
"""

from __future__ import annotations

FIELDS = {
    "str::email": ("Email", "email"),
    "str::first": ("First name", "text"),
    "str::last": ("Last name", "text"),
    "str::name": ("Full name", "text"),
    "str::ei": ("External ID", "text"),
    "phn::phone": ("Phone number", "phone"),
    "geo::city": ("City", "geo"),
    "geo::region": ("Region", "geo"),
    "geo::country": ("Country", "geo"),
    "str::postal": ("Postal code", "text"),
    "str::language": ("Language", "text"),
    "dtz::b": ("Birthday", "date"),
    "bol::gdpr": ("GDPR", "bool"),
    "bol::p": ("Email permission", "bool"),
    "bol::sp": ("SMS permission", "bool"),
    "str::u-ctx": ("Email unsubscribe context", "text"),
    "str::s-ctx": ("Email subscribe context", "text"),
    "str::soi-ctx": ("SMS opt-in context", "text"),
    "str::soo-ctx": ("SMS opt-out context", "text"),
    "bol::hb": ("Hard bounced", "bool"),
    "int::v": ("Total spent", "currency"),
    "u4s::t": ("Tags", "tags"),
    "c": ("Created", "time"),
    "l": ("Last seen", "time"),
}
FLAGGED_READ_ONLY = ("str::u-ctx", "str::soo-ctx", "bol::hb", "int::v", "u4s::t", "c", "l")
# Ortto's help tells you to send the two contexts although its schema flags them: they are taken.
NOT_WRITABLE = ("bol::hb", "int::v", "u4s::t", "c", "l")

_CAMPAIGN = {"idt::c": "Campaign ID", "str::cn": "Campaign name", "str::ct": "Campaign type"}
_RUN = {"str::jsi": "Shape ID", "idt::jri": "Run ID"}
_ASSET = {"idt::ei": "Asset ID", "str::asn": "Asset name", "str::s": "Subject", "idt::mi": "Message ID"}
_AUDIENCE = {"idt::a": "Audience ID", "str::an": "Audience name"}
_EMAIL = _CAMPAIGN | _ASSET | _RUN | _AUDIENCE
_REASON = {"str::rn": "Reason", "str::rno": "Other reason", "str::u-ctx": "Context"}
_JOURNEY = {"idt::c": "Campaign ID", "str::cn": "Campaign name", "idt::jri": "Run ID"}

ACTIVITIES: dict[str, tuple[str, dict[str, str]]] = {
    "act::s": ("Sent email", _EMAIL),
    "act::r": ("Received email", _EMAIL),
    "act::o": (
        "Opened email",
        _EMAIL | {"str::fn": "From name", "str::fre": "From email", "bol::m": "Possible machine open"},
    ),
    "act::c": (
        "Clicked email",
        _EMAIL
        | {"str::c": "URL clicked", "str::rc": "Raw URL", "int::li": "Link index"}
        | {"str::us": "UTM source", "str::um": "UTM medium", "str::un": "UTM campaign", "str::uc": "UTM content"}
        | {"bol::m": "Possible machine click"},
    ),
    "act::u-all": ("Unsubscribed from email", _EMAIL | _REASON | {"str::is": "Source"}),
    "act::u-a": ("Unsubscribed from audience", _EMAIL | _REASON),
    "act::s-all": ("Subscribed to email", {"str::is": "Source", "str::s-ctx": "Context"}),
    "act::oos-all": ("Unsubscribed from sms", {"str::soo-ctx": "Context"}),
    "act::b": (
        "Bounced email",
        _EMAIL | {"str::be": "Address", "str::bc": "Category", "str::br": "Reason", "str::bt": "Type"},
    ),
    "act::s-ab": ("Abuse reported", _EMAIL),
    "act::es": ("Email suppressed", {}),
    "act::eu": ("Email unsuppressed", {}),
    "act::ej": (
        "Started journey",
        _JOURNEY | {"str::jefi": "Entering field ID", "idt::jeai": "Entering activity ID"},
    ),
    "act::lj": ("Left journey", _JOURNEY | {"str::pr": "Reason", "str::jsi": "Shape ID", "obj::ljd": "Details"}),
    "act::ta": ("Tag added", {}),
    "act::tr": ("Tag removed", {}),
}
