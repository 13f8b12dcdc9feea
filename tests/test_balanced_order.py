"""Balanced orders: exact in expectation, and nearly exact in every epoch."""

import numpy as np
import pytest

from ecomap.balanced_order import balanced_order, class_members
from ecomap.errors import ConfigError


def test_counts_of_classes_are_their_expectation_rounded_by_chance():
    members = [np.arange(0, 1), np.arange(1, 4), np.arange(4, 11)]
    expected = np.sqrt([1, 3, 7]) / np.sqrt([1, 3, 7]).sum() * 11
    generator, counts = np.random.default_rng(0), []
    for _ in range(3000):
        drawn = balanced_order(members, 11, 0.5, generator)
        assert len(drawn) == 11
        counts.append([np.isin(drawn, records).sum() for records in members])
    assert (np.abs(counts - expected) < 1).all()
    np.testing.assert_allclose(np.mean(counts, axis=0), expected, atol=0.04)


def test_records_of_a_class_come_equally_often_up_to_one():
    members = [np.arange(0, 3), np.arange(3, 40)]
    drawn = balanced_order(members, 46, 1.0, np.random.default_rng(1))
    counts = np.bincount(drawn, minlength=40)
    assert sorted(counts[:3]) == [7, 8, 8]
    assert set(counts[3:].tolist()) == {0, 1}
    assert counts[3:].sum() == 23


def test_the_order_is_mixed():
    members = [np.arange(0, 50), np.arange(50, 100)]
    drawn = balanced_order(members, 100, 0.0, np.random.default_rng(2))
    assert sorted(drawn.tolist()) == list(range(100))
    assert 15 < (drawn[:50] < 50).sum() < 35


def test_members_of_classes_are_found_whatever_their_codes():
    members = class_members([7, 0, 7, 255, 0], 5)
    assert [records.tolist() for records in members] == [[1, 4], [0, 2], [3]]


@pytest.mark.parametrize(("classes", "given"), [(None, 0), ([1, 2], 2)])
def test_a_record_without_a_class_is_refused(classes, given):
    with pytest.raises(ConfigError, match=f"each of 3 tiles and was given {given}"):
        class_members(classes, 3)
