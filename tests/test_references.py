"""References are earlier months of the same place that show something."""

import numpy as np
import pytest

from ecomap.references import NONE, References
from tests.fakes import make_tile


def months(records, references):
    """All references of each record with their gaps, by months."""
    found = []
    for i in range(len(records)):
        draws = np.linspace(0, 1, 50, endpoint=False)
        positions, gaps = references.choose(np.full(50, i), draws)
        found.append({(records[p].month, int(g)) for p, g in zip(positions, gaps, strict=True)
                      if p != NONE})  # fmt: skip
    return found


def test_references_are_earlier_months_of_the_same_place_within_the_gap():
    records = [make_tile(month=m) for m in ("2020-11", "2021-01", "2021-02", "2021-08")]
    records.append(make_tile(month="2021-01", location_id="2"))
    records.append(make_tile(month="2021-01", batch="b"))
    references = References(records, max_gap_months=3)
    assert months(records, references) == [
        set(), {("2020-11", 2)}, {("2020-11", 3), ("2021-01", 1)}, set(), set(), set(),
    ]  # fmt: skip
    assert references.without.tolist() == [0, 3, 4, 5]
    assert references.render() == (
        "2 of 6 tiles have a reference, 1.5 on average; 4 see an empty control."
    )


def test_months_of_a_mean_year_form_a_circle():
    records = [make_tile(month=m) for m in ("2004-01", "2004-07", "2004-12", "2003-01")]
    found = months(records, References(records, max_gap_months=5, wrap_year=True))
    assert found == [{("2004-12", 1)}, set(), {("2004-07", 5)}, {("2004-12", 1)}]
    wide = months(records, References(records, max_gap_months=12, wrap_year=True))
    assert wide[0] == {("2004-12", 1), ("2004-07", 6)}  # never the month itself, of any year


def test_frames_that_show_nothing_are_no_references():
    kinds = [
        {"cloud_frac": 0.31}, {"flags": ("black",)}, {"flags": ("white",)}, {"flags": ("blank",)},
        {"cloud_frac": 0.3}, {"cloud_frac": None}, {"flags": ("seam",)},
    ]  # fmt: skip
    records = [make_tile(month=f"2021-0{i + 1}", **kind) for i, kind in enumerate(kinds)]
    records.append(make_tile(month="2021-12"))
    found = months(records, References(records, max_gap_months=12, max_cloud_frac=0.3))
    assert {month for month, _ in found[-1]} == {"2021-05", "2021-06", "2021-07"}
    # They may still be targets.
    assert found[6] == {("2021-05", 2), ("2021-06", 1)}


def test_references_may_come_from_a_wider_pool():
    target, other = make_tile(month="2021-05"), make_tile(month="2021-04")
    stranger = make_tile(month="2021-04", location_id="7")
    references = References([target], max_gap_months=2, pool=[stranger, target, other])
    positions, gaps = references.choose(np.array([0]), np.array([0.99]))
    assert (positions.tolist(), gaps.tolist()) == ([2], [1])
    assert References([target], max_gap_months=2).without.tolist() == [0]


def test_every_reference_is_chosen_alike_often_and_draws_decide():
    records = [make_tile(month=f"2021-0{m}") for m in (1, 2, 3, 4)]
    references = References(records, max_gap_months=6)
    draws = np.random.default_rng(0).random(3000)
    positions, gaps = references.choose(np.full(3000, 3), draws)
    assert np.bincount(positions).min() > 900
    assert np.array_equal(gaps, 3 - positions)
    again = references.choose(np.full(3000, 3), draws)[0]
    assert np.array_equal(positions, again)
    last = np.nextafter(1.0, 0.0)
    assert references.choose(np.array([3]), np.array([last]))[0].tolist() == [2]


@pytest.mark.parametrize("count", [0, 1])
def test_without_any_reference_controls_are_empty(count):
    records = [make_tile()] * count
    references = References(records, max_gap_months=6)
    positions, gaps = references.choose(np.zeros(count, int), np.zeros(count))
    assert positions.tolist() == [NONE] * count
    assert gaps.tolist() == [0] * count
    if count:
        assert references.render() == "0 of 1 tiles have a reference; 1 see an empty control."


def test_a_month_may_be_its_own_reference():
    records = [make_tile(month=m) for m in ("2004-01", "2004-03")]
    found = months(
        records, References(records, min_gap_months=0, max_gap_months=11, wrap_year=True)
    )
    assert found[0] == {("2004-01", 0), ("2004-03", 10)}
    assert found[1] == {("2004-03", 0), ("2004-01", 2)}
    far = References(records, min_gap_months=3, max_gap_months=11, wrap_year=True)
    assert months(records, far) == [{("2004-03", 10)}, set()]
