"""From folders to a report: the numbers are those that the made-up law demands."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from ecomap import cli
from ecomap.errors import RequestError
from ecomap.evaluate import evaluate
from ecomap.evaluation_metrics import METRICS
from ecomap.evaluation_report import read_report
from ecomap.scores import OBSERVED, find
from tests.made_evaluation import QUICK, write_made, write_plain, write_real

OVERRIDES = [
    f"{name}={json.dumps(value)}"
    for name, value in QUICK.model_dump(mode="json", exclude_defaults=True).items()
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A report on a model that knows the law, and on one that is half a year late."""
    folder = tmp_path_factory.mktemp("world")
    real = write_real(folder / "real")
    right = write_made(folder / "right", real)
    late = write_made(folder / "late", real, shift_month=6)
    output = folder / "report"
    result = evaluate(
        real, generated=[f"right={right}", f"late={late}"], output=output, config=QUICK
    )
    return {"folder": folder, "real": real, "right": right, "late": late, "result": result}


def value(world, system, metric, detail, **fields):
    scores = find(
        world["result"].report.scores, system=system, metric=metric, detail=detail, **fields
    )
    assert len(scores) == 1, (system, metric, detail, len(scores))
    return scores[0].value


def test_a_model_that_knows_the_law_follows_it_and_a_late_one_does_not(world):
    for index in ("gcc", "snow_frac"):
        assert value(world, "right", "anomaly_pearson", index, group="all") > 0.98
        assert value(world, "late", "anomaly_pearson", index, group="all") < -0.5
        right, late = (
            value(world, name, "index_rmse", index, group="all") for name in ("right", "late")
        )
        assert right < 0.1 * late


def test_every_report_has_rows_of_all_baselines_that_can_be_made(world):
    report = world["result"].report
    kinds = {system.name: system.kind for system in report.systems}
    assert {name for name, kind in kinds.items() if kind == "baseline"} == {
        "persistence", "class_month_mean", "climate_analogue", "constant_colour",
    }  # fmt: skip
    assert set(report.not_made) == {"previous_year", "place_month_mean"}
    for name in kinds:
        if kinds[name] in ("baseline", "generated"):
            assert find(report.scores, system=name, metric="index_rmse", detail="gcc", group="all")
            assert find(report.scores, system=name, metric="frechet_distance", group="all")
    assert find(report.scores, system="real_vs_real", metric="frechet_distance", group="all")


def test_only_test_tiles_are_scored_and_the_rest_is_counted(world):
    reference = world["result"].report.inputs[0]
    assert (reference.kept, reference.dropped) == (12 * 12, {"no generated image": 4 * 12})
    persistence = next(s for s in world["result"].report.systems if s.name == "persistence")
    assert persistence.n == 12 * 11  # no frame lies before January


def test_all_metrics_of_a_report_have_words(world):
    report = world["result"].report
    assert {score.metric for score in report.scores} == set(report.metrics) <= set(METRICS)


def test_the_report_can_be_read_back_and_says_how_it_was_made(world):
    report = read_report(world["result"].output)
    assert report == world["result"].report
    assert report.config == QUICK
    assert {"python", "torch", "ecomap_code"} <= set(report.versions)
    assert all(len(one.sha256) == 64 for one in report.inputs)
    names = {path.name for path in world["result"].output.iterdir()}
    assert {"report.json", "scores.csv", "tiles.parquet", "report.md", "index.html"} <= names
    tiles = pd.read_parquet(world["result"].output / "tiles.parquet")
    assert set(tiles["system"]) >= {OBSERVED, "right", "late", "persistence"}


def test_the_same_request_gives_the_same_scores(world, tmp_path):
    again = evaluate(
        world["real"], generated=[f"right={world['right']}", f"late={world['late']}"],
        output=tmp_path / "again", config=QUICK,
    )  # fmt: skip
    assert again.report.scores == world["result"].report.scores


def test_plain_folders_of_images_get_distances_and_paired_measures(tmp_path):
    names = [f"{index}.png" for index in range(12)]
    real = write_plain(tmp_path / "real", names, seed=0)
    made = write_plain(tmp_path / "made", names, seed=1)
    result = CliRunner().invoke(
        cli.app,
        ["evaluate", "--reference", str(real), "--generated", str(made), "--output",
         str(tmp_path / "out"), "--json", *OVERRIDES],
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["systems"]["generated"] == {"kind": "generated", "n": 12}
    metrics = {score["metric"] for score in content["scores"] if score["system"] == "generated"}
    assert {"frechet_distance", "kernel_distance", "psnr_db", "ssim"} <= metrics
    assert not {"index_rmse"} & {
        score["metric"] for score in content["scores"] if score["system"] == "climate_analogue"
    }


def test_folders_with_a_table_get_vegetation_statistics(world, tmp_path):
    """Anyone's images with a CSV are scored as a dataset is."""
    rows = []
    folder = tmp_path / "theirs"
    folder.mkdir()
    records = pd.read_parquet(world["right"] / "records.parquet")
    for _, row in records.iterrows():
        name = row["image_path"].split("/")[1]
        Image.open(world["right"] / row["image_path"]).save(folder / name)
        month = row["month"]
        rows.append(
            {"file": name, "key": f"made-up/{row['location_id']}/{month}", "average_temp":
             row["temperature_c"], "average_prep": row["precipitation_mm_day"]}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "records.csv", index=False)
    result = evaluate(world["real"], generated=[str(folder)], output=tmp_path / "out", config=QUICK)
    theirs = find(result.report.scores, system="generated", metric="index_rmse", group="all")
    ours = find(world["result"].report.scores, system="right", metric="index_rmse", group="all")
    assert [score.value for score in theirs] == [score.value for score in ours]


def test_images_that_cannot_be_scored_are_counted_and_the_command_says_so(world, tmp_path):
    made = write_made(tmp_path / "made", world["real"])
    victims = sorted((made / "images").iterdir())[:3]
    victims[0].write_bytes(b"no image")
    Image.new("RGB", (24, 24)).save(victims[1])
    Image.new("L", (24, 24), 90).save(victims[2])
    result = CliRunner().invoke(
        cli.app,
        ["evaluate", "--reference", str(world["real"]), "--generated", str(made), "--output",
         str(tmp_path / "out"), "--json", *OVERRIDES],
    )  # fmt: skip
    assert result.exit_code == cli.EXIT_FAILURES, result.stderr
    content = json.loads(result.stdout)
    failures = {one["reason"]: one["images"] for one in content["failures"]}
    assert failures == {"unreadable": 1, "blank": 1, "not RGB": 1}
    assert content["systems"]["generated"]["n"] == 12 * 12 - 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No real images are named"),
        (["--reference", "REAL"], "No images to score are named"),
        (["--reference", "REAL", "--generated", "REAL/none"], "does not exist"),
        (["--reference", "REAL", "--generated", "observed=REAL"], "cannot be named 'observed'"),
        (["--reference", "REAL", "--generated", "REAL", "--generated", "REAL"], "Name each"),
        (["--reference", "REAL", "--generated", "REAL", "features=[none]"], "none"),
        (["--reference", "REAL", "--generated", "REAL", "equal_m=3"], "equal_n"),
        (["--reference", "REAL", "--generated", "EMPTY"], "EMPTY"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_read(world, tmp_path, words, message):
    empty = tmp_path / "EMPTY"
    empty.mkdir()
    words = [
        word.replace("REAL", str(world["real"])).replace("EMPTY", str(empty)) for word in words
    ]
    result = CliRunner().invoke(cli.app, ["evaluate", *words, "--output", str(tmp_path / "out")])
    assert result.exit_code == cli.EXIT_BAD_INPUT
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "report.json").exists()


def test_images_of_another_size_are_refused_with_the_cure(world, tmp_path):
    other = write_plain(tmp_path / "other", ["a.png", "b.png"], seed=3, side=48)
    with pytest.raises(RequestError, match="size_px=24"):
        evaluate(world["real"], generated=[str(other)], output=tmp_path / "out", config=QUICK)


def test_measures_are_kept_and_taken_again(world, tmp_path, monkeypatch):
    """An interrupted run goes on: what was measured is not measured twice."""
    from ecomap import measured_store

    calls = []
    real_measure = measured_store.measure_set

    def counted(images, **options):
        calls.append(images.name)
        return real_measure(images, **options)

    monkeypatch.setattr(measured_store, "measure_set", counted)
    given = {"generated": [str(world["right"])], "output": tmp_path / "out", "config": QUICK}
    first = evaluate(world["real"], **given)
    assert {"observed", "generated", "persistence"} <= set(calls)
    calls.clear()
    second = evaluate(world["real"], **given)
    assert calls == []
    assert second.report.scores == first.report.scores
    changed = sorted((world["right"] / "images").iterdir())[0]
    content = changed.read_bytes()
    try:
        changed.write_bytes(content + b" ")
        evaluate(world["real"], **given)
    finally:
        changed.write_bytes(content)
    assert calls == ["generated"]


def test_the_seed_decides_draws(world, tmp_path):
    other = QUICK.model_copy(update={"seed": 5})
    result = evaluate(
        world["real"], generated=[f"right={world['right']}"], output=tmp_path / "out", config=other
    )
    rows = [
        find(report.scores, system="right", metric="index_rmse", detail="gcc", group="all")[0]
        for report in (result.report, world["result"].report)
    ]
    assert rows[0].value == rows[1].value
    assert rows[0].low != rows[1].low


def test_a_bundle_is_scored_on_a_datasets_test_side(tmp_path):
    from ecomap.card import BundleCard
    from tests.fakes import TINY_SIZE_PX, write_random_bundle

    card = BundleCard(
        name="random", image_size_px=TINY_SIZE_PX, ground_sampling_distance_m=1000.0,
        doors=("text", "tokens"), license="CC0-1.0",
    )  # fmt: skip
    bundle = write_random_bundle(tmp_path / "source", card)
    real = write_real(tmp_path / "real", num_places=8)
    changes = {"num_places": 3, "months": (1, 7), "num_cases": 2, "steps": 2, "size_px": 16}
    output = tmp_path / "out"
    result = evaluate(
        real, bundle=str(bundle), output=output, config=QUICK.model_copy(update=changes)
    )
    report = result.report
    kinds = {system.name: (system.kind, system.n) for system in report.systems}
    assert kinds["generated"] == ("generated", 6)
    assert kinds["shuffled_climate"] == kinds["unconditional"] == ("null", 6)
    assert kinds["autoencoder"] == ("floor", 6)
    assert kinds["others"] == ("reference", 6)
    assert report.generation["steps"] == 2
    assert any("not known whether the bundle has seen" in note for note in report.notes)
    again = evaluate(
        real, generated=[str(output / "generated" / "generated")], bundle=str(bundle),
        output=tmp_path / "again", config=QUICK.model_copy(update={"size_px": 16}),
    )  # fmt: skip
    ours, theirs = (
        [score.value for score in find(one.scores, system="generated", metric="index_rmse",
                                       group="all")]
        for one in (report, again.report)
    )  # fmt: skip
    assert ours == theirs
    assert np.isfinite(ours).all()
