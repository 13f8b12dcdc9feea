"""The long table of scores."""

import math

from ecomap.scores import OBSERVED, Score, find, to_frame


def score(**fields) -> Score:
    values = {"system": "generated", "section": "paired", "metric": "psnr_db", "value": 1.0, "n": 2}
    return Score(**(values | fields))


def test_undefined_numbers_become_none():
    one = score(value=math.nan, low=-math.inf, high=math.inf, p_value=0.5)
    assert (one.value, one.low, one.high, one.p_value) == (None, None, None, 0.5)


def test_numbers_of_numpy_become_plain():
    import numpy as np

    assert type(score(value=np.float32(0.5)).value) is float


def test_scores_are_found_by_all_given_fields():
    scores = [score(), score(system=OBSERVED), score(group="Savannas", group_kind="land_cover")]
    assert find(scores, system="generated", group="all") == [scores[0]]
    assert find(scores, metric="none") == []


def test_a_frame_has_a_column_for_each_field_even_without_scores():
    frame = to_frame([score(low=0.0)])
    assert frame.loc[0, ["system", "value", "low", "n"]].tolist() == ["generated", 1.0, 0.0, 2]
    assert list(to_frame([]).columns) == list(frame.columns)
