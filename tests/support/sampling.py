"""A seeded sample of a product that is too large to run whole each time."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def sample(everything: Sequence[T], seed: str, share: float) -> list[T]:
    """Return a share of a product's members, with every value of each dimension at least once.

    The fields of the members are the dimensions. The same seed and members give the same sample, in their order.
    """
    shuffled = random.Random(seed).sample(everything, len(everything))
    taken = shuffled[: round(share * len(everything))]
    seen = values_of(taken)
    for member in shuffled[len(taken) :]:
        if not values_of([member]) <= seen:
            taken.append(member)
            seen |= values_of([member])
    kept = set(map(id, taken))
    return [member for member in everything if id(member) in kept]


def values_of(members: Iterable[T]) -> set[tuple[str, object]]:
    """Return each value of each field that occurs in the members."""
    return {(field.name, getattr(member, field.name)) for member in members for field in fields(member)}
