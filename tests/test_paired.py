"""Pairs of images: values by hand, torchmetrics where nothing is masked, and masks that hold."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import ndimage
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import alexnet, squeezenet1_1

from ecomap import paired
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.metrics import bootstrap_interval
from ecomap.paired import METRICS, lpips_from_weights, pair_measures, paired_scores
from ecomap.schema import LandCover
from ecomap.scores import find
from ecomap.tiles import Frame, Measured, ScoredTile, tile_table
from tests.fakes import made_image

CONFIG = EvaluateConfig(num_draws=200, groups=("land_cover", "month"))


def textured(seed: int, height: int, width: int) -> np.ndarray:
    image = made_image(seed, height, width).astype(float)
    grain = np.random.default_rng(seed).normal(0, 12, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def two(height: int = 48, width: int = 61) -> tuple[np.ndarray, np.ndarray]:
    first = textured(1, height, width)
    return first, ((first.astype(int) + textured(2, height, width)) // 2).astype(np.uint8)


def planes(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].double()


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0))


def one_by_one(reference, generated, valid=None, **options) -> float:
    masks = None if valid is None else valid[None]
    return float(paired.perceptual(reference[None], generated[None], masks, **options)[0])


MEASURES = [paired.psnr, paired.ssim, paired.ms_ssim, one_by_one]


# -- each measure


def test_psnr_counts_valid_pixels_only():
    first = np.full((3, 5, 3), 100, np.uint8)
    second, valid = first + np.uint8(10), np.ones((3, 5), bool)
    second[:, 4], valid[:, 4] = 255, False
    assert paired.psnr(first, second, valid) == pytest.approx(10 * np.log10(255**2 / 100))
    assert paired.psnr(first, second) < paired.psnr(first, second, valid)
    assert paired.psnr(first, first) == paired.psnr(first, first, valid) == float("inf")


def test_ssim_of_flat_images_is_the_luminance_term():
    dark, bright = (np.full((12, 17, 3), value, np.uint8) for value in (100, 120))
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert paired.ssim(dark, bright) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [(48, 61), (33, 20), (8, 9)])
def test_ssim_is_that_of_torchmetrics(size):
    first, second = two(*size)
    expected = structural_similarity_index_measure(planes(first), planes(second), data_range=255.0)
    assert paired.ssim(first, second) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("size", "num_scales"),
    [
        ((176, 181), 5),
        ((190, 175), 4),
        ((100, 130), 4),
        ((87, 90), 3),
        ((44, 61), 3),
        ((23, 43), 2),
    ],
)
def test_ms_ssim_is_that_of_torchmetrics_with_as_many_scales_as_fit(size, num_scales):
    first, second = two(*size)
    weights = np.array(paired.SCALE_WEIGHTS[:num_scales])
    expected = multiscale_structural_similarity_index_measure(
        planes(first), planes(second), data_range=255.0, betas=tuple(weights / weights.sum())
    )
    assert paired.ms_ssim(first, second) == pytest.approx(float(expected), rel=1e-6)


def test_scales_end_where_the_window_no_longer_fits():
    sizes = (500, 176, 175, 88, 87, 44, 43, 22, 21, 8)
    scales = [paired._num_scales((size, 999)) for size in sizes]
    assert scales == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]
    assert paired._num_scales((999, 88)) == 4


def test_ms_ssim_of_a_single_scale_is_ssim():
    first, second = two(21, 40)
    assert paired.ms_ssim(first, second) == pytest.approx(paired.ssim(first, second))


def test_ms_ssim_counts_negative_terms_as_none():
    image = textured(1, 40, 50)
    assert paired.ssim(image, 255 - image) < 0
    assert paired.ms_ssim(image, 255 - image) == 0
    small = image[:20, :20]
    assert paired.ms_ssim(small, 255 - small) == 0


def test_structure_is_read_only_where_the_whole_window_is_valid():
    first, second = two(40, 50)
    valid = np.ones((40, 50), bool)
    valid[:, 25:] = False
    _, full = structural_similarity_index_measure(
        planes(first), planes(second), data_range=255.0, return_full_image=True
    )
    expected = full[0, :, :, :20].mean()  # windows of columns 0 to 19 end at column 24
    assert paired.ssim(first, second, valid) == pytest.approx(float(expected), rel=1e-6)


@given(seed=st.integers(0, 99))
def test_a_lone_valid_pixel_has_no_window(seed):
    first, second = two(24, 30)
    valid = np.zeros((24, 30), bool)
    valid.flat[np.random.default_rng(seed).integers(valid.size)] = True
    assert np.isnan([paired.ssim(first, second, valid), paired.ms_ssim(first, second, valid)]).all()


def test_perceptual_distance_is_twice_one_minus_the_cosine_averaged_over_stages():
    first, second = two(64, 96)
    stages = paired.efficientnet_stages().stages(
        torch.from_numpy(np.stack([first, second])).permute(0, 3, 1, 2).float()
    )
    sizes = [tuple(stage.shape[1:]) for stage in stages]
    assert sizes == [(16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]
    cosines = [torch.nn.functional.cosine_similarity(*stage, dim=0).mean() for stage in stages]
    expected = np.mean([2 * (1 - float(cosine)) for cosine in cosines])
    assert one_by_one(first, second) == pytest.approx(expected, rel=1e-4)


def test_perceptual_distance_of_a_batch_is_that_of_its_pairs_in_pieces_too(monkeypatch):
    firsts, seconds = np.stack(two(40, 50)), np.stack(two(40, 50))[::-1]
    together = paired.perceptual(firsts, seconds)
    assert together.shape == (2,)
    assert together.dtype == np.float64
    np.testing.assert_allclose(
        together, [one_by_one(*pair) for pair in zip(firsts, seconds, strict=True)], rtol=1e-4
    )
    monkeypatch.setattr(paired, "PERCEPTUAL_PX", 1)
    np.testing.assert_allclose(paired.perceptual(firsts, seconds), together, rtol=1e-4)
    assert paired.perceptual(firsts[:0], seconds[:0]).shape == (0,)


def test_perceptual_cells_count_by_their_share_of_valid_pixels():
    def cells(images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.nn.functional.avg_pool2d(images, 2)]

    network = paired.PerceptualNetwork(cells, [lambda squared: squared.sum(1, keepdim=True)])
    first = np.zeros((1, 2, 4, 3), np.uint8)
    second = first.copy()
    first[..., 0] = 200
    second[:, :, :2, 0], second[:, :, 2:, 1] = 200, 200  # left cell equal, right one orthogonal: 2
    assert paired.perceptual(first, second, network=network) == pytest.approx(1)
    valid = np.ones((1, 2, 4), bool)
    valid[0, 0, 0] = False  # the left cell counts 3, the right one 4
    expected = 4 * 2 / 7
    assert paired.perceptual(first, second, valid, network=network) == pytest.approx(expected)


def test_small_images_have_no_perceptual_distance():
    first, second = two(31, 40)
    assert np.isnan(one_by_one(first, second))
    assert np.isfinite(one_by_one(*two(32, 40)))


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_images_are_as_near_as_can_be_and_blur_is_farther(measure):
    image = textured(5, 64, 80)
    values = [measure(image, blurred(image, sigma)) for sigma in (0, 1, 3)]
    best = {paired.psnr: float("inf"), one_by_one: 0}.get(measure, 1)
    assert values[0] == pytest.approx(best, abs=1e-6)
    assert values == sorted(values, reverse=measure is not one_by_one)
    assert len(set(values)) == 3


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_lies_under_the_mask_changes_no_measure(measure, seed):
    rng = np.random.default_rng(seed)
    first, second = two(64, 80)
    junk = rng.integers(0, 255, first.shape, np.uint8)
    valid = np.ones((64, 80), bool)
    valid[: rng.integers(1, 40), : rng.integers(1, 40)] = False
    spoiled = [np.where(valid[..., None], image, junk) for image in (first, second)]
    expected = measure(first, second, valid)
    assert expected != measure(first, second)
    assert measure(spoiled[0], second, valid) == pytest.approx(expected, rel=1e-6)
    assert measure(first, spoiled[1], valid) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(measure(first, second, np.zeros_like(valid)))


@pytest.mark.parametrize("measure", MEASURES[:3])
def test_pairs_that_do_not_fit_are_refused(measure):
    image = np.zeros((12, 15, 3), np.uint8)
    with pytest.raises(ValueError, match="of one shape"):
        measure(image, image[:, :14])
    with pytest.raises(ValueError, match="mask has shape"):
        measure(image, image, np.ones((15, 12), bool))
    with pytest.raises(TypeError, match="float64"):
        measure(image, image.astype(float))


def test_perceptual_refuses_batches_that_do_not_fit():
    images = np.zeros((2, 32, 33, 3), np.uint8)
    with pytest.raises(ValueError, match="two batches"):
        paired.perceptual(images, images[:1])
    with pytest.raises(ValueError, match="two batches"):
        paired.perceptual(images[0], images[0])
    with pytest.raises(ValueError, match="mask has shape"):
        paired.perceptual(images, images, np.ones((2, 33, 32), bool))


# -- LPIPS with weights of the user


@pytest.mark.parametrize(
    ("net", "backbone", "suffix"),
    [("alex", alexnet, ".pth"), ("squeeze", squeezenet1_1, ".safetensors")],
)
def test_lpips_with_given_weights_is_that_of_torchmetrics(tmp_path, net, backbone, suffix):
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in backbone(weights=None).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=generator) / max(1, shape[1:].numel()) ** 0.5
        for name, shape in shapes.items()
        if name.startswith("features.")
    }
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    other = _LPIPS(net=net, pnet_rand=True)
    own = [name.split(".", 2 if net == "squeeze" else 1)[-1] for name in other.net.state_dict()]
    values = [state[f"features.{name}"] for name in own]
    other.net.load_state_dict(dict(zip(other.net.state_dict(), values, strict=True)))
    first, second = two(64, 71)
    with torch.inference_mode():
        expected = other(*(planes(image).float() / 127.5 - 1 for image in (first, second)))
    found = one_by_one(first, second, network=lpips_from_weights(net, path))
    assert found == pytest.approx(float(expected), rel=1e-3)
    assert found > 0


def test_weights_that_do_not_fit_lpips_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"does not exist. Give torchvision's weights"):
        lpips_from_weights("alex", tmp_path / "none.pth")
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, path)
    before = torch.random.get_rng_state()
    with pytest.raises(RequestError, match=r"features.0.weight and 49 others"):
        lpips_from_weights("squeeze", path)
    assert torch.equal(torch.random.get_rng_state(), before)  # no one else's draws change
    with pytest.raises(RequestError, match="no backbone 'resnet'"):
        lpips_from_weights("resnet", path)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(RequestError, match="holds a list"):
        lpips_from_weights("alex", tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(RequestError, match="not a file of tensors"):
        lpips_from_weights("alex", tmp_path / "text.pth")


def test_weights_that_would_run_code_are_not_unpickled(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"features.0.weight": print}, path)
    with pytest.raises(RequestError, match="not a file of tensors"):
        lpips_from_weights("alex", path)


# -- all measures of some pairs


def frame(image: np.ndarray, valid: np.ndarray | None = None) -> Frame:
    return Frame(image, np.ones(image.shape[:2], bool) if valid is None else valid)


def test_pairs_are_measured_where_both_are_valid():
    first, second = two(40, 50)
    left, top = np.ones((40, 50), bool), np.ones((40, 50), bool)
    left[:, 40:], top[30:] = False, False
    table = pair_measures([frame(first, left)] * 2, [frame(second, top), frame(first)])
    assert table["valid_pair_frac"].tolist() == pytest.approx([0.6, 0.8])
    assert set(table) == {"valid_pair_frac", *METRICS} - {"lpips"}
    both = left & top
    assert table["ssim"][0] == paired.ssim(first, second, both)
    assert table["psnr_db"][0] == paired.psnr(first, second, both)
    assert table["ms_ssim"][0] == paired.ms_ssim(first, second, both)
    assert table["perceptual"][0] == pytest.approx(one_by_one(first, second, both), rel=1e-4)
    assert table.loc[1, "psnr_db"] == float("inf")
    assert table["spectrum_error"][0] > table["spectrum_error"][1] == 0
    assert table["edge_f1"][0] < table["edge_f1"][1] == 1


def test_the_reference_sets_the_threshold_of_edges_in_a_pair():
    sharp, soft = textured(1, 40, 50), blurred(textured(1, 40, 50), 2)
    table = pair_measures([frame(sharp)], [frame(soft)])
    assert table["edge_f1"][0] == paired.edge_f1(sharp, soft) != paired.edge_f1(soft, sharp)


def test_lpips_is_a_column_where_its_network_is_given():
    network = paired.PerceptualNetwork(lambda images: [images, images / 2])
    first, second = two(40, 50)
    table = pair_measures([frame(first)], [frame(second)], lpips=network)
    assert table["lpips"][0] == pytest.approx(one_by_one(first, second, network=network))


# -- scores


def measured(values: dict[str, list[float]], **changes) -> Measured:
    """A place a block, every second one a forest, months in turn."""
    num = len(next(iter(values.values())))
    tiles = [
        ScoredTile(
            key=f"k{i}",
            place=f"p{i}",
            month=f"2020-{i % 2 + 1:02d}",
            lat=0.0,
            lon=-180.0 + 10 * i,
            land_cover=(LandCover.MIXED_FORESTS, LandCover.GRASSLANDS)[i % 2],
        )
        for i in range(num)
    ]
    table = tile_table(tiles)
    return Measured("generated", "generated", "", table.assign(**values), **changes)


def test_scores_are_means_over_pairs_for_all_and_by_group():
    system = measured({"valid_pair_frac": [1.0] * 4, "ssim": [0.1, 0.2, 0.3, 0.6]})
    scores = paired_scores([system], CONFIG)
    assert {(s.group_kind, s.group): (round(s.value, 12), s.n) for s in scores} == {
        ("all", "all"): (0.3, 4),
        ("land_cover", "Mixed Forests"): (0.2, 2),
        ("land_cover", "Grasslands"): (0.4, 2),
        ("month", "01"): (0.2, 2),
        ("month", "02"): (0.4, 2),
    }
    score = scores[0]
    assert (score.section, score.metric, score.system) == ("paired", "ssim", "generated")
    assert score.low < score.value < score.high
    assert (score.num_blocks, score.flag) == (4, "")


def test_images_without_a_real_one_do_not_count():
    system = measured({"valid_pair_frac": [1, np.nan, 1, np.nan], "ssim": [0.1, 9, 0.3, 9]})
    [score] = find(paired_scores([system], CONFIG), group="all")
    assert (score.value, score.n, score.flag) == (pytest.approx(0.2), 2, "")
    assert not find(paired_scores([system], CONFIG), group="Grasslands")


def test_equal_images_are_left_out_of_psnr_and_counted():
    infinite = float("inf")
    system = measured({"valid_pair_frac": [1.0] * 4, "psnr_db": [20, infinite, 30, infinite]})
    scores = paired_scores([system], CONFIG)
    [score] = find(scores, group="all")
    assert (score.value, score.n) == (25, 2)
    assert score.flag == "2 of 4 pairs are equal, infinite, left out"
    [grass] = find(scores, group="Grasslands")
    assert (grass.value, grass.low, grass.n) == (None, None, 0)
    assert grass.flag == "2 of 2 pairs are equal, infinite, left out"


def test_undefined_measures_are_counted():
    system = measured({"valid_pair_frac": [1.0] * 4, "edge_f1": [0.5, np.nan, 0.7, 0.9]})
    [score] = find(paired_scores([system], CONFIG), group="all")
    assert (score.value, score.n) == (pytest.approx(0.7), 3)
    assert score.flag == "1 of 4 pairs undefined, left out"


def test_the_interval_is_that_of_the_bootstrap_of_blocks_under_the_settings():
    values, blocks = [0.1, 0.2, 0.3, 0.4, 0.9], ["a", "a", "b", "c", "c"]
    system = measured({"valid_pair_frac": [1.0] * 5, "ssim": values})
    system.table["block"] = blocks
    config = CONFIG.model_copy(update={"num_draws": 60, "seed": 3, "level": 0.5})
    [score] = find(paired_scores([system], config), group="all")
    expected = bootstrap_interval(
        values, blocks, lambda v: float(v.mean()), num=60, seed=3, level=0.5
    )
    assert (score.low, score.high) == pytest.approx(expected)


def test_images_of_one_block_are_drawn_together_and_unknown_places_are_said():
    system = measured({"valid_pair_frac": [1.0] * 4, "ssim": [0.1, 0.2, 0.3, 0.4]})
    system.table["block"] = ["b", "b", None, None]
    [score] = find(paired_scores([system], CONFIG), group="all")
    assert score.num_blocks == 3
    assert score.flag == "2 images of unknown place are drawn as if independent"
    system.table["block"] = "b"
    [score] = find(paired_scores([system], CONFIG), group="all")
    assert (score.num_blocks, score.low, score.high) == (1, None, None)
    assert score.flag == "one block: no interval"


def test_sets_that_were_not_paired_have_no_scores():
    unpaired = measured({"gcc": [0.3, 0.4]})
    nothing = measured({"valid_pair_frac": [np.nan, np.nan], "ssim": [np.nan, np.nan]})
    assert paired_scores([unpaired, nothing], CONFIG) == []


def test_every_metric_is_scored_under_its_key():
    system = measured({"valid_pair_frac": [1.0] * 2} | {name: [1.0, 2.0] for name in METRICS})
    assert {score.metric for score in paired_scores([system], CONFIG)} == set(METRICS)


def test_scores_of_the_same_seed_are_the_same():
    system = measured({"valid_pair_frac": [1.0] * 6, "ssim": [0.1, 0.2, 0.3, 0.4, 0.9, 0.2]})
    first, again = paired_scores([system], CONFIG), paired_scores([system], CONFIG)
    other = paired_scores([system], CONFIG.model_copy(update={"seed": 1}))
    assert pd.DataFrame(first).equals(pd.DataFrame(again))
    assert first[0].low != other[0].low
