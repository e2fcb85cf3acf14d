"""Cards of public data sets, one TOML file each. `CARDS.get("eurosat")`."""

from __future__ import annotations

from swath.core.family import Family
from swath.data.card import Card, member

CARDS: Family[Card] = Family("card", "swath.data.cards", member, suffix=".toml")

__all__ = ["CARDS"]
