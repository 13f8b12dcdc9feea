"""Splits by month: whole calendar months for all places, and a report that says what is shared."""

from collections import Counter, defaultdict

import pytest
from typer.testing import CliRunner

from data_prep.month_splits import (
    MonthSplitConfig,
    assign_months,
    month_report,
    month_split,
    split_dataset_by_month,
)
from data_prep.splits import assign_splits, leakage_report
from ecomap import cli
from ecomap.errors import RequestError
from ecomap.schema import read_dataset, read_summary, write_dataset
from tests.fakes import make_tile

CONFIG = MonthSplitConfig(test_frac=0.25, val_frac=0.15, seed=1)
YEARS = range(2001, 2201)
ALL_MONTHS = [f"{year}-{month:02d}" for year in YEARS for month in range(1, 13)]


def tiles(months, *, places=("1", "2"), batch="a"):
    return [
        make_tile(location_id=place, month=month, batch=batch, lat=float(place), lon=3.0)
        for place in places
        for month in months
    ]


def test_a_month_is_on_one_side_for_all_places_and_batches():
    months = ALL_MONTHS[:36]
    records = assign_months(tiles(months) + tiles(months[:20], places=("7",), batch="b"), CONFIG)
    sides = defaultdict(set)
    for record in records:
        sides[record.month].add(record.split)
    assert {len(found) for found in sides.values()} == {1}
    assert {side for found in sides.values() for side in found} == {"train", "val", "test"}


def test_a_side_does_not_change_when_the_dataset_grows():
    small = {r.month: r.split for r in assign_months(tiles(ALL_MONTHS[3:9]), CONFIG)}
    large = {r.month: r.split for r in assign_months(tiles(ALL_MONTHS[:60]), CONFIG)}
    assert small.items() <= large.items()


def test_every_year_gives_its_fractions_rounded_up_or_down():
    sides = {month: month_split(month, CONFIG) for month in ALL_MONTHS}
    for year in YEARS:
        counts = Counter(sides[month] for month in ALL_MONTHS if month.startswith(str(year)))
        assert counts["test"] == 3  # a quarter of 12
        assert counts["val"] in (1, 2)  # 1.8
    val_frac = sum(side == "val" for side in sides.values()) / len(sides)
    assert val_frac == pytest.approx(0.15, abs=0.01)


def test_every_calendar_month_is_held_out_in_some_year():
    held_out = Counter(m[5:] for m in ALL_MONTHS if month_split(m, CONFIG) == "test")
    assert len(held_out) == 12
    assert min(held_out.values()) > 0.15 * len(YEARS)


def test_another_seed_is_another_choice():
    other = MonthSplitConfig(test_frac=0.25, val_frac=0.15, seed=2)
    assert any(month_split(m, CONFIG) != month_split(m, other) for m in ALL_MONTHS[:12])


def test_the_report_says_that_places_are_shared_and_counts_months():
    records = assign_months(tiles(ALL_MONTHS[:24]), CONFIG)
    report = month_report(records)
    assert report["shared_places"] == 2
    assert report["places"] == {"test": 2, "train": 2, "val": 2}
    assert report["train_test"] == {"gap_tiles": -1.0, "edge_km": 0.0, "centre_km": 0.0}
    assert sum(report["months"].values()) == 24
    assert report["months_by_batch"] == {"made/a": report["months"]}
    assert report["tiles"] == {side: 2 * count for side, count in report["months"].items()}
    assert "2 places have months on several sides" in report["notes"][0]


def test_the_report_counts_held_out_tiles_beside_a_training_month():
    months = ["2020-01", "2020-02", "2020-06", "2020-12", "2021-01"]
    sides = ["train", "test", "test", "val", "train"]
    records = [
        record.model_copy(update={"split": side})
        for record, side in zip(tiles(months, places=("1",)), sides, strict=True)
    ]
    report = month_report(records)
    assert report["neighbour_frac"] == pytest.approx(2 / 3, abs=1e-4)  # across the year's end too
    assert any(note.startswith("67% of the held-out tiles") for note in report["notes"])


def test_a_batch_without_a_side_is_named():
    month = {month_split(m, CONFIG): m for m in ALL_MONTHS[:36]}
    lone = tiles([month["train"]], places=("9",), batch="lone")
    report = month_report(assign_months(tiles(ALL_MONTHS[:36]) + lone, CONFIG))
    assert [note for note in report["notes"] if "lone" in note] == [
        "made/lone has no month for test.",
        "made/lone has no month for val.",
    ]


def test_a_split_by_place_shares_none():
    records = assign_splits(tiles(ALL_MONTHS[:3]))
    assert leakage_report(records)["shared_places"] == 0


def test_fractions_that_leave_nothing_are_refused():
    with pytest.raises(RequestError, match="must stay below 1"):
        assign_months(tiles(["2020-01"]), MonthSplitConfig(test_frac=0.7, val_frac=0.3))


def test_a_folder_is_divided_in_place_and_says_how(tmp_path):
    records = tiles(ALL_MONTHS[:24])
    write_dataset(tmp_path, records, summary={"kept": 48})
    report = split_dataset_by_month(tmp_path, CONFIG)
    assert read_dataset(tmp_path) == assign_months(records, CONFIG)
    summary = read_summary(tmp_path)
    assert summary["kept"] == 48
    assert summary["split"] == {
        "by": "month", "test_frac": 0.25, "val_frac": 0.15, "seed": 1, "report": report
    }  # fmt: skip


def test_the_verb_divides_by_month_on_request_and_by_place_else(tmp_path):
    write_dataset(tmp_path, tiles(ALL_MONTHS[:24]))
    words = ["data", "split", str(tmp_path), "--seed", "1", "--test-frac", "0.25"]
    runner = CliRunner()
    assert runner.invoke(cli.app, [*words, "--by", "month", "--val-frac", "0.15"]).exit_code == 0
    assert [r.split for r in read_dataset(tmp_path)] == [
        r.split for r in assign_months(tiles(ALL_MONTHS[:24]), CONFIG)
    ]
    assert runner.invoke(cli.app, words).exit_code == 0
    assert leakage_report(read_dataset(tmp_path))["shared_places"] == 0
    refused = runner.invoke(cli.app, [*words, "--by", "month", "--block-deg", "2"])
    assert refused.exit_code == 2
    assert "months have no blocks" in refused.stderr
    assert runner.invoke(cli.app, [*words, "--by", "year"]).exit_code == 2
