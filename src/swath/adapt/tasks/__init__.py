"""Tasks: what a user wants of an encoder. A member is a frozen config with `build(context)`; see `adapt.task`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from swath.core.family import Family

if TYPE_CHECKING:
    from swath.adapt.task import Context, TaskModule
    from swath.core.batch import LabelKind


class TaskConfig(Protocol):
    """`takes`: the kinds of label it can learn from; `dense`: it uses a decoder; `decoder`, `fusion`: its defaults."""

    kind: ClassVar[str]
    takes: ClassVar[tuple[LabelKind, ...]]
    decoder: ClassVar[str]
    fusion: ClassVar[str]

    @property
    def label(self) -> str: ...

    def build(self, context: Context) -> TaskModule: ...


TASKS: Family[type[TaskConfig]] = Family("task", "swath.adapt.tasks")

__all__ = ["TASKS", "TaskConfig"]
