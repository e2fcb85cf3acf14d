"""Which samples a run learns from, watches and is judged by, and which it looks at first. Known without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swath.core.errors import UserError
from swath.core.rng import numpy_generator

if TYPE_CHECKING:
    from swath.core.contracts import Source

VALIDATION = ("val", "valid", "validation", "dev")
LOOKS, MOST_LOOKS = 64, 512
"""So many samples of the training split are looked at for class counts and moments of values; up to the second number
while a class of the legend was not seen."""


@dataclass(frozen=True)
class Splits:
    """Indices of a run; `notes` says what the source did not give."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    notes: tuple[str, ...] = ()


def choose_splits(source: Source, how: str, seed: int) -> Splits:
    """The source's own splits; what is missing is cut from what there is, by key, and noted."""
    given = {k: [int(i) for i in v] for k, v in source.splits().items()}
    notes: list[str] = []
    if "train" in given and given.get("all"):
        notes.append(f"{len(given['all'])} samples are in no split and are left out")
    if how == "random" or "train" not in given:
        if how != "random" and set(given) - {"all"}:
            raise UserError(f"the data have the splits {', '.join(given)} and no 'train'", where=source.name)
        pool = sorted(i for v in given.values() for i in v)
        order = [pool[i] for i in numpy_generator(seed, "split").permutation(len(pool))]
        a, b = round(0.6 * len(order)), round(0.8 * len(order))
        given = {"train": order[:a], "val": order[a:b], "test": order[b:]}
        notes.append("random split 60/20/20: neighbouring chips may stand on both sides")
    train = given["train"]
    val = next((given[v] for v in VALIDATION if given.get(v)), [])
    if not val:
        order = [train[i] for i in numpy_generator(seed, "split").permutation(len(train))]
        n = max(1, round(0.2 * len(order)))
        val, train = order[:n], order[n:]
        notes.append("the data have no validation split: a fifth of the training split was held out")
    test = given.get("test", [])
    if not test:
        test = val
        notes.append("the data have no test split: the scores are those of the validation split, and optimistic")
    if not train:
        raise UserError("the training split is empty", where=source.name, remedy="check the data with `swath check`")
    return Splits(tuple(train), tuple(val), tuple(test), tuple(notes))


def spread(index: Sequence[int], most: int) -> list[int]:
    """At most `most` of the indices, so ordered that every first part of them is spread over the whole."""
    n = min(len(index), most)
    even = [index[i * len(index) // n] for i in range(n)]
    bits = max(1, (n - 1).bit_length())
    turned = [int(format(i, f"0{bits}b")[::-1], 2) for i in range(1 << bits)]  # van der Corput: halves, quarters, ...
    return [even[i] for i in turned if i < n]
