"""One reader per layout. A member is a frozen config (`kind`, its options) with `build() -> Source`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from swath.core.family import Family

if TYPE_CHECKING:
    from swath.core.contracts import Source


class SourceConfig(Protocol):
    """What every member is: a config value that builds a source; nothing is read or fetched before `build`."""

    kind: ClassVar[str]

    def build(self) -> Source: ...


SOURCES: Family[type[Any]] = Family("source", "swath.data.sources")

__all__ = ["SOURCES", "SourceConfig"]
