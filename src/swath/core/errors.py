"""Errors are part of the product: what happened, where, and what to do about it."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager


class SwathWarning(UserWarning):
    """Something the user should know that does not stop the work."""


class SwathError(Exception):
    """A failure of Swath itself (exit code 1)."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """The readable block, one fact a line."""
        rows = [self.what]
        if self.where:
            rows.append(f"  where:  {self.where}")
        if self.remedy:
            rows.append(f"  remedy: {self.remedy}")
        return rows


class UserError(SwathError):
    """A mistake in what the user gave: a file, a name, a value (exit code 2)."""

    exit_code = 2


class UnknownName(UserError):
    """A name that is not one of the known ones; says which known one is nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        names = sorted(known)
        # letter case is no difference: BLEU is near blue
        lower = {n.lower(): n for n in reversed(names)}
        close = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
        remedy = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names[:20]) or 'none'}"
        self.name, self.nearest = name, close
        super().__init__(f"unknown {kind} '{name}'", where=where, remedy=remedy)


@contextmanager
def readable_warnings() -> Generator[None]:
    """A warning of ours is one line, without the line of code that gave it; others stand as Python shows them."""
    usual = warnings.formatwarning

    def shown(text: Warning | str, kind: type[Warning], file: str, at: int, line: str | None = None) -> str:
        return f"warning: {text}\n" if issubclass(kind, SwathWarning) else usual(text, kind, file, at, line)

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = usual
