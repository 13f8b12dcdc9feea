"""Detectors see structure, keep the image's size, and never download anything."""

import numpy as np
import pytest
import torch

from ecomap.detectors import DETECTORS, open_detector
from ecomap.errors import ConfigError
from tests.fakes import made_image


def split_image(height, width):
    """Dark on the left, bright from column 40 on."""
    image = np.full((height, width, 3), 20, dtype=np.uint8)
    image[:, 40:] = 230
    return image


@pytest.mark.parametrize("size", [(96, 128), (64, 64), (200, 72), (16, 16)])
@pytest.mark.parametrize("name", ["canny", "lineart_standard"])
def test_images_keep_their_size(name, size):
    seen = open_detector(name)[1](made_image(3, *size))
    assert seen.shape == (*size, 3)
    assert seen.dtype == np.uint8


def test_canny_finds_an_edge_where_it_is():
    seen = open_detector("canny")[1](split_image(128, 128))[..., 0]
    edge = np.flatnonzero(seen.max(0) > 127)
    assert len(edge)
    assert abs(edge - 39.5).max() <= 1
    # Of a size that the detector must round, the edge stays where it is.
    seen = open_detector("canny")[1](split_image(96, 144))[..., 0]
    assert abs(seen.mean(0).argmax() - 39.5) <= 3


@pytest.mark.parametrize("name", ["canny", "lineart_standard"])
def test_nothing_gives_no_lines(name):
    assert not open_detector(name)[1](np.zeros((64, 64, 3), np.uint8)).any()


def test_the_name_tells_settings_and_weights(tmp_path):
    assert open_detector("canny")[0] == "canny_100_200"
    names = []
    for seed in (1, 2):
        write_teed(tmp_path / str(seed), seed)
        names.append(open_detector("teed", tmp_path / str(seed))[0])
    assert len(set(names)) == 2


def write_teed(folder, seed):
    from controlnet_aux.teed.ted import TED

    torch.manual_seed(seed)
    folder.mkdir()
    torch.save(TED().state_dict(), folder / "5_model.pth")


def test_a_detector_reads_its_weights_from_a_folder(tmp_path):
    write_teed(tmp_path / "a", 1)
    image = made_image(3, 72, 96)
    seen = open_detector("teed", tmp_path / "a")[1](image)
    assert seen.shape == image.shape
    assert np.array_equal(seen, open_detector("teed", tmp_path / "a")[1](image))


@pytest.mark.parametrize("name", [name for name, d in DETECTORS.items() if d.weights])
def test_missing_weights_are_named_and_not_downloaded(name, tmp_path):
    file = DETECTORS[name].weights
    with pytest.raises(ConfigError, match=f"{name}' needs its weights {file}, and no folder"):
        open_detector(name)
    with pytest.raises(ConfigError, match=f"{file}, and .* does not hold it"):
        open_detector(name, tmp_path)


@pytest.mark.parametrize("content", [b"broken", None])
def test_damaged_weights_are_named(content, tmp_path):
    path = tmp_path / "5_model.pth"
    if content is None:
        torch.save({"other": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"5_model\.pth holds no weights of TEEDdetector"):
        open_detector("teed", tmp_path)


def test_unknown_detectors_are_refused():
    with pytest.raises(ConfigError, match=r"'sobel' is unknown\..*canny"):
        open_detector("sobel")
