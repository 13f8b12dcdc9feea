"""Frames of a place: the start stays where nothing is asked to change."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ecomap.climate import climate_features
from ecomap.controls import ControlSpec, prepare_control
from ecomap.errors import RequestError
from ecomap.evolution import (
    SMALL_CHANGE,
    EvolveSettings,
    change_cells,
    change_share,
    evolve_images,
    evolve_pairs,
)
from ecomap.kept_detail import KEPT_EDGE_PX, kept_pixels, put_back, restore_detail
from ecomap.request import known_to
from ecomap.sequence_frames import open_evolver
from ecomap.starts import (
    Start,
    control_of,
    encode_starts,
    fill_missing,
    gap_months,
    merge_starts,
)
from tests.fakes import TINY_SIZE_PX, made_image, make_tile
from tests.made_evolver import SPEC, write_evolver


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_evolver(write_evolver(tmp_path_factory.mktemp("bundle")), device="cpu")


def tile(month="2021-03", **changes):
    size = {"width_px": TINY_SIZE_PX, "height_px": TINY_SIZE_PX}
    return make_tile(**(size | {"month": month} | changes))


def start(seed=1, **changes):
    return Start(record=tile(**changes), image=made_image(seed, TINY_SIZE_PX, TINY_SIZE_PX))


def evolve(bundle, targets, *, seeds=None, begin=None, **settings):
    encoded = encode_starts(bundle, [begin or start()])
    return evolve_images(
        bundle, encoded, [0] * len(targets), targets,
        seeds=seeds or [1] * len(targets), settings=EvolveSettings(steps=3, **settings),
    )  # fmt: skip


def test_the_same_month_and_climate_gives_back_the_start_byte_for_byte(bundle):
    begin = start()
    targets = [tile(), tile("2030-03"), tile("2021-07")]
    frames = evolve(bundle, targets, seeds=[1, 2, 3])
    assert np.array_equal(frames[0], begin.image)
    assert np.array_equal(frames[1], begin.image)  # a year is no change
    assert (frames[2] != begin.image).mean() > 0.5


def test_a_small_change_of_climate_changes_little_and_more_changes_more(bundle):
    begin = start()
    asked = [tile(temperature_c=4.5 + more) for more in (0.05, 0.15, 3.0)]
    frames = evolve(bundle, asked).astype(float)
    moved = [np.abs(frame - begin.image).mean() for frame in frames]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_change_share_counts_climate_and_season_but_not_years():
    here = tile()
    assert change_share(here, tile("2050-03")) == 0
    assert change_share(here, tile("2021-04")) == 1
    assert change_share(here, tile(land_cover=12)) == 1
    assert change_share(here, tile(temperature_c=4.5 + 15 * SMALL_CHANGE / 2)) == pytest.approx(0.5)
    assert change_share(here, tile(temperature_c=9.5)) == 1
    assert change_share(here, tile(temperature_c=None)) == 1


def test_frames_do_not_depend_on_the_batch_and_follow_their_seed(bundle):
    targets = [tile("2021-05"), tile("2021-07"), tile("2021-07")]
    together = evolve(bundle, targets, seeds=[1, 1, 2])
    alone = evolve(bundle, targets, seeds=[1, 1, 2], batch_size=1)
    assert np.abs(together.astype(int) - alone).max() <= 2
    assert (together[1] != together[2]).any()


def test_hidden_pixels_are_made_up_whatever_they_show(bundle):
    hidden = np.zeros((TINY_SIZE_PX, TINY_SIZE_PX), bool)
    hidden[:, :8] = True
    begin = replace(start(), hidden=hidden)
    (frame,) = evolve(bundle, [tile()], begin=begin)
    assert (frame[:, :8] != begin.image[:, :8]).mean() > 0.3
    far = replace(begin, image=begin.image.copy())
    far.image[:, :8] = 255 - far.image[:, :8]
    (other,) = evolve(bundle, [tile()], begin=far)
    assert np.array_equal(frame, other)  # what is hidden has no say


def two_months():
    """March on the right half of an image and July on the left one."""
    hidden = np.zeros((TINY_SIZE_PX, TINY_SIZE_PX), bool)
    hidden[:, :8] = True
    march = replace(start(), hidden=hidden)
    return merge_starts([march, start(seed=2, month="2021-07", temperature_c=14.5)])


def test_each_cell_tells_the_month_that_it_shows(bundle):
    encoded = encode_starts(bundle, [two_months()])
    target = tile("2021-08", temperature_c=10.0)
    control = control_of(SPEC, encoded, [0], [target])
    for column, record in ((0, tile("2021-07", temperature_c=14.5)), (1, tile())):
        alone = encode_starts(
            bundle, [replace(two_months(), record=record, others=(), source=None)]
        )
        expected = control_of(SPEC, alone, [0], [target])
        assert torch.equal(control[..., column], expected[..., column])
    assert (control[0, 17, :, 0] == 1 / 11).all()
    assert (control[0, 17, :, 1] == 5 / 11).all()


def test_only_cells_of_the_asked_month_stay(bundle):
    encoded = encode_starts(bundle, [two_months()])
    targets = [tile(), tile("2021-07", temperature_c=14.5), tile("2021-09")]
    change = change_cells(encoded, [0, 0, 0], targets)
    assert change[:, 0, 0].tolist() == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps is 0; choose a number from 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"solver": "magic"}, "Solver 'magic' is unknown. Choose from euler"),
        ({"overlap": 0.95}, "overlap is 0.95; choose a share from 0 to 0.9"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"control_scale": -1.0}, "control_scale is -1; choose a number from 0"),
    ],
)
def test_settings_that_make_no_frame_are_refused(settings, words):
    with pytest.raises(RequestError, match=words):
        EvolveSettings(**settings)


def test_missing_pixels_take_the_colour_of_the_nearest():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 0], image[:, 3] = 10, 200
    filled = fill_missing(image, (image != 0).any(-1))
    assert filled[0, :, 0].tolist() == [10, 10, 200, 200]
    assert np.array_equal(fill_missing(image, np.zeros((2, 4), bool)), image)


def test_a_control_is_what_training_makes_of_the_same_pair(bundle):
    begin, target = start(), tile("2021-07", temperature_c=14.5)
    encoded = encode_starts(bundle, [begin])
    control = control_of(SPEC, encoded, [0], [target])
    cells = (1, 1, 2, 2)
    expected = prepare_control(
        SPEC,
        encoded.latents,
        valid=torch.ones(cells),
        gap_months=torch.tensor([4]),
        reference_month=torch.tensor([3]),
        maps={
            "temperature_now": torch.full(cells, 0.3),
            "temperature_change": torch.full(cells, 10 / 15),
        },
    )
    assert torch.allclose(control, expected, atol=1e-3)


def test_gaps_are_told_as_the_controlnet_knows_them():
    january, march = tile("2021-01"), tile("2023-03")
    assert gap_months(january, march, SPEC) == 2
    assert gap_months(march, january, SPEC) == 10
    straight = ControlSpec(max_gap_months=12)
    assert gap_months(january, march, straight) == 12
    assert gap_months(march, january, straight) == 1


def test_lost_detail_comes_back_where_nothing_changed():
    seen, lost = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 0.1)
    pixels = seen.clone()
    pixels[..., 16:] = 0.8
    made = restore_detail(pixels, seen, lost)
    assert torch.allclose(made[..., :8], torch.tensor(0.1))
    assert torch.allclose(made[..., 28:], torch.tensor(0.8), atol=0.005)


def test_a_start_that_stays_gives_way_gradually_to_what_is_made_beside_it():
    keep = torch.zeros(1, 1, 40, 80, dtype=torch.bool)
    keep[..., 30:] = True
    made = put_back(torch.zeros(1, 3, 40, 80), torch.ones(1, 3, 40, 80), keep)[0, 0]
    assert (made[:, :30] == 0).all()
    assert (made[:, 30 + 2 * KEPT_EDGE_PX :] == 1).all()
    between = made[20, 30 : 30 + 2 * KEPT_EDGE_PX]
    assert (between.diff() > 0).all()
    assert between.diff().max() < 0.1


def test_pixels_stay_where_their_cell_does_and_the_start_shows_them():
    change = torch.tensor([[0.0, 0.5], [1.0, 0.0]])[None, None]
    there = torch.ones(1, 1, 14, 16, dtype=torch.bool)
    there[..., 0, 0] = False
    keep = kept_pixels(change, there)[0, 0]
    assert keep.shape == (14, 16)
    assert (keep[0, 0], keep[0, 7], keep[0, 8], keep[8, 0], keep[13, 15]) == (0, 1, 0, 0, 1)


def test_without_control_the_start_has_no_say(bundle):
    (own,) = evolve(bundle, [tile()], control_scale=0.0)
    (free,) = evolve(bundle, [tile()], begin=start(seed=2), control_scale=0.0)
    assert np.array_equal(own, free)
    assert (own != start().image).any()


def test_pairs_are_the_frames_of_their_own_starts(bundle):
    one, two = start(seed=1, location_id="1"), start(seed=2, location_id="2")
    pairs = [(begin.record, begin.image) for begin in (one, two, one)]
    targets = [tile("2021-07"), tile("2021-07"), tile("2021-03")]
    made = evolve_pairs(bundle, pairs, targets, seeds=[4, 4, 4], steps=3)
    assert np.array_equal(made[2], one.image)
    alone = evolve(bundle, [targets[1]], begin=two, seeds=[4])
    assert np.abs(made[1].astype(int) - alone[0]).max() <= 2


def test_a_bundle_without_a_controlnet_for_it_is_refused(bundle):
    with pytest.raises(RequestError, match="has no ControlNet that reads another month"):
        encode_starts(replace(bundle, controlnet=None, control=None), [start()])
    with pytest.raises(RequestError, match="has no ControlNet that reads another month"):
        encode_starts(replace(bundle, control=ControlSpec(image="canny")), [start()])


def test_a_bundle_that_never_saw_anomalies_is_told_values_alone(bundle):
    normals = tuple(float(m) for m in range(12))
    weather = tile(
        climate_kind="observed", temperature_c=9.0, temperature_c_normals=normals,
        temperature_c_history=normals,
    )  # fmt: skip
    told = known_to(weather, bundle.card)
    assert told.temperature_c_normals is None
    assert (told.temperature_c, told.temperature_c_history) == (9.0, normals)
    assert not climate_features(told).known[..., 1:].any()
    learnt = bundle.card.model_copy(update={"trained_anomalies": True})
    assert known_to(weather, learnt) == weather
    usual = weather.model_copy(update={"climate_kind": "normal"})
    assert known_to(usual, bundle.card) == usual
