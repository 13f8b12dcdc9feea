"""Windows cover a map, and what is blended from them shows no edge."""

import numpy as np
import pytest
import torch

from ecomap.errors import RequestError
from ecomap.windows import (
    blend,
    blended_velocity,
    cut,
    feather,
    noise_field,
    plan_blocks,
    plan_windows,
    seam_ratio,
)


def random_map(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("height", "width", "side", "overlap"),
    [(16, 16, 16, 8), (17, 40, 16, 0), (64, 33, 16, 4), (50, 31, 16, 15), (5, 9, 1, 0)],
)
def test_windows_cover_the_map_and_stay_inside(height, width, side, overlap):
    places = plan_windows(height, width, side, overlap)
    assert len(set(places)) == len(places)
    assert places == sorted(places)
    count = torch.zeros(height, width)
    for row, column in places:
        window = count[row : row + side, column : column + side]
        assert window.shape == (side, side)
        window += 1
    assert count.min() >= 1
    for axis, length in enumerate((height, width)):
        starts = sorted({place[axis] for place in places})
        assert (starts[0], starts[-1]) == (0, length - side)
        gaps = np.diff(starts)
        assert all(gap == side - overlap for gap in gaps[:-1])
        assert all(0 < gap <= side - overlap for gap in gaps)


def test_a_scene_smaller_than_a_window_and_an_impossible_overlap_are_refused():
    with pytest.raises(RequestError, match="15 x 40 latent cells and a window 16 x 16"):
        plan_windows(15, 40, 16, 4)
    for overlap in (16, -1):
        with pytest.raises(RequestError, match=f"overlap by {overlap}"):
            plan_windows(40, 40, 16, overlap)


def test_weights_are_positive_and_those_of_neighbours_sum_to_one():
    for side, overlap in ((16, 4), (16, 8), (9, 3)):
        weights = feather(side, overlap)
        assert weights.shape == (side, side)
        assert 0 < weights.min() < 0.01
        torch.testing.assert_close(weights, weights.T)
        torch.testing.assert_close(weights, weights.flip(0, 1))
        profile = weights.diagonal().sqrt()
        torch.testing.assert_close(profile[:overlap] + profile[-overlap:], torch.ones(overlap))
        torch.testing.assert_close(profile[overlap:-overlap], torch.ones(side - 2 * overlap))
    assert (feather(8, 0) == 1).all()
    assert (feather(8, 7) > 0).all()


def test_what_windows_agree_on_is_kept_bit_for_bit():
    full = random_map(3, 37, 50)
    places = plan_windows(37, 50, 16, 6)
    windows = cut(full, places, 16)
    assert windows.shape == (len(places), 3, 16, 16)
    assert torch.equal(blend(windows, places, (37, 50), feather(16, 6)), full)
    constant = torch.full_like(windows, 0.1)
    assert (blend(constant, places, (37, 50), feather(16, 6)) == torch.tensor(0.1)).all()


def test_one_window_is_the_map_bit_for_bit():
    value = random_map(1, 3, 16, 16)
    assert torch.equal(blend(value, [(0, 0)], (16, 16), feather(16, 8)), value[0])


def test_a_blend_is_the_weighted_mean():
    places = plan_windows(20, 27, 8, 5)
    values, weights = random_map(len(places), 2, 8, 8), feather(8, 5)
    above, below = torch.zeros(2, 20, 27), torch.zeros(20, 27)
    for value, (row, column) in zip(values, places, strict=True):
        above[:, row : row + 8, column : column + 8] += weights * value
        below[row : row + 8, column : column + 8] += weights
    torch.testing.assert_close(blend(values, places, (20, 27), weights), above / below)


def test_half_precision_is_blended_in_float32():
    values = random_map(2, 1, 8, 8).bfloat16()
    assert blend(values, [(0, 0), (0, 4)], (8, 12), feather(8, 4)).dtype == torch.float32


def test_cells_without_a_window_and_values_without_a_place_are_errors():
    with pytest.raises(ValueError, match="64 of 128 cells lie in no window"):
        blend(random_map(1, 2, 8, 8), [(0, 0)], (8, 16), feather(8, 0))
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        blend(random_map(2, 2, 8, 8), [(0, 0)], (8, 8), feather(8, 0))


def recorder(seen):
    def predict(windows, indices, sigma):
        seen.append(indices)
        return windows * 0.5 + torch.tensor(indices)[:, None, None, None] * sigma

    return predict


def test_velocities_are_the_same_for_any_batch_and_no_batch_is_larger():
    latents, places, weights = random_map(4, 40, 28), plan_windows(40, 28, 16, 6), feather(16, 6)
    windows = cut(latents, places, 16)
    whole = blend(recorder([])(windows, list(range(len(places))), 0.3), places, (40, 28), weights)
    for batch in (1, 4, 100):
        seen = []
        velocity = blended_velocity(recorder(seen), latents, 0.3, places, weights, batch)
        assert torch.equal(velocity, whole)
        assert max(len(indices) for indices in seen) == min(batch, len(places))
        assert [index for indices in seen for index in indices] == list(range(len(places)))


def test_blended_velocities_step_as_blended_steps_do():
    latents, places, weights = random_map(2, 24, 24), plan_windows(24, 24, 16, 8), feather(16, 8)
    predict = recorder([])
    step = latents + (0.4 - 0.6) * blended_velocity(predict, latents, 0.6, places, weights, 4)
    windows = cut(latents, places, 16)
    stepped = windows + (0.4 - 0.6) * predict(windows, list(range(len(places))), 0.6)
    torch.testing.assert_close(step, blend(stepped, places, (24, 24), weights))


def test_hard_stitches_show_and_feathered_ones_do_not():
    size, side = 256, 64
    texture = random_map(1, size, size) * 2 + torch.linspace(60, 180, size)
    ratios = {}
    for overlap in (0, 32):
        places = plan_windows(size, size, side, overlap)
        offsets = random_map(len(places), 1, 1, 1, seed=1) * 10
        windows = cut(texture, places, side) + offsets
        full = blend(windows, places, (size, size), feather(side, overlap))
        image = full.permute(1, 2, 0).expand(-1, -1, 3).numpy()
        ratios[overlap] = seam_ratio(image, places, side)
    assert ratios[0] > 1.5
    assert 0.9 < ratios[32] < 1.1


def test_a_trace_of_the_grid_is_no_seam_and_borders_at_every_line_are_an_error():
    cells = np.kron(np.random.default_rng(0).integers(0, 255, (32, 32)), np.ones((8, 8)))
    image = np.repeat(cells[..., None], 3, -1)
    assert seam_ratio(image, plan_windows(256, 256, 64, 0), 64) == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="62 lines are window borders and 0 are not"):
        seam_ratio(image, plan_windows(256, 256, 8, 0), 8)


def test_noise_of_a_cell_depends_on_seed_and_place_alone():
    full = noise_field(7, 4, 70, 45)
    assert torch.equal(noise_field(7, 4, 33, 20), full[:, :33, :20])
    assert not torch.equal(noise_field(8, 4, 70, 45), full)


def test_noise_of_one_window_is_what_a_sampler_draws_for_the_seed():
    for seed, side in ((7, 16), (-3, 32)):
        drawn = torch.randn(16, side, side, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(noise_field(seed, 16, side, side, side=side), drawn)


def test_noise_is_white_and_standard_normal():
    field = noise_field(0, 4, 128, 128).double()
    assert field.mean().abs() < 0.02
    assert field.std() == pytest.approx(1, abs=0.02)
    assert (field**4).mean() == pytest.approx(3, abs=0.15)
    blocks = field.reshape(4, 8, 16, 8, 16).permute(1, 3, 0, 2, 4).reshape(64, -1)
    between = torch.corrcoef(blocks) - torch.eye(64)
    assert between.abs().max() < 0.15
    assert (
        torch.corrcoef(torch.stack([field[:, :-1].flatten(), field[:, 1:].flatten()]))[0, 1] < 0.02
    )


@pytest.mark.parametrize(("size", "side"), [((40, 56), 16), ((15, 15), 16), ((33, 8), 8)])
def test_cores_of_blocks_tile_a_map_at_any_resolution(size, side):
    full = random_map(2, *size)
    once, twice = torch.full_like(full, torch.nan), torch.zeros(2, 2 * size[0], 2 * size[1])
    for block in plan_blocks(size, side, 4):
        rows, columns = block.core
        values = full[:, *block.outer]
        assert once[:, rows, columns].isnan().all()
        once[:, rows, columns] = block.crop(values)
        larger = values.repeat_interleave(2, 1).repeat_interleave(2, 2)
        part = slice(2 * rows.start, 2 * rows.stop), slice(2 * columns.start, 2 * columns.stop)
        twice[:, *part] = block.crop(larger)
        for core, outer, length in zip(block.core, block.outer, size, strict=True):
            assert outer.start == max(core.start - 4, 0)
            assert outer.stop == min(core.stop + 4, length)
    assert torch.equal(once, full)
    assert torch.equal(twice, full.repeat_interleave(2, 1).repeat_interleave(2, 2))
