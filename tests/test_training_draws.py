"""Draws of a step: a pure function of (seed, step, row), and distributed as stated."""

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from ecomap.errors import ConfigError
from ecomap.flow import sigma_density
from ecomap.training_draws import (
    WHOLE,
    DrawSettings,
    Part,
    Sampler,
    StepDraw,
    draw_holes,
    draw_noise,
    open_doors,
)

EVERYTHING = {
    "door_shares": (0.4, 0.3, 0.2, 0.1), "drop_group": 0.3, "num_groups": 6, "drop_control": 0.25,
    "num_variants": 4, "num_text_variants": 3,
}  # fmt: skip


def sampler(num_records=200, classes=None, **settings):
    settings = EVERYTHING | {"batch_size": 12} | settings
    return Sampler(num_records, DrawSettings(**settings), classes=classes)


def tensors(draw):
    return {f.name: v for f in fields(draw) if isinstance(v := getattr(draw, f.name), Tensor)}


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


def many(source, num_steps):
    """Draws of several steps as one, by field."""
    draws = [tensors(source.draw(step)) for step in range(num_steps)]
    return {name: torch.cat([draw[name] for draw in draws]) for name in draws[0]}


# --- dividing a batch ---


@pytest.mark.parametrize("count", [1, 2, 3, 6, 12])
def test_parts_put_together_are_the_whole_step(count):
    draw = sampler().draw(5)
    parts = [draw.rows(Part(index, count).rows(12)) for index in range(count)]
    assert {len(part) for part in parts} == {12 // count}
    assert all(isinstance(part, StepDraw) and part.step == 5 for part in parts)
    joined = {name: torch.cat([tensors(part)[name] for part in parts]) for name in tensors(draw)}
    assert same(joined, tensors(draw))


def test_noise_of_rows_drawn_apart_is_that_of_the_whole_batch():
    rows = torch.arange(12)
    whole = draw_noise(3, 7, rows, (2, 4, 4))
    assert whole.dtype == torch.float32
    assert whole.shape == (12, 2, 4, 4)
    for order in (torch.tensor([11, 0, 5]), rows.flip(0), rows[4:8]):
        assert torch.equal(draw_noise(3, 7, order, (2, 4, 4)), whole[order])


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match="12 cannot be divided into 5 equal parts"):
        Part(0, 5).rows(12)
    assert WHOLE.rows(7) == slice(0, 7)


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_part_that_is_not_there_is_refused(index, count):
    with pytest.raises(ConfigError, match="does not exist"):
        Part(index, count)


# --- resuming ---


@pytest.mark.parametrize("balance", [0.0, 0.7])
def test_a_step_is_the_same_whatever_was_drawn_before(balance):
    classes = np.arange(200) % 3
    straight = sampler(classes=classes, class_balance=balance)
    drawn = [tensors(straight.draw(step)) for step in range(40)]
    for step in (39, 0, 17, 16):
        fresh = sampler(classes=classes, class_balance=balance)
        assert same(tensors(fresh.draw(step)), drawn[step])
        assert same(tensors(straight.draw(step)), drawn[step])


def test_a_row_does_not_depend_on_the_size_of_its_batch():
    small, large = (tensors(sampler(batch_size=size).draw(3)) for size in (4, 32))
    for name in small.keys() - {"index"}:
        assert torch.equal(small[name], large[name][:4]), name


def test_what_a_step_gives_may_be_changed_without_changing_later_ones():
    source = sampler(batch_size=200)
    first = source.draw(0).index.clone()
    source.draw(0).index.zero_()
    assert torch.equal(source.draw(0).index, first)


def test_seeds_steps_and_rows_have_noise_of_their_own():
    rows = torch.arange(3)
    drawn = [draw_noise(seed, step, rows, (8,)) for seed in (0, 1) for step in (0, 1, 2)]
    distinct = {tuple(row.tolist()) for noise in drawn for row in noise}
    assert len(distinct) == len(drawn) * len(rows)
    first, second = tensors(sampler(seed=0).draw(0)), tensors(sampler(seed=1).draw(0))
    assert not torch.equal(first["sigma"], second["sigma"])
    assert not torch.equal(first["index"], second["index"])
    assert not torch.equal(first["sigma"], tensors(sampler(seed=0).draw(1))["sigma"])


# --- records ---


def test_every_record_comes_once_an_epoch_in_a_new_order():
    source = sampler(20, batch_size=6)
    first, second = ([source.index(step) for step in steps] for steps in (range(3), range(3, 6)))
    assert [epoch for _, epoch in first + second] == [0, 0, 0, 1, 1, 1]
    index = np.concatenate([index for index, _ in first])
    assert max(Counter(index.tolist()).values()) == 1
    assert not np.array_equal(index, np.concatenate([index for index, _ in second]))


def test_what_does_not_fill_a_batch_comes_in_other_epochs():
    source = sampler(7, batch_size=4)
    seen = {i for step in range(30) for i in source.index(step)[0].tolist()}
    assert seen == set(range(7))


@pytest.mark.parametrize("balance", [0.3, 0.5, 1.0])
def test_records_come_as_often_as_their_class_is_rare(balance):
    classes = np.repeat([4, 0, 9], [90, 8, 2])
    source = sampler(100, classes, class_balance=balance, batch_size=10)
    num_steps = 4000
    counts = np.zeros(100)
    for step in range(num_steps):
        np.add.at(counts, source.index(step)[0], 1)
    expected = np.repeat([90.0, 8.0, 2.0], [90, 8, 2]) ** -balance
    expected *= num_steps * 10 / expected.sum()
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()


def test_full_balance_gives_every_class_its_exact_share_of_an_epoch():
    classes = np.repeat([1, 2, 3, 0], [50, 30, 15, 5])  # 0 is the unknown class
    source = sampler(100, classes, class_balance=1.0, batch_size=20)
    drawn = np.concatenate([source.index(step)[0] for step in range(5)])
    assert Counter(classes[drawn].tolist()) == {0: 25, 1: 25, 2: 25, 3: 25}
    assert set(Counter(drawn[classes[drawn] == 0].tolist()).values()) == {5}
    assert set(Counter(drawn[classes[drawn] == 3].tolist()).values()) == {1, 2}


# --- doors, groups, controls, variants ---


def test_doors_open_as_often_as_configured():
    drawn = many(sampler(), 1500)
    text, tokens = drawn["has_text"], drawn["has_tokens"]
    assert (text & tokens).float().mean() == pytest.approx(0.4, abs=0.015)
    assert (~text & tokens).float().mean() == pytest.approx(0.3, abs=0.015)
    assert (text & ~tokens).float().mean() == pytest.approx(0.2, abs=0.015)
    assert drawn["has_control"].float().mean() == pytest.approx(0.75, abs=0.015)


def test_a_door_without_a_share_stays_closed():
    uniform = [0.0, 0.3, 0.7, np.nextafter(1.0, 0.0)]
    assert [flags.tolist() for flags in open_doors(uniform, (0, 1, 0, 0))] == [
        [False] * 4,
        [True] * 4,
    ]
    assert [flags.tolist() for flags in open_doors(uniform, (0, 0, 3, 0))] == [
        [True] * 4,
        [False] * 4,
    ]
    text, tokens = open_doors(uniform, (0.1, 0.1, 0.1, 0))
    assert (text | tokens).all()


def test_groups_are_withheld_each_on_its_own():
    withheld = many(sampler(), 1500)["withheld"].float()
    assert withheld.shape == (1500 * 12, 6)
    assert withheld.mean(0).tolist() == pytest.approx([0.3] * 6, abs=0.015)
    correlation = np.corrcoef(withheld.numpy().T) - np.eye(6)
    assert np.abs(correlation).max() < 0.03


def test_nothing_is_dropped_where_nothing_is_to_be():
    drawn = many(Sampler(50, DrawSettings(batch_size=10, num_groups=3)), 50)
    assert drawn["has_text"].all()
    assert drawn["has_tokens"].all()
    assert drawn["has_control"].all()
    assert not drawn["withheld"].any()
    assert not drawn["variant"].any()
    assert not drawn["text_variant"].any()


def test_variants_and_references_are_uniform_and_independent():
    drawn = many(sampler(), 1500)
    pairs = Counter(zip(drawn["variant"].tolist(), drawn["text_variant"].tolist(), strict=True))
    assert set(pairs) == {(v, t) for v in range(4) for t in range(3)}
    assert min(pairs.values()) > 0.9 * 18_000 / 12
    assert max(pairs.values()) < 1.1 * 18_000 / 12
    reference = drawn["reference"]
    assert reference.dtype == torch.float64
    assert reference.min() >= 0
    assert reference.max() < 1
    assert reference.mean().item() == pytest.approx(0.5, abs=0.01)


# --- noise levels ---


@pytest.mark.parametrize(
    "settings",
    [
        {"density": "logit_normal", "density_mean": -0.5, "density_std": 0.8, "shift": 3.0},
        {"density": "mode"},
        {"density": "uniform", "shift": 0.5},
    ],
)
def test_noise_levels_follow_the_stated_density(settings):
    sigma = many(sampler(batch_size=100, **settings), 300)["sigma"]
    assert sigma.dtype == torch.float32
    names = {"density": "density", "density_mean": "mean", "density_std": "std", "shift": "shift"}
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64)
    density = sigma_density(**{names[k]: v for k, v in settings.items()}, sigma=grid)
    expected = torch.cumulative_trapezoid(density, grid)
    found = torch.searchsorted(sigma.sort().values.double(), grid[1:]) / len(sigma)
    assert (found - expected).abs().max() < 0.012


def test_a_positive_mean_prefers_noise():
    low, high = (many(sampler(density_mean=m), 200)["sigma"].mean() for m in (-1.0, 1.0))
    assert low < 0.35
    assert high > 0.65


def test_noise_is_standard_normal_and_rows_are_independent():
    noise = torch.cat([draw_noise(0, step, torch.arange(8), (500,)) for step in range(20)])
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.var().item() == pytest.approx(1, abs=0.02)
    correlation = np.corrcoef(noise.numpy()) - np.eye(len(noise))
    assert np.abs(correlation).max() < 0.22  # 5 standard errors of 500 numbers


# --- refusals ---


@pytest.mark.parametrize(
    ("num_records", "settings", "message"),
    [
        (5, {}, "batch_size is 12 and there are 5 training tiles"),
        (50, {"class_balance": 1.5}, "class_balance is 1.5"),
        (50, {"class_balance": 0.5}, "a class for each of 50 tiles and was given 0"),
        (50, {"door_shares": (0, 0, 0, 0)}, "shares of open doors"),
        (50, {"density": "cosine"}, "Timestep density is 'cosine'"),
        (50, {"shift": 0.0}, "shift is 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_the_first_step(
    num_records, settings, message
):
    with pytest.raises(ConfigError, match=message):
        sampler(num_records, **settings)


def test_holes_are_drawn_by_row_and_cover_any_part():
    rows = torch.arange(400)
    holes = draw_holes(3, 7, rows, (8, 8), share=0.5)
    assert holes.shape == (400, 1, 8, 8)
    assert torch.equal(holes[5:9], draw_holes(3, 7, rows[5:9], (8, 8), share=0.5))
    assert not torch.equal(holes, draw_holes(3, 8, rows, (8, 8), share=0.5))
    with_holes = holes.flatten(1).any(1)
    assert 0.42 < with_holes.float().mean() < 0.55
    covered = holes[with_holes].float().mean((1, 2, 3))
    assert covered.min() < 0.1
    assert covered.max() > 0.9
    assert covered.mean().item() == pytest.approx(0.5, abs=0.08)
    assert not draw_holes(3, 7, rows, (8, 8), share=0.0).any()


def test_holes_are_patches():
    holes = draw_holes(0, 0, torch.arange(200), (16, 16), share=1.0).float()
    partly = holes[(holes.mean((1, 2, 3)) - 0.5).abs() < 0.2]
    same = (partly[..., 1:] == partly[..., :-1]).float().mean()
    assert same > 0.85  # half, if cells were hidden one by one
