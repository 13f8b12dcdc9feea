"""Folders of every form become sets whose images pair, and what cannot be used is told."""

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ecomap.errors import DataError, ImageError, RequestError, SchemaError
from ecomap.image_sets import open_image_set
from ecomap.imagery import FrameReader
from ecomap.schema import read_dataset, write_dataset
from ecomap.tiles import ImageSet
from tests.fakes import made_image, make_tile, write_tiles
from tests.made_dataset import BANDS, digital_numbers, tile, write_made


def opened(path, **options) -> ImageSet:
    options = {"name": "a", "kind": "reference", "max_masked_frac": 0.5} | options
    return open_image_set(path, **options)


def write_images(folder, *names, size=(12, 20)):
    """Images of different content, by their paths."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made_image(number, *size)).save(path)
    return folder


def keys(images):
    return [tile.key for tile in images.tiles]


def reason_of(images, index):
    with pytest.raises(ImageError) as caught:
        images.read(index)
    return caught.value.reason


# Datasets


def test_a_dataset_has_its_records_keys_and_frames(tmp_path):
    write_tiles(tmp_path, num_places=5)
    images = opened(tmp_path, name="real", kind="reference")
    records = read_dataset(tmp_path)
    assert (images.name, images.kind, images.size) == ("real", "reference", (16, 16))
    assert images.description == f"15 images: dataset {tmp_path}."
    assert keys(images) == [record.tile_id for record in records]
    assert images.tiles[7].record == records[7]
    for index in (0, 14):
        frame = images.read(index)
        assert (frame.rgb == FrameReader(tmp_path).read(records[index])).all()
        assert frame.valid.all()
    assert images.notes == ()
    assert images.dropped == {}


def test_a_tile_of_digital_numbers_has_reflectance_and_a_mask(tmp_path):
    write_made(tmp_path, [item := tile("p", "2020-06")])
    frame = opened(tmp_path).read(0)
    numbers = digital_numbers(item)
    assert np.argwhere(~frame.valid).tolist() == [[0, 0]]
    assert set(frame.bands) == set(BANDS)
    np.testing.assert_allclose(frame.bands["B08"][5, 6], numbers[3, 5, 6] / 1e4, rtol=1e-6)
    assert (frame.rgb == FrameReader(tmp_path).read(item)).all()


def test_reflectance_shrinks_with_its_picture(tmp_path):
    item = tile("p", "2020-06", height_px=20, width_px=20)
    write_made(tmp_path, [item])
    frame = opened(tmp_path, size_px=10).read(0)
    blocks = digital_numbers(item)[3].reshape(10, 2, 10, 2).mean((1, 3)) / 1e4
    np.testing.assert_allclose(frame.bands["B08"][1:, 1:], blocks[1:, 1:], rtol=1e-6)
    assert np.isfinite(frame.bands["B08"][0, 0]) == frame.valid[0, 0]


def test_sixteen_bits_without_a_range_are_refused(tmp_path):
    write_made(tmp_path, [tile("p", "2020-06")])
    write_dataset(tmp_path, [tile("p", "2020-06", reflectance_range=None)])
    assert reason_of(opened(tmp_path), 0) == "16-bit without a reflectance range"


def test_black_is_missing_data_where_the_record_counts_some(tmp_path):
    image = np.maximum(made_image(1, 16, 16), 1)
    image[:4] = 0
    for name in ("a", "b"):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    records = [make_tile(location_id=n, image_path=f"{n}.png", nodata_frac=f)
               for n, f in (("a", 0.25), ("b", 0.0))]  # fmt: skip
    write_dataset(tmp_path, records)
    images = opened(tmp_path)
    assert (~images.read(0).valid).sum() == 64
    assert images.read(1).valid.all()
    strict = opened(tmp_path, max_masked_frac=0.2)
    assert reason_of(strict, 0) == "mostly masked"
    strict.read(1)


def test_windows_of_a_mosaic_are_tiles(tmp_path):
    mosaic = made_image(1, 40, 60)
    Image.fromarray(mosaic).save(tmp_path / "m.jpg", quality=95)
    records = [make_tile(location_id=str(x), image_path="m.jpg", window_px=(x, 8, 16, 16))
               for x in (0, 20)]  # fmt: skip
    write_dataset(tmp_path, records)
    images = opened(tmp_path)
    with Image.open(tmp_path / "m.jpg") as file:
        decoded = np.asarray(file)
    assert (images.read(1).rgb == decoded[8:24, 20:36]).all()
    assert images.signature(0) != images.signature(1)
    assert images.notes == ("2 of 2 images are JPEG, which is lossy: its blocks count as texture.",)


def test_records_without_an_image_are_dropped_and_told(tmp_path):
    write_images(tmp_path, "a.png", size=(16, 16))
    names = {"1": "a.png", "2": "gone.png", "3": None}
    records = [make_tile(location_id=k, image_path=v) for k, v in names.items()]
    write_dataset(tmp_path, records)
    images = opened(tmp_path)
    assert keys(images) == ["made/a/1/2021-03"]
    assert images.dropped == {"row without image": ["made/a/2/2021-03", "made/a/3/2021-03"]}


def test_a_dataset_without_any_image_is_refused(tmp_path):
    write_dataset(tmp_path, [make_tile(image_path="gone.png")])
    with pytest.raises(DataError, match="has 1 records and no image of any"):
        opened(tmp_path)


def test_splits_are_chosen_and_the_rest_is_counted(tmp_path):
    write_tiles(tmp_path)
    images = opened(tmp_path, splits=["val", "test"])
    assert {tile.split for tile in images.tiles} == {"val", "test"}
    assert len(images.tiles) == 12
    assert (images.read(11).rgb == opened(tmp_path).read(35).rgb).all()
    assert "24 tiles of other splits than val, test are left out." in images.notes
    with pytest.raises(RequestError, match=r"no tile of the splits buffer; its tiles are test, tr"):
        opened(tmp_path, splits=["buffer"])


def test_a_records_file_names_its_dataset(tmp_path):
    write_tiles(tmp_path, num_places=5)
    assert len(opened(tmp_path / "records.parquet").tiles) == 15
    (tmp_path / "dataset.json").unlink()
    assert len(opened(tmp_path).tiles) == 15
    assert opened(tmp_path).tiles[0].record is not None


# Images with a table


def test_a_table_says_what_images_show(tmp_path):
    write_images(tmp_path, "x/a.png", "x/b.png")
    table = "file,place,month,lat\nx/b.png,1,2004-02,10\nx/a.png,1,2004-01,10\n"
    (tmp_path / "any.csv").write_text(table)
    images = opened(tmp_path)
    assert keys(images) == ["x/b", "x/a"]
    assert [tile.month for tile in images.tiles] == ["2004-02", "2004-01"]
    assert (images.read(0).rgb == made_image(1, 12, 20)).all()
    assert images.description == f"2 images: images of {tmp_path} with any.csv."


@pytest.mark.parametrize(
    "name",
    ["x/a.png", "a.png", "x/a", "a", "/elsewhere/disk/a.png", "C:\\data\\a.png", "x/a.jpg",
     "a_synth.png", "./x/a.png", "{folder}/x/a.png"],
)  # fmt: skip
def test_images_are_found_by_path_stem_and_name(tmp_path, name):
    write_images(tmp_path, "x/a.png", "x/b.png")
    (tmp_path / "t.csv").write_text(f"file,key\n{name.format(folder=tmp_path)},k\n")
    images = opened(tmp_path)
    assert keys(images) == ["k"]
    assert images.files[0].path == tmp_path / "x/a.png"
    assert images.dropped == {"image without row": ["x/b.png"]}


def test_an_image_may_lie_in_the_folder_of_its_place(tmp_path):
    write_images(tmp_path, "1/2004-01.png", "2/2004-01.png")
    (tmp_path / "t.csv").write_text("img_path,location_id\n2004-01.png,2\n2004-01.png,3\n")
    images = opened(tmp_path)
    assert keys(images) == ["2/2004-01"]
    assert images.dropped == {
        "row whose image may be one of several": ["row 2: 2004-01.png"],
        "image without row": ["1/2004-01.png"],
    }


def test_a_key_may_name_the_image(tmp_path):
    write_images(tmp_path, "src/1/2004-01_synth.png", "z.png")
    (tmp_path / "t.csv").write_text("tile_id\nsrc/1/2004-01\nsrc/1/2004-02\n")
    images = opened(tmp_path)
    assert keys(images) == ["src/1/2004-01"]
    assert images.dropped["row without image"] == ["row 2: src/1/2004-02"]


def test_a_parquet_table_that_is_no_dataset_is_a_table(tmp_path):
    write_images(tmp_path, "a.png")
    pd.DataFrame({"image": ["a.png"], "temperature_c": [4.0]}).to_parquet(
        tmp_path / "records.parquet"
    )
    assert opened(tmp_path).tiles[0].climate == {"temperature_c": 4.0}


def test_a_table_may_cut_tiles_from_a_mosaic(tmp_path):
    write_images(tmp_path, "m.png", size=(40, 60))
    (tmp_path / "t.csv").write_text(
        'file,key,window_px\nm.png,a,"[0, 0, 16, 12]"\nm.png,b,"[30, 20, 16, 12]"\n'
    )
    images = opened(tmp_path)
    assert images.size == (12, 16)
    assert (images.read(1).rgb == made_image(0, 40, 60)[20:32, 30:46]).all()


def test_two_tables_are_refused_unless_one_is_called_records_or_named(tmp_path):
    write_images(tmp_path, "a.png")
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(f"file,key\na.png,{name}\n")
    with pytest.raises(DataError, match=r"has the tables one.csv, two.csv\. Expected one"):
        opened(tmp_path)
    named = opened(tmp_path / "two.csv")
    assert keys(named) == ["two.csv"]
    assert "Other tables are not read: one.csv." in named.notes
    (tmp_path / "records.csv").write_text("file,key\na.png,three\n")
    assert keys(opened(tmp_path)) == ["three"]
    pd.DataFrame({"file": ["a.png"]}).to_parquet(tmp_path / "records.parquet")
    with pytest.raises(DataError, match=r"the tables records.csv, records.parquet"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file\nz.png\n", r"names none of the 2 images in .*, such as a.png"),
        ("file\na.png\nb.png\na\n", r"rows 1 and 3 name the same image a.png"),
        ("file,key\na.png,k\nb.png,k\n", r"several images with the key 'k'"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(tmp_path, table, message):
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_a_wrong_cell_is_an_error(tmp_path):
    write_images(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("file,average_temp\na.png,290\n")
    with pytest.raises(SchemaError, match=r"t.csv row 1, column 'average_temp'"):
        opened(tmp_path)


# Images without a table


def test_keys_of_plain_folders_are_paths_without_suffix_and_mark(tmp_path):
    write_images(tmp_path, "b.png", "a/c.JPG", "a/d_synth.png", "e.tif", ".hidden/f.png", ".g.png")
    images = opened(tmp_path)
    assert keys(images) == ["a/c", "a/d", "b", "e"]
    assert images.notes[0].startswith("1 of 4 images are JPEG, which is lossy")
    assert all(tile.month is None and not tile.climate for tile in images.tiles)


def test_the_size_is_that_of_most_and_others_are_refused(tmp_path):
    write_images(tmp_path, "a.png", "b.png", size=(20, 20))
    write_images(tmp_path, "c.png", size=(20, 12))
    images = opened(tmp_path)
    assert images.size == (20, 20)
    assert images.read(0).rgb.shape == (20, 20, 3)
    assert reason_of(images, 2) == "other size"
    resized = opened(tmp_path, size_px=10)
    assert resized.size == (10, 10)
    assert resized.read(0).rgb.shape == (10, 10, 3)
    with pytest.raises(ImageError, match="not square") as caught:
        resized.read(2)
    assert caught.value.reason == "other size"


def test_of_equally_many_sizes_the_largest_counts(tmp_path):
    write_images(tmp_path, "a.png", "b.png", size=(12, 12))
    write_images(tmp_path, "c.png", "d.png", size=(20, 20))
    assert opened(tmp_path).size == (20, 20)


def test_images_that_cannot_be_read_stay_in_the_set_and_say_why(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    Image.fromarray(made_image(1, 12, 20)).convert("L").save(tmp_path / "d.png")
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save(tmp_path / "e.png")
    images = opened(tmp_path)
    assert [reason_of(images, index) for index in (2, 3, 4)] == ["unreadable", "not RGB", "blank"]


def test_alpha_is_told_and_masks(tmp_path):
    rgba = np.dstack([made_image(1, 12, 20), np.full((12, 20), 255, np.uint8)])
    rgba[3, 4, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    write_images(tmp_path, "b.png")
    images = opened(tmp_path)
    assert images.notes == (
        "1 of 2 images have an alpha channel: pixels that are fully transparent are masked, all "
        "others are taken as opaque.",
    )
    assert np.argwhere(~images.read(0).valid).tolist() == [[3, 4]]


def test_other_formats_and_labels_are_told(tmp_path):
    write_images(tmp_path, "a.png", "b.webp", "c.bmp", "d.bmp")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/t.csv").write_text("file\n")
    labels, formats, tables = opened(tmp_path).notes
    assert labels.startswith("1 of 1 images have a JSON file beside them")
    assert formats == "Images of other formats are not read: 2 .bmp, 1 .webp."
    assert tables == "Other tables are not read: sub/t.csv."


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(DataError, match="gone does not exist"):
        opened(tmp_path / "gone")
    with pytest.raises(DataError, match="has no images"):
        opened(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 1 image files can be read"):
        opened(tmp_path)
    with pytest.raises(DataError, match="is a single file"):
        opened(tmp_path / "a.png")
    write_images(tmp_path, "b.png", "b.jpg")
    with pytest.raises(DataError, match="several images with the key 'b'"):
        opened(tmp_path)


# Masks


def write_mask(path, rows, size=(12, 20)):
    mask = np.zeros(size, np.uint8)
    mask[rows] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def test_masks_are_found_by_path_and_may_lie_inside(tmp_path):
    write_images(tmp_path, "x/a_synth.png", "x/b.png", "c.png")
    write_mask(tmp_path / "masks/x/a.png", np.s_[:2])
    write_mask(tmp_path / "masks/x/b.png", np.s_[:7])
    images = opened(tmp_path, masks=tmp_path / "masks")
    assert keys(images) == ["c", "x/a", "x/b"]
    assert images.read(0).valid.all()
    assert np.flatnonzero(~images.read(1).valid.any(1)).tolist() == [0, 1]
    assert reason_of(images, 2) == "mostly masked"
    assert f"1 of 3 images have no mask in {tmp_path / 'masks'}: all of them counts." in (
        images.notes
    )


def test_masks_of_a_dataset_have_the_paths_of_its_images(tmp_path):
    write_tiles(tmp_path / "data", num_places=5)
    write_mask(tmp_path / "masks/images/0_1.png", np.s_[:, :3], size=(16, 16))
    images = opened(tmp_path / "data", masks=tmp_path / "masks")
    assert np.flatnonzero(~images.read(0).valid.any(0)).tolist() == [0, 1, 2]
    assert images.read(1).valid.all()


def test_masks_that_fit_nothing_are_refused(tmp_path):
    write_images(tmp_path / "images", "a.png")
    with pytest.raises(DataError, match="masks is not a folder"):
        opened(tmp_path / "images", masks=tmp_path / "masks")
    write_mask(tmp_path / "masks/b.png", np.s_[:2])
    with pytest.raises(DataError, match=r"no mask for any of 1 images. .* such as a.png"):
        opened(tmp_path / "images", masks=tmp_path / "masks")
    write_mask(tmp_path / "masks/a.png", np.s_[:2], size=(20, 12))
    assert reason_of(opened(tmp_path / "images", masks=tmp_path / "masks"), 0) == "unusable mask"


# The set itself


def test_a_set_travels_between_processes_and_may_be_cut(tmp_path):
    write_tiles(tmp_path)
    images = opened(tmp_path)
    part = pickle.loads(pickle.dumps(images.select([30, 2])))
    assert keys(part) == [keys(images)[30], keys(images)[2]]
    assert (part.read(0).rgb == images.read(30).rgb).all()
    assert len(pickle.dumps(part)) < len(pickle.dumps(images)) / 4


def test_a_signature_changes_with_file_mask_and_settings(tmp_path):
    write_images(tmp_path / "images", "a.png")
    write_mask(tmp_path / "masks/a.png", np.s_[:2])

    def signature(**options):
        return opened(tmp_path / "images", **options).signature(0)

    plain, masked = signature(), signature(masks=tmp_path / "masks")
    assert plain == signature()
    different = [plain, masked, signature(size_px=8), signature(max_masked_frac=0.1)]
    assert len(set(different)) == 4
    os.utime(tmp_path / "masks/a.png", ns=(1, 1))
    assert signature() == plain
    assert signature(masks=tmp_path / "masks") != masked
    os.utime(tmp_path / "images/a.png", ns=(1, 1))
    assert signature() != plain


@pytest.mark.shared
def test_real_frames_of_ecomapper_are_read(shared_data: Path):
    images = opened(shared_data / "ecomapper")
    assert len(images.tiles) == 180
    assert images.size == (512, 512)
    assert images.read(0).rgb.shape == (512, 512, 3)
    assert images.notes[0].startswith("180 of 180 images have a JSON file beside them")
