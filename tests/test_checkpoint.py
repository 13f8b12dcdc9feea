"""Checkpoints: there as a whole or not at all, whatever happens while they are written."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import nn

from ecomap import checkpoint
from ecomap.checkpoint import (
    best_checkpoint,
    latest_checkpoint,
    load_averages,
    load_checkpoint,
    name_of,
    remove_leftovers,
    save_checkpoint,
)
from ecomap.errors import DataError
from ecomap.training_state import (
    averaged,
    keep_averages,
    learning_parameters,
    load_training_state,
    training_state,
)
from tests.full_disk import room_for
from tests.small_training import LoraLearner, Small


def save(folder, step, *, size=8, keep=2, best=None):
    state = {"step": step, "best": None if best is None else {"step": best, "val_loss": 0.5}}
    tensors = {"weights/a": torch.full((size,), float(step)), "weights/b": torch.tensor(step)}
    save_checkpoint(folder / name_of(step), tensors, state, keep=keep)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_read_again_with_types_and_shapes(tmp_path):
    tensors = {
        "weights/a": torch.randn(3, 4).t(), "optimizer/a/step": torch.tensor(5.0),
        "buffers/count": torch.tensor([1, 2]), "averages/a": torch.zeros(0, 2),
    }  # fmt: skip
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_checkpoint(tmp_path / name_of(7), contiguous, {"step": 7, "loss": 0.1 + 0.2})
    found, state = load_checkpoint(latest_checkpoint(tmp_path))
    assert state == {"step": 7, "loss": 0.1 + 0.2}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_last_ones_and_the_best_one_stay(tmp_path):
    assert latest_checkpoint(tmp_path) is best_checkpoint(tmp_path) is None
    for step in range(1, 4):
        save(tmp_path, step)
    assert names(tmp_path) == [name_of(2), name_of(3)]
    assert best_checkpoint(tmp_path) is None
    for step in range(4, 8):
        save(tmp_path, step, keep=2, best=3)
    assert names(tmp_path) == [name_of(3), name_of(6), name_of(7)]
    assert best_checkpoint(tmp_path) == tmp_path / name_of(3)
    save(tmp_path, 8, keep=1, best=8)
    assert names(tmp_path) == [name_of(8)]


class Crash(BaseException):
    """The process ends here."""


class Crashes:
    """Ends the process at the n-th thing that it does on the disk."""

    def __init__(self, monkeypatch, number):
        self.left = number
        for owner, name in (
            (checkpoint, "save_file"), (checkpoint, "write_json"), (os, "fsync"),
            (Path, "rename"), (shutil, "rmtree"), (Path, "mkdir"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, work):
        """Work that counts before it begins; a file of tensors also while it grows."""

        def crashing(*args, **kwargs):
            self.count()
            result = work(*args, **kwargs)
            if work.__name__ == "save_file":
                content = args[1].read_bytes()
                for size in (0, 1, len(content) // 2, len(content) - 1):
                    args[1].write_bytes(content[:size])
                    self.count()
                args[1].write_bytes(content)
            return result

        return crashing

    def count(self):
        self.left -= 1
        if self.left == 0:
            raise Crash


def half_remove(path, **_):
    """A removal that ends after one of the files."""
    next(iter(sorted(path.iterdir()))).unlink()
    raise Crash


def test_a_crash_at_any_moment_leaves_a_whole_checkpoint_and_the_next_start_clears_up(
    tmp_path, monkeypatch
):
    survived = set()
    for number in range(1, 100):
        folder = tmp_path / str(number)
        save(folder, 1)
        save(folder, 2)
        with monkeypatch.context() as patch:
            crashes = Crashes(patch, number)
            try:
                save(folder, 3)
            except Crash:
                pass
            else:
                break
        assert crashes.left == 0
        newest = latest_checkpoint(folder)
        tensors, state = load_checkpoint(newest)
        assert newest.name == name_of(state["step"])
        assert torch.equal(tensors["weights/a"], torch.full((8,), float(state["step"])))
        survived.add(state["step"])
        remove_leftovers(folder)
        assert all(name.startswith("step_") for name in names(folder))
        assert {1, 2} & {load_checkpoint(folder / n)[1]["step"] for n in names(folder)}
        save(folder, 4)
        assert names(folder)[-1] == name_of(4)
    assert survived == {2, 3}
    assert number > 12


def test_a_removal_that_was_cut_short_is_never_seen_as_a_checkpoint(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda p, **_: half_remove(p) if p.exists() else None)
        with pytest.raises(Crash):
            save(tmp_path, 3)
    assert [n for n in names(tmp_path) if n.startswith("step_")] == [name_of(2), name_of(3)]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [name_of(2), name_of(3)]


def test_a_disk_without_room_says_so_and_leaves_the_other_checkpoints(tmp_path):
    save(tmp_path, 1)
    before = (tmp_path / name_of(1) / "state.safetensors").read_bytes()
    words = r"step_00000002 cannot be written: File too large, after 0\.0 MB of 0\.1 MB; .* MB are"
    with room_for(20_000), pytest.raises(DataError, match=words):
        save(tmp_path, 2, size=20_000)
    assert names(tmp_path) == [name_of(1)]
    assert (tmp_path / name_of(1) / "state.safetensors").read_bytes() == before


def test_a_full_disk_is_told_from_the_words_of_safetensors(tmp_path, monkeypatch):
    def full(*args):
        raise checkpoint.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DataError, match=r"No space left on device, .* Free space .* intact"):
        save(tmp_path / "new" / "checkpoints", 2)
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(OSError("odd")))
    with pytest.raises(OSError, match="odd"):
        save(tmp_path, 2)


def test_damaged_files_are_named(tmp_path):
    save(tmp_path, 1)
    path = tmp_path / name_of(1) / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"step_00000001 is not a readable .* Delete it"):
        load_checkpoint(tmp_path / name_of(1))
    with pytest.raises(DataError, match="not a readable"):
        load_averages(tmp_path / name_of(1))
    (tmp_path / name_of(1) / "state.json").write_text("{")
    with pytest.raises(DataError, match="not a readable"):
        best_checkpoint(tmp_path)


def trained(learner, *, steps=2):
    """Learner, optimizer and averages after a few steps, as the loop has them."""
    parameters = learning_parameters(learner)
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    ema = EMAModel(parameters.values(), decay=0.5)
    for _ in range(steps):
        learner(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.step(parameters.values())
    return learner, optimizer, dict(zip(parameters, ema.shadow_params, strict=True))


def test_the_state_holds_what_learns_and_nothing_that_is_frozen():
    learner, optimizer, averages = trained(LoraLearner())
    state = training_state(learner, optimizer, averages)
    kinds = {name.split("/")[0] for name in state}
    assert kinds == {"weights", "averages", "optimizer"}, "tables of frozen positions stay out"
    learning = set(learning_parameters(learner))
    assert {name.split("/")[1] for name in state} == learning
    assert all("lora" in name or "proj_out" in name for name in learning)
    state = training_state(*trained(Small()))
    buffers = {name for name in state if name.startswith("buffers/")}
    assert buffers == {
        f"buffers/net.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert not any("frozen" in name for name in state)


def test_all_that_training_changes_comes_back_bit_by_bit(tmp_path):
    learner, optimizer, averages = trained(Small(), steps=5)
    state = training_state(learner, optimizer, averages)
    other, other_optimizer, other_averages = trained(Small(), steps=1)
    load_training_state(other, other_optimizer, other_averages, state, source=tmp_path)
    again = training_state(other, other_optimizer, other_averages)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    fresh = Small()
    new = torch.optim.AdamW(learning_parameters(fresh).values(), lr=0.3)
    zeros = {n: torch.zeros_like(p) for n, p in learning_parameters(fresh).items()}
    load_training_state(fresh, new, zeros, state, source=tmp_path)
    assert new.param_groups[0]["lr"] == 0.3
    again = training_state(fresh, new, zeros)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_layouts_in_memory_come_back_too(tmp_path):
    def conv():
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    first, other = conv(), conv()
    optimizers = [torch.optim.AdamW(net.parameters(), fused=True) for net in (first, other)]
    images = torch.randn(2, 3, 8, 8)
    first(images).square().mean().backward()
    optimizers[0].step()
    state = training_state(first, optimizers[0], {})
    load_training_state(other, optimizers[1], {}, state, source=tmp_path)
    moment = optimizers[1].state[other.weight]["exp_avg"]
    assert moment.stride() == optimizers[0].state[first.weight]["exp_avg"].stride()


@pytest.mark.parametrize("kind", ["weights/", "averages/", "buffers/"])
def test_a_checkpoint_of_other_shapes_or_names_says_so(tmp_path, kind):
    learner, optimizer, averages = trained(Small())
    state = training_state(learner, optimizer, averages)
    name = next(name for name in state if name.startswith(kind))
    changed = state | {name: torch.zeros(3, 5)}
    with pytest.raises(DataError, match=rf"{tmp_path} does not fit {name}: .* \(3, 5\), here"):
        load_training_state(learner, optimizer, averages, changed, source=tmp_path)
    changed.pop(name)
    with pytest.raises(DataError, match=rf"does not fit {name}: its shape there is None"):
        load_training_state(learner, optimizer, averages, changed, source=tmp_path)


def test_averages_are_read_by_the_names_of_parameters(tmp_path):
    learner, optimizer, averages = trained(Small())
    state = training_state(learner, optimizer, averages)
    save_checkpoint(tmp_path / name_of(1), state, {"step": 1})
    found = load_averages(tmp_path / name_of(1))
    assert all(torch.equal(found[name], average) for name, average in averages.items())
    assert found.keys() == averages.keys()
    save_checkpoint(tmp_path / name_of(2), training_state(learner, optimizer, {}), {"step": 2})
    found = load_averages(tmp_path / name_of(2))
    weights = learning_parameters(learner)
    assert all(torch.equal(found[name], weights[name]) for name in averages)
    assert load_file(tmp_path / name_of(2) / "state.safetensors").keys() != found.keys()
    assert json.loads((tmp_path / name_of(2) / "state.json").read_text()) == {"step": 2}


def test_averages_are_lent_and_weights_come_back_bit_by_bit():
    learner = Small().train()
    learner.net[3].eval()
    parameters = learning_parameters(learner)
    ema = EMAModel(parameters.values())
    for average in ema.shadow_params:
        average.normal_()
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    lent = [average.clone() for average in ema.shadow_params]

    def look():
        with averaged(learner, ema):
            assert all(torch.equal(p, a) for p, a in zip(parameters.values(), lent, strict=True))
            assert not any(module.training for module in learner.modules())
            assert not torch.is_grad_enabled()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    assert all(torch.equal(parameters[name], value) for name, value in weights.items())
    assert all(torch.equal(a, b) for a, b in zip(ema.shadow_params, lent, strict=True))
    assert learner.training
    assert learner.net[0].training
    assert not learner.net[3].training
    keep_averages(learner, ema)
    assert all(torch.equal(p, a) for p, a in zip(parameters.values(), lent, strict=True))
    with averaged(learner, None):
        assert torch.equal(learner.net[0].weight, lent[0])
