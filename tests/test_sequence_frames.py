"""Frames of a sequence: whole, in their places, and only those that are missing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from ecomap.errors import DataError, RequestError
from ecomap.evolution import EvolveSettings
from ecomap.outputs import read_provenance
from ecomap.sequence import SequenceFolder, Timeline
from ecomap.sequence_frames import (
    EvolveRequest,
    generate_start,
    make_frames,
    open_evolver,
    plan_sequence,
)
from ecomap.starts import Start, merge_starts
from tests.fakes import TINY_SIZE_PX, made_image, make_tile
from tests.made_evolver import write_evolver

SIZE = {"width_px": TINY_SIZE_PX, "height_px": TINY_SIZE_PX}
PLACE = {"crs": "EPSG:32633", "transform": (10.0, 0.0, 5e5, 0.0, -10.0, 1.1e6)}
MONTHS = ("2021-03", "2021-06", "2021-09")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_evolver(write_evolver(tmp_path_factory.mktemp("bundle")), device="cpu")


@pytest.fixture
def start():
    return Start(record=make_tile(**SIZE, **PLACE), image=made_image(1, TINY_SIZE_PX, TINY_SIZE_PX))


def line(name, warmer=0.0, months=MONTHS):
    records = tuple(make_tile(month=m, temperature_c=4.5 + warmer, **SIZE, **PLACE) for m in months)
    return Timeline(name=name, title=name, kind="delta", records=records)


def request_of(*lines, **changes):
    settings = EvolveSettings(steps=2, **changes.pop("settings", {}))
    lines = lines or (line("normal"), line("warm", 5.0))
    return EvolveRequest(timelines=lines, settings=settings, **changes)


def plan_of(bundle, start, request, **changes):
    return plan_sequence(bundle, start, request, name="here", source="here.tif", **changes)


def make(bundle, start, request, path):
    folder = SequenceFolder.create(path, plan_of(bundle, start, request))
    made = make_frames(bundle, start, request, folder)
    return folder, made


def bytes_of(folder):
    return {
        path.relative_to(folder.path): path.read_bytes()
        for path in sorted(folder.path.rglob("*.tif"))
    }


def test_every_frame_lies_where_its_start_lies_and_says_how_it_was_made(bundle, start, tmp_path):
    folder, made = make(bundle, start, request_of(members=2, seed=5), tmp_path / "a")
    assert made == 12
    assert folder.missing() == []
    assert np.array_equal(folder.read_start(), start.image)
    with rasterio.open(folder.frame_path("warm", 1, "2021-06")) as file:
        assert file.crs.to_string() == "EPSG:32633"
        assert tuple(file.transform)[:6] == PLACE["transform"]
    told = read_provenance(folder.frame_path("warm", 1, "2021-06"))
    assert told["synthetic"] is True
    assert told["scenario"]["name"] == "warm"
    assert (told["member"], told["seed"]) == (1, 6)
    assert told["start"]["sha256"] == folder.plan.start_sha256
    assert told["bundle"]["controlnet_sha256"]
    assert told["record"]["month"] == "2021-06"


def test_the_start_s_own_month_is_the_start_and_the_others_are_not(bundle, start, tmp_path):
    folder, _ = make(bundle, start, request_of(), tmp_path / "a")
    assert np.array_equal(folder.read("normal", 0, "2021-03"), start.image)
    for scenario, month in (("normal", "2021-06"), ("warm", "2021-03")):
        assert (folder.read(scenario, 0, month) != start.image).mean() > 0.3


def test_members_differ_and_scenarios_share_their_noise(bundle, start, tmp_path):
    same = request_of(line("one"), line("two"), members=2)
    folder, _ = make(bundle, start, same, tmp_path / "a")
    one = [folder.read("one", member, "2021-06") for member in (0, 1)]
    assert (one[0] != one[1]).any()
    assert np.array_equal(one[0], folder.read("two", 0, "2021-06"))


def test_an_interrupted_sequence_goes_on_to_the_same_bytes(bundle, start, tmp_path):
    request = request_of(members=2)
    whole, _ = make(bundle, start, request, tmp_path / "a")
    part, _ = make(bundle, start, request, tmp_path / "b")
    for scenario, member, month in (("warm", 1, "2021-03"), ("normal", 0, "2021-09")):
        part.frame_path(scenario, member, month).unlink()
    kept = part.frame_path("warm", 0, "2021-03").stat().st_mtime_ns
    again, made = make(bundle, start, request, tmp_path / "b")
    assert made == 2
    assert again.frame_path("warm", 0, "2021-03").stat().st_mtime_ns == kept
    assert bytes_of(again) == bytes_of(whole)


@pytest.mark.parametrize("doors", [("tokens",), ()])
def test_a_sequence_through_some_doors_goes_on_too(bundle, start, tmp_path, doors):
    request = request_of(line("x"), settings={"doors": doors})
    folder, _ = make(bundle, start, request, tmp_path / "a")
    folder.frame_path("x", 0, "2021-06").unlink()
    _, made = make(bundle, start, request, tmp_path / "a")
    assert made == 1


def test_what_is_hidden_of_a_start_is_masked_in_its_file(bundle, start, tmp_path):
    hidden = np.zeros((TINY_SIZE_PX, TINY_SIZE_PX), bool)
    hidden[:3] = True
    folder, _ = make(bundle, replace(start, hidden=hidden), request_of(line("x")), tmp_path / "a")
    assert np.array_equal(folder.read_start_valid(), ~hidden)
    assert np.array_equal(folder.read_start(), start.image)
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "images",
        "plan.json",
        "start.tif",
    ]
    whole, _ = make(bundle, start, request_of(line("x")), tmp_path / "b")
    assert whole.read_start_valid().all()
    (tmp_path / "a" / "start.tif").write_bytes(b"no")
    with pytest.raises(DataError, match=r"start.tif cannot be read as a GeoTIFF"):
        folder.read_start_valid()


def test_another_request_does_not_touch_a_sequence(bundle, start, tmp_path):
    folder, _ = make(bundle, start, request_of(), tmp_path / "a")
    before = bytes_of(folder)
    with pytest.raises(DataError, match=r"holds another sequence \(other seed\)"):
        make(bundle, start, request_of(seed=1), tmp_path / "a")
    with pytest.raises(DataError, match=r"holds another sequence \(other timelines, settings\)"):
        make(bundle, start, request_of(line("x"), settings={"guidance": 2.0}), tmp_path / "a")
    assert bytes_of(folder) == before


def test_a_chain_begins_with_the_frame_before(bundle, start, tmp_path):
    direct, _ = make(bundle, start, request_of(line("x")), tmp_path / "a")
    chained, _ = make(bundle, start, request_of(line("x"), chain=True), tmp_path / "b")
    _, second, third = MONTHS
    assert np.array_equal(chained.read("x", 0, second), direct.read("x", 0, second))
    assert (chained.read("x", 0, third) != direct.read("x", 0, third)).any()
    before = Start(record=chained.plan.timelines[0].records[1], image=chained.read("x", 0, second))
    alone, _ = make(bundle, before, request_of(line("x", months=(third,))), tmp_path / "c")
    assert np.array_equal(alone.read("x", 0, third), chained.read("x", 0, third))
    chained.frame_path("x", 0, third).unlink()
    again, made = make(bundle, start, request_of(line("x"), chain=True), tmp_path / "b")
    assert made == 1
    assert np.array_equal(alone.read("x", 0, third), again.read("x", 0, third))


def test_a_larger_start_is_made_in_windows(bundle, tmp_path):
    size = {"width_px": 40, "height_px": 27}
    begin = Start(record=make_tile(**size, **PLACE), image=made_image(1, 27, 40))
    records = tuple(make_tile(month=m, **size, **PLACE) for m in MONTHS[:2])
    scene = Timeline(name="x", title="x", kind="normal", records=records)
    request = request_of(scene)
    plan = plan_of(bundle, begin, request)
    assert plan.notes == ("The start is 40 x 27 px; it is made in windows of 16 px that blend.",)
    folder, _ = make(bundle, begin, request, tmp_path / "a")
    assert folder.read("x", 0, MONTHS[1]).shape == (27, 40, 3)
    assert np.array_equal(folder.read("x", 0, MONTHS[0]), begin.image)


def test_a_start_smaller_than_the_model_s_images_is_refused(bundle, tmp_path):
    size = {"width_px": 40, "height_px": 8}
    begin = Start(record=make_tile(**size), image=made_image(1, 8, 40))
    records = (make_tile(month="2021-06", **size),)
    request = request_of(Timeline(name="x", title="x", kind="normal", records=records))
    with pytest.raises(RequestError, match=r"is 40 x 8 px; made makes images of 16 px"):
        make(bundle, begin, request, tmp_path / "a")


def test_requests_that_cannot_be_are_refused(bundle, start):
    with pytest.raises(RequestError, match=r"2 scenarios are asked for and 'x' comes twice"):
        plan_of(bundle, start, request_of(line("x"), line("x")))
    with pytest.raises(RequestError, match=r"30000 frames are asked for \(10000 members\)"):
        plan_of(bundle, start, request_of(line("x"), members=10_000))
    with pytest.raises(RequestError, match=r"0 frames are asked for"):
        plan_of(bundle, start, request_of(line("x"), members=0))
    deaf = replace(bundle, card=bundle.card.model_copy(update={"doors": ("text",)}))
    with pytest.raises(RequestError, match=r"made has no door 'tokens'. Choose from text, or none"):
        plan_of(deaf, start, request_of(settings={"doors": ("tokens",)}))


@pytest.mark.parametrize("size", [(32, 40), (TINY_SIZE_PX, TINY_SIZE_PX)])
def test_where_the_first_month_is_hidden_the_next_one_is_the_start(bundle, tmp_path, size):
    height, width = size
    fields = {"width_px": width, "height_px": height} | PLACE
    hidden = np.ones(size, bool)
    march = Start(record=make_tile(**fields), image=made_image(1, *size), hidden=hidden)
    june = Start(record=make_tile(month="2021-06", **fields), image=made_image(2, *size))
    records = tuple(make_tile(month=m, **fields) for m in MONTHS)
    request = request_of(Timeline(name="x", title="x", kind="normal", records=records))
    merged, _ = make(bundle, merge_starts([march, june]), request, tmp_path / "a")
    alone, _ = make(bundle, june, request, tmp_path / "b")
    assert merged.plan.start_months == ("2021-03", "2021-06")
    for month in MONTHS:
        assert np.array_equal(merged.read("x", 0, month), alone.read("x", 0, month))
    assert np.array_equal(merged.read("x", 0, "2021-06"), june.image)


def test_a_plan_survives_its_file(bundle, start, tmp_path):
    plan = plan_of(bundle, start, request_of(), support={"normal": [{"distance": 1.5}, None, None]})
    SequenceFolder.create(tmp_path / "a", plan)
    assert SequenceFolder.open(tmp_path / "a").plan == plan
    text = json.loads((tmp_path / "a" / "plan.json").read_text())
    assert text["support"]["normal"][0] == {"distance": 1.5}
    (tmp_path / "a" / "plan.json").write_text("{}")
    with pytest.raises(DataError, match=r"plan.json is damaged"):
        SequenceFolder.open(tmp_path / "a")
    with pytest.raises(DataError, match=r"holds no sequence"):
        SequenceFolder.open(tmp_path / "nothing")


def test_a_generated_start_is_the_model_s_own(bundle):
    record = make_tile(**SIZE, **PLACE)
    one, two = (generate_start(bundle, record, seed=seed) for seed in (3, 4))
    assert one.image.shape == (TINY_SIZE_PX, TINY_SIZE_PX, 3)
    assert (one.image != two.image).any()
    assert np.array_equal(one.image, generate_start(bundle, record, seed=3).image)
    assert one.record == record


def test_a_bundle_without_a_controlnet_is_refused(bundle, start):
    bare = replace(bundle, controlnet=None, control=None, edit_head=None)
    with pytest.raises(RequestError, match=r"has no ControlNet that reads another month"):
        plan_of(bare, start, request_of())
