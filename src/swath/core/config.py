"""Config: frozen dataclasses are the schema; YAML is the same value written down; unknown keys are errors.

A field annotated `Annotated[SomeConfig, FAMILY]` is polymorphic: `{kind: mae, mask_ratio: 0.75}` or just `mae`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from swath.core.errors import UnknownName, UserError
from swath.core.family import Family

C = TypeVar("C")


def parse(data: Any, schema: type[C], *, where: str = "config") -> C:
    """Plain data (from YAML or JSON) as a value of the dataclass `schema`."""
    if dataclasses.is_dataclass(data) and isinstance(data, schema):
        return data
    if not isinstance(data, Mapping):
        raise UserError(f"expected a mapping for {schema.__name__}, not {data!r}", where=where)
    given = {str(k): v for k, v in cast(Mapping[Any, Any], data).items()}
    known = {f.name: f for f in dataclasses.fields(cast(Any, schema)) if f.init}
    for key in given:
        if key not in known:
            raise UnknownName("key", key, known, where=where)
    for name, f in known.items():
        if name not in given and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"'{name}' is missing", where=where, remedy=f"{schema.__name__} needs it")
    hints = get_type_hints(schema, include_extras=True)
    values = {k: _value(v, hints[k], f"{where}.{k}") for k, v in given.items()}
    try:
        return schema(**values)
    except (ValueError, TypeError) as why:
        raise UserError(f"{schema.__name__} is not valid: {why}", where=where) from why


def _value(data: Any, hint: Any, where: str) -> Any:
    family = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Family)), None)
    if family is not None:
        return parse_member(data, cast("Family[Any]", family), hint, where)
    if data is None and type(None) in get_args(hint):
        return None
    for option in _dataclass_options(hint):
        if isinstance(data, Mapping) or isinstance(data, option):
            return parse(data, option, where=where)
    item = get_args(hint)
    if get_origin(hint) in (tuple, list) and item and isinstance(data, Sequence) and not isinstance(data, str):
        if _needs_walk(item[0]):
            parts = [_value(v, item[0], f"{where}[{i}]") for i, v in enumerate(cast(Sequence[Any], data))]
            return tuple(parts) if get_origin(hint) is tuple else parts
    if get_origin(hint) is dict and _needs_walk(item[1]) and isinstance(data, Mapping):
        return {str(k): _value(v, item[1], f"{where}.{k}") for k, v in cast(Mapping[Any, Any], data).items()}
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(data)
    except ValidationError as why:
        raise UserError(f"{data!r} is not right: {why.errors()[0]['msg']}", where=where) from why


def _dataclass_options(hint: Any) -> list[Any]:
    options = [hint, *get_args(hint)] if get_origin(hint) not in (tuple, list, dict) else []
    return [o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)]


def _needs_walk(hint: Any) -> bool:
    return bool(_dataclass_options(hint)) or any(isinstance(m, Family) for m in getattr(hint, "__metadata__", ()))


def parse_member(data: Any, family: Family[Any], hint: Any = None, where: str = "config") -> Any:
    """`{kind: name, ...}`, or just the name, as the config value of that member of the family."""
    if data is None and hint is not None and type(None) in get_args(get_args(hint)[0]):
        return None
    if isinstance(data, str):
        data = {"kind": data}
    if dataclasses.is_dataclass(data):
        return data
    if not isinstance(data, Mapping) or "kind" not in data:
        raise UserError(f"expected {{kind: ..., ...}} for a {family.kind}, not {data!r}", where=where)
    rest = {str(k): v for k, v in cast(Mapping[Any, Any], data).items()}
    member = family.get(str(rest.pop("kind")))
    return parse(rest, member, where=where)


def plain(value: Any) -> Any:
    """A config value as plain data that `parse` reads back; members carry their `kind`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = getattr(type(value), "kind", None)
        body = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"kind": kind, **body} if isinstance(kind, str) else body
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in cast(Sequence[Any], value)]
    return str(value) if isinstance(value, Path) else value


def digest(value: Any) -> str:
    """sha256 over the canonical JSON of a config value."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def override(data: dict[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=c` (c read as YAML) to plain data; returns a new mapping."""
    import yaml

    out = json.loads(json.dumps(data))
    for item in sets:
        path, sep, text = item.partition("=")
        if not sep or not path:
            raise UserError(f"'{item}' is not of the form a.b=value", where="--set")
        node: Any = out
        keys = path.split(".")
        for key in keys[:-1]:
            if isinstance(node.get(key), str):
                node[key] = {"kind": node[key]}
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise UserError(f"'{path}' goes through '{key}', which is not a mapping", where="--set")
        node[keys[-1]] = yaml.safe_load(text)
    return out


def load(path: str | Path, schema: type[C], sets: Sequence[str] = ()) -> C:
    """Read a YAML run file as `schema`, after the overrides."""
    return parse(read(path, sets), schema, where=str(path))


def read(path: str | Path, sets: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML run file as plain data, after the overrides."""
    import yaml

    file = Path(path)
    if not file.is_file():
        raise UserError(
            "there is no such file",
            where=str(file),
            remedy="check the path; `swath init DATA --task TASK` writes a run",
        )
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as why:
        raise UserError(f"the file is not YAML: {why}", where=str(file)) from why
    if not isinstance(data, dict):
        raise UserError("the file must hold a mapping at its top", where=str(file))
    return override(cast("dict[str, Any]", data), sets)


def save(value: Any, path: str | Path) -> None:
    """Write a config value as YAML."""
    import yaml

    Path(path).write_text(yaml.safe_dump(plain(value), sort_keys=False), encoding="utf-8")


def bounded(config: Any, where: str, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Refuse, by its name, a number of a config that is not within its ends (both included); NaN is within none, and
    None, where a number may be absent, is no number."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if value is None or low <= value <= high:
            continue
        ends = f"{low:g} to {high:g}" if high < math.inf else "above 0" if 0 < low < 1e-6 else f"{low:g} or more"
        raise UserError(f"'{name}' is {value}", where=where, remedy=f"choose {ends}")
