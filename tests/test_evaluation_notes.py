"""Notes that scored tiles call for."""

from ecomap.evaluation_notes import BLUE_MARBLE_NOTE, NORMALS_NOTE, TRAINING_NOTE, reading_notes
from ecomap.tiles import tile_of
from tests.fakes import make_tile


def notes(*tiles):
    return reading_notes(tiles, level=0.9, block_deg=10.0, equal_n=37)


def test_the_notes_state_the_numbers_that_they_are_about():
    text = "\n".join(notes(tile_of(make_tile()), tile_of(make_tile(location_id="2", lat=50.0))))
    assert "90%" in text
    assert "10 degrees" in text
    assert "in 2 blocks" in text
    assert "fewer than 10 are" in text
    assert "37 images" in text
    assert "{" not in text


def test_blue_marble_normals_and_training_tiles_are_named_first():
    plain = notes(tile_of(make_tile()))
    assert not {BLUE_MARBLE_NOTE, NORMALS_NOTE, TRAINING_NOTE} & set(plain)
    grave = notes(tile_of(make_tile(source="bluemarble", climate_kind="normal", split="train")))
    assert set(grave[:3]) == {BLUE_MARBLE_NOTE, NORMALS_NOTE, TRAINING_NOTE}
