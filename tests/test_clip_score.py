"""CLIP score: cosines by hand, batches that change nothing, and a bug of others that we lack."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.multimodal.clip_score import CLIPScore

from ecomap.clip_score import (
    SHUFFLED,
    TEXT_BATCH,
    captions_of,
    clip_score,
    clip_scores,
    embed_once,
)
from ecomap.evaluate_config import EvaluateConfig
from ecomap.scores import find
from ecomap.tiles import Measured, ScoredTile, tile_of, tile_table
from tests.fakes import make_tile

SPACE = "transformers=made"
CONFIG = EvaluateConfig(clip=SPACE, num_draws=50, num_permutations=99)


def test_scores_are_a_hundred_times_the_cosine_and_never_negative():
    images = [[1, 0], [3, 0], [1, 1], [0, 2], [-1, 0]]
    texts = [[5, 0], [0, 1], [1, 0], [0, -1], [-2, 0]]
    expected = [100, 0, 100 / np.sqrt(2), 0, 100]
    np.testing.assert_allclose(clip_score(images, texts), expected, atol=1e-12)
    assert np.isnan(clip_score([[0, 0]], [[1, 0]])).all()
    assert clip_score(np.empty((0, 4)), np.empty((0, 4))).shape == (0,)
    for wrong in ([[1.0, 0, 0]], [1.0, 0]):
        with pytest.raises(ValueError, match="two matrices of one shape"):
            clip_score([[1.0, 0]], wrong)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(0, 50))
def test_the_length_of_embeddings_does_not_matter(a, b, seed):
    images, texts = np.random.default_rng(seed).normal(size=(2, 3, 5))
    np.testing.assert_allclose(clip_score(a * images, b * texts), clip_score(images, texts))


def with_cosines(cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings with these cosines between image and text."""
    texts = np.tile([1.0, 0.0], (len(cosines), 1))
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1), texts


def ecomappers_number(scores: np.ndarray, batch_size: int = 100) -> float:
    """Sum of the batches' means over the number of images, as EcoMapper's released code has it."""
    starts = range(0, len(scores), batch_size)
    return float(sum(scores[s : s + batch_size].mean() for s in starts) / len(scores))


def test_a_rare_class_is_not_scored_beyond_what_a_cosine_can_be():
    # 14 images are one partial batch of 100: their sum of means over their number is the mean score
    # over 14, which for cosines about 0.26 gives 1.874, as its Table 7 has for its rarest class.
    cosines = np.linspace(0.2126, 0.3121, 14)
    scores = clip_score(*with_cosines(cosines))
    assert ecomappers_number(scores) == pytest.approx(1.874, abs=0.001)
    assert scores.mean() == pytest.approx(26.235)
    # Over full batches its number is the mean cosine, and ours the same on the scale of 100.
    full = clip_score(*with_cosines(np.tile(cosines, 100)))
    assert ecomappers_number(full) == pytest.approx(0.26235)
    assert full.mean() == pytest.approx(26.235)


def test_one_image_scores_as_torchmetrics_scores_it():
    images, texts = np.random.default_rng(0).normal(size=(2, 6, 4))
    ours = clip_score(images, texts)
    a, b = (torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in (images, texts))
    theirs = (100 * (a * b).sum(1)).clamp(min=0).numpy()
    np.testing.assert_allclose(ours, theirs)
    metric = CLIPScore.__new__(CLIPScore)  # the arithmetic alone: its models would be downloaded
    metric.score, metric.n_samples = torch.tensor(float(ours.sum())), torch.tensor(len(ours))
    assert float(CLIPScore.compute(metric)) == pytest.approx(ours.mean(), rel=1e-5)


def test_captions_are_the_tiles_own_or_written_with_its_own_climate():
    assert captions_of(ScoredTile(key="a", caption="a town")) == {"caption": "a town"}
    assert captions_of(ScoredTile(key="a")) == {}
    record = make_tile(country="Mali", temperature_c=21.0, precipitation_mm_day=2.5)
    known = tile_of(record)
    found = captions_of(known)
    assert set(found) == {"short", "long", "without climate"}
    assert found["short"].endswith("in Mali on March 2021. 21.0 C, 2.50 mm/day.")
    assert "average temperature over the last month was 21.0 C" in found["long"]
    assert found["without climate"].endswith("in Mali on March 2021.")
    warmer = replace(known, climate=dict(known.climate) | {"temperature_c": 25.0})
    assert "25.0 C, 2.50 mm/day" in captions_of(warmer)["short"]


def test_a_text_is_embedded_once_whatever_the_batches():
    calls = []

    def embed(texts):
        calls.append(list(texts))
        return np.array([[len(text), 1.0] for text in texts], np.float32)

    texts = [f"{'x' * (i % 70)}" for i in range(200)]
    found = embed_once(texts, embed)
    np.testing.assert_array_equal(found[:, 0], [i % 70 for i in range(200)])
    assert [len(call) for call in calls] == [TEXT_BATCH, 70 - TEXT_BATCH]


TILES = [
    tile_of(
        make_tile(
            location_id=str(place), month=f"2021-{month:02d}", lat=12.0 * place,
            temperature_c=3.0 * place,
        )
    )
    for place in range(6)
    for month in (1, 7)
]  # fmt: skip


def embed(texts) -> np.ndarray:
    """A made-up text encoder: each distinct text has its own direction."""
    rows = [np.random.default_rng([*text.encode()]).normal(size=16) for text in texts]
    return np.array(rows, np.float32)


def measured(name: str, features, tiles=TILES) -> Measured:
    return Measured(
        name=name, kind="generated", description="", table=tile_table(tiles),
        features={SPACE: np.asarray(features, np.float32)},
    )  # fmt: skip


def test_fitting_images_beat_their_shuffled_captions_and_others_do_not():
    shorts = [captions_of(tile)["short"] for tile in TILES]
    fitting = measured("fitting", 3 * embed(shorts))
    blind = measured("blind", np.random.default_rng(0).normal(size=(12, 16)))
    tiles = {"fitting": TILES, "blind": TILES}
    scores = clip_scores([fitting, blind], tiles, embed, CONFIG)
    (best,) = find(scores, system="fitting", detail="short")
    (null,) = find(scores, system="fitting", detail=f"short, {SHUFFLED}")
    assert best.value == pytest.approx(100, abs=1e-3)
    assert best.n == 12
    assert best.num_blocks == 6
    assert best.p_value <= 0.04
    assert null.high < best.value
    (other,) = find(scores, system="blind", detail="short")
    assert other.p_value > 0.05
    details = {"short", "long", "without climate"}
    assert {s.detail for s in scores} == details | {f"{d}, {SHUFFLED}" for d in details}
    assert all(s.metric == "clip_score" and s.section == "adherence" for s in scores)


def test_images_without_a_caption_are_left_out_and_counted():
    tiles = [*TILES[:4], ScoredTile(key="bare"), ScoredTile(key="zero", caption="a town")]
    features = np.ones((6, 16))
    features[5] = 0
    scores = clip_scores([measured("x", features, tiles)], {"x": tiles}, embed, CONFIG)
    (short,) = find(scores, detail="short")
    assert short.n == 4
    assert short.flag == "2 images without a caption or embedding left out"
    (town,) = find(scores, detail="caption")
    assert (town.value, town.flag) == (None, "all embeddings are zero")


def test_what_cannot_be_scored_says_why():
    images = measured("x", np.ones((12, 16)))
    assert clip_scores([images], {"x": TILES}, embed, EvaluateConfig()) == []
    other = CONFIG.model_copy(update={"clip": "open_clip=other"})
    (score,) = clip_scores([images], {"x": TILES}, embed, other)
    assert (score.value, score.flag) == (None, "images were not measured in open_clip=other")
    bare = [ScoredTile(key=tile.key) for tile in TILES]
    for tiles in ({"x": bare}, {}):
        (score,) = clip_scores([images], tiles, embed, CONFIG)
        assert score.flag == "no tile has a caption, or a record to write one of"
