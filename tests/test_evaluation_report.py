"""Reports: what is written is what is read, in every view, and what is wrong is named."""

import json
import re

import pandas as pd
import pytest

from ecomap.errors import DataError
from ecomap.evaluation_report import (
    MARKDOWN_FILE,
    REPORT_FILE,
    SCORES_FILE,
    TILE_COLUMNS,
    TILES_FILE,
    group_tables,
    heading_of,
    markdown,
    markdown_table,
    published_tables,
    read_report,
    read_tiles,
    replacing,
    section_tables,
    system_kinds,
    write_report,
)
from ecomap.page import Table
from ecomap.published import published_scores
from ecomap.scores import OBSERVED, to_frame
from tests.made_report import COVERS, NOISE, make_report, make_score, make_scores, make_tables

TABLES = make_tables()
REPORT = make_report(TABLES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "deep" / "evaluate"
    write_report(path, REPORT, TABLES)
    return path


def by_name(table: Table) -> dict[str, dict[str, object]]:
    return {str(row[0]): dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def test_a_report_is_read_as_it_was_written(folder):
    assert read_report(folder) == REPORT
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [REPORT_FILE, SCORES_FILE, TILES_FILE, MARKDOWN_FILE]
    )


def test_json_states_everything_and_no_nan(folder):
    text = (folder / REPORT_FILE).read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert content["schema_version"] == 1
    assert content["config"]["equal_n"] == 30
    assert content["inputs"][0]["dropped"] == {"mostly masked": 3, "unreadable": 1}
    assert content["systems"][1]["problems"] == {"blank": ["p1_01", "p1_02"]}
    assert [s["value"] for s in content["scores"]] == [s.value for s in REPORT.scores]
    assert None in [s["value"] for s in content["scores"]]
    assert len(content["published"]) == len(published_scores())


def test_equal_runs_write_equal_files(folder, tmp_path):
    write_report(tmp_path, REPORT, TABLES)
    for name in (REPORT_FILE, SCORES_FILE, TILES_FILE, MARKDOWN_FILE):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_csv_has_one_row_a_score(folder):
    table = pd.read_csv(folder / SCORES_FILE, keep_default_na=False)
    assert list(table.columns) == list(to_frame([]).columns)
    assert table["flag"].tolist() == [score.flag for score in REPORT.scores]
    values = ["" if score.value is None else str(score.value) for score in REPORT.scores]
    assert table["value"].astype(str).tolist() == values


def test_tiles_hold_all_tables_by_system_and_key(folder):
    joined = pd.read_parquet(folder / TILES_FILE)
    assert list(joined.columns[:2]) == ["system", "key"]
    assert joined["system"].value_counts().to_dict() == dict.fromkeys([OBSERVED, *NOISE], 144)
    read = read_tiles(folder)
    assert list(read) == list(TABLES)
    for name, table in TABLES.items():
        known = table.columns[table.notna().any() | table.columns.isin(TILE_COLUMNS)]
        assert set(read[name].columns) == set(known)
        pd.testing.assert_frame_equal(read[name][known], table[known], check_dtype=False)


def test_measures_that_a_system_lacks_are_absent_and_tile_columns_never(folder):
    real, made = (read_tiles(folder)[name] for name in (OBSERVED, "generated"))
    assert "psnr_db" not in real
    assert "psnr_db" in made
    assert "ndvi" not in real
    assert set(TILE_COLUMNS) <= set(real.columns)
    assert real["cloud_frac"].isna().all()


def test_a_measure_that_few_images_have_is_kept(tmp_path):
    ndvi = pd.Series(0.5, index=TABLES[OBSERVED].index[:1])
    tables = {OBSERVED: TABLES[OBSERVED].assign(ndvi=ndvi)}
    write_report(tmp_path, REPORT, tables)
    assert read_tiles(tmp_path)[OBSERVED]["ndvi"].dropna().tolist() == [0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory. Give a folder that"),
        ("{", "is not valid JSON"),
        ("[1]", "has schema version None, expected 1"),
        ('{"schema_version": 2}', "has schema version 2, expected 1"),
        ('{"schema_version": 1}', "command: Field required"),
    ],
)
def test_a_file_that_is_no_report_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / REPORT_FILE).write_text(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_report(tmp_path)
    assert str(tmp_path / REPORT_FILE) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"systems": [{"name": "a"}]}, "systems.0.kind: Field required"),
        ({"config": {"equal_n": 1}}, "config.equal_n: Input should be greater"),
    ],
)
def test_a_wrong_entry_is_named(folder, tmp_path, change, message):
    content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    (tmp_path / REPORT_FILE).write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=re.escape(message)):
        read_report(tmp_path)


def test_missing_and_damaged_tiles_are_named(tmp_path):
    with pytest.raises(DataError, match=re.escape(str(tmp_path / TILES_FILE))):
        read_tiles(tmp_path)
    (tmp_path / TILES_FILE).write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_tiles(tmp_path)


def test_a_report_without_tables_or_scores_is_written(tmp_path):
    bare = make_report({}, [], systems=[], published=[], metrics={}, inputs=[])
    write_report(tmp_path, bare, {})
    assert read_report(tmp_path) == bare


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert [(child.name, child.read_text()) for child in tmp_path.iterdir()] == [("a.txt", "old")]


def test_judged_systems_come_first_and_real_images_last():
    kinds = system_kinds(REPORT)
    first, *_, last = kinds
    assert (first, last) == ("generated", OBSERVED)
    assert kinds["real_vs_real"] == "floor"
    assert [*dict.fromkeys(kinds.values())] == [
        "generated",
        "baseline",
        "null",
        "floor",
        "observed",
    ]
    unknown = make_report({}, [make_score("place_only"), make_score("what")], systems=[])
    assert system_kinds(unknown) == {"place_only": "null", "what": "other"}


def test_headings_carry_unit_and_direction():
    assert heading_of(REPORT, "psnr_db") == "PSNR (dB) ↑"
    assert heading_of(REPORT, "frechet_distance") == "Fréchet distance ↓"
    assert heading_of(REPORT, "slope_ratio") == "Slope ratio → 1"
    assert heading_of(REPORT, "climate_slope") == "Slope (per unit)"
    assert heading_of(REPORT, "not_described") == "not described"


def test_a_table_for_each_feature_space_with_baselines_and_floors():
    tables = section_tables(REPORT, "realism")
    assert [table.caption for table in tables] == ["eo", "colour_texture"]
    rows = by_name(tables[0])
    assert list(rows) == [
        *("generated", "climate analogue", "shuffled climate", "autoencoder", "real vs real"),
    ]
    assert rows["real vs real"] == {
        "kind": "floor",
        "n": "144",
        "Fréchet distance ↓": "90 [82, 98]",
        "Coverage ↑": "0.5 [0.4, 0.6]",
    }


def test_a_score_that_a_system_has_not_is_a_dash_and_flags_are_explained():
    (table,) = section_tables(REPORT, "forecast")
    assert table.rows == [["generated", "generated", "12", "n/a †"]]
    assert table.caption == "gcc. † 12 months of one year: climatology is unknown"
    greenness = by_name(section_tables(REPORT, "vegetation")[0])
    name = "anomaly pearson given place and month"
    assert greenness["generated"][name] == "0.4 [0.25, 0.5], p 0.002"
    assert greenness["persistence"][name] == "–"


def test_numbers_of_images_that_differ_are_a_range():
    scores = [make_score(n=10), make_score(metric="index_mae", n=7)]
    (table,) = section_tables(make_report({}, scores), "vegetation")
    assert table.rows[0][:3] == ["generated", "generated", "7 to 10"]


def test_slopes_stand_under_each_other_with_systems_side_by_side():
    tables = {t.caption: t for t in section_tables(REPORT, "vegetation")}
    slopes = tables["Slope (per unit)"]
    assert slopes.columns == ["", "n, at most", "generated", "observed"]
    assert [row[0] for row in slopes.rows] == [
        "gcc ~ temperature_c lag 0 | raw",
        "gcc ~ temperature_c lag 0 | within place",
    ]
    assert slopes.rows[0][1:] == [144, "0.0038 [0.003, 0.0045]", "0.004 [0.003, 0.005]"]
    assert tables["Slope ratio → 1"].columns == ["", "n, at most", "generated"]


def test_systems_may_rest_on_different_numbers_of_images():
    rows = [make_score(name, metric="slope_ratio", detail="gcc ~ temperature_c lag 0 | raw", n=n)
            for name, n in (("generated", 7), ("autoencoder", 9))]  # fmt: skip
    (table,) = section_tables(make_report({}, rows), "vegetation")
    assert table.rows[0][1] == 9


def test_pages_show_main_indices_and_the_csv_all(folder):
    captions = [table.caption for table in section_tables(REPORT, "vegetation")]
    assert "vari" not in captions
    assert {"gcc", "snow_frac"} <= set(captions)
    assert "vari" in set(pd.read_csv(folder / SCORES_FILE)["detail"])


def test_tiles_left_out_stand_by_reason():
    rows = [
        make_score(metric="tiles_left_out", detail=reason, value=value)
        for reason, value in (("cloud_frac above 0.3", 3.0), ("month not known", 1.0))
    ]
    (table,) = section_tables(make_report({}, rows), "vegetation")
    assert table.caption == "tiles left out"
    assert [row[0] for row in table.rows] == ["cloud_frac above 0.3", "month not known"]


def test_groups_stand_under_each_other_with_systems_side_by_side():
    tables = group_tables(REPORT, "land_cover")
    assert [table.caption for table in tables] == [
        "Fréchet distance ↓, eo. † refused: 7 images, 30 needed",
        "Fréchet distance ↓, colour_texture. † refused: 7 images, 30 needed",
        "RMSE ↓, gcc",
    ]
    rows = by_name(tables[0])
    assert list(rows) == [cover.label for cover in COVERS]
    assert rows["Barren or Sparsely Vegetated"]["generated"] == "n/a †"
    assert rows["Mixed Forests"]["n, at most"] == 30
    assert rows["Mixed Forests"]["real vs real"] == "110 [81, 120]"
    assert group_tables(REPORT, "season") == []


def test_published_tables_state_each_reason_once_and_numbers_as_printed():
    reasons, *tables = published_tables(published_scores())
    assert len({row[2] for row in reasons.rows}) == len(reasons.rows) == 10
    assert ["CLIP", "7", "above 1, which no cosine can be"] in reasons.rows
    assert [table.caption.split(" of ")[0] for table in tables] == [
        f"Table {number}" for number in (1, 2, 3, 5, 7, 8, 9)
    ]
    assert tables[0].columns == ["model", "group", "FID", "CLIP", "SSIM", "PSNR", "LPIPS"]
    assert tables[0].rows[0] == ["SD3", "all", "157.36", "0.29", "0.14", "8.25", "0.85"]
    assert tables[-1].rows[0][2:4] == ["68", "4.7"]
    assert published_tables([]) == []


def test_markdown_tells_claims_first_and_how_to_get_the_numbers():
    text = markdown(REPORT)
    heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert heads == [
        *("The numbers support", "The numbers do not support", "The numbers do not decide"),
        *("How to read this", "Realism", "Against the real image of the same place and month"),
        *("Vegetation and climate", "Response when only the climate changes"),
        *("Forecast of monthly greenness", "By land cover", "Published elsewhere", "Metrics"),
        "Made by",
    ]
    assert "One year only." in text
    assert "Brackets: intervals of 95 %." in text
    assert "- **Fréchet distance**: |m1 - m2|²" in text
    assert "**Unused**" not in text
    assert text.endswith(f"`{REPORT.command}`\n")
    bare = markdown(make_report({}, [], claims=[], published=[]))
    assert re.findall(r"^## (.+)$", bare, re.MULTILINE) == [
        "How to read this", "Metrics", "Made by",
    ]  # fmt: skip


def test_markdown_tables_keep_their_columns():
    table = Table(["a", "b|c"], [["gcc ~ x | raw", 0.5], ["two\nlines", None]], "Words")
    assert markdown_table(table).splitlines() == [
        "Words",
        "",
        "| a | b\\|c |",
        "| --- | --- |",
        "| gcc ~ x \\| raw | 0.5 |",
        "| two lines | n/a |",
    ]


def test_scores_in_the_report_are_those_given():
    assert REPORT.scores == make_scores()
