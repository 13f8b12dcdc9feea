"""Images made once and kept, with how they were made."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ecomap import image_store
from ecomap.errors import ImageError, RequestError
from ecomap.image_store import HASH_KEY, ImageRequest, KeptImages, as_made
from ecomap.outputs import read_provenance
from tests.made_world import CARD, SIDE_PX, Painter, make_tile, painter_maker, picture, scored


def requests_of(num=12, *, doors=("text",), seed=0) -> list[ImageRequest]:
    records = [make_tile("a", 1 + index, temperature=[float(index)] * 12) for index in range(num)]
    return [
        ImageRequest(key=r.tile_id, record=as_made(r, CARD), seed=seed + i, doors=doors)
        for i, r in enumerate(records)
    ]


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_images_are_made_again_only_if_what_decides_them_changes(tmp_path):
    painter = Painter()
    maker = painter_maker(tmp_path, painter)
    first = maker("x", requests_of())
    assert maker("x", requests_of()) == first
    assert maker("x", requests_of()[::-1]) == first[::-1]
    assert len(painter.calls) == 1
    requests = requests_of()
    changed = [
        (maker, [replace(r, seed=r.seed + 100) for r in requests]),
        (maker, [replace(r, doors=()) for r in requests]),
        (maker, [replace(r, record=r.record.model_copy(update={"lat": 1.0})) for r in requests]),
        (replace(maker, settings={"steps": 21}), requests),
    ]
    for one, asked in changed:
        maker("x", requests)
        before = len(painter.calls)
        one("x", asked)
        assert len(painter.calls) == before + 1
    noted = replace(changed[-1][0], notes={"code": "new"})
    noted("x", requests)
    assert len(painter.calls) == before + 1
    assert len(list(tmp_path.rglob("*.png"))) == 12


def test_images_are_those_of_their_requests_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(image_store, "BATCH", 5)
    painter, lines = Painter(), []
    paths = painter_maker(tmp_path, painter, say=lines.append)("x", requests_of())
    assert [call[1] for call in painter.calls] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(read(path), picture(index, 2.0, index, (SIDE_PX, SIDE_PX)))
    assert lines[0] == "x: 0 of 12 images are there"
    assert lines[-1] == "x: 12 of 12 images"


def test_requests_with_other_doors_are_made_apart(tmp_path):
    painter, requests = Painter(), requests_of(6)
    requests[1] = replace(requests[1], doors=())
    requests[4] = replace(requests[4], doors=())
    painter_maker(tmp_path, painter)("x", requests)
    assert [(call[1], call[2]) for call in painter.calls] == [
        ([1, 4], ()), ([0, 2, 3, 5], ("text",)),
    ]  # fmt: skip


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(image_store, "BATCH", 4)

    class Interrupted(Painter):
        def __call__(self, records, seeds, doors):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(records, seeds, doors)

    with pytest.raises(KeyboardInterrupt):
        painter_maker(tmp_path, Interrupted())("x", requests_of())
    rest, whole = Painter(), Painter()
    paths = painter_maker(tmp_path, rest)("x", requests_of())
    assert [call[1] for call in rest.calls] == [[8, 9, 10, 11]]
    peace = painter_maker(tmp_path / "peace", whole)("x", requests_of())
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in peace]


def test_files_say_how_they_were_made_and_what_the_model_was_told(tmp_path):
    (request,) = requests_of(1, seed=7)
    maker = painter_maker(
        tmp_path, notes={"code": "c0de"}, describe=lambda one: {"prompt": f"seed {one.seed}"}
    )
    (path,) = maker("x", [request])
    told = read_provenance(path)
    assert path.parent == tmp_path / "x" / "images"
    assert path.name.endswith("_synth.png")
    assert told["synthetic"] is True
    assert (told["steps"], told["code"], told["prompt"]) == (20, "c0de", "seed 7")
    assert (told["seed"], told["doors"]) == (7, ["text"])
    assert told["record"] == request.record.model_dump(mode="json")
    assert len(told[HASH_KEY]) == 64


def test_keys_become_names_of_files_that_differ_where_keys_do(tmp_path):
    (request,) = requests_of(1)
    keys = ["a/b", "a_b", "../up", "x" * 300, "x" * 301, "é"]
    paths = painter_maker(tmp_path)("x", [replace(request, key=key) for key in keys])
    assert len(set(paths)) == 6
    assert {path.parent for path in paths} == {tmp_path / "x" / "images"}
    with pytest.raises(RequestError, match="same key"):
        painter_maker(tmp_path)("x", [request, request])


def test_a_damaged_file_is_made_again(tmp_path):
    painter = Painter()
    maker = painter_maker(tmp_path, painter)
    (path,) = maker("x", requests_of(1))
    whole = path.read_bytes()
    for content in (b"", b"no PNG", whole[:20]):
        path.write_bytes(content)
        maker("x", requests_of(1))
        assert path.read_bytes() == whole
    assert len(painter.calls) == 4


def test_a_file_without_our_provenance_is_made_again(tmp_path):
    maker = painter_maker(tmp_path)
    (path,) = maker("x", requests_of(1))
    Image.new("RGB", (SIDE_PX, SIDE_PX)).save(path)
    assert read(path).max() == 0
    maker("x", requests_of(1))
    assert read(path).max() > 0


@pytest.mark.parametrize("wrong", [np.zeros((1, 8, 8, 3)), np.zeros((2, 8, 8, 3), np.uint8)])
def test_a_generator_of_other_things_than_images_is_refused(tmp_path, wrong):
    maker = painter_maker(tmp_path, lambda *_: wrong)
    with pytest.raises(RequestError, match="Expected one uint8 image"):
        maker("x", requests_of(1))
    assert not list(tmp_path.rglob("*.png"))


def test_images_of_another_size_than_the_records_are_refused(tmp_path):
    maker = painter_maker(tmp_path, lambda *_: np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(RequestError, match=r"8 x 8 px.*16 x 16 px"):
        maker("x", requests_of(1))


def test_kept_images_are_read_whole_and_damage_is_said(tmp_path):
    paths = painter_maker(tmp_path)("x", requests_of(2))
    kept = KeptImages(name="generated", kind="generated", description="Made.",
                      tiles=[scored("a"), scored("b")], paths=paths)  # fmt: skip
    frame = kept.read(1)
    np.testing.assert_array_equal(frame.rgb, read(paths[1]))
    assert frame.valid.all()
    assert frame.valid.shape == frame.rgb.shape[:2]
    assert kept.signature(0) == read_provenance(paths[0])[HASH_KEY] != kept.signature(1)
    for content in (b"", paths[0].read_bytes()[:-40]):
        paths[0].write_bytes(content)
        with pytest.raises(ImageError, match="Delete it") as caught:
            kept.read(0)
        assert caught.value.reason == "unreadable"
    paths[0].unlink()
    with pytest.raises(ImageError, match="does not exist"):
        kept.read(0)
    assert kept.signature(0) is None


def test_the_record_of_an_image_keeps_its_key_and_loses_what_is_true_of_the_frame():
    record = make_tile(
        image_path="images/a.tif", window_px=(1, 2, 3, 4), reflectance_range=(0.0, 0.4),
        acquired="2004-01-05T10:00:00Z", scene_ids=("s",), bands=("B04",), snow_frac=0.5,
        nodata_frac=0.1, flags=("seam",), crs="EPSG:32630", width_px=SIDE_PX, height_px=SIDE_PX,
        transform=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0), cloud_frac=0.2, attribution="them",
    )  # fmt: skip
    made = as_made(record, CARD)
    assert made.tile_id == record.tile_id
    assert made.cloud_frac == 0.2
    assert (made.crs, made.transform) == (record.crs, record.transform)
    assert (made.license, made.attribution) == ("CC0-1.0", "")
    for name in ("image_path", "window_px", "reflectance_range", "acquired", "snow_frac"):
        assert getattr(made, name) is None
    assert made.scene_ids == made.bands == made.flags == ()
    for update in ({"width_px": 40}, {"ground_sampling_distance_m": 1020.0}):
        other = as_made(record.model_copy(update=update), CARD)
        assert (other.width_px, other.height_px, other.crs) == (SIDE_PX, SIDE_PX, None)
        assert other.ground_sampling_distance_m == 1000.0
    near = as_made(record.model_copy(update={"ground_sampling_distance_m": 1005.0}), CARD)
    assert (near.crs, near.ground_sampling_distance_m) == ("EPSG:32630", 1005.0)
