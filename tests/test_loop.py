"""The loop: exact resume, divided batches, averages, guards, and what it writes."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch import nn

from ecomap.accelerators import open_accelerator, prepare, require_one_process
from ecomap.checkpoint import best_checkpoint, latest_checkpoint, name_of
from ecomap.errors import ConfigError, DataError, DivergenceError
from ecomap.loop import learning_rate
from ecomap.train_config import OptimConfig
from ecomap.training_draws import Part
from tests.small_training import (
    FINAL_FILE,
    ROWS,
    LoraLearner,
    Small,
    draw_rows,
    make_transformer,
    save_final,
    settings,
    small_loss,
    small_velocity,
    train_small,
)
from tests.train_kill import kill_and_compare

ROOT = Path(__file__).parents[1]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(lines):
    return [{k: v for k, v in e.items() if k not in ("seconds", "data_wait")} for e in lines]


def learnt(learner):
    return [p.detach().clone() for p in learner.parameters() if p.requires_grad]


def test_learning_rate_rises_stays_and_falls():
    optim = OptimConfig(steps=10, learning_rate=1.0, warmup_steps=4, decay_steps=5)
    rates = [learning_rate(step, optim) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


class Slope(nn.Module):
    """One number whose gradient is always 1, so that Adam's every step is the learning rate."""

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.number.expand(len(x))


def mean_of(learner, x):
    return learner(x).mean(), {}


def test_the_rate_of_the_schedule_is_the_rate_of_the_steps(tmp_path):
    optim = settings(steps=10, ema_decay=0, weight_decay=0, log_every=1, learning_rate=0.1)
    learner = train_small(tmp_path, optim, learner=Slope(), loss=mean_of)
    rates = [learning_rate(step, optim) for step in range(10)]
    assert learner.number.item() == pytest.approx(-sum(rates), rel=1e-5)
    logged = [line["learning_rate"] for line in lines_of(tmp_path) if "loss" in line]
    assert logged == pytest.approx(rates)


def test_averages_are_those_of_the_steps_and_are_left_in_the_learner(tmp_path):
    optim = settings(steps=6, ema_decay=0.5, weight_decay=0, learning_rate=0.1)
    seen = []
    learner = train_small(
        tmp_path, optim, learner=Slope(), loss=mean_of,
        validate=lambda network: seen.append(network.number.item()) or {},
    )  # fmt: skip
    weight = average = 0.0
    expected = []
    for step in range(6):
        weight -= learning_rate(step, optim)
        decay = 0.0 if step == 0 else min((1 + step) / (10 + step), 0.5)
        average = decay * average + (1 - decay) * weight
        expected += [average] if step + 1 in (4, 6) else []
    assert seen == pytest.approx(expected, rel=1e-5)
    assert learner.number.item() == pytest.approx(average, rel=1e-5)
    tensors = load_file(latest_checkpoint(tmp_path / "checkpoints") / "state.safetensors")
    assert tensors["weights/number"].item() == pytest.approx(weight, rel=1e-5)
    assert tensors["averages/number"].item() == pytest.approx(average, rel=1e-5)


def test_validation_and_pictures_leave_the_training_as_it_is(tmp_path):
    quiet = train_small(tmp_path / "a", settings(validate_every=100))

    def intrude(network, step=0):
        assert not network.training
        assert not torch.is_grad_enabled()
        torch.manual_seed(0)
        network(torch.randn(5, 6))
        return {}

    shown = []
    watched = train_small(
        tmp_path / "b", settings(validate_every=1), validate=intrude, show_every=5,
        show=lambda network, step: (shown.append(step), intrude(network)),
    )  # fmt: skip
    assert shown == [5, 10, 12]
    assert all(torch.equal(a, b) for a, b in zip(learnt(quiet), learnt(watched), strict=True))
    train_small(tmp_path / "c", settings(), show=lambda network, step: shown.append(step))
    assert shown[3:] == [4, 8, 12]


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, optimizer, micro_batches):
    optim = settings(optimizer=optimizer, micro_batches=micro_batches, log_every=1)
    save_final(train_small(tmp_path / "whole", optim), tmp_path / "whole")
    whole = (tmp_path / "whole" / FINAL_FILE).read_bytes()
    calls = 0

    def interrupted(learner, x):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return small_loss(learner, x)

    for stop in (1, 5, 9 * micro_batches, 12 * micro_batches):
        calls, folder = 0, tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            train_small(folder, optim, loss=interrupted)
        save_final(train_small(folder, optim), folder)
        assert (folder / FINAL_FILE).read_bytes() == whole, f"interrupted at {stop}"
        assert without_times(lines_of(folder)) == without_times(lines_of(tmp_path / "whole"))
        save_final(train_small(folder, optim), folder)
        assert (folder / FINAL_FILE).read_bytes() == whole, "a finished run is not trained again"


@pytest.mark.slow
def test_a_run_that_was_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    kills, differing = kill_and_compare(tmp_path, num_kills=6, num_steps=120)
    assert all(one.is_hit for one in kills)
    assert any(one.num_leftovers for one in kills), "none struck while a checkpoint was written"
    assert len({one.step for one in kills}) > 1
    assert differing == []


def test_lines_of_steps_that_are_done_again_are_dropped(tmp_path):
    train_small(tmp_path, settings(steps=6, checkpoint_every=3))
    path = tmp_path / "metrics.jsonl"
    before = path.read_text()
    path.write_text(before + '{"step": 7, "loss": 1.0}\n{"step": 6, "lo')
    train_small(tmp_path, settings(steps=6, checkpoint_every=3))
    assert path.read_text() == before


def test_micro_batches_give_the_gradient_of_the_batch(tmp_path):
    def first_moments(count):
        folder = tmp_path / str(count)
        train_small(folder, settings(steps=1, micro_batches=count), learner=LoraLearner())
        tensors = load_file(latest_checkpoint(folder / "checkpoints") / "state.safetensors")
        return {name: value for name, value in tensors.items() if name.endswith("exp_avg")}

    whole = first_moments(1)
    assert all(moment.abs().max() > 1e-4 for moment in whole.values())
    for count in (2, 8):
        for name, moment in first_moments(count).items():
            torch.testing.assert_close(moment, whole[name], atol=1e-7, rtol=1e-5, msg=name)


def test_each_part_of_a_batch_is_drawn_once_and_in_order(tmp_path):
    drawn = []
    train_small(
        tmp_path, settings(steps=3, micro_batches=4),
        draw=lambda step, part: (drawn.append((step, part)), draw_rows(step, part))[1],
    )  # fmt: skip
    assert drawn == [(step, Part(k, 4)) for step in range(3) for k in range(4)]
    with pytest.raises(ConfigError, match="cannot be divided into 3 equal parts"):
        train_small(tmp_path / "odd", settings(micro_batches=3))
    assert ROWS % 3


def test_a_batch_is_drawn_while_the_one_before_is_computed_but_not_during_validation(tmp_path):
    begun = [threading.Event() for _ in range(6)]
    drawing = threading.Lock()

    def draw(step, part):
        with drawing:
            begun[step].set()
            assert threading.current_thread() is not threading.main_thread()
            return step, draw_rows(step, part)

    def loss(learner, batch):
        step, x = batch
        if step < 5:
            assert begun[step + 1].wait(20)
        return small_loss(learner, x)

    def validate(network):
        assert drawing.acquire(blocking=False)
        drawing.release()
        return {}

    train_small(tmp_path, settings(steps=6, validate_every=1), draw=draw, loss=loss,
                validate=validate)  # fmt: skip


def test_the_share_of_waiting_for_data_is_logged(tmp_path):
    def slow(step, part):
        threading.Event().wait(0.1)
        return draw_rows(step, part)

    train_small(tmp_path, settings(steps=4, log_every=4), draw=slow)
    (line,) = [line for line in lines_of(tmp_path) if "loss" in line]
    assert 0.1 < line["data_wait"] * (line["seconds"] + 0.1) <= line["seconds"] + 0.1


def broken_at(step):
    """Draws rows up to a step."""

    def draw(now, part):
        if now == step:
            raise DataError("tile 5 is damaged")
        return draw_rows(now, part)

    return draw


def test_an_error_of_drawing_ends_the_run(tmp_path):
    with pytest.raises(DataError, match="tile 5"):
        train_small(tmp_path, settings(), draw=broken_at(5))
    assert latest_checkpoint(tmp_path / "checkpoints").name == name_of(4)


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_what_is_not_finite_ends_the_run_with_words_and_leaves_the_last_checkpoint(tmp_path, fault):
    def diverging(learner, batch):
        step, x = batch
        error, numbers = small_loss(learner, x)
        if step == 7:
            zero = learner.net[4].bias - learner.net[4].bias.detach()
            error = error * torch.nan if fault == "loss" else error + zero.sqrt().sum()
        return error, numbers

    def run(folder):
        return train_small(
            folder, settings(log_every=1), loss=diverging,
            draw=lambda step, part: (step, draw_rows(step, part)),
        )  # fmt: skip

    with pytest.raises(
        DivergenceError, match=r"Step 7 has loss .* lower optim\.learning_rate"
    ) as e:
        run(tmp_path)
    if fault == "gradient":
        assert "the longest in net.4.bias (nan)" in str(e.value) or "net.4.bias (inf)" in str(
            e.value
        )
    assert f"{tmp_path / 'checkpoints' / name_of(6)} is as it was" in str(e.value)
    assert [line["step"] for line in lines_of(tmp_path)][-1] == 7
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    kept = latest_checkpoint(tmp_path / "checkpoints")
    before = (kept / "state.safetensors").read_bytes()
    assert kept.name == name_of(6)
    with pytest.raises(DivergenceError):
        run(tmp_path)
    assert (kept / "state.safetensors").read_bytes() == before
    with pytest.raises(DivergenceError, match="No checkpoint was written yet"):
        train_small(tmp_path / "first", settings(), loss=lambda n, x: (n(x).sum() * np.nan, {}))


def test_gradients_are_clipped_and_spikes_are_told(tmp_path, capsys):
    from rich.console import Console

    from ecomap.loop import optimise

    def spiky(learner, batch):
        step, x = batch
        return learner(x).mean() * (500.0 if step == 8 else 1.0), {}

    learner = Slope()
    optim = settings(steps=10, log_every=2, max_grad_norm=2.0)
    optimise(
        learner, lambda step, part: (step, draw_rows(step, part)), spiky, optim, tmp_path,
        accelerator=open_accelerator(False, "cpu"), validate=lambda _: {},
        console=Console(width=200),
    )  # fmt: skip
    assert "step 8: gradient of length 500, clipped to 2" in capsys.readouterr().out
    longest = [line["norm_max"] for line in lines_of(tmp_path) if "loss" in line]
    assert longest == pytest.approx([1, 1, 1, 1, 500])
    moment = load_file(latest_checkpoint(tmp_path / "checkpoints") / "state.safetensors")
    expected = 0.0
    for step in range(10):
        expected = 0.9 * expected + 0.1 * (2.0 if step == 8 else 1.0)
    assert moment["optimizer/number/exp_avg"].item() == pytest.approx(expected, rel=1e-4)


def test_the_checkpoint_of_the_best_validation_stays(tmp_path):
    losses = iter([0.9, 0.3, 0.5, 0.4, 0.6])
    train_small(
        tmp_path, settings(steps=10, validate_every=2, checkpoint_every=1, keep_checkpoints=2),
        validate=lambda _: {"val_loss": next(losses)},
    )  # fmt: skip
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == [name_of(4), name_of(9), name_of(10)]
    assert best_checkpoint(tmp_path / "checkpoints").name == name_of(4)


def test_a_full_disk_ends_the_run_and_the_same_run_goes_on_when_there_is_room(tmp_path):
    whole = train_small(tmp_path / "whole", settings())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(step, part):
        if step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        return draw_rows(step, part)

    try:
        with pytest.raises(DataError, match=r"File too large, .* start the same command again"):
            train_small(tmp_path / "full", settings(), draw=filling)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = sorted(path.name for path in (tmp_path / "full" / "checkpoints").iterdir())
    assert found == [name_of(4), name_of(6)]
    resumed = train_small(tmp_path / "full", settings())
    assert all(torch.equal(a, b) for a, b in zip(learnt(whole), learnt(resumed), strict=True))


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(ConfigError, match=f"Another run works in {tmp_path}"),
    ):
        train_small(tmp_path, settings())
    assert not (tmp_path / "checkpoints").exists()


def test_what_learns_must_be_there_and_in_float32(tmp_path):
    learner = Small()
    learner.net[4].to(torch.bfloat16)
    with pytest.raises(
        ConfigError, match=r"net\.4\.weight learns and is stored as torch\.bfloat16"
    ):
        train_small(tmp_path, settings(), learner=learner)
    learner = Small()
    learner.frozen.to(torch.bfloat16)
    learner.frozen.forward = lambda x: x
    train_small(tmp_path, settings(steps=1), learner=learner)
    with pytest.raises(ConfigError, match="Nothing learns"):
        train_small(tmp_path / "none", settings(), learner=Small().requires_grad_(False))


def test_bfloat16_is_what_is_computed_in_not_what_is_stored(tmp_path):
    accelerator = open_accelerator(True, "cpu")
    seen = []

    class Watching(Small):
        def forward(self, x):
            answer = super().forward(x)
            seen.append(answer.dtype)
            return answer

    from ecomap.loop import optimise
    from tests.small_training import QUIET

    learner = Watching()
    optimise(
        learner, draw_rows, small_loss, settings(steps=2), tmp_path, accelerator=accelerator,
        validate=lambda _: {}, console=QUIET,
    )  # fmt: skip
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in learner.parameters()} == {torch.float32}
    assert accelerator.scaler is None
    assert learner(torch.randn(2, 6)).dtype == torch.float32, "autocast is gone after training"


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for is_checkpointed in (False, True):
        torch.manual_seed(7)
        transformer = make_transformer()
        if is_checkpointed:
            transformer.enable_gradient_checkpointing()
        small_velocity(transformer, draw_rows(0, Part(0, 1))).square().mean().backward()
        gradients.append({n: p.grad for n, p in transformer.named_parameters()})
    assert any(g is not None and g.abs().max() > 1e-3 for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        if gradient is None:
            assert gradients[1][name] is None
        else:
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=1e-5)


def launched(folder, *arguments, sharing="ddp", processes=2):
    """Weights of a LoRA that some processes trained together."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         str(processes), "-m", "tests.small_training", folder, "--sharing", sharing, *arguments],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return load_file(folder / FINAL_FILE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Weights of a LoRA that one process trained, and the folder of the run."""
    folder = tmp_path_factory.mktemp("alone")
    save_final(train_small(folder, settings(steps=6), learner=LoraLearner()), folder)
    return load_file(folder / FINAL_FILE)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=2e-6, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does_and_each_goes_on_with_the_others_run(
    tmp_path, alone, sharing
):
    optim = settings(steps=6, checkpoint_every=2)
    if sharing == "fsdp":
        with pytest.raises(DataError):
            train_small(tmp_path, optim, learner=LoraLearner(), draw=broken_at(3))
    assert_same(alone, launched(tmp_path, "--micro-batches", "2", sharing=sharing))
    assert [line["step"] for line in lines_of(tmp_path) if "loss" in line] == [2, 4, 6]
    shutil.rmtree(tmp_path / "checkpoints" / name_of(6))
    assert latest_checkpoint(tmp_path / "checkpoints").name == name_of(4)
    save_final(train_small(tmp_path, optim, learner=LoraLearner()), tmp_path)
    assert_same(alone, load_file(tmp_path / FINAL_FILE))


def test_launches_that_would_train_something_else_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ConfigError, match=r"gradient_accumulation_steps 4.*micro_batches"):
        open_accelerator(False, "cpu")
    monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    with pytest.raises(ConfigError, match=r"runs on cpu, and --device is meta"):
        open_accelerator(False, "meta")
    accelerator = open_accelerator(False, "cpu")
    require_one_process(accelerator, "features", 1)
    with pytest.raises(ConfigError, match=r"Task features runs as 1 processes .*micro_batches=2"):
        require_one_process(accelerator, "features", 2)


def test_a_device_keeps_its_learner_and_a_second_run_its_own_precision(tmp_path):
    assert open_accelerator(True, "cpu").mixed_precision == "bf16"
    accelerator = open_accelerator(False, "cpu")
    assert accelerator.mixed_precision == "no"
    learner = Small()
    optimizer = torch.optim.AdamW(learner.net.parameters())
    model, same = prepare(accelerator, learner, optimizer)
    assert model is learner
    assert same is optimizer


def test_a_run_shorter_than_warm_up_and_fall_still_reaches_its_rate():
    optim = OptimConfig(steps=10, learning_rate=1.0, warmup_steps=40, decay_steps=160)
    rates = [learning_rate(step, optim) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
