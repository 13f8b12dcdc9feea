"""One pass over made sets: columns by hand, and the same result however it is run."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from distributed import Client
from torchvision.models import squeezenet1_1

from ecomap import indices, paired
from ecomap.errors import ImageError, RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.feature_network import FeatureNetwork, FeatureNetworkConfig, Scale, save_feature_network
from ecomap.features import open_space
from ecomap.measure import index_measures, measure_set
from ecomap.paired import METRICS, pair_measures
from ecomap.tiles import Frame, ScoredTile, SetKind, tile_of, tile_table
from tests.fakes import made_image, make_tile

INDEX_COLUMNS = [
    "gcc", "vari", "exg", "snow_frac", "ndvi", "evi", "ndsi", "land_px_frac", "brightness",
    "saturation_frac", "valid_frac",
]  # fmt: skip
PAIR_COLUMNS = {"valid_pair_frac", *METRICS} - {"lpips"}
SPACE = "colour_texture"
CONFIG = EvaluateConfig(batch_size=3)


@dataclass
class MadeSet:
    """Images by seed; None cannot be scored."""

    seeds: list[int | None]
    name: str = "made"
    kind: SetKind = "generated"
    description: str = "made for a test"
    size: tuple[int, int] = (40, 48)
    prefix: str = "k"
    files: list[str] = field(default_factory=list)
    is_read: list[int] = field(default_factory=list)

    @property
    def tiles(self) -> list[ScoredTile]:
        tiles = [ScoredTile(key=f"{self.prefix}{i}", place="p") for i in range(len(self.seeds))]
        if self.files:
            records = [make_tile(image_path=path) for path in self.files]
            tiles = [
                ScoredTile(key=tile.key, record=record)
                for tile, record in zip(tiles, records, strict=True)
            ]
        return tiles

    def read(self, index: int) -> Frame:
        self.is_read.append(index)
        seed = self.seeds[index]
        if seed is None:
            raise ImageError("blank", f"{index} is blank.")
        image = made_image(seed, *self.size)
        valid = np.ones(self.size, bool)
        valid[:4] = seed % 2 == 0
        return Frame(image, valid)


def frame(rgb: np.ndarray, **fields) -> Frame:
    fields = {"valid": np.ones(rgb.shape[:2], bool)} | fields
    return Frame(rgb, **fields)


def measure(images, reference=None, **options):
    return measure_set(
        images, **{"spaces": (SPACE,), "config": CONFIG} | options, reference=reference
    )


def assert_same(first, second):
    pd.testing.assert_frame_equal(first.table, second.table, rtol=1e-5, atol=1e-6)
    assert list(first.features) == list(second.features)
    for space in first.features:
        np.testing.assert_allclose(
            first.features[space], second.features[space], rtol=1e-5, atol=1e-5
        )
    assert first.problems == second.problems


# -- indices of one image


def test_indices_are_means_over_valid_land():
    rgb = np.full((4, 10, 3), (3, 6, 21), np.uint8)  # sea
    rgb[:, :3] = (60, 80, 60)
    rgb[:, 3] = (200, 200, 200)  # snow
    valid = np.ones((4, 10), bool)
    valid[:, 0] = False
    found = index_measures(frame(rgb, valid=valid))
    assert list(found) == INDEX_COLUMNS
    assert found["gcc"] == pytest.approx((2 * 0.4 + 1 / 3) / 3)
    assert found["vari"] == pytest.approx((2 * 20 / 80 + 0) / 3)
    assert found["exg"] == pytest.approx((2 * 40 / 255 + 0) / 3)
    assert found["snow_frac"] == pytest.approx(1 / 3)
    assert found["land_px_frac"] == pytest.approx(3 / 9)
    assert found["brightness"] == pytest.approx((2 * 200 / 3 + 200 + 6 * 10) / 9)
    assert found["valid_frac"] == 0.9
    assert np.isnan([found[name] for name in ("ndvi", "evi", "ndsi")]).all()


def test_an_image_of_sea_is_read_as_a_whole_and_says_that_it_has_no_land():
    found = index_measures(frame(np.full((10, 20, 3), (3, 6, 21), np.uint8)))
    assert found["gcc"] == pytest.approx(0.2)
    assert found["land_px_frac"] == 0


def test_a_few_pixels_of_land_are_counted_though_the_whole_image_is_read():
    rgb = np.full((20, 20, 3), (3, 6, 21), np.uint8)
    rgb[0, :2] = (60, 80, 60)
    assert index_measures(frame(rgb))["land_px_frac"] == 2 / 400


def test_vari_leaves_out_pixels_whose_divisor_nearly_vanishes():
    rgb = np.array([[(40, 60, 20), (60, 90, 149)]], np.uint8)  # 20 / 80, and 30 / 1
    assert index_measures(frame(rgb))["vari"] == pytest.approx(0.25)
    exactly_one = np.array([[(30, 90, 60)]], np.uint8)
    assert index_measures(frame(exactly_one))["vari"] == 1


def test_saturation_counts_pixels_with_a_channel_at_its_end():
    rgb = np.full((2, 4, 3), 254, np.uint8)
    rgb[0, 0, 2] = rgb[0, 1, 0] = rgb[0, 1, 1] = 255
    valid = np.ones((2, 4), bool)
    valid[0, 0] = False
    found = index_measures(frame(rgb, valid=valid))
    assert found["saturation_frac"] == pytest.approx(1 / 7)


def test_indices_of_bands_are_means_over_valid_land_with_data():
    rgb = np.full((2, 3, 3), (60, 80, 60), np.uint8)
    rgb[1] = (3, 6, 21)
    values = {"B02": 0.05, "B03": 0.2, "B04": 0.1, "B08": 0.5, "B11": 0.1, "B8A": 0.3}
    bands = {name: np.full((2, 3), value, np.float32) for name, value in values.items()}
    bands["B08"][1] = 0.1  # sea
    bands["B08"][0, 0] = np.nan
    found = index_measures(frame(rgb, bands=bands))
    assert found["ndvi"] == pytest.approx(0.4 / 0.6)
    assert found["evi"] == pytest.approx(1 / 1.725, rel=1e-6)
    assert found["ndsi"] == pytest.approx(0.1 / 0.3, rel=1e-6)
    del bands["B08"]
    assert index_measures(frame(rgb, bands=bands))["ndvi"] == pytest.approx(0.2 / 0.4)
    del bands["B8A"]
    found = index_measures(frame(rgb, bands=bands))
    assert np.isnan(found["ndvi"])
    assert np.isfinite(found["ndsi"])


def test_an_image_without_valid_pixels_has_no_values():
    found = index_measures(frame(made_image(1, 8, 9), valid=np.zeros((8, 9), bool)))
    assert found.pop("valid_frac") == 0
    assert np.isnan(list(found.values())).all()


# -- a set


def test_a_set_is_measured_in_the_order_of_its_tiles():
    images = MadeSet([5, 3, 9, 1, 7, 2, 4])
    found = measure(images)
    expected = pd.DataFrame(
        [index_measures(images.read(i)) for i in range(7)], index=[f"k{i}" for i in range(7)]
    )
    assert list(found.table) == [*tile_table(images.tiles), *INDEX_COLUMNS]
    pd.testing.assert_frame_equal(found.table[INDEX_COLUMNS], expected, check_names=False)
    stacked = np.stack([images.read(i).rgb for i in range(7)])
    np.testing.assert_allclose(
        found.features[SPACE], open_space(SPACE).extract(stacked).features, rtol=1e-6
    )
    assert found.features[SPACE].dtype == np.float32
    assert (found.name, found.kind) == ("made", "generated")
    assert found.description == "made for a test"
    assert found.problems == {}
    assert found.probabilities == {}


def test_images_that_cannot_be_scored_are_left_out_and_listed():
    found = measure(MadeSet([1, None, 2, 3, None]))
    assert list(found.table.index) == ["k0", "k2", "k3"]
    assert found.problems == {"blank": ["k1", "k4"]}
    assert_same_rows = measure(MadeSet([1, 2, 3]))
    np.testing.assert_array_equal(found.features[SPACE], assert_same_rows.features[SPACE])


@pytest.mark.parametrize("real", [None, MadeSet([3, 4], name="real")])
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_set_without_a_good_image_has_no_rows_but_its_columns(tmp_path, in_folder, real):
    folder = tmp_path if in_folder else None
    found, full = (measure(MadeSet(s), real, folder=folder) for s in ([None, None], [1, 2]))
    assert list(found.table) == list(full.table)
    assert (found.table.dtypes == full.table.dtypes).all()
    assert len(found.table) == 0
    assert found.features[SPACE].shape == (0, full.features[SPACE].shape[1])
    assert found.problems == {"blank": ["k0", "k1"]}


def test_images_are_paired_with_the_real_ones_of_their_keys():
    real = MadeSet([11, 12, 13], name="real", kind="reference")
    images = MadeSet([1, 2, 3, 4])
    found = measure(images, real)
    assert set(found.table) >= PAIR_COLUMNS
    frames = [[some.read(i) for i in range(3)] for some in (real, images)]
    expected = pair_measures(*frames).set_axis(found.table.index[:3])
    columns = sorted(PAIR_COLUMNS)
    pd.testing.assert_frame_equal(
        found.table[columns][:3], expected[columns], check_names=False, rtol=1e-4
    )
    assert found.table.loc["k3", columns].isna().all()


def test_a_real_image_that_cannot_be_read_makes_no_pair():
    found = measure(MadeSet([1, 2, 3]), MadeSet([11, None, 13], name="real"))
    assert found.table["valid_pair_frac"].notna().tolist() == [True, False, True]
    assert found.table["gcc"].notna().all()
    assert found.problems == {}


def test_sets_of_other_keys_make_no_pairs():
    found = measure(MadeSet([1, 2]), MadeSet([1, 2], name="real", prefix="other"))
    assert not PAIR_COLUMNS & set(found.table)


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_the_size_of_batches_decides_nothing(batch_size):
    images, real = MadeSet([1, None, 2, 3, 4]), MadeSet([6, 7, None, 8], name="real")
    config = EvaluateConfig(batch_size=batch_size)
    assert_same(measure(images, real, config=config), measure(images, real))


def test_features_in_a_folder_are_the_same_and_mapped(tmp_path):
    for images in (MadeSet([1, 2, 3, 4]), MadeSet([1, None, 2, 3, 4])):
        found = measure(images, folder=tmp_path / "features")
        assert_same(found, measure(images))
        assert isinstance(found.features[SPACE], np.memmap)
        assert not found.features[SPACE].flags.writeable
    assert [path.name for path in (tmp_path / "features").iterdir()] == [
        "features-made-colour_texture.npy"
    ]


def test_names_that_no_file_can_have_do_not_fall_together(tmp_path):
    first = measure(MadeSet([1, 2], name="a/b"), folder=tmp_path)
    second = measure(MadeSet([3, 4], name="a:b"), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert_same(first, measure(MadeSet([1, 2], name="a/b")))
    assert_same(second, measure(MadeSet([3, 4], name="a:b")))


def test_frames_of_one_mosaic_are_read_one_after_the_other():
    files = ["b.jpg", "a.jpg", "b.jpg", "a.jpg", "a.jpg"]
    images = MadeSet([1, 2, 3, 4, 5], files=files)
    found = measure(images)
    assert images.is_read == [1, 3, 4, 0, 2]
    assert list(found.table.index) == ["k0", "k1", "k2", "k3", "k4"]
    real = MadeSet([5, 4, 3, 2, 1], name="real", files=files[::-1])
    measure(MadeSet([1, 2, 3, 4, 5]), real)
    assert real.is_read == [0, 1, 3, 2, 4]


def test_progress_counts_all_images_to_the_end():
    seen: list[tuple[int, int]] = []
    measure(MadeSet([1, None, 3, 4]), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


def test_no_more_than_a_few_batches_are_read_before_they_are_measured():
    images = MadeSet(list(range(20)))
    read_so_far: list[int] = []
    config = EvaluateConfig(batch_size=1)
    measure(images, config=config, progress=lambda *_: read_so_far.append(len(images.is_read)))
    assert all(count <= done + 3 for done, count in enumerate(read_so_far, 1))


# -- spaces that predict


def write_network(folder: Path) -> Path:
    torch.manual_seed(1)
    scales = {"temperature_c": Scale(log=False, mean=10.0, std=5.0)}
    sizes = FeatureNetworkConfig(
        input_size_px=32, widths=(8, 16, 24), blocks=(1, 1, 1), climate=scales, card={"name": "x"}
    )
    save_feature_network(FeatureNetwork(sizes).eval(), folder)
    return folder


@pytest.mark.parametrize("in_folder", [False, True])
def test_predictions_are_columns_and_probabilities_are_kept(tmp_path, in_folder):
    space = f"eo={write_network(tmp_path / 'network')}"
    images = MadeSet([1, None, 2, 3, 4])
    folder = tmp_path / "features" if in_folder else None
    found = measure(images, spaces=(SPACE, space), folder=folder)
    stacked = np.stack([images.read(i).rgb for i in (0, 2, 3, 4)])
    expected = open_space(space).extract(stacked)
    assert expected.predictions
    for name, values in expected.predictions.items():
        np.testing.assert_allclose(found.table[name], np.asarray(values, float), rtol=1e-4)
    assert list(found.features) == [SPACE, space]
    assert found.features[space].shape == (4, 24)
    np.testing.assert_allclose(found.probabilities[space], expected.probabilities, atol=1e-5)
    assert list(found.probabilities) == [space]


def test_two_spaces_that_predict_the_same_are_told_apart(tmp_path):
    first, second = (f"eo={write_network(tmp_path / name)}" for name in "ab")
    table = measure(MadeSet([1, 2]), spaces=(first, second)).table
    column = "predicted_temperature_c"
    np.testing.assert_array_equal(table[column], table[f"{column} ({second})"])
    assert f"{column} ({first})" not in table


def write_backbone(path: Path) -> Path:
    """Random weights of SqueezeNet's features under torchvision's names."""
    torch.manual_seed(2)
    shapes = squeezenet1_1(weights=None).features.state_dict()
    torch.save({f"features.{name}": value for name, value in shapes.items()}, path)
    return path


def test_lpips_is_measured_where_its_weights_are_given(tmp_path):
    path = write_backbone(tmp_path / "weights.pth")
    images, real = MadeSet([2, 4]), MadeSet([6, 8], name="real")
    found = measure(images, real, lpips=("squeeze", path))
    pairs = [np.stack([some.read(i).rgb for i in range(2)]) for some in (real, images)]
    network = paired.lpips_from_weights("squeeze", path)
    expected = paired.perceptual(*pairs, network=network)
    np.testing.assert_allclose(found.table["lpips"], expected, rtol=1e-4)
    assert (expected > 0).all()


# -- elsewhere


class Trap:
    """A set that says where it was read."""

    name: str = "trap"
    kind: SetKind = "generated"
    description: str = ""
    tiles = (ScoredTile(key="a"),)

    def read(self, index: int) -> Frame:
        return frame(np.full((16, 16, 3), os.getpid() % 256, np.uint8))


@pytest.mark.slow  # a fresh process imports torch
def test_processes_and_this_process_give_the_same(tmp_path):
    images, real = MadeSet([1, None, 2, 3, 4]), MadeSet([6, 7, None, 8], name="real")
    expected = measure(images, real)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert_same(measure(images, real, executor=executor, folder=tmp_path), expected)
        brightness = measure(Trap(), executor=executor).table.loc["a", "brightness"]
        [pid] = executor._processes
        with pytest.raises(RequestError, match="too small for features"):
            measure(MadeSet([1], size=(4, 4)), executor=executor)
    assert brightness == pid % 256
    assert [path.name for path in tmp_path.iterdir()] == ["features-made-colour_texture.npy"]


def test_dask_gives_the_same():
    images, real = MadeSet([1, None, 2, 3, 4]), MadeSet([6, 7, None, 8], name="real")
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as dask:
        found = measure(images, real, executor=dask.get_executor())
    assert_same(found, measure(images, real))


# -- bad input


class Mixed(MadeSet):
    """Its second image is smaller than the first."""

    def read(self, index: int) -> Frame:
        self.size = (40 - 8 * index, 48)
        return super().read(index)


def test_images_of_two_sizes_are_refused():
    with pytest.raises(RequestError, match=r"made has an image of 32 x 48 px.*one of 40 x 48 px"):
        measure(Mixed([1, 2]))


def test_real_images_of_another_size_are_refused():
    with pytest.raises(RequestError, match=r"the reference has an image of 30 x 48 px.*--size"):
        measure(MadeSet([1, 2]), MadeSet([1, 2], size=(30, 48)))


def test_an_empty_set_is_refused():
    with pytest.raises(RequestError, match="made has no images"):
        measure(MadeSet([]))


def test_an_unknown_space_is_refused():
    with pytest.raises(RequestError, match="'nonsense' is unknown"):
        measure(MadeSet([1]), spaces=("nonsense",))


def test_other_errors_of_a_set_are_not_taken_for_bad_images():
    class Broken(MadeSet):
        def read(self, index: int) -> Frame:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        measure(Broken([1, 2]))


class Recorded(MadeSet):
    """Its only tile comes from a record."""

    tiles = (tile_of(make_tile()),)


def test_what_is_known_of_a_tile_stands_in_its_row():
    row = measure(Recorded([1])).table.loc[make_tile().tile_id]
    assert (row["land_cover"], row["month_index"], row["temperature_c"]) == ("Grasslands", 2, 4.5)


def test_land_is_found_by_the_same_rule_as_elsewhere():
    image = made_image(3, 30, 40)
    found, plain = index_measures(frame(image)), indices.land_indices(image)
    assert (found["gcc"], found["snow_frac"]) == (plain.greenness, plain.snow_frac)
