"""The sample of the fault matrix that CI runs has every fault, moment and implementation in it."""

from __future__ import annotations

from typing import Any

import pytest
from faults import requests
from faults.test_matrix import SHARE, cells
from support.sampling import sample, values_of

PRODUCTS: list[list[Any]] = [cells(), requests.requests()]


@pytest.mark.parametrize("product", PRODUCTS, ids=["sessions", "requests"])
@pytest.mark.parametrize("seed", [str(number) for number in range(20)])
def test_a_sample_has_every_value_of_each_dimension(product: list[Any], seed: str) -> None:
    chosen = sample(product, seed, SHARE)
    assert values_of(chosen) == values_of(product)
    assert SHARE * len(product) - 1 < len(chosen) < len(product) / 2


def test_the_seed_decides_the_sample() -> None:
    product = cells()
    assert sample(product, "1", SHARE) == sample(cells(), "1", SHARE)
    assert sample(product, "1", SHARE) != sample(product, "2", SHARE)


def test_the_smallest_sample_has_every_value() -> None:
    assert values_of(sample(cells(), "1", 0.0)) == values_of(cells())
