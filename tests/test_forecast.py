"""Forecast skill in GreenEarthNet's manner: averages, gains, refusals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.forecast import METRICS, OTHER_PLACES, forecast_scores
from ecomap.schema import LandCover
from ecomap.scores import OBSERVED, find
from tests.panel_world import made_table, noise, with_index

QUICK = EvaluateConfig(num_draws=100, min_places=2)
COVERS = (LandCover.GRASSLANDS,) * 2 + (LandCover.CROPLANDS,) * 2


def shifted(by: list[float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Observed months 0 to 11 at each place, and a forecast that is too high by so much."""
    table = made_table(num_places=len(by), covers=COVERS)
    values = np.tile(np.arange(12.0), len(by))
    return with_index(table, values), with_index(table, values + np.repeat(by, 12))


def test_places_are_averaged_in_classes_and_classes_alike() -> None:
    real, made = shifted([1, 3, 10, 10])
    scores = {
        s.metric: s
        for s in forecast_scores(real, {"a": made}, QUICK)
        if s.group == "all" and s.system == "a"
    }
    # classes (1 + 3) / 2 and 10
    assert scores["forecast_rmse"].value == pytest.approx((2 + 10) / 2)
    assert scores["forecast_bias"].value == pytest.approx((2 + 10) / 2)
    assert scores["forecast_r2"].value == pytest.approx(1)
    # NSE 1 - d^2 / (143 / 12), and 1 / (2 - NSE) averaged
    normal = [1 / (1 + d**2 / (143 / 12)) for d in (1, 3, 10)]
    mean = ((normal[0] + normal[1]) / 2 + normal[2]) / 2
    assert scores["forecast_nse"].value == pytest.approx(2 - 1 / mean)
    assert scores["forecast_nse"].n == 4
    crops = find(
        forecast_scores(real, {"a": made}, QUICK),
        group="Croplands",
        metric="forecast_rmse",
        system="a",
    )
    assert crops[0].value == pytest.approx(10)


def test_labels_say_that_this_is_not_greenearthnets_own_table() -> None:
    assert all("GreenEarthNet-style, monthly, tile means" in m.label for m in METRICS.values())


def test_a_system_is_held_against_the_climatology() -> None:
    table = made_table(num_places=10)
    truth = noise(table, 1)
    real = with_index(table, truth)
    systems = {
        "good": with_index(table, truth + 0.1 * noise(table, 2)),
        "class_month_mean": with_index(table, noise(table, 3)),
    }
    scores = forecast_scores(real, systems, QUICK)
    (good,) = find(scores, system="good", metric="forecast_outperformance", group="all")
    assert good.value == 1
    assert good.p_value == pytest.approx(2 / 2**10)  # all ten gains are positive
    (rmse,) = find(scores, system="good", metric="forecast_rmse", group="all")
    error = [
        np.sqrt(((systems[name]["gcc"] - truth) ** 2).groupby(table["place"]).mean())
        for name in ("class_month_mean", "good")
    ]
    assert rmse.p_value == pytest.approx(stats.wilcoxon(error[0] - error[1]).pvalue)
    assert rmse.low < rmse.value < rmse.high
    (itself,) = find(
        scores, system="class_month_mean", metric="forecast_outperformance", group="all"
    )
    assert (itself.value, itself.p_value) == (0, None)


def test_the_climatology_of_the_place_comes_before_that_of_the_class_unless_named() -> None:
    table = made_table(num_places=10)
    truth = noise(table, 1)
    systems = {
        "class_month_mean": with_index(table, noise(table, 3)),
        "place_month_mean": with_index(table, truth),
        "good": with_index(table, truth + 0.1 * noise(table, 2)),
    }

    def share(climatology: str | None) -> float:
        scores = forecast_scores(with_index(table, truth), systems, QUICK, climatology=climatology)
        return find(scores, system="good", metric="forecast_outperformance", group="all")[0].value

    assert share(None) == share("place_month_mean") == 0
    assert share("class_month_mean") == 1
    with pytest.raises(RequestError, match="'nothing'"):
        share("nothing")


def test_outperformance_is_a_share_of_places_not_of_classes() -> None:
    # Two grasslands, one better than the climatology, and a better cropland.
    real, made = shifted([0, 9, 0])
    climatology = shifted([5, 5, 5])[1]
    scores = forecast_scores(real, {"a": made, "class_month_mean": climatology}, QUICK)
    (score,) = find(scores, system="a", metric="forecast_outperformance", group="all")
    assert score.value == pytest.approx(2 / 3)


def test_what_is_missing_is_said() -> None:
    real, made = shifted([1, 3, 10, 10])
    made.iloc[:7, made.columns.get_loc("gcc")] = np.nan
    scores = forecast_scores(real, {"a": made}, QUICK)
    (rmse,) = find(scores, system="a", metric="forecast_rmse", group="all")
    assert rmse.n == 3
    assert "1 of 4 places left out: fewer than 6 months, or constant" in rmse.flag
    (none,) = find(scores, system="a", metric="forecast_outperformance", group="all")
    assert (none.value, none.flag) == (None, "refused: no climatology on the same months")
    few = forecast_scores(real, {"a": made}, QUICK.model_copy(update={"min_places": 4}))
    (refused,) = find(few, system="a", metric="forecast_rmse", group="all")
    assert refused.value is None
    assert refused.flag.startswith("refused: 3 places, 4 needed")
    assert all(score.flag for score in few if score.value is None)


def test_month_only_is_scored_too_and_place_only_is_not() -> None:
    real, made = shifted([1, 3, 10, 10])
    systems = {score.system for score in forecast_scores(real, {"a": made}, QUICK)}
    assert systems == {"a", "month_only"}
    assert OBSERVED not in systems


def test_snow_is_no_greenness() -> None:
    real, made = shifted([1, 3, 10, 10])
    real, made = (t.assign(snow_frac=t["gcc"], ndvi=t["gcc"]) for t in (real, made))
    details = {score.detail for score in forecast_scores(real, {"a": made}, QUICK)}
    assert details == {"gcc", "ndvi"}


def test_a_climatology_of_other_places_is_named_as_such() -> None:
    real, made = shifted([1, 2, 3, 4])
    for name, words in (("place_month_mean", ""), ("class_month_mean", OTHER_PLACES)):
        scores = forecast_scores(real, {"a": made, name: real}, QUICK)
        (row,) = find(
            scores, system="a", metric="forecast_outperformance", detail="gcc", group="all"
        )
        assert row.value is not None
        assert (OTHER_PLACES in row.flag) == bool(words)
        (other,) = find(scores, system="a", metric="forecast_rmse", detail="gcc", group="all")
        assert OTHER_PLACES not in other.flag
