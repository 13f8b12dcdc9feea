"""Files and page of an evaluation of evolution, and the benchmark from a dataset to its report."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks.evolve_skill import MEAN, ensemble_mean, evaluate, parse
from ecomap.card import BundleCard
from ecomap.claims import Claim
from ecomap.controlnet import build_controlnet
from ecomap.controlnet_files import save_controlnet
from ecomap.controls import ControlSpec
from ecomap.edit import EditHead
from ecomap.errors import ImageError, RequestError
from ecomap.evolution_ensemble import RankHistogram
from ecomap.evolution_gains import GENERATED, Gain
from ecomap.evolution_making import CHAINED
from ecomap.evolution_page import (
    PAGE_FILE,
    SHEET_FILE,
    SHEET_PLACES,
    sheet_keys,
    write_evolution_page,
)
from ecomap.evolution_pairs import AHEAD, SERIES, ArrayImages
from ecomap.evolution_plots import rank_bars, step_lines, system_bars
from ecomap.evolution_report import GAINS_FILE, EvolutionReport, write_numbers
from ecomap.evolution_structure import EQUAL_DB
from ecomap.model import load_bundle
from ecomap.outputs import SYNTHETIC_STATEMENT
from ecomap.page import PNG_SIGNATURE
from ecomap.scores import OBSERVED, Score
from tests.fakes import TINY_SIZE_PX, write_random_bundle, write_tiles
from tests.made_evaluation import write_real
from tests.made_world import scored

KEYS = [f"made-up/{place}/2004-{month} from 2004-01" for place in "ab" for month in ("04", "07")]
GAIN = Gain(
    measure="index_rmse gcc", system=GENERATED, rival="persistence", own=0.01, other=0.02,
    gain=0.01, low=0.005, high=0.02, share=0.5, share_low=0.3, share_high=0.6, n=4, num_blocks=12,
)  # fmt: skip
SCORES = [
    Score(system=name, section="paired", metric="psnr_db", value=value, low=value - 1,
          high=value + 1, n=4, num_blocks=2)
    for name, value in ((GENERATED, 30.0), (CHAINED, 27.0), ("persistence", 25.0))
] + [
    Score(system=name, section="forecast", metric="psnr_db", group_kind="months_ahead",
          group=group, value=25.0, n=2, low=None, high=None)
    for name in (GENERATED, CHAINED) for group in ("3", "6")
] + [
    Score(system="ensemble", section="forecast", metric="crps", detail="gcc", value=0.0123, n=4)
]  # fmt: skip
REPORT = EvolutionReport(
    settings={"dataset": "made", "level": 0.95},
    systems={GENERATED: ("generated", "What a model made."), "persistence": ("baseline", "Copy.")},
    scores=SCORES, gains=[GAIN],
    claims=[Claim(key="greenness_goal", system=GENERATED, sentence="Greenness is near.",
                  criterion="It is.", verdict="supported", evidence=("0.5 [0.3, 0.6]",))],
    histograms=[RankHistogram(index="gcc", frequencies=(0.25, 0.5, 0.25), n=4)],
    dropped={"too cloudy": 3}, notes=["A note."],
)  # fmt: skip


CARD = BundleCard(
    name="made", image_size_px=TINY_SIZE_PX, ground_sampling_distance_m=10, doors=("text", "tokens")
)
SPEC = ControlSpec(
    channels=("reference_valid", "months_gap", "reference_sin", "reference_cos"),
    min_gap_months=0, max_gap_months=11, wrap_year=True, edit=True,
)  # fmt: skip


def table(value):
    """Measures of four pairs of two places."""
    return pd.DataFrame(
        {"place": list("aabb"), "block": list("xxyy"), "land_cover": ["Grasslands"] * 4,
         "gcc": [value] * 4, "lat": [1.0, 1, 20, 20], "lon": [2.0, 2, 50, 50],
         "months_ahead": [3, 6] * 2, "series": [f"made-up/{p} from month 01" for p in "aabb"]},
        index=pd.Index(KEYS, name="key"),
    )  # fmt: skip


TABLES = {OBSERVED: table(0.4), GENERATED: table(0.42), "persistence": table(0.35)}


def picture(name, key):
    if name == "persistence" and "/b/" in key:
        raise ImageError("damaged", "It cannot be read.")
    return np.full((8, 8, 3), {OBSERVED: 10, GENERATED: 20, "persistence": 30}[name], np.uint8)


def write(folder, report=REPORT, tables=TABLES):
    return [
        *write_numbers(folder, report, tables),
        *write_evolution_page(folder, report, tables, picture),
    ]


def test_all_numbers_can_be_read_back(tmp_path):
    paths = write(tmp_path)
    assert all(path.is_file() for path in paths)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["gains"][0]["share"] == 0.5
    assert found["gains"][0]["verdict"] == "better"
    assert found["claims"][0]["verdict"] == "supported"
    assert found["dropped"] == {"too cloudy": 3}
    assert len(pd.read_csv(tmp_path / "scores.csv")) == len(SCORES)
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    assert pairs.groupby("system").size().to_dict() == {OBSERVED: 4, GENERATED: 4, "persistence": 4}


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    first, second = (write(tmp_path / name) for name in "ab")
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_the_page_tells_goals_numbers_and_what_was_left_out(tmp_path):
    write(tmp_path)
    page = (tmp_path / PAGE_FILE).read_text()
    for text in ("Greenness is near.", "30 [29, 31]", "too cloudy", "A note.", "0.0123",
                 "begin at the generated month before", SYNTHETIC_STATEMENT):  # fmt: skip
        assert text in page
    assert "http-equiv" in page  # the policy that keeps it from the network


def test_the_sheet_shows_a_pair_of_each_place_that_can_be_read_and_says_it_is_synthetic(tmp_path):
    write(tmp_path)
    with Image.open(tmp_path / SHEET_FILE) as sheet:
        assert SYNTHETIC_STATEMENT in str(sheet.info)
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(100_000)}
    assert {(10,) * 3, (20,) * 3, (30,) * 3} <= colours
    alone = {name: one for name, one in TABLES.items() if name != GENERATED}
    write_evolution_page(tmp_path / "real", REPORT, alone, picture)
    with Image.open(tmp_path / "real" / SHEET_FILE) as sheet:
        assert SYNTHETIC_STATEMENT not in str(sheet.info)


def test_the_sheet_goes_from_south_to_north_and_round_the_year():
    rows = [
        {"place": f"p{lat}", "lat": lat, SERIES: f"p{lat} from month {month:02d}", AHEAD: ahead}
        for lat in range(-60, 60, 10) for month in (1, 7) for ahead in (1, 6, 11)
    ]  # fmt: skip
    real = pd.DataFrame(rows).sample(frac=1, random_state=3)
    real.index = pd.Index([f"{r[SERIES]} {r[AHEAD]}" for _, r in real.iterrows()], name="key")
    keys = sheet_keys(real)
    assert len(keys) == SHEET_PLACES
    assert keys[0] == "p-60 from month 01 6"
    assert [int(key.split()[3]) for key in keys] == [1, 7] * (SHEET_PLACES // 2)
    assert keys[-1].startswith("p50 ")
    lats = [int(key.split()[0][1:]) for key in keys]
    assert lats == sorted(set(lats))


def test_without_gains_the_table_of_gains_still_has_its_columns(tmp_path):
    write(tmp_path, replace(REPORT, gains=(), claims=(), histograms=(), notes=()))
    columns = list(pd.read_csv(tmp_path / GAINS_FILE).columns)
    assert columns == [*Gain.__annotations__, "verdict"]


def test_a_report_needs_the_real_targets(tmp_path):
    with pytest.raises(RequestError, match="observed"):
        write_numbers(tmp_path, REPORT, {GENERATED: table(0.4)})


def test_plots_of_nothing_are_refused():
    with pytest.raises(RequestError, match="at least one"):
        system_bars([], "PSNR", {})
    with pytest.raises(RequestError, match="at least one"):
        step_lines([], "PSNR", {})


def test_a_rank_histogram_is_a_picture_of_its_numbers():
    flat, steep = (
        rank_bars(RankHistogram(index="gcc", frequencies=values, n=9))
        for values in ((0.5, 0.5), (0.9, 0.1))
    )
    assert flat.startswith(PNG_SIGNATURE)
    assert flat != steep


def test_the_mean_of_members_is_that_of_their_pixels():
    tiles = [scored("a", 4)]
    members = [
        ArrayImages(name=f"m{v}", tiles=tiles, images=np.full((1, 4, 4, 3), v, np.uint8))
        for v in (10, 13, 14)
    ]
    mean = ensemble_mean(members)
    assert mean.name == MEAN
    assert (mean.read(0).rgb == 12).all()  # 12.33


# -- the benchmark


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rivals alone, on a dataset of the made-up world."""
    root = tmp_path_factory.mktemp("skill")
    real = write_real(root / "real")
    evaluate(parse([str(real), "--output", str(root / "out"), "--places", "12", "--starts", "1"]))
    return root / "out"


def test_without_a_bundle_the_rivals_are_scored_with_their_intervals(folder):
    scores = pd.read_csv(folder / "scores.csv")
    rows = scores[(scores["metric"] == "index_rmse") & (scores["group"] == "all")]
    rows = rows.set_index(["system", "detail"])
    assert set(rows.index.get_level_values(0)) == {
        "persistence", "class_month_mean", "class_month_index", "climate_analogue"
    }  # fmt: skip
    copied = rows.loc["persistence", "gcc"]
    assert (copied["n"], copied["num_blocks"]) == (12 * 11, 12)
    assert copied["low"] < copied["value"] < copied["high"]
    pairs = pd.read_parquet(folder / "pairs.parquet")
    real, copy = (pairs[pairs["system"] == name] for name in (OBSERVED, "persistence"))
    error = copy["gcc"] - real.loc[copy.index, "gcc"]
    assert copied["value"] == pytest.approx(np.sqrt((error**2).mean()))


@pytest.fixture(scope="module")
def with_model(tmp_path_factory):
    """A random bundle with a random ControlNet that edits, scored on tiles of its size."""
    root = tmp_path_factory.mktemp("model")
    data = write_tiles(root / "data")
    path = write_random_bundle(root, CARD)
    base = load_bundle(path, device="cpu")
    net = build_controlnet(base.transformer, num_layers=1, extra_channels=SPEC.num_extra)
    head = EditHead.beside(net, 16 + SPEC.valid_channel)
    for parameter in (*net.parameters(), *head.parameters()):
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    save_controlnet(net, SPEC, {}, root / "net", base=base.transformer, edit_head=head)
    options = ["--bundle", path, "--controlnet", root / "net", "--places", 2, "--starts", "1,9"]
    options += ["--members", 2, "--steps", 1, "--cases", 2, "--device", "cpu"]
    evaluate(parse([str(part) for part in [data, "--output", root / "out", *options]]))
    return root / "out"


def test_a_bundle_is_scored_with_all_that_it_makes(with_model):
    found = json.loads((with_model / "scores.json").read_text())
    assert {name: one["kind"] for name, one in found["systems"].items()} == {
        GENERATED: "generated", "generated_1": "generated", MEAN: "generated",
        CHAINED: "generated", "shuffled_climate": "null", "autoencoder": "floor",
        **dict.fromkeys(("persistence", "class_month_mean", "class_month_index",
                         "climate_analogue"), "baseline"),
    }  # fmt: skip
    values = {(s["system"], s["metric"], s["group"]): s["value"] for s in found["scores"]}
    # The engine gives back a start that nothing is asked of, byte for byte.
    assert values[GENERATED, "identity_psnr_db", "all"] == pytest.approx(EQUAL_DB)
    assert values["ensemble", "crps", "all"] > 0
    assert len(found["claims"]) == 6
    assert {claim["verdict"] for claim in found["claims"]} == {"undecided"}  # two blocks
    assert {one["rival"] for one in found["gains"]} >= {"persistence", "climate_analogue"}


def test_pictures_that_a_bundle_made_say_so(with_model):
    made = sorted((with_model / "generated").rglob("*.png"))
    assert len(made) > 3 * 8
    for path in (made[0], made[-1], with_model / SHEET_FILE):
        with Image.open(path) as image:
            assert SYNTHETIC_STATEMENT in str(image.info)
    assert SYNTHETIC_STATEMENT in (with_model / PAGE_FILE).read_text()


def test_the_page_says_what_cannot_be_made_and_takes_no_side(folder):
    found = json.loads((folder / "scores.json").read_text())
    assert any("previous_year cannot be made" in note for note in found["notes"])
    assert found["claims"] == found["gains"] == []
    assert (folder / PAGE_FILE).is_file()
    assert SYNTHETIC_STATEMENT not in (folder / PAGE_FILE).read_text()
    assert json.loads((folder / "seconds.json").read_text())["clock"]["measure"] > 0
