"""Published scores: the numbers that were printed, and why ours may not stand beside them."""

import math
import re

import numpy as np
import pytest

from ecomap.errors import DataError
from ecomap.published import (
    PAPERS,
    PUBLISHED_PATH,
    REASONS,
    PublishedScore,
    published_scores,
    read_published,
)
from ecomap.schema import LAND_COVER_LABELS
from ecomap.tiles import EXTREMES

SCORES = published_scores()
ROW = SCORES[0].model_dump() | {"reasons": "jpeg;other_data"}


def select(**fields) -> list[PublishedScore]:
    return [s for s in SCORES if all(getattr(s, k) == v for k, v in fields.items())]


def value(**fields) -> float:
    (score,) = select(**fields)
    return score.value


def test_every_table_has_all_of_its_rows():
    counts = {table: len(select(table=table)) for table in range(1, 11)}
    # five metrics for each row; six with shares of years and classes, and with the Inception Score
    assert counts == {1: 25, 2: 30, 3: 5, 4: 0, 5: 48, 6: 0, 7: 90, 8: 75, 9: 18, 10: 0}


def test_numbers_are_those_of_the_paper():
    assert value(table=1, model="SD3-FT-HR", metric="FID") == 49.48
    assert value(table=1, model="DiffusionSat-FT", metric="PSNR") == 12.14
    assert value(table=2, group="low precipitation", metric="SSIM") == 0.43
    assert value(table=3, model="SD3 ControlNet", metric="FID") == 48.2
    assert value(table=5, group="2024", metric="FID") == 73.54
    assert value(table=8, group="Permanent Wetlands", metric="PSNR") == 8.61
    assert value(table=9, group="words, short", metric="IS") == 4.8


def test_groups_carry_our_names_so_that_tables_can_be_set_side_by_side():
    assert {s.group for s in select(group_kind="land_cover")} < set(LAND_COVER_LABELS.values())
    assert {s.group for s in select(group_kind="extreme")} == set(EXTREMES)
    assert {s.group for s in select(group_kind="year")} == {str(y) for y in range(2017, 2025)}


def test_shares_of_classes_and_of_years_are_whole():
    for kind, allowance in (("land_cover", 0.7), ("year", 0.2)):
        shares = [s.value for s in select(group_kind=kind, metric="share_percent")]
        assert math.isclose(sum(shares), 100, abs_tol=allowance)


@pytest.mark.parametrize(("table", "expected"), [(7, -0.978), (8, -0.973)])
def test_class_distances_follow_the_logarithm_of_the_class_share(table, expected):
    shares = {s.group: s.value for s in select(table=7, metric="share_percent")}
    fids = {s.group: s.value for s in select(table=table, metric="FID")}
    r = np.corrcoef([math.log10(shares[g]) for g in fids], list(fids.values()))[0, 1]
    assert r == pytest.approx(expected, abs=6e-4)
    assert "r = -0.98" in REASONS["unequal_n"]


def test_nothing_is_comparable_and_every_row_says_why():
    assert not any(score.comparable for score in SCORES)
    assert all(score.why and set(score.reasons) <= set(REASONS) for score in SCORES)
    assert {code for score in SCORES for code in score.reasons} == set(REASONS)
    assert {score.paper for score in SCORES} == set(PAPERS.values())


def test_impossible_clip_scores_are_kept_and_named():
    impossible = [s for s in SCORES if s.metric == "CLIP" and s.value > 1]
    assert sorted(s.value for s in impossible) == [1.489, 1.874]
    assert [s for s in SCORES if "impossible" in s.reasons] == impossible
    assert "above 1, which no cosine can be" in impossible[0].why


def test_reasons_fit_their_metric():
    assert all("clip_batches" in s.reasons for s in select(metric="CLIP"))
    assert all("unequal_n" in s.reasons for s in select(metric="FID"))
    for score in select(metric="PSNR"):
        assert ("unpaired" in score.reasons) == (score.model != "SD3 ControlNet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_kind": "land_cover", "group": "Grass"}, "group 'Grass' is no land cover"),
        ({"group_kind": "extreme", "group": "hot"}, "group 'hot' is no extreme"),
        ({"group_kind": "year", "group": "17"}, "group '17' is no year"),
        ({"group": "some"}, "group 'some' is no all"),
        ({"value": "nan"}, "value: Input should be a finite number"),
        ({"metric": "FVD"}, "metric: Input should be"),
        ({"reasons": "jpeg;guess"}, "reasons ['guess'] are not in REASONS"),
        ({"reasons": ""}, "comparable must be true without reasons"),
        ({"comparable": True}, "comparable must be true without reasons"),
        ({"source": "a blog"}, "source 'a blog' is no address of PAPERS"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(tmp_path, change, message):
    path = tmp_path / "scores.csv"
    row = ROW | change
    good = ",".join(str((ROW | {"metric": "LPIPS"})[name]) for name in row)
    path.write_text("\n".join([",".join(row), good, ",".join(map(str, row.values()))]))
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_published(path)
    assert f"{path}, row 3: " in str(caught.value)


def test_a_number_stated_twice_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "scores.csv"
    with pytest.raises(DataError, match="cannot be read"):
        read_published(path)
    lines = PUBLISHED_PATH.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines, lines[3]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"\(1, 'SD3', 'all', 'all', 'SSIM'\) more than once"):
        read_published(path)
