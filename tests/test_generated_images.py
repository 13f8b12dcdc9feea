"""What `ecomap generate` wrote is found with the records that it was asked for."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecomap.errors import DataError, SchemaError
from ecomap.generate import _write
from ecomap.generated_images import find_generated
from ecomap.image_sets import open_image_set
from tests.fakes import made_image, make_tile

SETTINGS = {"prompt": "a prompt", "changes": {}, "steps": 2, "guidance": 2.0, "solver": "euler",
            "bundle": {"name": "made"}}  # fmt: skip


def generated(folder, record, *, seeds=(0,), **settings):
    """Files of a request, as the verb writes them: PNG, GeoTIFF and JSON, a sheet and a page."""
    images = np.stack([made_image(seed + 1, 16, 16) for seed in seeds])
    _write(folder, images, seeds, record, SETTINGS | settings, [])
    return folder


def opened(folder):
    return open_image_set(folder, name="made", kind="generated", max_masked_frac=0.5)


def test_images_know_their_records(tmp_path):
    record = make_tile(month="2004-07", temperature_c=8.5)
    images = opened(generated(tmp_path, record))
    assert len(images.tiles) == 1
    tile = images.tiles[0]
    assert (tile.key, tile.place, tile.month) == (record.tile_id, record.place_id, "2004-07")
    assert tile.climate["temperature_c"] == 8.5
    assert (tile.caption, tile.record) == ("a prompt", record)
    assert (images.read(0).rgb == made_image(1, 16, 16)).all()
    assert images.files[0].path.suffix == ".png"
    assert "1 GeoTIFFs are the same images as the PNGs of their names." in images.notes
    assert images.dropped == {"image without record": ["contact_sheet_synth.png"]}
    assert images.description == f"1 images: images that ecomap generated in {tmp_path}."


def test_further_seeds_have_keys_of_their_own(tmp_path):
    record = make_tile()
    images = opened(generated(tmp_path, record, seeds=(12, 3)))
    by_key = {tile.key: index for index, tile in enumerate(images.tiles)}
    assert set(by_key) == {record.tile_id, f"{record.tile_id}#seed12"}
    assert (images.read(by_key[record.tile_id]).rgb == made_image(4, 16, 16)).all()
    assert any(note.startswith("1 images are further seeds") for note in images.notes)


def test_two_requests_of_one_place_and_month_are_refused(tmp_path):
    generated(tmp_path, make_tile(temperature_c=4.0))
    generated(tmp_path, make_tile(temperature_c=9.0))
    with pytest.raises(DataError, match=r"different requests for made/a/1/2021-03"):
        opened(tmp_path)


def test_months_of_a_place_are_several_requests(tmp_path):
    for month in ("2004-01", "2004-02"):
        generated(tmp_path, make_tile(month=month))
    assert len(opened(tmp_path).tiles) == 2


def test_images_of_a_text_have_their_names_as_keys(tmp_path):
    images = opened(generated(tmp_path, None, seeds=(0, 1), prompt="a text"))
    assert [tile.key.rsplit("_", 1)[1] for tile in images.tiles] == ["seed0", "seed1"]
    assert {tile.caption for tile in images.tiles} == {"a text"}
    assert {tile.record for tile in images.tiles} == {None}


def test_an_image_without_its_json_carries_its_record_inside(tmp_path):
    generated(tmp_path, record := make_tile())
    for path in tmp_path.glob("*.json"):
        path.unlink()
    assert [tile.record for tile in opened(tmp_path).tiles] == [record]
    for path in tmp_path.glob("*seed0*.png"):
        path.unlink()
    assert [tile.record for tile in opened(tmp_path).tiles] == [record]  # of the GeoTIFF


def test_a_damaged_json_is_named_and_a_wrong_record_too(tmp_path):
    generated(tmp_path, make_tile())
    beside = next(tmp_path.glob("*_synth.json"))
    text = beside.read_text()
    beside.write_text("{")
    with pytest.raises(DataError, match=r"seed0_synth.json is not readable JSON"):
        opened(tmp_path)
    beside.write_text(text.replace("2021-03", "2021-13"))
    with pytest.raises(SchemaError, match=r"seed0_synth.png: month"):
        opened(tmp_path)


def test_marked_images_of_others_are_plain_images(tmp_path):
    Image.fromarray(made_image(1, 16, 16)).save(tmp_path / "a_synth.png")
    (tmp_path / "a_synth.json").write_text('{"model": "another"}')
    assert find_generated(Path(tmp_path), ["a_synth.png"]) is None
    assert [tile.key for tile in opened(tmp_path).tiles] == ["a"]
