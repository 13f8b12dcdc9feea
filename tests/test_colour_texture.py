"""Hand-made features: every value worked by hand."""

import numpy as np
import pytest

from ecomap import colour_texture as module
from ecomap.colour_texture import WIDTH, colour_texture


def test_colour_texture_of_a_step_edge_by_hand():
    # Left half black, right half red, 16 x 24 px: mean 1/2, deviation 1/2 in red. Rightwards,
    # 1, 2 and 4 columns of the 23, 22 and 20 pairs cross the edge; downwards nothing changes.
    image = np.zeros((1, 16, 24, 3), np.uint8)
    image[:, :, 12:, 0] = 255
    mean, deviation, difference, block = module.COLOUR_TEXTURE_SPREADS
    found = colour_texture(image)[0].astype(np.float64)
    assert found[:3] == pytest.approx([0.5 / mean, 0, 0])
    assert found[3:6] == pytest.approx([0.5 / deviation, 0, 0])
    red = [0, 1 / 23, 0, 2 / 22, 0, 4 / 20]
    assert found[6:24:3] == pytest.approx([value / difference for value in red])
    blocks = found[24:].reshape(8, 8, 3) * block
    assert blocks[..., 0] == pytest.approx(np.tile([0, 0, 0, 0, 1, 1, 1, 1], (8, 1)))
    assert not blocks[..., 1:].any()


def test_colour_texture_tells_down_from_right():
    image = np.zeros((1, 24, 16, 3), np.uint8)
    image[:, 12:, :, 2] = 255
    found = colour_texture(image)[0].astype(np.float64)
    downwards = [1 / 23, 0, 2 / 22, 0, 4 / 20, 0]
    spread = module.COLOUR_TEXTURE_SPREADS[2]
    assert found[8:24:3] == pytest.approx([value / spread for value in downwards])
    assert found[24:].reshape(8, 8, 3)[:, 0, 2].astype(bool).tolist() == [False] * 4 + [True] * 4


def test_blocks_that_do_not_divide_evenly_keep_their_mean():
    # 11 rows in 8 blocks: edges 0 1 2 4 5 6 8 9 11
    image = np.zeros((1, 11, 8, 3), np.uint8)
    image[0, :, :, 1] = (10 * np.arange(11))[:, None]
    blocks = colour_texture(image)[0, 24:].reshape(8, 8, 3)[:, 0, 1]
    expected = np.array([0, 10, 25, 40, 50, 65, 80, 95]) / 255
    np.testing.assert_allclose(blocks * module.COLOUR_TEXTURE_SPREADS[3], expected, rtol=1e-5)


def test_the_four_groups_of_colour_texture_have_the_stated_sizes():
    assert WIDTH == 3 + 3 + 18 + 192
    assert colour_texture(np.zeros((2, 9, 8, 3), np.uint8)).shape == (2, WIDTH)
