"""Samples and batches: which records are read, and that each row is what it says it is."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from ecomap.batches import (
    open_sampler,
    ramped_null_tokens,
    training_batch,
    validation_batch,
)
from ecomap.card import DOORS, BundleCard
from ecomap.climate_encoder import WITHHELD_GROUPS, climate_batch
from ecomap.conditions import embed_text, tokenize
from ecomap.imagery import FrameReader
from ecomap.latents import encode, to_pixels
from ecomap.learn_setup import open_base
from ecomap.prompt import MASKS, draw_prompt
from ecomap.request import known_to
from ecomap.samples import open_samples, read_sides, validation_prompt
from ecomap.schema import read_dataset, write_dataset
from ecomap.train_transformer import open_bundles
from ecomap.training_draws import Part
from ecomap.transformer_config import TrainConfig
from ecomap.validation import held_out_rows
from tests.fakes import TINY_SIZE_PX, write_random_bundle, write_tiles

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    write_tiles(root / "tiles")
    card = BundleCard(name="small", image_size_px=TINY_SIZE_PX, doors=DOORS)
    write_random_bundle(root, card, dtype=torch.float32)
    return root


def opened(world, **changes):
    settings = {
        "dataset": world / "tiles", "base": str(world / "bundle"), "cache": world / "cache",
        "batch_size": 8, "bf16": False, "learn": {"lora": {}},
    }  # fmt: skip
    config = TrainConfig(**(settings | changes))
    sides = read_sides(config, QUIET)
    _, bundle = open_bundles(config, sides[0])
    training, held_out = open_samples(config, bundle, sides, device="cpu", console=QUIET)
    return config, bundle, training, held_out


def test_every_row_is_of_its_record_whatever_the_order_and_epoch(world):
    config, bundle, samples, _ = opened(world, text_variants=2)
    sampler, reader = open_sampler(config, samples.records), FrameReader(config.dataset)
    for step in (0, 2, 4):  # the last lies in the second epoch
        drawn = sampler.draw(step)
        batch = training_batch(config, bundle, samples, drawn)
        for row, index in enumerate(drawn.index.tolist()):
            record = samples.records[index]
            pixels = to_pixels(torch.from_numpy(reader.read(record)[None].copy()))
            latents = encode(bundle.vae, pixels)[0]
            torch.testing.assert_close(batch.clean[row], latents, atol=4e-3, rtol=2e-3)
            if drawn.has_text[row]:
                prompt = draw_prompt(
                    record, MASKS[config.masks], seed=config.seed, sample_index=index,
                    epoch=int(drawn.text_variant[row]),
                )  # fmt: skip
                with torch.no_grad():
                    text = embed_text(tokenize([prompt], bundle.tokenizers), bundle.text_encoders)
                torch.testing.assert_close(batch.text.clip[row], text.clip[0], atol=4e-3, rtol=2e-3)
        assert torch.equal(batch.sigma, drawn.sigma)


def test_parts_of_a_step_are_the_rows_of_the_whole(world):
    config, bundle, samples, _ = opened(world, text_variants=1)
    drawn = open_sampler(config, samples.records).draw(3)
    whole = training_batch(config, bundle, samples, drawn)
    parts = [
        training_batch(config, bundle, samples, drawn.rows(Part(i, 4).rows(8))) for i in range(4)
    ]
    for name in ("clean", "noise", "sigma", "has_tokens"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(whole, name)), name
    assert torch.equal(torch.cat([p.text.clip for p in parts]), whole.text.clip)
    assert torch.equal(torch.cat([p.climate.values for p in parts]), whole.climate.values)


def test_withheld_facts_are_hidden_and_others_stay(world):
    config, bundle, samples, _ = opened(world, drop={"group": 0.5})
    drawn = open_sampler(config, samples.records).draw(0)
    batch = training_batch(config, bundle, samples, drawn)
    full = climate_batch([samples.records[i] for i in drawn.index.tolist()])
    column = WITHHELD_GROUPS.index("land_cover")
    hidden = drawn.withheld[:, column]
    assert 0 < hidden.sum() < 8
    assert not batch.climate.land_cover[hidden].any()
    assert torch.equal(batch.climate.land_cover[~hidden], full.land_cover[~hidden])


def test_anomalies_are_told_to_neither_side_where_they_are_left_out(world, tmp_path):
    shutil.copytree(world / "tiles", tmp_path / "tiles")
    weather = [
        record.model_copy(update={"climate_kind": "observed"})
        for record in read_dataset(world / "tiles")
    ]
    write_dataset(tmp_path / "tiles", weather)
    known = {}
    for anomalies in (False, True):
        config, bundle, samples, held_out = opened(
            world, dataset=tmp_path / "tiles", drop={"group": 0.0, "anomalies": anomalies},
            learn={"lora": {}, "climate_encoder": True},
        )  # fmt: skip
        drawn = open_sampler(config, samples.records).draw(0)
        rows = held_out_rows(len(held_out.records), seed=0)
        known[anomalies] = (
            training_batch(config, bundle, samples, drawn).climate,
            validation_batch(config, bundle, held_out, rows).climate,
        )
        told = [samples.records[i] for i in drawn.index.tolist()]
    for told_all, told_values in zip(known[False], known[True], strict=True):
        assert told_all.known[..., 1:].any()
        assert not told_values.known[..., 1:].any()
        assert torch.equal(told_all.known[..., 0], told_values.known[..., 0])
    sampled = climate_batch(
        [known_to(record, BundleCard(name="of no anomalies")) for record in told]
    )
    assert torch.equal(known[True][0].values, sampled.values)
    assert torch.equal(known[True][0].known, sampled.known)


def test_held_out_rows_are_told_what_they_ask_for_with_the_same_noise_everywhere(world):
    config, bundle, _, held_out = opened(world, text_variants=1)
    rows = held_out_rows(len(held_out.records), seed=0)
    whole = validation_batch(config, bundle, held_out, rows)
    some = validation_batch(config, bundle, held_out, rows.rows(slice(5, 9)))
    assert torch.equal(whole.noise[5:9], some.noise)
    assert torch.equal(whole.text.clip[5:9], some.text.clip)
    told = climate_batch([held_out.records[i] for i in rows.told.tolist()])
    assert torch.equal(whole.climate.values, told.values)
    assert whole.has_tokens.all()


def test_tiles_that_are_left_out_are_counted_by_reason(world, capsys):
    config = TrainConfig(
        dataset=world / "tiles", base="x", batch_size=8, leave_out_flags=("black",)
    )
    console = Console(width=200)
    records = read_dataset(world / "tiles")
    flagged = [
        r.model_copy(update={"flags": ("black", "seam")}) if i % 9 == 0 else r
        for i, r in enumerate(records)
    ]
    write_dataset(world / "flagged", flagged)
    changed = config.model_copy(update={"dataset": world / "flagged"})
    training, held_out, pool = read_sides(changed, console)
    told = capsys.readouterr().out
    assert "left out of all 36: 4 flagged black." in told
    assert f"{len(training)} training and {len(held_out)} validation tiles" in told
    assert Counter(r.split for r in pool) == {"train": len(training), "val": len(held_out)}
    assert not any("black" in r.flags for r in pool)


def test_references_are_never_of_the_test_side(world):
    config, bundle, training, _ = opened(
        world, learn={"controlnet": {"num_layers": 1, "wrap_year": True}}
    )
    assert not any(record.split == "test" for record in read_sides(config, QUIET)[2])
    drawn = open_sampler(config, training.records).draw(0)
    batch = training_batch(config, bundle, training, drawn)
    assert batch.control.shape == (8, 16, TINY_SIZE_PX // 8, TINY_SIZE_PX // 8)
    seen = drawn.has_control
    assert batch.control[seen].any()
    assert not batch.control[~seen].any()
    pairs = zip(batch.control, batch.clean, strict=True)
    assert not any(torch.equal(control, clean) for control, clean in pairs)


def test_held_out_tiles_are_told_all_that_is_known(world):
    _, _, samples, _ = opened(world)
    record = samples.records[0].model_copy(update={"state": "Bern", "country": "Switzerland"})
    prompt = validation_prompt(record)
    assert "Bern, Switzerland" in prompt.long
    assert "January 2004" in prompt.long


def test_null_tokens_grow_from_one_to_all():
    steps = [0, 10, 15, 20, 99]
    assert [ramped_null_tokens(256, (10, 20), s) for s in steps] == [1, 1, 16, 256, 256]
    assert ramped_null_tokens(256, (0, 0), 0) == 256


def test_a_mask_hides_targets_and_not_what_a_controlnet_is_shown(world, tmp_path):
    from ecomap.learn_setup import with_controlnet

    hidden = np.zeros((TINY_SIZE_PX, TINY_SIZE_PX), np.uint8)
    hidden[:, TINY_SIZE_PX // 2 :] = 255
    (tmp_path / "images").mkdir()
    for path in sorted((world / "tiles/images").iterdir()):
        Image.fromarray(hidden).save(tmp_path / "images" / path.name)
    control = {"num_layers": 1, "wrap_year": True, "channels": ["reference_valid"], "drop": 0}
    config = TrainConfig(
        dataset=world / "tiles", base=str(world / "bundle"), cache=world / "cache", batch_size=8,
        bf16=False, learn={"controlnet": control}, cloud_masks=tmp_path,
    )  # fmt: skip
    bundle = with_controlnet(open_base(config), config.learn.controlnet)
    samples, _ = open_samples(
        config, bundle, read_sides(config, QUIET), device="cpu", console=QUIET
    )
    drawn = open_sampler(config, samples.records).draw(0)
    batch = training_batch(config, bundle, samples, drawn)
    assert batch.weights[:, 0].mean((0, 1)).tolist() == [1.0, 0.0]
    assert batch.control[:, 16].mean((0, 1)).tolist() == [1.0, 1.0]
