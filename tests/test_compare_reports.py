"""Comparison of runs: image by image on the same images, and sets side by side."""

import json

import numpy as np
import pandas as pd
import pytest

from ecomap.claims import PairedTest, paired_test
from ecomap.compare_reports import (
    COMPARE_FILE,
    MARKDOWN_FILE,
    MEASURES,
    PAGE_FILE,
    Comparison,
    Difference,
    SetLevel,
    compare_runs,
)
from ecomap.errors import DataError, RequestError
from ecomap.evaluation_report import Input, Space, write_report
from ecomap.scores import OBSERVED
from tests.made_report import CONFIG, NOISE, make_report, make_score, make_scores, make_tables
from tests.test_page import Parsed

TABLES = make_tables()
WORSE = make_tables(noise=NOISE | {"generated": 0.06})


def write(path, tables, scores=None, **fields):
    write_report(path, make_report(tables, scores, **fields), tables)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write(folder / "a", TABLES), write(folder / "b", WORSE), folder / "compared"


@pytest.fixture(scope="module")
def compared(runs):
    return compare_runs(*runs)


def one(comparison, measure, group="all"):
    (found,) = [d for d in comparison.differences if (d.measure, d.group) == (measure, group)]
    return found


def test_a_worse_run_is_worse_in_every_measure(compared):
    assert [(d.measure, d.is_better) for d in compared.differences if d.group == "all"] == [
        ("gcc", False), ("snow_frac", False), ("psnr_db", False), ("perceptual", False),
    ]  # fmt: skip


def test_the_other_way_round_it_is_better(runs, tmp_path):
    back = compare_runs(runs[1], runs[0], tmp_path)
    assert {d.is_better for d in back.differences if d.group == "all"} == {True}


def test_differences_are_second_less_first_on_the_same_images(compared):
    real = TABLES[OBSERVED]["gcc"]
    first = (TABLES["generated"]["gcc"] - real).abs()
    second = (WORSE["generated"]["gcc"] - real).abs()
    test = one(compared, "gcc").test
    assert test.mean_a == pytest.approx(first.mean())
    assert test.mean_b == pytest.approx(second.mean())
    assert test.difference == pytest.approx((second - first).mean())
    assert (test.n, test.num_blocks) == (144, 12)


def test_equal_runs_are_not_told_apart(runs, tmp_path):
    same = compare_runs(runs[0], runs[0], tmp_path)
    assert {d.is_better for d in same.differences} == {None}
    assert {d.test.difference for d in same.differences} == {0.0}


def test_land_covers_are_compared_apart_and_few_blocks_do_not_decide(compared):
    grass = one(compared, "gcc", "Grasslands")
    assert (grass.group_kind, grass.test.n, grass.test.num_blocks) == ("land_cover", 48, 4)
    assert grass.test.low > 0
    assert grass.is_better is None
    real = TABLES[OBSERVED][lambda table: table["land_cover"] == "Grasslands"]
    first, second = (
        (t["generated"]["gcc"] - real["gcc"]).abs()[real.index] for t in (TABLES, WORSE)
    )
    expected = paired_test(first, second, real["block"].to_numpy(), num_draws=CONFIG.num_draws)
    assert grass.test == expected


def test_only_images_of_both_runs_count(tmp_path):
    fewer = TABLES | {"generated": TABLES["generated"].iloc[10:].sample(frac=1, random_state=0)}
    a = write(tmp_path / "a", TABLES | {"generated": TABLES["generated"].iloc[:100]})
    comparison = compare_runs(a, write(tmp_path / "b", fewer), tmp_path / "c")
    assert one(comparison, "gcc").test.n == 90
    assert one(comparison, "gcc").test.difference == 0
    assert comparison.notes[0].startswith(
        "Image by image: 90 images that both have, of 100 and 134"
    )


def test_infinite_values_are_left_out_and_counted(tmp_path):
    copied = TABLES["generated"].copy()
    copied.loc[copied.index[:2], "psnr_db"] = np.inf
    a = write(tmp_path / "a", TABLES | {"generated": copied})
    comparison = compare_runs(a, write(tmp_path / "b", TABLES), tmp_path / "c")
    assert (one(comparison, "psnr_db").test.n, one(comparison, "psnr_db").test.num_left_out) == (
        142,
        2,
    )


def measured(name, own, real=None):
    table, truth = pd.DataFrame(own), pd.DataFrame(real or own)
    return MEASURES[name].values(table, truth).tolist()


def test_measures_by_hand():
    assert measured("gcc", {"gcc": [0.3, 0.5]}, {"gcc": [0.4, 0.4]}) == pytest.approx([0.1, 0.1])
    assert measured("psnr_db", {"psnr_db": [20.0]}) == [20.0]
    temperature = {"predicted_temperature_c": [3.0, -2.0], "temperature_c": [5.0, 2.0]}
    assert measured("temperature_c", temperature) == [2.0, 4.0]
    months = {
        "predicted_season_month": [1.0, 12.0, 7.0, 12.0, 7.0],
        "month_index": [11.0, 11.0, 0.0, 1.0, 0.0],
        "lat": [50.0, 0.0, 10.0, 1.0, -30.0],
    }
    assert measured("season", months) == [1.0, 0.0, 6.0, 2.0, 0.0]
    covers = {
        "predicted_land_cover": [10.0, 16.0, 10.0, np.nan],
        "land_cover": ["Grasslands", "Grasslands", None, "Grasslands"],
    }
    assert measured("land_cover", covers)[:2] == [1.0, 0.0]
    assert np.isnan(measured("land_cover", covers)[2:]).all()


def test_a_measure_that_one_run_lacks_is_not_compared(tmp_path):
    less = TABLES | {"generated": TABLES["generated"].drop(columns="psnr_db")}
    comparison = compare_runs(
        write(tmp_path / "a", TABLES), write(tmp_path / "b", less), tmp_path / "c"
    )
    assert "psnr_db" not in {d.measure for d in comparison.differences}


@pytest.mark.parametrize(
    ("better", "low", "high", "num_blocks", "expected"),
    [
        ("lower", -2.0, -1.0, 6, True),
        ("lower", 1.0, 2.0, 6, False),
        ("higher", 1.0, 2.0, 6, True),
        ("higher", -2.0, -1.0, 6, False),
        ("higher", -1.0, 1.0, 6, None),
        ("lower", -2.0, -1.0, 5, None),
        ("lower", None, None, 1, None),
    ],
)
def test_better_depends_on_the_direction_of_the_measure(better, low, high, num_blocks, expected):
    test = PairedTest(mean_a=0, mean_b=0, difference=0, low=low, high=high, p_value=None, n=9,
                      num_blocks=num_blocks, num_left_out=0)  # fmt: skip
    assert Difference(measure="gcc", better=better, test=test).is_better is expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1.0, 2.0), (2.1, 3.0), True),
        ((2.1, 3.0), (1.0, 2.0), True),
        ((1.0, 2.0), (2.0, 3.0), False),
        ((1.0, 4.0), (2.0, 3.0), False),
        ((None, None), (2.0, 3.0), None),
        ((0.0, 0.0), (0.0, 0.0), False),
    ],
)
def test_sets_are_apart_where_intervals_do_not_touch(first, second, expected):
    rows = [make_score(low=low, high=high) for low, high in (first, second)]
    assert SetLevel(first=rows[0], second=rows[1]).separate is expected


def test_sets_are_matched_by_metric_detail_and_group(compared):
    own = [score for score in make_scores() if score.system == "generated"]
    assert [pair.first for pair in compared.sets] == own
    assert all(pair.first == pair.second for pair in compared.sets)


def test_notes_tell_what_differs_beside_the_images(tmp_path):
    a = write(tmp_path / "a", TABLES)
    config = CONFIG.model_copy(update={"equal_n": 20, "batch_size": 4, "seed": 3})
    space = Space(description="our network", identity="d" * 64, width=256)
    scores = [make_score(n=70), *make_scores()[1:]]
    b = write(tmp_path / "b", TABLES, scores, config=config, spaces={"eo": space})
    notes = " ".join(compare_runs(a, b, tmp_path / "c").notes)
    assert "equal_n: 30 and 20." in notes
    assert "batch_size" not in notes
    assert "weights of eo differ" in notes
    assert "other numbers of images" not in notes
    changed = [make_score(**vars(score) | {"n": 9}) for score in make_scores()]
    b = write(tmp_path / "d", TABLES, changed)
    notes = " ".join(compare_runs(a, b, tmp_path / "c").notes)
    assert "other numbers of images in the two runs" in notes
    assert "settings differ" not in notes
    assert "weights" not in notes


def test_other_references_are_refused(tmp_path):
    a = write(tmp_path / "a", TABLES)
    b = write(tmp_path / "b", TABLES, inputs=[Input(name="r", path="x", sha256="f" * 64, kept=1)])
    with pytest.raises(
        RequestError, match=r"sha256 aaaaaaaaaaaa, .* with ffffffffffff\. Evaluate both"
    ):
        compare_runs(a, b, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_system_that_a_run_lacks_and_a_missing_report_are_named(runs, tmp_path):
    with pytest.raises(RequestError, match="has no images of 'mine', only of autoencoder, class"):
        compare_runs(*runs[:2], tmp_path, system="mine")
    with pytest.raises(DataError, match="cannot be read"):
        compare_runs(runs[0], tmp_path / "none", tmp_path)


def test_runs_without_a_common_image_are_refused(tmp_path):
    apart = TABLES | {"generated": TABLES["generated"].rename("x{}".format)}
    a, b = write(tmp_path / "a", TABLES), write(tmp_path / "b", apart)
    with pytest.raises(RequestError, match="no image of 'generated' of the same place and month"):
        compare_runs(a, b, tmp_path / "c")


def test_baselines_can_be_compared_too(runs, tmp_path):
    comparison = compare_runs(*runs[:2], tmp_path, system="autoencoder")
    assert comparison.system == "autoencoder"


def test_json_markdown_and_page_tell_the_same(runs, compared):
    output = runs[2]
    content = json.loads((output / COMPARE_FILE).read_text(encoding="utf-8"))
    assert Comparison.model_validate(content) == compared
    markdown = (output / MARKDOWN_FILE).read_text(encoding="utf-8")
    page = Parsed((output / PAGE_FILE).read_text(encoding="utf-8"))
    test = one(compared, "gcc").test
    cell = f"{test.difference:.3g} [{test.low:.3g}, {test.high:.3g}]"
    assert cell in markdown
    assert cell in page.text("td")
    assert "error of greenness, Grasslands" in page.text("td")
    assert "Fréchet distance ↓" in page.text("td")
    for note in compared.notes:
        assert note in markdown
    assert "4 measures are tested; about one in twenty would differ by chance alone." in markdown
    assert len(page.all("img")) == 1
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [COMPARE_FILE, MARKDOWN_FILE, PAGE_FILE]
    )
