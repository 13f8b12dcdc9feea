import hashlib

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from ecomap import sequence_films
from ecomap.errors import DataError, RequestError
from ecomap.outputs import DIGITAL_SOURCE_TYPE, SYNTHETIC_STATEMENT, XMP
from ecomap.sequence import SequenceFolder
from ecomap.sequence_films import HELD, Film, write_films, write_gif
from tests.made_sequence import write_sequence

NAMES = (
    *("films/normal_synth.gif", "films/normal_synth.mp4"),
    *("films/plus_2c_synth.gif", "films/plus_2c_synth.mp4"),
    *("side_by_side_synth.gif", "side_by_side_synth.mp4"),
)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = write_sequence(tmp_path_factory.mktemp("sequence"))
    assert [path.relative_to(folder.path).as_posix() for path in write_films(folder)] == [*NAMES]
    return folder


def decode(path):
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def sharp_part(picture):
    """Inside of a tile on a sheet of one: away from its edges and its caption."""
    return np.asarray(picture.convert("RGB"), dtype=float)[40:240, 40:240]


def test_an_mp4_shows_the_start_and_every_month_in_its_colours(sequence):
    frames = decode(sequence.path / "films/plus_2c_synth.mp4")
    assert len(frames) == HELD + 2 + HELD  # start, two months, and the last one
    shown = [frames[0], *frames[HELD : HELD + 3]]
    images = [sequence.read_start()] + [
        sequence.read("plus_2c", 0, month) for month in ("2030-01", "2030-04", "2030-07")
    ]
    for frame, image in zip(shown, images, strict=True):
        tile = image.repeat(8, axis=0).repeat(8, axis=1)
        found = frame[16 : 16 + 256, 16 : 16 + 256].astype(float)
        assert np.abs(found - tile).mean() < 3


def test_an_mp4_plays_everywhere_and_says_what_it_is(sequence):
    path = sequence.path / "side_by_side_synth.mp4"
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 4
        assert stream.width % 2 == stream.height % 2 == 0
        assert stream.width > 2 * 256  # two tiles beside one another
        assert SYNTHETIC_STATEMENT in container.metadata["comment"]
        assert DIGITAL_SOURCE_TYPE in container.metadata["comment"]
    content = path.read_bytes()
    assert XMP.encode() in content
    assert content.index(b"moov") < content.index(b"mdat")  # plays before it is loaded


def boxes(content):
    """Kinds of the boxes that an MP4 consists of."""
    place, found = 0, []
    while place < len(content):
        found.append(content[place + 4 : place + 8])
        place += int.from_bytes(content[place : place + 4])
    return found, place


def test_the_boxes_of_an_mp4_fill_it(sequence):
    content = (sequence.path / "side_by_side_synth.mp4").read_bytes()
    found, end = boxes(content)
    assert found[0] == b"ftyp"
    assert found[-1] == b"uuid"
    assert end == len(content)


def test_a_gif_repeats_and_says_what_it_is(sequence):
    path = sequence.path / "films/normal_synth.gif"
    with Image.open(path) as gif:
        assert gif.n_frames == 1 + 3
        assert gif.info["loop"] == 0
        assert gif.info["comment"].decode() == SYNTHETIC_STATEMENT
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
        assert durations == [1000, 250, 250, 1000]
        gif.seek(2)
        found = np.asarray(gif.convert("RGB"))[16 : 16 + 256, 16 : 16 + 256]
    tile = sequence.read("normal", 0, "2030-04").repeat(8, axis=0).repeat(8, axis=1)
    assert np.abs(found.astype(float) - tile).mean() < 6  # of 256 colours
    content = path.read_bytes()
    assert XMP.encode() in content
    assert content.endswith(b"\x00;")


def test_every_picture_stands_over_its_label(sequence):
    film = Film(sequence, sequence.plan.timelines, 0)
    start, *months = film.pictures(1920)
    assert {picture.size for picture in months} == {start.size}
    label = np.asarray(months[0])[16 + 256 :, 16 : 16 + 256]
    other_month = np.asarray(months[1])[16 + 256 :, 16 : 16 + 256]
    of_start = np.asarray(start)[16 + 256 :, 16 : 16 + 256]
    orange = (label == (0x9E, 0x4B, 0x00)).all(axis=-1)  # the colour of "synthetic"
    assert orange.any()
    assert (other_month != label).any()  # the month is written there
    assert not (of_start == (0x9E, 0x4B, 0x00)).all(axis=-1).any()  # the start is real


def test_a_generated_start_is_labelled_synthetic(sequence):
    plan = sequence.plan.model_copy(update={"start_source": "generated"})
    film = Film(SequenceFolder(sequence.path, plan), plan.timelines[:1], 0)
    start = np.asarray(next(film.pictures(1920)))
    assert (start == (0x9E, 0x4B, 0x00)).all(axis=-1).any()


def test_the_member_that_is_asked_for_is_shown(sequence):
    one, two = (Film(sequence, sequence.plan.timelines[:1], member) for member in (0, 1))
    first, second = ([*film.pictures(1920)][1] for film in (one, two))
    difference = np.abs(sharp_part(first) - sharp_part(second))
    assert 0 < difference.mean() < 10


def test_large_tiles_are_made_smaller_and_small_ones_keep_their_pixels(sequence):
    film = Film(sequence, sequence.plan.timelines, 0)
    narrow = next(film.pictures(100))
    assert narrow.size == next(film.pictures(1920)).size  # 32 px: there is nothing to reduce
    large = np.zeros((900, 600, 3), np.uint8)
    assert sequence_films._reduced(large, 450).shape == (450, 300, 3)


def test_long_gifs_skip_months_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_films, "GIF_PICTURES", 2)
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=4)
    write_gif(tmp_path / "few.gif", Film(folder, folder.plan.timelines, 0), 4)
    with Image.open(tmp_path / "few.gif") as gif:
        assert gif.n_frames == 1 + 2
        assert gif.info["comment"].decode().endswith("Of 2 months one is shown.")
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    for found, month in zip(shown[1:], ("2030-04", "2030-10"), strict=True):  # to the last month
        tile = folder.read("normal", 0, month).repeat(8, axis=0).repeat(8, axis=1)
        assert np.abs(found[16 : 16 + 256, 16 : 16 + 256].astype(float) - tile).mean() < 6


def test_writing_again_gives_the_same_bytes(sequence):
    before = [hashlib.sha256((sequence.path / name).read_bytes()).digest() for name in NAMES]
    write_films(sequence)
    after = [hashlib.sha256((sequence.path / name).read_bytes()).digest() for name in NAMES]
    assert after == before


def test_one_scenario_stands_beside_no_other(tmp_path):
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=1)
    written = write_films(folder)
    assert [path.name for path in written] == ["normal_synth.gif", "normal_synth.mp4"]
    assert len(decode(written[1])) == 2 * HELD


@pytest.mark.parametrize("asked", [{"member": 2}, {"member": -1}, {"months_per_second": 0}])
def test_films_that_cannot_be_are_refused(sequence, asked):
    with pytest.raises(RequestError, match="cannot be made"):
        write_films(sequence, **asked)


def test_missing_frames_are_counted(tmp_path):
    folder = write_sequence(tmp_path, with_frames=False)
    with pytest.raises(DataError, match="lacks 12 of 12 frames"):
        write_films(folder)
    assert not (tmp_path / "films").exists()
