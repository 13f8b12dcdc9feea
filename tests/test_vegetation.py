"""Vegetation statistics as a whole."""

import numpy as np
import pytest

from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.schema import LandCover
from ecomap.scores import OBSERVED, find, to_frame
from ecomap.vegetation import METRICS, vegetation_scores
from tests.panel_world import made_table, noise, with_index

QUICK = EvaluateConfig(num_draws=20, num_permutations=20)
COVERS = (LandCover.GRASSLANDS,) * 3 + (LandCover.CROPLANDS,)


@pytest.fixture(scope="module")
def table():
    made = made_table(num_places=9, covers=COVERS)
    made = with_index(made, 0.01 * made["temperature_c"] + 0.05 * noise(made, 1))
    return with_index(made, 3 * made["gcc"] - 1, "exg")


@pytest.fixture(scope="module")
def scores(table):
    generated = with_index(table, table["gcc"] + 0.02 * noise(table, 2))
    return vegetation_scores(table, {"generated": generated}, QUICK)


def test_observed_and_every_system_are_scored_with_two_that_know_no_climate(scores) -> None:
    assert {score.system for score in scores} == {
        OBSERVED,
        "generated",
        "place_only",
        "month_only",
    }
    assert {score.section for score in scores} == {"vegetation"}
    assert {score.metric for score in scores} == set(METRICS) - {"tiles_left_out"}
    followed, place_only = (
        find(
            scores,
            metric="climate_correlation_pearson",
            system=system,
            group="all",
            detail="gcc ~ temperature_c lag 0 | within place",
        )[0]
        for system in ("generated", "place_only")
    )
    assert followed.value > 0.5
    assert place_only.value is None


def test_no_two_scores_are_of_the_same_thing(scores) -> None:
    frame = to_frame(scores)
    keys = ["system", "metric", "detail", "group_kind", "group"]
    assert not frame.duplicated(keys).any()


def test_every_missing_value_says_why(scores) -> None:
    assert all(score.flag for score in scores if score.value is None)


def test_lags_are_scored_over_all_tiles_only(scores) -> None:
    lagged = [score for score in scores if " lag 3 " in score.detail]
    assert {score.group_kind for score in lagged} == {"all"}
    assert {score.metric for score in lagged} == {"climate_correlation_pearson"}


def test_a_land_cover_with_too_few_places_has_one_row_a_metric(scores) -> None:
    small = find(scores, group="Croplands", system="generated")
    assert {score.flag for score in small} == {"refused: 2 places, 5 needed"}
    assert len(small) == len({score.metric for score in small}) > 5
    assert {s.metric for s in find(scores, group="Croplands", system=OBSERVED)} == {
        "climate_correlation_pearson",
        "climate_slope",
    }
    assert any(score.value is not None for score in find(scores, group="Grasslands"))


def test_progress_is_told_the_groups_and_reserved_names_are_refused(table) -> None:
    told: list[str] = []
    config = QUICK.model_copy(update={"groups": (), "min_places": 20})
    vegetation_scores(table, {}, config, progress=told.append)
    assert told == ["vegetation statistics: all"]
    with pytest.raises(RequestError, match="place_only"):
        vegetation_scores(table, {"place_only": table}, QUICK)


def test_a_table_without_any_index_says_so(table) -> None:
    (score,) = vegetation_scores(table.assign(gcc=np.nan, exg=np.nan), {}, QUICK)
    assert score.value is None
    assert score.flag.startswith("none of the indices gcc, vari")
