"""Image files that say what they are: PNG, GeoTIFF and contact sheets.

Every generated image carries, inside the file, that it is synthetic (in words, as a flag, and as
the digital source type of the IPTC) and how it was made; its name says it too. Where the place is
known the GeoTIFF lies on it. Real frames on a contact sheet are labelled real. Files appear by an
atomic rename, so nobody reads half of one.

Longer than the budget because PNG, GeoTIFF and sheets state the same facts about an image.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioIOError
from rasterio.transform import Affine

from ecomap.errors import DataError, RequestError
from ecomap.page import PNG_SIGNATURE
from ecomap.schema import TileRecord

SYNTHETIC_STATEMENT = (
    "Synthetic image: made by a generative model (ecomap) from a place, a month and a climate. "
    "It is not an observation."
)
"""The sentence that says so, in files, on sheets and on pages."""

SYNTHETIC_MARK = "_synth"
"""Part of the name of every generated image."""

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC NewsCodes term for media made by a trained model."""

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    f' Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}">'
    f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{SYNTHETIC_STATEMENT}</rdf:li>'
    "</rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="w"?>'
)
"""XMP packet of every generated image (XMP specification part 1; IPTC Photo Metadata 2023.1)."""

XMP_KEYWORD = "XML:com.adobe.xmp"
"""PNG text chunk that holds XMP (XMP specification part 3)."""

PROVENANCE_KEY = "ecomap"
"""PNG text chunk with the provenance as JSON."""

PROVENANCE_TAG = "ECOMAP_PROVENANCE"
"""GeoTIFF tag with the same JSON."""

Pixels = NDArray[np.uint8]
"""Display values, ``(H, W, 3)``."""


def synthetic_name(stem: str, suffix: str) -> str:
    """File name of a generated image.

    Example:
        >>> synthetic_name("niger_2004-07", ".png")
        'niger_2004-07_synth.png'
    """
    return f"{stem}{SYNTHETIC_MARK}{suffix}"


def complete_provenance(record: TileRecord | None, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored about an image: the statement, how it was made, and its record.

    Args:
        record: What was asked for; None where only a text was.
        provenance: Everything else: bundle, versions, seed, steps, guidance, prompt.

    Returns:
        ``{"synthetic": True, "statement": ..., **provenance, "record": ...}``.
    """
    fields = None if record is None else record.model_dump(mode="json")
    return {
        "synthetic": True,
        "statement": SYNTHETIC_STATEMENT,
        **provenance,
        "record": fields,
    }


def write_png(
    path: Path, image: Pixels, record: TileRecord | None, provenance: Mapping[str, Any]
) -> None:
    """Write a generated image as PNG with its marks and provenance in text chunks.

    Args:
        path: File whose name has `SYNTHETIC_MARK`; missing folders are made.
        image: uint8 RGB ``(H, W, 3)``.
        record: What was asked for; None where only a text was.
        provenance: How it was made; stored as `complete_provenance`.

    Raises:
        RequestError: If the name lacks the mark, the image has another type or shape or another
            size than the record, or the provenance has no JSON form.
    """
    _check_generated(path, image, record)
    text = _provenance_text(record, provenance)
    chunks = synthetic_chunks(provenance)
    chunks.add_text(PROVENANCE_KEY, text)
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, "PNG", pnginfo=chunks)


def write_geotiff(
    path: Path, image: Pixels, record: TileRecord | None, provenance: Mapping[str, Any]
) -> None:
    """Write a generated image as a cloud optimised GeoTIFF with its marks and provenance in tags.

    The coordinate system and the transform are the record's where it has both; otherwise the
    file has neither. There is no date tag: nothing was acquired.

    Args:
        path: File whose name has `SYNTHETIC_MARK`; missing folders are made.
        image: uint8 RGB ``(H, W, 3)``.
        record: What was asked for; None where only a text was.
        provenance: How it was made; stored as `complete_provenance`.

    Raises:
        RequestError: As `write_png`, or if the record's coordinate system is unknown to GDAL.
    """
    _check_generated(path, image, record)
    tags, place = _geotiff_tags(record, provenance), _placement(record)
    with replacing(path) as temporary, warnings.catch_warnings():
        if not place:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # it is not, on purpose
        with rasterio.open(temporary, "w", **_cog_profile(image), **place) as file:
            file.write(np.moveaxis(image, -1, 0))
            file.descriptions = ("red", "green", "blue")
            file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
            file.update_tags(**tags)
            # GDAL wants the whole packet as one item; rasterio joins key and value with "=".
            key, _, value = XMP.partition("=")
            file.update_tags(ns="xml:XMP", **{key: value})


def read_provenance(path: Path) -> dict[str, Any]:
    """Read back how an image was made from its PNG or GeoTIFF.

    Returns:
        What `complete_provenance` gave when the file was written.

    Raises:
        DataError: If the file is missing, is neither a PNG nor a GeoTIFF, or carries no
            provenance.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Name a PNG or GeoTIFF that ecomap wrote.")
    with path.open("rb") as file:
        is_png = file.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE
    text = _read_png_text(path) if is_png else _read_geotiff_text(path)
    try:
        content = json.loads(text or "")
    except json.JSONDecodeError:
        raise DataError(
            f"{path} carries no provenance of ecomap. Either ecomap did not write it, or another "
            "program saved it anew and dropped its metadata."
        ) from None
    return dict(content)


LABELS: dict[bool | None, tuple[str, str]] = {
    True: ("real", "#0072b2"),
    False: ("synthetic", "#9e4b00"),
    None: ("no photograph", "#5a646b"),
}
"""Word and colour under a picture. Blue and dark orange differ for all kinds of colour vision."""


def contact_sheet(
    path: Path,
    images: Sequence[Pixels],
    captions: Sequence[str],
    columns: int,
    title: str = "",
    *,
    is_real: Sequence[bool | None] | None = None,
) -> None:
    """Draw images in rows, each over the label "synthetic" or "real" and its caption.

    Small images are enlarged by repeating pixels: nothing on the sheet is interpolated. A sheet
    with any generated image is itself marked as synthetic.

    Args:
        path: PNG file; missing folders are made.
        images: uint8 RGB ``(H, W, 3)``, all of one size.
        captions: One for each image; long ones are wrapped.
        columns: Images in a row, at least 1.
        title: Heading of the sheet.
        is_real: For each image whether it is a real frame, ``None`` for what is neither real nor
            generated; by default all are generated.

    Raises:
        RequestError: If there are no images, their number differs from that of the captions or of
            ``is_real``, they are not uint8 RGB of one size, or ``columns`` is below 1.
    """
    from ecomap.figures import draw_sheet  # matplotlib is slow to import

    flags = [False] * len(images) if is_real is None else list(is_real)
    _check_sheet(images, captions, flags, columns)
    texts = [(LABELS[real], caption) for real, caption in zip(flags, captions, strict=True)]
    sheet = draw_sheet(images, texts, columns=columns, title=title)
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG", pnginfo=PngInfo() if all(flags) else synthetic_chunks({}))


def _check_sheet(
    images: Sequence[Pixels], captions: Sequence[str], flags: Sequence[bool | None], columns: int
) -> None:
    """Refuse a sheet whose parts do not belong together."""
    if not len(images) or columns < 1:
        raise RequestError(
            f"A contact sheet of {len(images)} images in {columns} columns cannot be drawn. Give "
            "at least one image and one column."
        )
    if not len(images) == len(captions) == len(flags):
        raise RequestError(
            f"{len(images)} images have {len(captions)} captions and {len(flags)} flags. Give one "
            "of each for every image."
        )
    for index, image in enumerate(images):
        _check_pixels(image, f"Image {index} of the contact sheet")
        if image.shape != images[0].shape:
            raise RequestError(
                f"Image {index} of the contact sheet has shape {image.shape}, the first "
                f"{images[0].shape}. Bring all to one size first."
            )


def _check_pixels(image: Pixels, name: str) -> None:
    """Refuse what is not a picture in display values."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise RequestError(
            f"{name} has type {image.dtype} and shape {image.shape}. Expected uint8 of shape "
            "(height, width, 3)."
        )


def _check_generated(path: Path, image: Pixels, record: TileRecord | None) -> None:
    """Refuse a generated image without the mark in its name, or not the one that was asked for."""
    if SYNTHETIC_MARK not in path.name:
        raise RequestError(
            f"{path.name} does not say that it is synthetic. Name it with "
            "ecomap.outputs.synthetic_name."
        )
    _check_pixels(image, f"The image for {path.name}")
    if record is not None and image.shape[:2] != (record.height_px, record.width_px):
        raise RequestError(
            f"The image for {path.name} has {image.shape[0]} x {image.shape[1]} px, its record "
            f"{record.height_px} x {record.width_px} px: it would lie in the wrong place. Make the "
            "record for the size of the image."
        )


def _provenance_text(record: TileRecord | None, provenance: Mapping[str, Any]) -> str:
    """Provenance as one line of ASCII JSON."""
    try:
        return json.dumps(complete_provenance(record, provenance), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"The provenance cannot be written as JSON: {error}. Use plain text, finite numbers, "
            "lists and dictionaries."
        ) from None


def _software(provenance: Mapping[str, Any]) -> str:
    """Name of this program, with its version where the provenance has one."""
    version = dict(provenance.get("versions") or {}).get("ecomap")
    return f"ecomap {version}" if version else "ecomap"


def synthetic_chunks(provenance: Mapping[str, Any]) -> PngInfo:
    """PNG text chunks that say that an image is synthetic."""
    chunks = PngInfo()
    chunks.add_text("Synthetic", "true")
    chunks.add_text("Description", SYNTHETIC_STATEMENT)
    chunks.add_text("Software", _software(provenance))
    chunks.add_itxt(XMP_KEYWORD, XMP)
    return chunks


def _geotiff_tags(record: TileRecord | None, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a generated GeoTIFF: the marks, the provenance, and its plain values by name."""
    parts = {k: v for k, v in provenance.items() if isinstance(v, str | int | float)}
    if isinstance(bundle := provenance.get("bundle"), Mapping):
        parts |= {f"bundle_{key}": value for key, value in bundle.items()}
    if record is not None:
        parts |= {"month": record.month, "lat": record.lat, "lon": record.lon}
    return {
        "SYNTHETIC": "YES",
        "TIFFTAG_IMAGEDESCRIPTION": SYNTHETIC_STATEMENT,
        "TIFFTAG_SOFTWARE": _software(provenance),
        PROVENANCE_TAG: _provenance_text(record, provenance),
        **{f"ECOMAP_{key.upper()}": str(part) for key, part in parts.items()},
    }


def _placement(record: TileRecord | None) -> dict[str, Any]:
    """Coordinate system and transform of a record that has both, else nothing."""
    if record is None or record.crs is None or record.transform is None:
        return {}
    try:
        return {"crs": CRS.from_user_input(record.crs), "transform": Affine(*record.transform)}
    except CRSError as error:
        raise RequestError(
            f"The coordinate system {record.crs!r} of {record.tile_id} is unknown: {error}. Use a "
            "code such as EPSG:4326."
        ) from None


def _cog_profile(image: Pixels) -> dict[str, Any]:
    """Lossless cloud optimised GeoTIFF that keeps the XMP packet (``COPY_SRC_MDD``)."""
    return {
        "driver": "COG",
        "height": image.shape[0],
        "width": image.shape[1],
        "count": 3,
        "dtype": "uint8",
        "compress": "DEFLATE",
        "predictor": "YES",
        "blocksize": 512,
        "COPY_SRC_MDD": "YES",
    }


@contextmanager
def unplaced() -> Iterator[None]:
    """Without the warning that a GeoTIFF has no place: where it has none, that is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to a neighbour of a file that takes its place on success and goes away on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_png_text(path: Path) -> str | None:
    """Provenance chunk of a PNG, None where it has none."""
    try:
        with Image.open(path) as image:
            return str(text) if (text := image.info.get(PROVENANCE_KEY)) else None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable PNG: {error}.") from None


def _read_geotiff_text(path: Path) -> str | None:
    """Provenance tag of a GeoTIFF, None where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # of no matter for its tags
        try:
            with rasterio.open(path) as file:
                return dict[str, str](file.tags()).get(PROVENANCE_TAG)
        except RasterioIOError as error:
            raise DataError(f"{path} is neither a PNG nor a readable GeoTIFF: {error}.") from None
