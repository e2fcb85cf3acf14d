"""Family: the one registry. A member is a file; its name is the file's name; nothing is imported to list it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module, metadata
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Generic, TypeVar, cast

from swath.core.errors import SwathError, UnknownName

T = TypeVar("T")


def member_of(name: str, package: str) -> Any:
    """The object that a member's file declares as `MEMBER`."""
    module = import_module(f"{package}.{name}")
    try:
        return module.MEMBER
    except AttributeError:
        raise SwathError(f"{package}.{name} declares no MEMBER", where=str(module.__file__)) from None


def first_line(text: str, suffix: str) -> str:
    """What a member's file says first about itself."""
    if suffix == ".toml":
        return str(tomllib.loads(text).get("title", ""))
    said = " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.\s]{3})\.\s", said, maxsplit=1)[0].rstrip(".:;")


class Family(Generic[T]):
    """Members of one kind: Python files that declare `MEMBER`, or data files read by `read(name, text)`.

    Third parties join through the entry point group `swath.<kind>`; a name taken twice is an error.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        read: Callable[[str, Traversable], T] | None = None,
        suffix: str = ".py",
    ) -> None:
        self.kind, self.package, self.suffix, self._read = kind, package, suffix, read
        self._cache: dict[str, T] = {}

    def _own(self) -> dict[str, Traversable]:
        top, *rest = self.package.split(".")
        folder = files(top).joinpath(*rest) if rest else files(top)  # importing the package itself may cost seconds
        stems = {p.name.removesuffix(self.suffix): p for p in folder.iterdir() if p.name.endswith(self.suffix)}
        return {s.replace("_", "-") if self.suffix == ".py" else s: p for s, p in stems.items() if s[0] != "_"}

    @cached_property
    def _foreign(self) -> dict[str, metadata.EntryPoint]:
        """What other packages bring; looked for once, as it reads every installed package's metadata."""
        found: dict[str, metadata.EntryPoint] = {}
        for point in metadata.entry_points(group=f"swath.{self.kind}"):
            if point.name in found or point.name in self._own():
                raise SwathError(f"two members of {self.kind} are called '{point.name}'", where=point.value)
            found[point.name] = point
        return found

    def names(self) -> list[str]:
        """Every member's name, sorted; imports nothing."""
        return sorted({*self._own(), *self._foreign})

    def about(self, name: str) -> str:
        """One line: a data file's `title`, or the first sentence of a member's docstring; imports nothing."""
        key = name.replace("_", "-") if self.suffix == ".py" else name
        file = self._own().get(key)
        return "" if file is None else first_line(file.read_text(encoding="utf-8"), self.suffix)

    def get(self, name: str) -> T:
        """The member of this name (underscores and hyphens are the same); an unknown one names the nearest."""
        key = name.replace("_", "-") if self.suffix == ".py" else name
        if key not in self._cache:
            own = self._own()
            if key in own:
                read = self._read
                value = read(key, own[key]) if read else member_of(own[key].name.removesuffix(".py"), self.package)
            elif (foreign := self._foreign.get(key)) is not None:
                value = foreign.load()
            else:
                raise UnknownName(self.kind, name, self.names())
            self._cache[key] = cast(T, value)
        return self._cache[key]

    def __contains__(self, name: str) -> bool:
        return name in self._cache or name in self._own() or name in self._foreign

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return ((n, self.get(n)) for n in self.names())
