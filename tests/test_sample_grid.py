"""Sample grids: planned before the first step, alike at every step, and honest about each cell."""

import numpy as np
import pytest
import torch
from PIL import Image

from ecomap import sample_grid
from ecomap.card import BundleCard
from ecomap.climate import Change
from ecomap.conditions import EMPTY_PROMPT
from ecomap.errors import ConfigError, DataError
from ecomap.model import load_bundle
from ecomap.outputs import LABELS
from ecomap.sample import generate_images, prompt_of
from ecomap.sample_grid import (
    NO_PICTURE,
    check_show,
    choose_tiles,
    make_pictures,
    parse_sweep,
    plan_grid,
    write_grid,
)
from ecomap.transformer_config import ShowConfig
from tests.fakes import made_image, make_tile, write_random_bundle

SIZE_PX = 16
CARD = BundleCard(
    name="tiny",
    image_size_px=SIZE_PX,
    doors=("text", "tokens"),
    trained_variables=("temperature_c", "precipitation_mm_day"),
)
SHOW = ShowConfig(num_tiles=2, prompts=("a satellite image of sand",), steps=2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = write_random_bundle(tmp_path_factory.mktemp("bundle"), CARD, dtype=torch.float32)
    return load_bundle(folder, device="cpu")


def tiles(num=2, **changes):
    return [make_tile(location_id=str(k), lat=5.0 * k, **changes) for k in range(num)]


def frames(num=2, side=SIZE_PX):
    return [made_image(seed, side, side) for seed in range(num)]


def planned(show=SHOW, card=CARD, records=None, **more):
    return plan_grid(records or tiles(), frames(), card, show, seed=7, **more)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("temperature=-6", {"temperature_c": Change("offset", -6)}),
        (" precipitation =x0.3", {"precipitation_mm_day": Change("factor", 0.3)}),
        ("temperature==21.5", {"temperature_c": Change("absolute", 21.5)}),
        (
            "temperature=+4,precipitation=x2",
            {
                "temperature_c": Change("offset", 4),
                "precipitation_mm_day": Change("factor", 2),
            },
        ),
    ],
)
def test_a_sweep_is_read_in_the_words_of_the_command_line(text, changes):
    assert parse_sweep(text) == changes


@pytest.mark.parametrize(
    "text", ["temperature", "heat=+3", "temperature=6", "precipitation=x-1", ""]
)
def test_a_sweep_that_cannot_be_read_is_found_before_the_first_step(text):
    with pytest.raises(ConfigError, match=r"show\.sweep has"):
        check_show(ShowConfig(sweep=("temperature=+1", text)))
    check_show(ShowConfig())


def test_a_row_has_the_real_frame_its_own_climate_and_each_change_under_one_seed():
    grid = planned()
    assert grid.columns == 5
    rows = [grid.cells[start : start + 5] for start in (0, 5)]
    for number, row in enumerate(rows):
        assert row[0].frame is not None
        assert {cell.seed for cell in row[1:]} == {7 + number}
        assert [cell.record.temperature_c for cell in row[1:]] == [4.5, -1.5, 10.5, 4.5]
        assert [cell.record.precipitation_mm_day for cell in row[1:4]] == [1.25] * 3
        assert row[4].record.precipitation_mm_day == pytest.approx(0.375)
        assert {cell.record.lat for cell in row[1:]} == {5.0 * number}
    (text,) = grid.cells[10:]
    assert (text.prompt.short, text.seed) == ("a satellite image of sand", 9)


def test_captions_tell_place_climate_and_change_with_units():
    captions = [cell.caption for cell in planned().cells]
    assert captions[0] == "0.0°N 20.0°E, March, Grasslands\n4.5 °C, 1.25 mm/day"
    assert captions[1] == "its own climate\n4.5 °C, 1.25 mm/day"
    assert captions[2] == "temperature -6 °C\n-1.5 °C, 1.25 mm/day"
    assert captions[4].startswith("precipitation x0.3\n")
    assert captions[-1] == "text alone: a satellite image of sand"


def test_what_cannot_be_shown_says_why_and_leaves_its_cell_grey(bundle):
    show = ShowConfig(
        num_tiles=1, steps=1, sweep=("solar=+2", "precipitation=+1", "temperature=+90")
    )
    grid = planned(show, records=tiles(precipitation_mm_day=None))
    why = [cell.caption for cell in grid.cells[2:]]
    assert why[0].endswith("not made: training data have no solar radiation")
    assert why[1].startswith("precipitation +1 mm/day\nnot made: Precipitation is not known")
    assert "not made: temperature_c" in why[2]
    pictures = make_pictures(bundle, grid)
    for picture in pictures[2:]:
        assert (picture == NO_PICTURE).all()
    assert not (pictures[1] == NO_PICTURE).all()
    assert len(grid.prompts()) == 2


def test_prompts_are_all_texts_that_sampling_will_ask_for(bundle, monkeypatch):
    asked = set()

    def listen(bundle, prompts, *args, **kwargs):
        asked.update(prompts)
        return encode(bundle, prompts, *args, **kwargs)

    from ecomap import denoiser

    encode = denoiser.encode_condition
    monkeypatch.setattr(denoiser, "encode_condition", listen)
    known = tiles(solar_radiation_mj_m2_day=12.0)
    grid = planned(records=known)
    make_pictures(bundle, grid)
    assert asked == set(grid.prompts())
    assert EMPTY_PROMPT in asked
    # Radiation, which this model never saw, is in none of them.
    assert prompt_of(known[0]) not in asked


def test_pictures_are_those_of_the_sampler_and_the_same_every_time(bundle):
    grid = planned()
    pictures = make_pictures(bundle, grid)
    assert len(pictures) == len(grid.cells)
    np.testing.assert_array_equal(pictures[0], frames()[0])
    for place in (1, 4, 7):
        cell = grid.cells[place]
        (alone,) = generate_images(
            bundle, [cell.record], seeds=[cell.seed], steps=SHOW.steps, guidance=SHOW.guidance
        )
        assert np.abs(alone.astype(int) - pictures[place]).max() <= 1
    again = make_pictures(bundle, grid)
    np.testing.assert_array_equal(np.stack(pictures), np.stack(again))
    assert (pictures[1] != pictures[2]).any()


def test_networks_in_training_are_shown_without_dropout_and_go_on_as_they_were(bundle):
    grid = planned()
    quiet = make_pictures(bundle, grid)
    for module in bundle.modules().values():
        module.train()
    bundle.text_encoders[0].eval()
    bundle.climate_encoder.add_module("probe", torch.nn.Dropout())
    seen = []
    handle = bundle.climate_encoder.register_forward_hook(
        lambda module, *_: seen.append(module.probe.training)
    )
    np.testing.assert_array_equal(np.stack(make_pictures(bundle, grid)), np.stack(quiet))
    handle.remove()
    assert set(seen) == {False}
    assert bundle.transformer.training
    assert not bundle.text_encoders[0].training
    del bundle.climate_encoder.probe
    for module in bundle.modules().values():
        module.eval()


def test_each_tile_keeps_its_own_control_and_texts_have_none(bundle, monkeypatch):
    calls = []

    def remember(bundle, records, *, seeds, control, **_):
        calls.append((list(seeds), None if control is None else control[:, 0, 0, 0].tolist()))
        return np.zeros((len(records), SIZE_PX, SIZE_PX, 3), np.uint8)

    monkeypatch.setattr(sample_grid, "generate_images", remember)
    references = [("edges", frame, False) for frame in frames()]
    grid = planned(references=references)
    assert grid.columns == 6
    assert grid.cells[7].caption == "control: edges"
    assert [cell.is_real for cell in grid.cells[:3]] == [True, None, False]
    controls = torch.tensor([10.0, 20.0])[:, None, None, None].expand(2, 16, 2, 2)
    make_pictures(bundle, grid, controls=controls)
    assert calls == [([7] * 4 + [8] * 4, [10] * 4 + [20] * 4), ([9], None)]


def test_a_sheet_says_which_pictures_are_real_and_lies_under_its_step(bundle, tmp_path):
    grid = planned()
    path = write_grid(tmp_path, grid, make_pictures(bundle, grid), 1500)
    assert path == tmp_path / "images" / "step_00001500_synth.png"
    with Image.open(path) as sheet:
        assert "Synthetic image" in sheet.text["Description"]
        pixels = np.asarray(sheet.convert("RGB"))
    for is_real, columns in ((True, slice(0, 272)), (False, slice(288, None))):
        colour = tuple(int(LABELS[is_real][1][k : k + 2], 16) for k in (1, 3, 5))
        assert (pixels[:600, columns] == colour).all(-1).any()
        other = tuple(int(LABELS[not is_real][1][k : k + 2], 16) for k in (1, 3, 5))
        assert not (pixels[:600, columns] == other).all(-1).any()


def test_frames_are_shown_by_their_middle_and_may_not_be_smaller():
    large = frames(side=SIZE_PX + 8)
    grid = plan_grid(tiles(), large, CARD, SHOW, seed=0)
    np.testing.assert_array_equal(grid.cells[0].frame, large[0][4:20, 4:20])
    with pytest.raises(DataError, match="12 x 12 px"):
        plan_grid(tiles(), frames(side=12), CARD, SHOW, seed=0)


def test_a_grid_may_hold_texts_alone_or_nothing(bundle, tmp_path):
    texts = planned(SHOW.model_copy(update={"num_tiles": 0}))
    assert [cell.prompt.short for cell in texts.cells] == list(SHOW.prompts)
    assert texts.columns == 1
    nothing = planned(ShowConfig(num_tiles=0))
    assert write_grid(tmp_path, nothing, make_pictures(bundle, nothing), 5) is None
    assert not list(tmp_path.iterdir())


def test_tiles_are_chosen_from_land_far_apart_and_in_all_seasons():
    records = [
        make_tile(location_id=f"{place:02d}", month=f"2021-{month:02d}", land_frac=share)
        for place, share in enumerate([0.1, 0.9, 0.95, 0.3, 1.0, 0.9, 0.9, 0.9, 0.2, 0.9])
        for month in range(1, 13)
    ]
    chosen = [records[position] for position in choose_tiles(records, 3)]
    assert [record.location_id for record in chosen] == ["02", "05", "07"]
    assert [record.month[-2:] for record in chosen] == ["01", "05", "09"]
    assert all(record.land_frac >= 0.8 for record in chosen)


def test_tiles_are_chosen_from_sea_where_there_is_no_land_and_never_twice():
    sea = tiles(3, land_frac=0.1)
    assert choose_tiles(sea, 8) == [0, 1, 2]
    assert choose_tiles(tiles(3), 2) == [0, 2]
    assert choose_tiles([], 4) == []
    assert choose_tiles(sea, 0) == []
