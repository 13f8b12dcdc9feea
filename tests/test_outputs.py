"""Files: pixels, place and provenance come back exactly; each says that it is synthetic."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

from ecomap import outputs
from ecomap.errors import DataError, RequestError
from ecomap.schema import TileRecord

TRANSFORM = (1 / 15, 0.0, 12.3, 0.0, -1 / 15, 45.6)
PROVENANCE = {
    "bundle": {"name": "tiny", "version": "3"},
    "versions": {"ecomap": "1.2.3", "torch": "9"},
    "seed": 17,
    "steps": 20,
    "guidance": 2.0,
    "prompt": 'Précipitation ½ = «dry» \\ "quoted"\nnext line',
}
WORDS = "{http://purl.org/dc/elements/1.1/}description"
SOURCE_TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def make_image(height: int = 6, width: int = 10) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_tile(**changes: object) -> TileRecord:
    fields = {
        "source": "request",
        "location_id": "a",
        "month": "2004-07",
        "lat": 45.4,
        "lon": 12.63,
        "ground_sampling_distance_m": 7421,
        "width_px": 10,
        "height_px": 6,
        "temperature_c": 21.5,
        "license": "none",
    }
    return TileRecord(**(fields | changes))


def make_placed(**changes: object) -> TileRecord:
    return make_tile(**({"crs": "EPSG:4326", "transform": TRANSFORM} | changes))


def marks_of_xmp(packet: str) -> tuple[str | None, str]:
    root = ElementTree.fromstring(packet.strip())
    description = next(part for part in root.iter() if part.tag.endswith("}Description"))
    return description.get(SOURCE_TYPE), "".join(description.find(WORDS).itertext())


TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
WRITERS = [(outputs.write_png, ".png"), (outputs.write_geotiff, ".tif")]
writers = pytest.mark.parametrize(("write", "suffix"), WRITERS)


def test_the_name_of_a_generated_image_says_so():
    assert outputs.synthetic_name("niger_2004-07", ".tif") == "niger_2004-07_synth.tif"


def test_a_png_gives_pixels_and_marks_back(tmp_path):
    path, image = tmp_path / "new" / "a_synth.png", make_image()
    outputs.write_png(path, image, make_tile(), PROVENANCE)
    with Image.open(path) as file:
        assert file.format == "PNG"
        np.testing.assert_array_equal(np.asarray(file), image)
        text = dict(file.info)
    assert text["Synthetic"] == "true"
    assert text["Description"] == outputs.SYNTHETIC_STATEMENT
    assert text["Software"] == "ecomap 1.2.3"
    packet = text["xmp"].decode()
    assert marks_of_xmp(packet) == (TRAINED, outputs.SYNTHETIC_STATEMENT)


def test_a_geotiff_gives_pixels_place_and_marks_back(tmp_path):
    path, image = tmp_path / "new" / "a_synth.tif", make_image()
    outputs.write_geotiff(path, image, make_placed(), PROVENANCE)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), image)
        assert tuple(file.transform)[:6] == TRANSFORM
        assert file.crs == rasterio.CRS.from_epsg(4326)
        assert file.descriptions == ("red", "green", "blue")
        assert file.colorinterp == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        tags, packet = file.tags(), file.tags(ns="xml:XMP")["xml:XMP"]
    stored = json.loads(tags.pop("ECOMAP_PROVENANCE"))
    assert stored["seed"] == 17
    assert tags == {
        "AREA_OR_POINT": "Area",
        "SYNTHETIC": "YES",
        "TIFFTAG_IMAGEDESCRIPTION": outputs.SYNTHETIC_STATEMENT,
        "TIFFTAG_SOFTWARE": "ecomap 1.2.3",
        "ECOMAP_BUNDLE_NAME": "tiny",
        "ECOMAP_BUNDLE_VERSION": "3",
        "ECOMAP_SEED": "17",
        "ECOMAP_STEPS": "20",
        "ECOMAP_GUIDANCE": "2.0",
        "ECOMAP_PROMPT": PROVENANCE["prompt"],
        "ECOMAP_MONTH": "2004-07",
        "ECOMAP_LAT": "45.4",
        "ECOMAP_LON": "12.63",
    }
    assert marks_of_xmp(packet) == (TRAINED, outputs.SYNTHETIC_STATEMENT)


def test_a_projected_and_rotated_place_is_kept(tmp_path):
    path, rotated = tmp_path / "a_synth.tif", (9.5, 1.25, 600000.0, 2.5, -10.0, 5300000.0)
    record = make_placed(crs="EPSG:32632", transform=rotated)
    outputs.write_geotiff(path, make_image(), record, PROVENANCE)
    with rasterio.open(path) as file:
        assert tuple(file.transform)[:6] == rotated
        assert file.crs.to_epsg() == 32632


@pytest.mark.parametrize(
    "record",
    [None, make_tile(), make_tile(crs="EPSG:4326"), make_tile(transform=TRANSFORM)],
    ids=["no record", "neither", "no transform", "no crs"],
)
def test_a_geotiff_without_a_full_place_has_none(tmp_path, record):
    path = tmp_path / "a_synth.tif"
    outputs.write_geotiff(path, make_image(), record, PROVENANCE)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        file = rasterio.open(path)
    with file:
        assert file.crs is None
        assert file.transform.is_identity


@writers
def test_provenance_comes_back_whole(tmp_path, write, suffix):
    path, record = tmp_path / f"a_synth{suffix}", make_placed()
    write(path, make_image(), record, PROVENANCE)
    stored = outputs.read_provenance(path)
    assert stored == outputs.complete_provenance(record, PROVENANCE)
    assert {key: stored[key] for key in PROVENANCE} == PROVENANCE
    assert stored["synthetic"] is True
    assert stored["statement"] == outputs.SYNTHETIC_STATEMENT
    assert TileRecord(**stored["record"]) == record


@writers
def test_provenance_of_a_bare_text_has_no_record(tmp_path, write, suffix):
    path = tmp_path / f"a_synth{suffix}"
    write(path, make_image(), None, {"prompt": "a lake"})
    stored = outputs.read_provenance(path)
    assert stored["record"] is None
    assert stored["prompt"] == "a lake"


@writers
def test_nothing_is_left_beside_the_file(tmp_path, write, suffix):
    write(tmp_path / f"a_synth{suffix}", make_image(), make_placed(), PROVENANCE)
    assert [path.name for path in tmp_path.iterdir()] == [f"a_synth{suffix}"]


@writers
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, write, suffix, monkeypatch):
    path = tmp_path / f"a_synth{suffix}"
    path.write_bytes(b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, make_image(), make_placed(), PROVENANCE)
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@writers
@pytest.mark.parametrize(
    "image",
    [
        make_image().astype(np.float32),
        make_image().astype(np.uint16),
        make_image()[..., :1],
        make_image()[..., 0],
        np.zeros((6, 10, 4), np.uint8),
        np.zeros((0, 10, 3), np.uint8),
    ],
    ids=["float", "uint16", "one channel", "flat", "alpha", "empty"],
)
def test_only_uint8_rgb_is_written(tmp_path, write, suffix, image):
    with pytest.raises(RequestError, match="Expected uint8 of shape"):
        write(tmp_path / f"a_synth{suffix}", image, None, PROVENANCE)
    assert not list(tmp_path.iterdir())


@writers
def test_an_image_of_another_size_than_its_record_is_refused(tmp_path, write, suffix):
    with pytest.raises(RequestError, match=re.escape("has 10 x 6 px, its record 6 x 10 px")):
        write(tmp_path / f"a_synth{suffix}", make_image(10, 6), make_placed(), PROVENANCE)


@writers
def test_a_name_that_hides_what_it_is_is_refused(tmp_path, write, suffix):
    with pytest.raises(RequestError, match="does not say that it is synthetic"):
        write(tmp_path / f"venice{suffix}", make_image(), make_placed(), PROVENANCE)


@writers
@pytest.mark.parametrize("value", [float("nan"), Path("a"), np.int64(3)], ids=str)
def test_provenance_without_a_json_form_is_refused(tmp_path, write, suffix, value):
    with pytest.raises(RequestError, match="cannot be written as JSON"):
        write(tmp_path / f"a_synth{suffix}", make_image(), make_placed(), {"steps": value})


def test_an_unknown_coordinate_system_is_named(tmp_path):
    record = make_placed(crs="EPSG:999999")
    with pytest.raises(RequestError, match="'EPSG:999999' of request/a/2004-07 is unknown"):
        outputs.write_geotiff(tmp_path / "a_synth.tif", make_image(), record, PROVENANCE)


def test_software_needs_no_version(tmp_path):
    outputs.write_png(tmp_path / "a_synth.png", make_image(), None, {})
    with Image.open(tmp_path / "a_synth.png") as file:
        assert file.info["Software"] == "ecomap"


def write_foreign(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("no image")
    elif kind == "broken png":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"broken")
    elif kind != "absent":
        Image.fromarray(make_image()).save(path, kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "does not exist"),
        ("text", "is neither a PNG nor a readable GeoTIFF"),
        ("broken png", "is not a readable PNG"),
        ("PNG", "carries no provenance"),
        ("TIFF", "carries no provenance"),
    ],
)
def test_a_file_without_provenance_says_why(tmp_path, kind, message):
    path = tmp_path / "photo"
    write_foreign(path, kind)
    with pytest.raises(DataError, match=f"photo {message}"):
        outputs.read_provenance(path)


def flat(value: int, height: int = 100, width: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def read_sheet(path: Path) -> tuple[np.ndarray, dict[str, object]]:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB")), dict(file.info)


def colours_of(sheet: np.ndarray) -> set[tuple[int, ...]]:
    packed = np.unique(sheet.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)).tolist()
    return {(value >> 16, value >> 8 & 255, value & 255) for value in packed}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.parametrize(
    ("is_real", "words", "marked"),
    [(None, {False}, True), ([True, False], {True, False}, True), ([True, True], {True}, False)],
    ids=["generated", "both", "real"],
)
def test_a_sheet_labels_each_picture_and_is_marked_if_any_is_generated(
    tmp_path, is_real, words, marked
):
    path = tmp_path / "sheet.png"
    outputs.contact_sheet(path, [flat(90), flat(40)], ["a", "b"], 2, is_real=is_real)
    sheet, text = read_sheet(path)
    drawn = {
        real for real, (_, colour) in outputs.LABELS.items() if rgb(colour) in colours_of(sheet)
    }
    assert drawn == words
    assert ("Synthetic" in text) is marked
    assert ("xmp" in text) is marked


def test_labels_say_real_and_synthetic():
    assert {real: word for real, (word, _) in outputs.LABELS.items()} == {
        True: "real",
        False: "synthetic",
        None: "no photograph",
    }


@pytest.mark.parametrize(
    ("images", "captions", "columns", "flags", "message"),
    [
        ([], [], 2, None, "of 0 images in 2 columns"),
        ([flat(1)], ["a"], 0, None, "of 1 images in 0 columns"),
        ([flat(1)], ["a", "b"], 2, None, "1 images have 2 captions and 1 flags"),
        ([flat(1)], ["a"], 2, [True, False], "1 images have 1 captions and 2 flags"),
        ([flat(1), flat(1, 128)], ["a", "b"], 2, None, "Image 1 of the contact sheet has shape"),
        ([flat(1) / 2], ["a"], 2, None, "Image 0 of the contact sheet has type float64"),
    ],
)
def test_a_sheet_of_parts_that_do_not_fit_is_refused(
    tmp_path, images, captions, columns, flags, message
):
    with pytest.raises(RequestError, match=message):
        outputs.contact_sheet(tmp_path / "s.png", images, captions, columns, is_real=flags)
    assert not list(tmp_path.iterdir())


def test_outputs_do_not_import_torch_or_matplotlib():
    code = "import sys, ecomap.outputs; print({'torch', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
