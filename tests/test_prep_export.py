"""The door to exports: what is chosen, what is refused, and going on after an interruption."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import export_files
from data_prep.export import EXPORT_FILE, ExportKind, choose_tiles, export_dataset
from data_prep.export_files import JOURNAL_FILE, Journal, plain_name, replacing
from ecomap.errors import DataError, RequestError, SchemaError
from ecomap.schema import LandCover, TileRecord
from tests.made_dataset import tile, write_made, write_tile

KINDS: tuple[ExportKind, ...] = ("webdataset", "ecomapper", "png")


def items() -> list[TileRecord]:
    return [
        tile("a", "2020-01"),
        tile("a", "2020-02", flags=("cloudy", "seam")),
        tile("b", "2020-01", split="test", land_cover=LandCover.GRASSLANDS),
        tile("c", "2020-01", split="val"),
        tile("d", "2020-01", split="buffer"),
        tile("e", "2020-01", split="unassigned", temperature_c=None),
    ]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_made(tmp_path / "dataset", items())


def bytes_of(folder: Path) -> dict[str, str]:
    """Hash of every file but the journal, which holds times of sources."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != JOURNAL_FILE
    }


def times_of(folder: Path, suffixes: set[str]) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix in suffixes}


@pytest.mark.parametrize("kind", KINDS)
def test_buffer_tiles_are_left_out_and_counted(dataset: Path, tmp_path: Path, kind: ExportKind):
    summary = export_dataset(dataset, tmp_path / "out", kind=kind)
    assert summary.kept == 5
    assert summary.dropped == {"split_buffer": 1}
    assert summary.kept_by_split == {"test": 1, "train": 2, "unassigned": 1, "val": 1}
    assert summary.sentence == f"exported 5 of 6 tiles as {kind}: 1 split_buffer"


def test_flags_and_splits_choose_tiles_and_the_first_reason_counts():
    kept, dropped = choose_tiles(items(), splits=["train", "test"], drop_flags=["seam", "cloudy"])
    assert [r.location_id + r.month for r in kept] == ["a2020-01", "b2020-01"]
    assert dropped == {"split_val": 1, "split_buffer": 1, "split_unassigned": 1, "flag_cloudy": 1}


def test_buffer_tiles_come_along_when_asked_for():
    kept, _ = choose_tiles(items(), splits=["buffer"])
    assert [record.location_id for record in kept] == ["d"]


def test_flags_of_fetching_are_known_even_where_no_tile_has_them():
    kept, _ = choose_tiles(items(), drop_flags=["offset_suspect"])
    assert len(kept) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "zarr"}, "kind is 'zarr'; choose one of webdataset, ecomapper, png"),
        ({"kind": "png", "drop_flags": ["clowdy"]}, "clowdy.*Choose among.*cloudy"),
        ({"kind": "png", "splits": ["trian"]}, "trian.*Choose among train, val, test"),
        ({"kind": "png", "splits": []}, "Choose among train"),
        ({"kind": "webdataset", "shard_size_mb": 0.0}, "shard_size_mb is 0"),
        ({"kind": "webdataset", "shard_size_mb": float("nan")}, "shard_size_mb is nan"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_written(
    dataset: Path, tmp_path: Path, options: dict[str, object], message: str
):
    with pytest.raises(RequestError, match=message):
        export_dataset(dataset, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        export_dataset(tmp_path, tmp_path / "out", kind="png")


@pytest.mark.parametrize("place", [".", "..", "images", "images/a"])
def test_the_datasets_own_folder_is_refused(dataset: Path, place: str):
    before = bytes_of(dataset)
    with pytest.raises(RequestError, match="own files"):
        export_dataset(dataset, dataset / place, kind="png")
    assert bytes_of(dataset) == before


def test_an_export_may_lie_inside_the_dataset(dataset: Path):
    assert export_dataset(dataset, dataset / "exports" / "png", kind="png").kept == 5


def test_a_folder_with_other_files_is_left_alone(dataset: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "records.parquet").write_text("precious")
    with pytest.raises(RequestError, match="holds no export"):
        export_dataset(dataset, other, kind="png")
    assert (other / "records.parquet").read_text() == "precious"


def test_a_folder_of_another_kind_is_left_alone(dataset: Path, tmp_path: Path):
    export_dataset(dataset, tmp_path / "out", kind="png")
    before = bytes_of(tmp_path / "out")
    with pytest.raises(RequestError, match="of kind 'png', not 'ecomapper'"):
        export_dataset(dataset, tmp_path / "out", kind="ecomapper")
    assert bytes_of(tmp_path / "out") == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_run_writes_nothing_anew_and_gives_the_same_bytes(
    dataset: Path, tmp_path: Path, kind: ExportKind
):
    out = tmp_path / "out"
    first = export_dataset(dataset, out, kind=kind)
    before, times = bytes_of(out), times_of(out, {".tar", ".png"})
    second = export_dataset(dataset, out, kind=kind)
    assert (first.reused, second.kept) == (0, first.kept)
    assert second.reused == len([n for n in before if n.endswith((".tar", ".pgw", ".xml"))]) + len(
        [n for n in before if n.count("/") and n.endswith((".png", ".json"))]
    )
    assert times
    assert times_of(out, {".tar", ".png"}) == times
    assert bytes_of(out) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_do_not_depend_on_where_and_when(dataset: Path, tmp_path: Path, kind: ExportKind):
    write_made(tmp_path / "elsewhere" / "again", items()[::-1])
    os.utime(tmp_path / "elsewhere" / "again" / str(items()[0].image_path), (1, 1))
    export_dataset(dataset, tmp_path / "one", kind=kind)
    export_dataset(tmp_path / "elsewhere" / "again", tmp_path / "two", kind=kind)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_export_leaves_nothing_half_written_and_goes_on(
    dataset: Path, tmp_path: Path, kind: ExportKind
):
    size = 0.000001  # a shard a tile
    export_dataset(dataset, tmp_path / "whole", kind=kind, shard_size_mb=size)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        export_dataset(dataset, out, kind=kind, shard_size_mb=size, progress=stop)
    assert not (out / EXPORT_FILE).exists()
    assert not list(out.rglob("*.tmp"))
    whole = bytes_of(tmp_path / "whole")
    assert bytes_of(out).items() <= whole.items()
    summary = export_dataset(dataset, out, kind=kind, shard_size_mb=size)
    assert 0 < summary.reused < sum(summary.files.values())
    assert bytes_of(out) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_while_a_file_is_written_leaves_no_part_of_it(
    dataset: Path, tmp_path: Path, kind: ExportKind, monkeypatch: pytest.MonkeyPatch
):
    reads = 0

    def read(self: export_files.Frames, record: TileRecord) -> np.ndarray:
        nonlocal reads
        reads += 1
        if reads == 2:
            raise KeyboardInterrupt
        return self._reader.read(record)

    monkeypatch.setattr(export_files.Frames, "read", read)
    with pytest.raises(KeyboardInterrupt):
        export_dataset(dataset, tmp_path / "out", kind=kind, splits=["train"])
    left = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".tar", ".tmp")]
    assert left == []


def test_an_export_that_is_brought_up_to_date_counts_as_unfinished_meanwhile(
    dataset: Path, tmp_path: Path
):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    export_dataset(dataset, tmp_path / "out", kind="webdataset")
    with pytest.raises(KeyboardInterrupt):
        export_dataset(dataset, tmp_path / "out", kind="webdataset", progress=stop)
    assert not (tmp_path / "out" / EXPORT_FILE).exists()
    assert not (tmp_path / "out" / "shards.parquet").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_made_again(dataset: Path, tmp_path: Path, kind: ExportKind):
    out = tmp_path / "out"
    export_dataset(dataset, out, kind=kind)
    before = bytes_of(out)
    victim = sorted([*out.rglob("*.tar"), *out.rglob("*.png")])[0]
    state = victim.stat()
    content = bytearray(victim.read_bytes())
    content[100] ^= 255
    victim.write_bytes(content)
    os.utime(victim, ns=(state.st_atime_ns, state.st_mtime_ns))  # nothing but the bytes tells
    export_dataset(dataset, out, kind=kind)
    assert bytes_of(out) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_record_or_frame_is_exported_anew(
    dataset: Path, tmp_path: Path, kind: ExportKind
):
    out = tmp_path / "out"
    export_dataset(dataset, out, kind=kind)
    changed = [item.model_copy(update={"temperature_c": 30.0}) for item in items()]
    write_made(dataset, changed)
    export_dataset(dataset, out, kind=kind)
    export_dataset(dataset, tmp_path / "fresh", kind=kind)
    assert bytes_of(out) == bytes_of(tmp_path / "fresh")


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_no_longer_belong_are_removed_and_others_kept(
    dataset: Path, tmp_path: Path, kind: ExportKind
):
    out = tmp_path / "out"
    export_dataset(dataset, out, kind=kind)
    (out / "notes.txt").write_text("mine")
    export_dataset(dataset, out, kind=kind, splits=["test"])
    export_dataset(dataset, tmp_path / "fresh", kind=kind, splits=["test"])
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert bytes_of(out) == bytes_of(tmp_path / "fresh")
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "fresh").iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_cannot_be_read_are_counted_with_reasons(
    dataset: Path, tmp_path: Path, kind: ExportKind
):
    (dataset / str(items()[0].image_path)).unlink()
    (dataset / str(items()[2].image_path)).write_bytes(b"II*\0 but no more")
    summary = export_dataset(dataset, tmp_path / "out", kind=kind)
    assert summary.kept == 3
    assert summary.kept_by_split == {"train": 1, "unassigned": 1, "val": 1}
    assert summary.dropped == {"corrupt_image": 1, "missing_image": 1, "split_buffer": 1}
    assert sorted(f.file for f in summary.failures) == [
        "sentinel-2/a/2020-01",
        "sentinel-2/b/2020-01",
    ]
    assert "sentinel-2/a/2020-01: missing_image" in summary.render()
    again = export_dataset(dataset, tmp_path / "out", kind=kind)
    assert again.dropped == summary.dropped  # also where finished files are reused
    write_tile(dataset, items()[0])
    mended = export_dataset(dataset, tmp_path / "out", kind=kind)
    assert (mended.kept, mended.dropped) == (4, {"corrupt_image": 1, "split_buffer": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_without_tiles_gives_an_export_without_tiles(tmp_path: Path, kind: ExportKind):
    folder = write_made(tmp_path / "dataset", [])
    summary = export_dataset(folder, tmp_path / "out", kind=kind)
    assert (summary.kept, summary.dropped) == (0, {})


def test_progress_ends_at_the_number_of_tiles(dataset: Path, tmp_path: Path):
    for kind in KINDS:
        seen: list[tuple[int, int]] = []
        export_dataset(
            dataset, tmp_path / kind, kind=kind, progress=lambda *a, seen=seen: seen.append(a)
        )
        assert seen[-1] == (5, 5)


def test_export_json_holds_counts_and_rights(dataset: Path, tmp_path: Path):
    summary = export_dataset(dataset, tmp_path / "out", kind="png")
    content = json.loads((tmp_path / "out" / EXPORT_FILE).read_text())
    assert content["kept"] == summary.to_dict()["kept"] == 5
    assert content["licenses"] == ["Copernicus Sentinel data terms"]
    assert content["attributions"] == ["Contains modified Copernicus Sentinel data 2020"]
    json.dumps(summary.to_dict(), allow_nan=False)


def test_two_tiles_that_would_be_one_file_are_refused(tmp_path: Path):
    folder = write_made(tmp_path / "dataset", [tile("a.b", "2020-01"), tile("a-b", "2020-01")])
    with pytest.raises(SchemaError, match=r"a-b/2020-01 and .*a\.b/2020-01 would both be"):
        export_dataset(folder, tmp_path / "out", kind="png")


def test_a_record_cannot_name_a_file_outside_of_the_export(tmp_path: Path):
    item = tile("x", "2020-01", location_id="../../evil")
    folder = write_made(tmp_path / "dataset", [item])
    for kind in KINDS:
        export_dataset(folder, tmp_path / "deep" / "er" / kind, kind=kind)
    assert not [p for p in tmp_path.rglob("*evil*") if "er" not in p.relative_to(tmp_path).parts]


def test_a_journal_whose_last_line_was_cut_off_is_read(dataset: Path, tmp_path: Path):
    out = tmp_path / "out"
    export_dataset(dataset, out, kind="png")
    before = bytes_of(out)
    text = (out / JOURNAL_FILE).read_text()
    (out / JOURNAL_FILE).write_text(text[:-30])
    summary = export_dataset(dataset, out, kind="png")
    assert summary.reused == 4 * 3
    assert bytes_of(out) == before
    assert (out / JOURNAL_FILE).read_text() == text


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path):
    Journal(tmp_path / "out", "png")
    leftover = tmp_path / "out" / "images" / ".a.png.tmp"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    Journal(tmp_path / "out", "png")
    assert not leftover.exists()


def test_replacing_keeps_the_old_file_when_the_new_one_fails(tmp_path: Path):
    path = tmp_path / "a" / "b.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_windows_of_a_mosaic_become_frames_of_their_own(tmp_path: Path):
    folder = tmp_path / "dataset"
    (folder / "images").mkdir(parents=True)
    mosaic = np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3) % 251
    Image.fromarray(mosaic.astype(np.uint8)).save(folder / "images" / "m.png")
    window = tile("w", "2020-01", image_path="images/m.png", window_px=(5, 3, 24, 20), bands=(),
                  reflectance_range=None, crs=None, transform=None)  # fmt: skip
    from ecomap.schema import read_dataset, write_dataset

    write_dataset(folder, [window])
    export_dataset(folder, tmp_path / "out", kind="png")
    (record,) = read_dataset(tmp_path / "out")
    assert record.window_px is None
    with Image.open(tmp_path / "out" / str(record.image_path)) as image:
        assert np.array_equal(np.asarray(image), mosaic[3:23, 5:29])


def test_plain_names_hold_no_dots_and_slashes():
    assert plain_name("a.b/c_1-2 é") == "a-b-c_1-2--"
