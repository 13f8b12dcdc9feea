"""Sets of images in folders: datasets, what `ecomap generate` wrote, and anybody's images.

Opening a set reads names, tables and, of plain folders, the heads of files. Pixels are read one
image at a time, by `FileImageSet.read`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ecomap.errors import DataError, ImageError, RequestError
from ecomap.frame_masks import find_masks
from ecomap.image_decoding import Size, read_header
from ecomap.image_files import (
    OTHER_SIZE,
    FrameCache,
    ImageFile,
    check_content,
    read_frame,
    resize,
)
from ecomap.image_folders import Entries, find_entries
from ecomap.schema import Split
from ecomap.tiles import Frame, ScoredTile, SetKind

KEPT_FILES = 12
"""Mosaics that stay decoded: one for each month of a year, in which places come one by one."""


@dataclass(kw_only=True)
class FileImageSet:
    """Images of files; see `ecomap.tiles.ImageSet`. It can be pickled."""

    name: str
    kind: SetKind
    description: str
    tiles: Sequence[ScoredTile]
    files: Sequence[ImageFile]
    """File of each tile."""
    size: Size
    """Height and width of all images that can be read."""
    size_px: int | None
    """Side to which images are brought; ``None`` refuses images of another size."""
    max_masked_frac: float
    """Largest fraction of an image that may be masked or without data."""
    notes: tuple[str, ...] = ()
    """What the reader of a report must know of the set."""
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Rows without an image and images without a row, by reason."""
    cache: FrameCache = field(default_factory=lambda: FrameCache(KEPT_FILES), repr=False)

    def read(self, index: int) -> Frame:
        """Image of ``tiles[index]``.

        Raises:
            ImageError: If it cannot be scored; its ``reason`` is counted.
        """
        file = self.files[index]
        frame = read_frame(file, self.cache)
        self._check_size(file.path, frame.rgb.shape[:2])
        if self.size_px is not None:
            frame = resize(frame, self.size_px)
        check_content(frame, file.path, max_masked_frac=self.max_masked_frac)
        return frame

    def select(self, indices: Sequence[int]) -> "FileImageSet":
        """Some images of the set, such as one task's: quick to send to another process."""
        tiles = [self.tiles[index] for index in indices]
        return replace(self, tiles=tiles, files=[self.files[index] for index in indices])

    def signature(self, index: int) -> str:
        """What tells the image of ``tiles[index]`` from any other: its file's state and settings.

        Changes when the file or its mask is written again, or when it is read in another way.
        """
        file = self.files[index]
        states = []
        for path in (file.path, file.mask):
            if path is not None and path.is_file():
                state = path.stat()
                states.append(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}")
        settings = (file, self.size, self.size_px, self.max_masked_frac)
        return "; ".join([*states, repr(settings)])

    def _check_size(self, path: Path, size: tuple[int, ...]) -> None:
        """Refuse an image that is not as large as the others, or cannot be made so."""
        height, width = size
        if self.size_px is None and size != self.size:
            raise ImageError(
                OTHER_SIZE,
                f"{path} gives {height} x {width} px. Expected {self.size[0]} x {self.size[1]} px, "
                "as most images of the set have; state a size to which all are brought.",
            )
        if self.size_px is not None and height != width:
            raise ImageError(
                OTHER_SIZE,
                f"{path} gives {height} x {width} px, which is not square. Expected a square image "
                f"to bring to {self.size_px} px; cut it first.",
            )


def open_image_set(
    path: Path,
    *,
    name: str,
    kind: SetKind,
    max_masked_frac: float,
    size_px: int | None = None,
    masks: Path | None = None,
    splits: Sequence[Split] | None = None,
) -> FileImageSet:
    """Open the images of a folder.

    A folder is one of these, the first that fits: a dataset (`ecomap.schema`), whose keys are
    those of its records; images with a table (`ecomap.record_tables`) at its top; images that
    `ecomap generate` wrote, which know their records; images of which only names are known. Images
    are those of all subfolders; hidden files are passed over. Keys of the last three are those that
    a table or record gives, else the image's path in the folder without suffix and without the
    mark of generated images.

    Args:
        path: Folder, or its table where it has several.
        name: Name of the set, unique in a report.
        kind: What the set is.
        max_masked_frac: An image with more of it masked or without data is refused.
        size_px: Side to which all images are brought; by default that of most images, and others
            are refused.
        masks: Folder of pictures with the paths of the images, suffix apart; an image is masked
            where its picture is not 0. Of tiles cut from a mosaic, it is the mosaic's picture.
        splits: Sides of the split to take; all by default.

    Raises:
        DataError: If the folder is missing, has no image that can be read, or its table is damaged,
            names no image, or gives a key twice.
        SchemaError: If a record or row is impossible.
        RequestError: If no tile is in these splits.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist. Expected a folder of images.")
    if masks is not None and not masks.is_dir():
        raise DataError(f"{masks} is not a folder. Expected masks with the paths of the images.")
    entries = find_entries(path, masks=masks)
    _check_keys(path, entries.tiles)
    entries = _of_splits(path, entries, splits)
    if masks is not None:
        entries = _with_masks(entries, masks)
    size, notes = _survey(path, entries)
    return FileImageSet(
        name=name,
        kind=kind,
        description=f"{len(entries.tiles):,} images: {entries.description}.",
        tiles=entries.tiles,
        files=entries.files,
        size=size if size_px is None else (size_px, size_px),
        size_px=size_px,
        max_masked_frac=max_masked_frac,
        notes=(*entries.notes, *notes),
        dropped=entries.dropped,
    )


def _check_keys(path: Path, tiles: Iterable[ScoredTile]) -> None:
    """Refuse a set in which two images have one key."""
    repeated = [key for key, num in Counter(tile.key for tile in tiles).items() if num > 1]
    if repeated:
        raise DataError(
            f"{path} has several images with the key {repeated[0]!r} (and {len(repeated) - 1} more "
            "such keys). Expected one image a key; rename them, or move them apart."
        )


def _of_splits(path: Path, entries: Entries, splits: Sequence[Split] | None) -> Entries:
    """Entries on some sides of the split."""
    if splits is None:
        return entries
    chosen = [index for index, tile in enumerate(entries.tiles) if tile.split in splits]
    if not chosen:
        there = ", ".join(sorted({tile.split for tile in entries.tiles}))
        raise RequestError(
            f"{path} has no tile of the splits {', '.join(splits)}; its tiles are {there}. Choose "
            "among these, or split it with 'ecomap data split'."
        )
    num_left = len(entries.tiles) - len(chosen)
    note = f"{num_left:,} tiles of other splits than {', '.join(splits)} are left out."
    return replace(
        entries,
        tiles=[entries.tiles[index] for index in chosen],
        files=[entries.files[index] for index in chosen],
        names=[entries.names[index] for index in chosen],
        notes=(*entries.notes, note) if num_left else entries.notes,
    )


def _with_masks(entries: Entries, masks: Path) -> Entries:
    """Entries with the mask of each image that has one.

    Raises:
        DataError: If no image has one.
    """
    found = find_masks(masks, entries.names)
    files = [
        replace(file, mask=found.get(name))
        for file, name in zip(entries.files, entries.names, strict=True)
    ]
    num_without = sum(file.mask is None for file in files)
    note = f"{num_without} of {len(files)} images have no mask in {masks}: all of them counts."
    return replace(
        entries, files=files, notes=(*entries.notes, note) if num_without else entries.notes
    )


def _survey(path: Path, entries: Entries) -> tuple[Size, list[str]]:
    """Size of most images, and what is noticeable about their files.

    Datasets state sizes in their records; their files are only opened until one can be read.

    Raises:
        DataError: If no file can be read.
    """
    if entries.sizes is not None:
        paths = dict.fromkeys(file.path for file in entries.files)
        if not any(read_header(file) for file in paths):
            raise _no_readable(path, len(paths))
        jpeg = [file for file in entries.files if file.path.suffix.lower() in (".jpg", ".jpeg")]
        return _most(entries.sizes), _notes(len(jpeg), 0, len(entries.files))
    headers = [(file, header) for file in entries.files if (header := read_header(file.path))]
    if not headers:
        raise _no_readable(path, len(entries.files))
    sizes = [
        header.size if file.window_px is None else (file.window_px[3], file.window_px[2])
        for file, header in headers
    ]
    num_jpeg = sum(header.is_jpeg for _, header in headers)
    num_alpha = sum(header.has_alpha for _, header in headers)
    return _most(sizes), _notes(num_jpeg, num_alpha, len(entries.files))


def _most(sizes: Iterable[Size]) -> Size:
    """The size that most have, the largest of several such."""
    return max(Counter(sizes).items(), key=lambda item: (item[1], item[0]))[0]


def _notes(num_jpeg: int, num_alpha: int, num: int) -> list[str]:
    """What is noticeable about the files of a set."""
    notes = []
    if num_jpeg:
        notes.append(
            f"{num_jpeg:,} of {num:,} images are JPEG, which is lossy: its blocks count as texture."
        )
    if num_alpha:
        notes.append(
            f"{num_alpha:,} of {num:,} images have an alpha channel: pixels that are fully "
            "transparent are masked, all others are taken as opaque."
        )
    return notes


def _no_readable(path: Path, num: int) -> DataError:
    """The error of a set none of whose files is an image."""
    return DataError(
        f"{path}: none of {num} image files can be read. Expected PNG, JPEG or TIFF; look at one."
    )
