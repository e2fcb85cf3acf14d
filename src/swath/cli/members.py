"""What `swath show` and the reference say of a member. Not a verb."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from swath.cli import families

Rows = list[dict[str, Any]]


def describe(name: str, member: str) -> tuple[dict[str, Any], dict[str, Rows]]:
    """A member's facts, and its tables: the bands of a sensor, the settings of a config with their defaults."""
    found = families.family(name).get(member)
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        facts = {"name": member, **dataclasses.asdict(found)}
        if how := getattr(found, "fetch", ""):  # of weights
            facts["fetch"] = how
        tables = {k: list(v) for k, v in facts.items() if isinstance(v, tuple) and v and isinstance(v[0], dict)}
        return {k: v for k, v in facts.items() if k not in tables}, tables
    facts = {
        "name": member,
        "about": families.listing(name).about(member),
        "notes": " ".join((inspect.getdoc(found) or "").split()),
        "where": getattr(found, "__module__", ""),
    }
    if sizes := getattr(found, "sizes", None):
        facts["sizes"] = list(sizes)
    rows = [setting(f) for f in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []
    return facts, {"settings": rows} if rows else {}


def setting(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """A config's field as people read it: name, what it takes, default."""
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        default = "(required)"
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        default = {"kind": getattr(default, "kind", type(default).__name__), **dataclasses.asdict(default)}
    takes = re.sub(r"Annotated\[[^,\]]+, ([A-Z]+)\]", lambda m: f"one of: swath list {m[1].lower()}", str(field.type))
    return {"name": field.name, "takes": takes, "default": default}
