"""Files are read as they are, or refused under the reason that fits."""

import struct
import zlib

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from ecomap.errors import ImageError
from ecomap.image_decoding import Header, decode, decode_mask, read_header
from tests.fakes import made_image

HEIGHT, WIDTH = 12, 20


def write_tif(path, values, *, names=None, interp=None, **profile):
    """A TIFF of ``(H, W, C)`` values; bands may be named."""
    height, width, count = values.shape
    with pytest.warns(NotGeoreferencedWarning):
        file = rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=count,
            dtype=values.dtype, **profile,
        )  # fmt: skip
    with file:
        if interp:
            file.colorinterp = interp  # before the pixels, or the file cannot say alpha
        file.write(np.moveaxis(values, -1, 0))
        if names:
            file.descriptions = names
    return path


def write_png16(path, values):
    """A PNG of 16-bit RGB, which Pillow cannot write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip
    return path


def reason_of(path, **options):
    with pytest.raises(ImageError) as caught:
        decode(path, **options)
    assert str(path) in str(caught.value)
    return caught.value.reason


def test_rgb_is_read_as_it_is(tmp_path):
    image = made_image(1, HEIGHT, WIDTH)
    Image.fromarray(image).save(tmp_path / "a.png")
    write_tif(tmp_path / "a.tif", image)
    for name in ("a.png", "a.tif"):
        frame = decode(tmp_path / name)
        assert (frame.rgb == image).all()
        assert frame.valid.shape == (HEIGHT, WIDTH)
        assert frame.valid.all()
        assert not frame.bands


def test_fully_transparent_pixels_are_masked_and_black_and_others_are_opaque(tmp_path):
    image = made_image(1, HEIGHT, WIDTH)
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[2, 3], alpha[4, 5] = 0, 1
    both = np.dstack([image, alpha])
    Image.fromarray(both).save(tmp_path / "a.png")
    write_tif(
        tmp_path / "a.tif", both, photometric="RGB",
        interp=(ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha),
    )  # fmt: skip
    for name in ("a.png", "a.tif"):
        frame = decode(tmp_path / name)
        assert np.argwhere(~frame.valid).tolist() == [[2, 3]]
        assert frame.rgb[2, 3].tolist() == [0, 0, 0]
        assert (frame.rgb[4, 5] == image[4, 5]).all()


def test_a_transparent_colour_of_an_rgb_png_is_masked(tmp_path):
    image = made_image(1, HEIGHT, WIDTH).copy()
    image[0, 0], image[1, 1] = (1, 2, 3), (1, 2, 4)
    Image.fromarray(image).save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert np.argwhere(~decode(tmp_path / "a.png").valid).tolist() == [[0, 0]]


def test_nodata_of_a_tiff_is_masked_where_all_bands_have_it(tmp_path):
    image = np.maximum(made_image(1, HEIGHT, WIDTH), 1)
    image[3, 7], image[5, 5, 0] = 0, 0
    write_tif(tmp_path / "a.tif", image, nodata=0)
    assert np.argwhere(~decode(tmp_path / "a.tif").valid).tolist() == [[3, 7]]


def test_digital_numbers_become_a_picture_and_reflectance(tmp_path):
    numbers = np.zeros((2, 3, 4), np.uint16)
    numbers[...] = [500, 1000, 2000, 3000]  # near infrared first: order is by name
    numbers[0, 1, 0] = 0  # near infrared alone
    numbers[1, 2] = 0
    path = write_tif(tmp_path / "a.tif", numbers, names=("B08", "B04", "B03", "B02"))
    frame = decode(path, bands=("B08", "B04", "B03", "B02"), reflectance_range=(0.0, 0.4))
    assert frame.rgb[0, 0].tolist() == [64, 128, 191]  # 255 / 4, 255 / 2, 255 * 3 / 4
    assert frame.rgb[1, 2].tolist() == [0, 0, 0]
    assert np.argwhere(~frame.valid).tolist() == [[1, 2]]
    assert list(frame.bands) == ["B04", "B03", "B02", "B08"]
    assert frame.bands["B08"].dtype == np.float32
    assert frame.bands["B08"][0, 0] == pytest.approx(0.05)
    assert frame.bands["B04"][0, 0] == pytest.approx(0.1)
    assert np.argwhere(np.isnan(frame.bands["B08"])).tolist() == [[0, 1], [1, 2]]
    assert list(decode(path, reflectance_range=(0.0, 0.4)).bands) == ["B04", "B03", "B02"]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("L", "not RGB"), ("P", "not RGB"), ("LA", "not RGB"), ("1", "not RGB"),
        ("I;16", "16-bit without a reflectance range"),
    ],
)  # fmt: skip
def test_pngs_of_other_modes_are_refused(tmp_path, mode, reason):
    image = Image.fromarray(made_image(1, HEIGHT, WIDTH))
    if mode == "I;16":
        image = Image.fromarray(np.full((HEIGHT, WIDTH), 300, np.uint16))
    image.convert(mode).save(tmp_path / "a.png")
    assert reason_of(tmp_path / "a.png") == reason


def test_sixteen_bit_rgb_png_is_refused_though_pillow_reads_it_as_eight(tmp_path):
    path = write_png16(tmp_path / "a.png", np.full((HEIGHT, WIDTH, 3), 300))
    with Image.open(path) as image:
        assert image.mode == "RGB"
    assert reason_of(path) == "16-bit without a reflectance range"


@pytest.mark.parametrize(
    ("dtype", "num_bands", "value", "reason"),
    [
        ("uint16", 3, 300, "16-bit without a reflectance range"),
        ("int16", 1, 300, "16-bit without a reflectance range"),
        ("float32", 3, 0.5, "float image"),
        ("float32", 3, np.nan, "NaN or infinite pixels"),
        ("float64", 3, np.inf, "NaN or infinite pixels"),
        ("uint8", 1, 7, "not RGB"),
        ("uint8", 4, 7, "not RGB"),
        ("int8", 3, 7, "not RGB"),
    ],
)
def test_tiffs_of_other_types_are_refused(tmp_path, dtype, num_bands, value, reason):
    values = np.ones((HEIGHT, WIDTH, num_bands), dtype)
    values[4, 3, -1] = value
    interp = (ColorInterp.gray, *(ColorInterp.undefined,) * (num_bands - 1))
    write_tif(tmp_path / "a.tif", values, interp=interp)
    assert reason_of(tmp_path / "a.tif") == reason


def test_digital_numbers_need_the_bands_of_a_picture(tmp_path):
    numbers = np.full((2, 3, 2), 900, np.uint16)
    path = write_tif(tmp_path / "a.tif", numbers, names=("B08", "B04"))
    assert reason_of(path, bands=("B08", "B04"), reflectance_range=(0.0, 0.4)) == "not RGB"
    assert reason_of(path, reflectance_range=(0.0, 0.4)) == "unreadable"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\nrest", b"II*\0rest"])
def test_damaged_and_missing_files_are_unreadable(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert reason_of(tmp_path / name) == "unreadable"
    assert read_header(tmp_path / name) is None


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_truncated_file_has_a_header_and_is_unreadable(tmp_path, name):
    Image.fromarray(made_image(1, 64, 96)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 3 // 4])
    assert read_header(tmp_path / name).size == (64, 96)
    assert reason_of(tmp_path / name) == "unreadable"


def test_headers_tell_size_jpeg_and_alpha(tmp_path):
    image = made_image(1, HEIGHT, WIDTH)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image).save(tmp_path / "b.JPEG")
    Image.fromarray(image).convert("RGBA").save(tmp_path / "c.png")
    Image.fromarray(image).save(tmp_path / "d.png", format="JPEG")  # its name lies
    write_tif(tmp_path / "e.tif", np.full((HEIGHT, WIDTH, 4), 9, np.uint16))
    headers = [read_header(tmp_path / n) for n in ("a.png", "b.JPEG", "c.png", "d.png", "e.tif")]
    size = (HEIGHT, WIDTH)
    assert headers == [
        Header(size, False, False), Header(size, True, False), Header(size, False, True),
        Header(size, True, False), Header(size, False, False),
    ]  # fmt: skip


def test_a_mask_is_where_a_picture_is_not_0(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2, 3], mask[4, 5] = 1, 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    Image.fromarray(mask > 0).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        found = decode_mask(tmp_path / name, (HEIGHT, WIDTH))
        assert np.argwhere(found).tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize("shape", [(WIDTH, HEIGHT), (HEIGHT, WIDTH, 3)])
def test_a_mask_of_another_form_cannot_be_used(tmp_path, shape):
    Image.fromarray(np.ones(shape, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="Expected one band of 12 x 20 px") as caught:
        decode_mask(tmp_path / "a.png", (HEIGHT, WIDTH))
    assert caught.value.reason == "unusable mask"


def test_a_mask_that_is_damaged_or_jpeg_cannot_be_used(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "b.png", format="JPEG")
    for name in ("a.png", "b.png"):
        with pytest.raises(ImageError, match="not a readable mask") as caught:
            decode_mask(tmp_path / name, (HEIGHT, WIDTH))
        assert caught.value.reason == "unusable mask"
