"""Shards: their order, their index, and what another program reads from them."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image

from data_prep.export import export_dataset
from data_prep.export_webdataset import SHARDS_FILE, sample_keys
from ecomap.imagery import read_image, stretch
from ecomap.prompt import parse_prompt
from ecomap.schema import LandCover, TileRecord, make_record, write_dataset
from tests.made_dataset import ATTRIBUTION, RANGE, digital_numbers, tile, write_made, write_tile

SPLITS = ("train", "train", "train", "test", "val")


def items() -> list[TileRecord]:
    return [
        tile(f"p{n}", month, split=split)
        for n, split in enumerate(SPLITS)
        for month in ("2020-01", "2020-02")
    ]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_made(tmp_path / "dataset", items())


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / SHARDS_FILE).to_pylist()


def test_shards_are_of_one_split_and_none_is_of_buffer(tmp_path: Path):
    folder = write_made(tmp_path / "d", [*items(), tile("z", "2020-01", split="buffer")])
    summary = export_dataset(folder, tmp_path / "out", kind="webdataset")
    assert [p.name for p in sorted((tmp_path / "out").glob("*.tar"))] == [
        *("test-000000.tar", "train-000000.tar", "val-000000.tar"),
    ]
    assert summary.dropped == {"split_buffer": 1}
    splits = {row["key"]: row["split"] for row in rows_of(tmp_path / "out")}
    assert splits == {f"p{n}_20200{m}": SPLITS[n] for n in range(5) for m in (1, 2)}
    assert all(row["shard"].startswith(row["split"]) for row in rows_of(tmp_path / "out"))


def test_samples_are_in_the_order_of_a_hash_of_their_keys(dataset: Path, tmp_path: Path):
    export_dataset(dataset, tmp_path / "out", kind="webdataset")
    keys = [row["key"] for row in rows_of(tmp_path / "out") if row["split"] == "train"]
    assert keys == sorted(keys, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    assert keys != sorted(keys)


def test_a_shard_ends_when_it_has_its_size(dataset: Path, tmp_path: Path):
    export_dataset(dataset, tmp_path / "one", kind="webdataset", shard_size_mb=1e-6)
    shards = [row["shard"] for row in rows_of(tmp_path / "one")]
    assert shards[:3] == ["test-000000.tar", "test-000001.tar", "train-000000.tar"]
    assert len(set(shards)) == 10
    # A sample is 9,216 bytes: 512 + 4,096 of image, 512 + 2,560 of JSON, 512 + 512 of text.
    with tarfile.open(tmp_path / "one" / shards[0]) as tar:
        size = sum(512 + -(-member.size // 512) * 512 for member in tar)
    export_dataset(dataset, tmp_path / "two", kind="webdataset", shard_size_mb=1.5 * size / 1e6)
    shards = [row["shard"] for row in rows_of(tmp_path / "two")]
    assert shards == [
        *("test-000000.tar", "test-000000.tar", "train-000000.tar", "train-000000.tar"),
        *("train-000001.tar", "train-000001.tar", "train-000002.tar", "train-000002.tar"),
        *("val-000000.tar", "val-000000.tar"),
    ]


def test_members_have_no_time_and_no_owner(dataset: Path, tmp_path: Path):
    export_dataset(dataset, tmp_path / "out", kind="webdataset")
    with tarfile.open(tmp_path / "out" / "test-000000.tar") as tar:
        members = tar.getmembers()
    assert len(members) == 6
    for m in members:
        assert (m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o444)


def test_the_index_finds_each_member_and_knows_each_shard(dataset: Path, tmp_path: Path):
    out = tmp_path / "out"
    export_dataset(dataset, out, kind="webdataset", shard_size_mb=0.02)
    by_id = {item.tile_id: item for item in items()}
    rows = rows_of(out)
    assert {row["tile_id"] for row in rows} == set(by_id)
    for row in rows:
        item = by_id[row["tile_id"]]
        shard = (out / row["shard"]).read_bytes()
        assert hashlib.sha256(shard).hexdigest() == row["shard_sha256"]
        cut = {
            name: shard[row[f"{name}_offset"] : row[f"{name}_offset"] + row[f"{name}_num_bytes"]]
            for name in ("image", "json", "txt")
        }
        assert cut["image"] == (dataset / str(item.image_path)).read_bytes()
        assert json.loads(cut["json"])["location_id"] == item.location_id == row["location_id"]
        assert (row["month"], row["land_cover"], row["image_suffix"]) == (item.month, 12, "tif")
        assert parse_prompt(cut["txt"].decode())["month"] == item.month


# webdataset leaves it to the garbage collector to close the shards that it reads.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_what_was_written(dataset: Path, tmp_path: Path):
    import webdataset

    out = tmp_path / "out"
    export_dataset(dataset, out, kind="webdataset")
    samples = list(webdataset.WebDataset(str(out / "train-000000.tar"), shardshuffle=False))
    assert [s["__key__"] for s in samples] == [
        row["key"] for row in rows_of(out) if row["split"] == "train"
    ]
    by_key = {f"{r.location_id}_{r.month.replace('-', '')}": r for r in items()}
    for sample in samples:
        item = by_key[sample["__key__"]]
        record = make_record(json.loads(sample["json"]), where="shard")
        assert record == item.model_copy(update={"image_path": f"{sample['__key__']}.tif"})
        with rasterio.MemoryFile(sample["tif"]) as memory, memory.open() as tif:
            assert np.array_equal(tif.read(), digital_numbers(item))
        text = sample["txt"].decode()
        assert text.startswith("a satellite image of Croplands in Veneto, Italy on ")
        assert text.endswith(
            "The average temperature over the last month was 12.3 C, with an average precipitation "
            "of 2.57 mm/day, and an average daily solar radiation of 17.9 MJ/m2/day."
        )


def test_8_bit_frames_become_png_with_their_rights_inside(tmp_path: Path):
    folder = tmp_path / "dataset"
    item = tile("w", "2020-01", image_path="images/w.png", bands=(), reflectance_range=None)
    pixels = stretch(digital_numbers(item).transpose(1, 2, 0)[..., :3], RANGE)
    (folder / "images").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "images" / "w.png")
    write_dataset(folder, [item])
    export_dataset(folder, tmp_path / "out", kind="webdataset")
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        assert tar.getnames() == ["w_202001.json", "w_202001.png", "w_202001.txt"]
        member = tar.extractfile("w_202001.png")
        assert member is not None
        image = Image.open(io.BytesIO(member.read()))
    assert np.array_equal(np.asarray(image), pixels)
    assert ATTRIBUTION in image.text["Copyright"]  # type: ignore[attr-defined]


def test_keys_tell_batches_apart_and_hold_no_dots():
    records = [
        tile("7", "2020-01", batch="x"),
        tile("7", "2020-01", batch="y"),
        tile("7", "2020-02"),
        tile("1.5", "2020-01"),
    ]
    assert list(sample_keys(records).values()) == [
        *("x_7_202001", "y_7_202001", "7_202002", "1-5_202001"),
    ]


def test_keys_that_two_tiles_would_share_end_in_a_hash():
    records = [tile("a.b", "2020-01"), tile("a-b", "2020-01"), tile("c", "2020-01")]
    keys = list(sample_keys(records).values())
    assert keys[0].startswith("a-b_202001-")
    assert keys[1].startswith("a-b_202001-")
    assert keys[2] == "c_202001"
    assert len(set(keys)) == 3


def test_a_growing_dataset_keeps_the_shards_whose_tiles_stay(tmp_path: Path):
    folder = write_made(tmp_path / "d", items())
    export_dataset(folder, tmp_path / "out", kind="webdataset")
    new = tile("new", "2020-01", split="val")
    write_tile(folder, new)
    write_dataset(folder, [*items(), new])
    summary = export_dataset(folder, tmp_path / "out", kind="webdataset")
    assert (summary.kept, summary.reused) == (11, 2)  # test and train are as they were


def test_a_last_shard_with_room_is_not_taken_for_whole_when_tiles_follow(tmp_path: Path):
    first, second = sorted(
        items()[:2], key=lambda r: hashlib.sha256(f"p0_2020{r.month[5:]}".encode()).hexdigest()
    )
    folder = write_made(tmp_path / "d", [first])
    export_dataset(folder, tmp_path / "out", kind="webdataset")
    write_tile(folder, second)
    write_dataset(folder, [first, second])
    export_dataset(folder, tmp_path / "out", kind="webdataset")
    assert [row["shard"] for row in rows_of(tmp_path / "out")] == ["train-000000.tar"] * 2


def test_a_split_whose_frames_are_all_gone_has_no_shard(dataset: Path, tmp_path: Path):
    for item in items():
        if item.split == "test":
            (dataset / str(item.image_path)).unlink()
    for _ in range(2):
        summary = export_dataset(dataset, tmp_path / "out", kind="webdataset")
        assert (summary.kept, summary.dropped) == (8, {"missing_image": 2})
        assert not list((tmp_path / "out").glob("test*"))


def test_climate_that_is_not_known_stays_out_of_json_and_text(tmp_path: Path):
    unknown = {"temperature_c": None, "precipitation_mm_day": None, "spi": None, "sti": None,
               "solar_radiation_mj_m2_day": None, "land_cover": None, "country": None}  # fmt: skip
    folder = write_made(tmp_path / "d", [tile("p", "2020-01", **unknown)])
    export_dataset(folder, tmp_path / "out", kind="webdataset")
    (row,) = rows_of(tmp_path / "out")
    shard = (tmp_path / "out" / row["shard"]).read_bytes()
    assert shard[row["txt_offset"] :][: row["txt_num_bytes"]] == (
        b"a satellite image on January 2020."
    )
    assert row["land_cover"] is None
    content = json.loads(shard[row["json_offset"] :][: row["json_num_bytes"]])
    assert content["temperature_c"] is None


def test_land_cover_is_a_code_in_the_index(tmp_path: Path):
    folder = write_made(tmp_path / "d", [tile("p", "2020-01", land_cover=LandCover.BARREN)])
    export_dataset(folder, tmp_path / "out", kind="webdataset")
    assert rows_of(tmp_path / "out")[0]["land_cover"] == 16
    assert read_image(folder / "images/p/p_2020-01.tif", RANGE).shape == (20, 24, 3)
