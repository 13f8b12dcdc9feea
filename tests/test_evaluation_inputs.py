"""Which images of which folders an evaluation compares."""

import pytest

from ecomap.errors import RequestError
from ecomap.evaluate import _contents
from ecomap.evaluation_inputs import gather_folders, scored_splits
from ecomap.evaluation_steps import cautious
from ecomap.scores import FEW_BLOCKS, Score
from ecomap.tiles import ScoredTile
from tests.made_evaluation import QUICK, write_made, write_plain, write_real


def gather(reference, *, config=QUICK, **generated):
    return gather_folders(reference, generated, training=None, masks=None, config=config)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return write_real(tmp_path_factory.mktemp("inputs") / "real", num_places=8)


def test_pairs_on_other_sides_of_the_split_are_left_out_and_counted(real):
    inputs = gather(real, copy=real)
    assert {tile.split for tile in inputs.reference.tiles} == {"test"}
    assert {tile.split for tile in inputs.systems[0].tiles} == {"test"}
    assert len(inputs.reference.tiles) == len(inputs.systems[0].tiles) == 6 * 12
    assert inputs.given[1].dropped == {"its real image is on another side of the split": 24}
    everything = QUICK.model_copy(update={"splits": ("test", "train")})
    assert len(gather(real, copy=real, config=everything).reference.tiles) == 8 * 12


def test_a_side_without_pairs_is_refused_by_name(real, tmp_path):
    made = write_made(tmp_path / "made", real)
    wrong = QUICK.model_copy(update={"splits": ("val",)})
    with pytest.raises(RequestError, match="sides val"):
        gather(real, made=made, config=wrong)


def test_one_common_name_does_not_leave_out_all_others(tmp_path):
    first = write_plain(tmp_path / "real", [f"{i}.png" for i in range(9)], seed=0)
    names = ["3.png", *(f"x{i}.png" for i in range(10))]
    inputs = gather(first, made=write_plain(tmp_path / "made", names, seed=1))
    assert len(inputs.reference.tiles) == 9
    assert len(inputs.systems[0].tiles) == 11
    keys = {tile.key for tile in inputs.systems[0].tiles}
    assert keys & {tile.key for tile in inputs.reference.tiles} == {"3"}


def test_sides_that_models_learn_from_are_scored_only_when_asked_for():
    def sides(*splits, wanted=None):
        tiles = [ScoredTile(key=str(i), split=split) for i, split in enumerate(splits)]
        return scored_splits(tiles, QUICK.model_copy(update={"splits": wanted}))

    assert sides("train", "test", "val") == ("test",)
    assert sides("train", "val", "buffer") == ("val",)
    assert sides("unassigned") == ("unassigned",)
    assert sides("train") == ("train",)
    assert sides("train", "test", wanted=("train",)) == ("train",)


def test_the_hash_of_an_input_knows_which_file_is_where(tmp_path):
    def hashed(name, order):
        for seed, part in enumerate(order):
            write_plain(tmp_path / name / part, ["0.png"], seed=seed)
        return _contents(gather(tmp_path / name, made=tmp_path / name).given[0].images)

    assert hashed("one", "ab") == hashed("two", "ab") != hashed("three", "ba")


def test_an_interval_over_few_blocks_says_so_once():
    def score(**fields):
        given = {"system": "a", "section": "paired", "metric": "ssim", "value": 1.0, "n": 9}
        return cautious(Score(**given | {"low": 0.0, "high": 2.0} | fields)).flag

    words = "9 blocks: the interval is too narrow"
    assert score(num_blocks=FEW_BLOCKS - 1) == words
    assert score(num_blocks=9, flag="odd") == f"odd; {words}"
    assert score(num_blocks=9, flag=words) == words
    assert score(num_blocks=FEW_BLOCKS) == ""
    assert score(num_blocks=None) == ""
    assert score(num_blocks=9, low=None, high=None) == ""
