"""What a Luxembourg prescription says, as a JSON schema and as words for models that cannot be held to one."""

from __future__ import annotations

import json
from typing import Any, Final

FIELDS: Final[dict[str, str]] = {
    "doctor_code": "code of the doctor, such as 12345-67",
    "doctor_name": "full name of the doctor",
    "doctor_specialty": "specialty of the doctor",
    "doctor_phone": "telephone number of the doctor",
    "doctor_address": "address of the doctor",
    "patient_matricule": "matricule of the patient: 13 digits",
    "patient_name": "full name of the patient",
    "prescription_date": "date of the prescription, as YYYY-MM-DD",
}
"""The fields of one line each, and what belongs into them."""
_MOST_TEXT = 300
_MOST_MEDICATIONS = 20
_TEXT: Final[dict[str, Any]] = {"type": "string", "maxLength": _MOST_TEXT}
_MEDICATION: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"name": _TEXT, "dosage": _TEXT, "quantity": _TEXT, "instructions": _TEXT},
    "required": ["name", "dosage", "quantity", "instructions"],
    "additionalProperties": False,
}
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        **{name: {**_TEXT, "description": meaning} for name, meaning in FIELDS.items()},
        "medications": {"type": "array", "items": _MEDICATION, "maxItems": _MOST_MEDICATIONS},
        "notes": _TEXT,
    },
    "required": [*FIELDS, "medications", "notes"],
    "additionalProperties": False,
}
"""Every field is there; what the prescription does not say is an empty text."""


def prompt() -> str:
    """The request in words."""
    fields = "\n".join(f'- "{name}": {meaning}' for name, meaning in FIELDS.items())
    return (
        "This is a medical prescription from Luxembourg. Answer with one JSON object and nothing else. Its fields:\n"
        f"{fields}\n"
        '- "medications": a list of objects with "name", "dosage", "quantity" and "instructions"\n'
        '- "notes": anything else that is written there\n'
        'Copy what is written. Where something is missing or cannot be read, give "".'
    )


def object_in(text: str) -> dict[str, Any] | None:
    """The JSON object between the first `{` and the last `}`, None where there is none."""
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
