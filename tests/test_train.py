"""Training end to end, in every mode: what comes out, what stays, and exact resumption."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from ecomap import train_transformer as training
from ecomap.adapter import load_adapter
from ecomap.card import DOORS, BundleCard, read_card, training_digests
from ecomap.config import load_config
from ecomap.controlnet_files import CONTROL_FILE, load_controlnet, read_controlnet_card
from ecomap.errors import ConfigError, DataError
from ecomap.model import load_bundle
from ecomap.places import places_digest
from ecomap.schema import read_dataset, write_dataset
from ecomap.support_table import CARD_FILE
from ecomap.train import TASKS, TrainResult, train_settings
from ecomap.train_transformer import train
from ecomap.training_results import make_card, save_support
from ecomap.transformer_config import DropConfig, TrainConfig
from tests.fakes import TINY_SIZE_PX, make_tile, write_random_bundle, write_tiles, write_vae
from tests.full_disk import room_for
from tests.second_run import refused_during

QUIET = Console(quiet=True)
CONFIGS = Path(__file__).parents[1] / "configs"
SIZES = {
    "num_layers": 2, "num_heads": 2, "head_width": 8, "joint_attention_width": 40,
    "max_latent_side": 8, "text_width": 16, "text_heads": 2, "climate_width": 24,
    "climate_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_tiles(root / "tiles")
    write_vae(root / "vae")
    card = BundleCard(name="small", image_size_px=TINY_SIZE_PX, doors=DOORS, attribution=("Z",))
    write_random_bundle(root, card, dtype=torch.float32)
    return root


def config(world, steps=4, *, optim=None, **changes):
    settings = {
        "dataset": world / "tiles", "vae": world / "vae", "cache": world / "cache",
        "transformer": SIZES, "batch_size": 8, "bf16": False,
        "show": {"num_tiles": 1, "steps": 2, "sweep": ["temperature=+6"]},
        "optim": {"steps": steps, "warmup_steps": 1, "checkpoint_every": 2, "log_every": 1}
        | (optim or {}),
    }  # fmt: skip
    return TrainConfig(**(settings | changes))


def on_base(world, learn, steps=3, **changes):
    changes = {"vae": None, "base": str(world / "bundle"), "learn": learn} | changes
    return config(world, steps, **changes)


def weights(folder):
    return {
        str(path.relative_to(folder)): load_file(path)
        for path in sorted(folder.rglob("*.safetensors"))
    }


def same(first, second):
    assert first.keys() == second.keys()
    return all(
        tensors.keys() == second[name].keys()
        and all(torch.equal(value, second[name][key]) for key, value in tensors.items())
        for name, tensors in first.items()
    )


def interrupt_at(monkeypatch, step):
    real, calls = training.training_batch, []

    def interrupted(config, bundle, samples, drawn):
        if drawn.step == step and not calls:
            calls.append(step)
            raise KeyboardInterrupt
        return real(config, bundle, samples, drawn)

    monkeypatch.setattr(training, "training_batch", interrupted)


MODES = {
    "lora": {"lora": {"rank": 2, "alpha": 6, "targets": ["image", "text"], "dropout": 0.1},
             "layers": ["norm_out"], "climate_encoder": True},
    "controlnet": {"controlnet": {"num_layers": 1, "channels": ["months_gap"], "wrap_year": True}},
}  # fmt: skip


@pytest.mark.parametrize("mode", [None, *MODES])
def test_an_interrupted_run_resumes_to_the_same_weights(world, tmp_path, monkeypatch, mode):
    settings = config(world) if mode is None else on_base(world, MODES[mode], 4, text_variants=2)
    straight = train(settings, tmp_path / "straight", console=QUIET)
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "halting", console=QUIET)
    resumed = train(settings, tmp_path / "halting", console=QUIET)
    assert same(weights(straight), weights(resumed))
    lines = [
        (tmp_path / f / "metrics.jsonl").read_text().splitlines() for f in ("straight", "halting")
    ]
    losses = [[json.loads(line).get("loss") for line in log] for log in lines]
    assert losses[0] == losses[1]


def test_no_other_run_gets_in_while_latents_are_encoded_or_the_result_is_saved(
    world, tmp_path, monkeypatch
):
    seen = refused_during(
        monkeypatch, training, ("open_samples", "save_result"), folder=tmp_path,
        other=config(world, steps=99), dataset=world / "tiles",
    )  # fmt: skip
    train(config(world, steps=1), tmp_path, console=QUIET)
    assert seen == ["open_samples", "save_result"]
    assert load_config(tmp_path / "config.yaml", TrainConfig) == config(world, steps=1)


def test_a_disk_that_is_full_at_the_end_costs_no_step(world, tmp_path, monkeypatch):
    straight = train(config(world, steps=2), tmp_path / "straight", console=QUIET)
    real, run = training.save_result, tmp_path / "full"

    def without_room(*args):
        with room_for(2000):
            return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_result", without_room)
        with pytest.raises(DataError, match=r"bundle cannot be written: File too large"):
            train(config(world, steps=2), run, console=QUIET)
    assert not [path for path in run.iterdir() if "bundle" in path.name]
    lines = (run / "metrics.jsonl").read_text()
    assert same(weights(straight), weights(train(config(world, steps=2), run, console=QUIET)))
    assert (run / "metrics.jsonl").read_text() == lines


def test_a_run_folder_holds_config_versions_page_and_pictures_and_refuses_another_run(
    world, tmp_path
):
    train(config(world, steps=1), tmp_path, console=QUIET)
    assert load_config(tmp_path / "config.yaml", TrainConfig) == config(world, steps=1)
    path = tmp_path / "versions.json"
    (used,) = json.loads(path.read_text())
    assert used["torch"] == torch.__version__.split("+")[0]
    older = used | {"torch": "2.0"}
    path.write_text(json.dumps([older]))
    train(config(world, steps=1), tmp_path, console=QUIET)
    assert json.loads(path.read_text()) == [older, used]
    assert "Held-out" in (tmp_path / "index.html").read_text()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert len(list((tmp_path / "images").glob("*.png"))) == 1
    assert list((tmp_path / "tensorboard").iterdir())
    with pytest.raises(ConfigError, match="another config"):
        train(config(world, steps=2), tmp_path, console=QUIET)


def test_the_loss_falls_and_the_bundle_loads(world, tmp_path):
    optim = {"learning_rate": 6e-3, "validate_every": 1000, "checkpoint_every": 1000,
             "ema_decay": 0.5}  # fmt: skip
    folder = train(config(world, 120, optim=optim), tmp_path, console=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if "val_loss" in line]
    assert held_out[-1]["val_loss"] < 0.9 * lines[0]["loss"]
    assert len([key for key in held_out[-1] if key.startswith("val_loss_sigma")]) == 8
    bundle = load_bundle(folder, device="cpu")
    assert bundle.card.imagery == "made"
    assert bundle.card.training["places_sha256"] == places_digest(
        r for r in read_dataset(world / "tiles") if r.split == "train"
    )
    assert bundle.card.trained_variables == ("temperature_c", "precipitation_mm_day")
    assert bundle.card.training["tiles"] == 24
    assert bundle.climate_encoder is not None


def test_a_lora_run_leaves_an_adapter_that_changes_the_base_as_trained(world, tmp_path):
    optim = {"learning_rate": 1e-2, "ema_decay": 0}
    settings = on_base(world, MODES["lora"], 5, optim=optim, shift=2.5)
    folder = train(settings, tmp_path, console=QUIET)
    assert folder.name == "adapter"
    base = load_bundle(world / "bundle", device="cpu")
    adapted = load_adapter(base, folder)
    assert adapted.shift == 2.5
    assert adapted.card.attribution[0] == "Z"
    state = load_file(tmp_path / "checkpoints" / "step_00000005" / "state.safetensors")
    trained = {k.rsplit("transformer.", 1)[-1]: v for k, v in state.items() if "norm_out" in k}
    learnt = dict(adapted.transformer.named_parameters())["norm_out.linear.weight"]
    assert not torch.equal(learnt, base.transformer.norm_out.linear.weight)
    assert any(
        torch.allclose(learnt.detach(), value, atol=2e-3)
        for value in trained.values()
        if value.shape == learnt.shape
    )
    assert "held-out loss" in adapted.card.training["metrics"]
    assert "tiles" in adapted.card.training["config"]["dataset"]
    assert str(world) not in (folder / "adapter.json").read_text()
    assert base.climate_encoder is not None
    assert not torch.equal(
        adapted.climate_encoder.month_in.weight, base.climate_encoder.month_in.weight
    )


def test_a_controlnet_run_leaves_a_controlnet_for_its_base(world, tmp_path):
    folder = train(on_base(world, MODES["controlnet"]), tmp_path, console=QUIET)
    assert folder.name == "controlnet"
    net, spec = load_controlnet(folder, load_bundle(world / "bundle", device="cpu").transformer)
    assert spec.channels == ("months_gap",)
    assert any(block.weight.any() for block in net.controlnet_blocks)
    assert read_controlnet_card(folder)["trained_anomalies"] is False


def test_the_last_blocks_and_masked_balanced_flipped_crops_can_be_learnt(world, tmp_path):
    settings = on_base(
        world, {"last_blocks": 1}, class_balance=1.0, flips=True, variants=3,
        gradient_checkpointing=True, optim={"micro_batches": 2, "optimizer": "adafactor"},
    )  # fmt: skip
    folder = train(settings, tmp_path, console=QUIET)
    before = load_bundle(world / "bundle", device="cpu").transformer.transformer_blocks
    after = load_bundle(folder, device="cpu").transformer.transformer_blocks
    assert torch.allclose(before[0].ff.net[2].weight, after[0].ff.net[2].weight, atol=1e-3)
    assert not torch.equal(before[1].attn.to_q.weight, after[1].attn.to_q.weight)


def test_a_frozen_base_kept_in_bfloat16_learns_through_a_lora(world, tmp_path):
    settings = on_base(world, MODES["lora"], bf16=True, base_bf16=True, text_variants=1)
    assert (train(settings, tmp_path, console=QUIET) / "adapter.json").is_file()


def test_an_adapter_is_merged_into_the_base_before_training(world, tmp_path):
    optim = {"learning_rate": 1e-2, "ema_decay": 0}
    first = train(on_base(world, MODES["lora"], optim=optim), tmp_path / "first", console=QUIET)
    settings = on_base(world, MODES["controlnet"], adapter=str(first))
    base, bundle = training.open_bundles(settings, read_dataset(world / "tiles"))
    plain = load_bundle(world / "bundle", device="cpu").transformer.transformer_blocks[0]
    copied = bundle.controlnet.transformer_blocks[0].attn.to_q.weight
    assert not torch.equal(copied, plain.attn.to_q.weight)
    assert torch.equal(copied, base.transformer.transformer_blocks[0].attn.to_q.weight)


def test_the_card_takes_its_words_from_the_config_and_its_sources_from_the_records(world):
    records = [make_tile(attribution="A", climate_source="B"), make_tile(attribution="A")]
    words = {"imagery": "maps", "limits": "none", "attribution": ("C",)}
    card = make_card(config(world).model_copy(update=words), records)
    assert (card.imagery, card.limits, card.attribution) == ("maps", "none", ("A", "B", "C"))


def test_the_card_says_whether_anomalies_were_told(world):
    weather = [make_tile(temperature_c_normals=(1.0,) * 12)]
    assert make_card(config(world), weather).trained_anomalies
    assert not make_card(config(world, drop={"anomalies": True}), weather).trained_anomalies
    assert not make_card(config(world), [make_tile()]).trained_anomalies
    deaf = BundleCard(name="base")
    beside = config(world, base="base", learn={"controlnet": {}})
    assert not make_card(beside, weather, deaf).trained_anomalies  # its encoder stays frozen
    learning = config(world, base="base", learn={"controlnet": {}, "climate_encoder": True})
    assert make_card(learning, weather, deaf).trained_anomalies
    heard = deaf.model_copy(update={"trained_anomalies": True})
    assert make_card(beside, weather, heard).trained_anomalies


def test_it_is_told_why_there_is_no_table_of_training_climates(world, tmp_path, capsys):
    bare = [make_tile(temperature_c=None, precipitation_mm_day=None)]
    (tmp_path / CARD_FILE).write_text("of a former training")
    save_support(config(world), bare, tmp_path, console=Console(width=200))
    assert not list(tmp_path.iterdir())
    told = capsys.readouterr().out
    assert told.startswith("No table of training climates is written: None of 1 training records ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("control", "command"),
    [
        ({"channels": ["months_gap", "canny"]}, "generate --controlnet {} --control-image FILE"),
        ({"channels": ["reference_valid"], "edit": True}, "evolve --controlnet {}"),
        ({"channels": ["solar_change"]}, "evolve --controlnet {}"),
        ({"channels": ["reference_sin"]}, "evolve --controlnet {}"),
    ],
)
def test_a_trained_controlnet_is_to_be_tried_with_what_can_use_it(tmp_path, control, command):
    folder = tmp_path / "controlnet"
    folder.mkdir()
    described = {"control": control, "base_marks": [], "card": {}}
    (folder / CONTROL_FILE).write_text(json.dumps(described))
    words = TrainResult(task="transformer", run=tmp_path, result=folder).render()
    assert words == f"{folder}\nTry it: ecomap {command.format(folder)} ..."


def test_no_command_is_named_where_none_can_use_what_was_trained(tmp_path):
    folder = tmp_path / "controlnet"
    folder.mkdir()
    control = {"image": "canny", "channels": ["temperature_now"]}
    described = {"control": control, "base_marks": [], "card": {}}
    (folder / CONTROL_FILE).write_text(json.dumps(described))
    words = TrainResult(task="transformer", run=tmp_path, result=folder).render()
    assert words == str(folder)


def test_a_dataset_without_sides_or_usable_tiles_is_refused_with_counts(world, tmp_path):
    records = [r.model_copy(update={"split": "train"}) for r in read_dataset(world / "tiles")]
    write_dataset(tmp_path / "tiles", records)
    changed = config(world).model_copy(update={"dataset": tmp_path / "tiles"})
    with pytest.raises(DataError, match="0 validation tiles"):
        train(changed, tmp_path / "run", console=QUIET)
    bare = {"temperature_c": None, "temperature_c_normals": None, "temperature_c_history": None,
            "precipitation_mm_day": None}  # fmt: skip
    write_dataset(tmp_path / "tiles", [r.model_copy(update=bare) for r in records])
    changed = changed.model_copy(update={"require_climate": True})
    with pytest.raises(DataError, match=r"left out of all 36: 36 without climate"):
        train(changed, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("tiny/*.yaml")) + sorted(CONFIGS.glob("sd3*")))
def test_every_shipped_config_is_valid(path):
    task, settings = train_settings(path)
    assert isinstance(settings, TASKS[task][0])
    assert settings.optim.steps >= 400


def test_a_run_does_not_go_on_when_its_records_were_split_again(world, tmp_path):
    shutil.copytree(world / "tiles", tmp_path / "tiles")
    settings = config(world, steps=2).model_copy(update={"dataset": tmp_path / "tiles"})
    train(settings, tmp_path / "run", console=QUIET)
    records = read_dataset(tmp_path / "tiles")
    moved = [
        r.model_copy(update={"split": "test"}) if r.place_id == records[0].place_id else r
        for r in records
    ]
    assert moved != records
    write_dataset(tmp_path / "tiles", moved)
    with pytest.raises(ConfigError, match="on other records"):
        train(settings, tmp_path / "run", console=QUIET)


def test_impossible_shares_are_refused():
    with pytest.raises(ValueError, match="one of the four shares"):
        DropConfig(text_and_tokens=0, tokens_only=0, text_only=0, nothing=0)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        DropConfig(text_only=-0.1)


def test_training_starts_from_the_parts_that_are_named(world, tmp_path):
    first = train(config(world, steps=2), tmp_path / "first", console=QUIET)
    settings = config(
        world, 1, base=str(first), vae=None, base_parts=("transformer",), seed=5,
        optim={"learning_rate": 1e-12, "ema_decay": 0},
    )  # fmt: skip
    second = train(settings, tmp_path / "second", console=QUIET)
    before, after = weights(first), weights(second)
    name = "transformer/diffusion_pytorch_model.safetensors"
    for key, value in before[name].items():
        torch.testing.assert_close(after[name][key], value, atol=2e-3, rtol=0)
    card, old = read_card(second), read_card(first)
    assert card.training["started_from"] == old.training
    assert training_digests(card) == {old.training["places_sha256"]}
    elsewhere = {"places_sha256": "x", "started_from": {"tiles": 3}}
    assert training_digests(card.model_copy(update={"training": elsewhere})) == {"x", None}
    name = "climate_encoder/diffusion_pytorch_model.safetensors"
    assert any((before[name][key] - after[name][key]).abs().max() > 0.01 for key in before[name])


def test_unknown_masks_and_sweeps_are_refused_before_anything_is_written(world, tmp_path):
    with pytest.raises(ConfigError, match="masks is 'none'"):
        train(config(world, masks="none"), tmp_path / "run", console=QUIET)
    with pytest.raises(ConfigError, match=r"show.sweep has 'colour=\+2'"):
        train(config(world, show={"sweep": ["colour=+2"]}), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_what_stays_frozen_in_bfloat16_leaves_the_run_with_its_own_bits(world, tmp_path):
    settings = on_base(world, {"last_blocks": 1}, bf16=True, base_bf16=True)
    base, _ = training.open_bundles(settings, read_dataset(world / "tiles"))
    folder = train(settings, tmp_path, console=QUIET)
    own = {k: v.half().float() for k, v in base.transformer.named_parameters()}
    for name, value in load_bundle(folder, device="cpu").transformer.named_parameters():
        if "transformer_blocks.1." not in name:
            assert torch.equal(value, own[name]), name


def test_a_run_does_not_go_on_beside_another_adapter(world, tmp_path):
    optim = {"learning_rate": 1e-2}
    first = train(on_base(world, MODES["lora"], optim=optim), tmp_path / "first", console=QUIET)
    settings = on_base(world, {"climate_encoder": True}, 2, adapter=str(first))
    train(settings, tmp_path / "run", console=QUIET)
    card = first / "adapter.json"
    card.write_text(card.read_text().replace('"version": "0"', '"version": "1"'))
    with pytest.raises(ConfigError, match="Choose another --output"):
        train(settings, tmp_path / "run", console=QUIET)


def test_fewer_tiles_can_be_asked_for(world, tmp_path):
    folder = train(config(world, 1, max_tiles=9), tmp_path, console=QUIET)
    assert read_card(folder).training["tiles"] == 9


def test_a_base_without_t5_is_remembered(world):
    settings = on_base(world, MODES["lora"], use_t5=False)
    _, bundle = training.open_bundles(settings, read_dataset(world / "tiles"))
    assert not bundle.card.uses_t5


def test_quantising_what_learns_is_refused():
    with pytest.raises(ValueError, match="what stays frozen"):
        TrainConfig(dataset="d", base="b", quantise="int8", learn={"last_blocks": 1})


def test_the_best_weights_are_left_where_they_are_asked_for(world, tmp_path):
    optim = {"learning_rate": 0.5, "validate_every": 1, "warmup_steps": 3, "ema_decay": 0}
    folders = {}
    for result in ("last", "best"):
        settings = on_base(world, {"climate_encoder": True}, 4, optim=optim, result=result)
        folders[result] = train(settings, tmp_path / result, console=QUIET)
    lines = (tmp_path / "best" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["val_loss"] for line in lines if "val_loss" in line]
    assert losses[-1] > 1.01 * min(losses)
    base = load_bundle(world / "bundle", device="cpu")
    said = load_adapter(base, folders["best"]).card.training["metrics"]["held-out loss"]
    assert said == round(min(losses), 4)
    name = "climate_encoder/diffusion_pytorch_model.safetensors"
    best, last = (weights(folders[key])[name] for key in ("best", "last"))
    assert any(not torch.equal(best[key], last[key]) for key in best)
    number = losses.index(min(losses)) + 1
    state = load_file(tmp_path / f"best/checkpoints/step_{number:08d}/state.safetensors")
    kept = next(v for k, v in state.items() if k.startswith("weights/") and "month_in.weight" in k)
    assert torch.equal(best["month_in.weight"], kept)
