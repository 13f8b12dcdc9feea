"""Running means of a run, and the lines of its metrics."""

import json

import pytest

from ecomap.run_log import RunLog


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_means_run_with_a_memory_of_fifty_steps_and_come_back_from_a_state(tmp_path):
    log = RunLog(tmp_path, is_writer=True)
    expected = None
    for step in range(100):
        value = float(step % 7)
        expected = value if expected is None else 0.98 * expected + 0.02 * value
        log.add_step({"loss": value, "norm": 1.0}, 0.0)
        if step == 40:
            state = json.loads(json.dumps(log.state()))
            log = RunLog(tmp_path, is_writer=True)
            log.resume(state)
            assert log.step == 41
    assert log.running("loss") == pytest.approx(expected, rel=1e-12)
    assert log.state()["seconds"] >= state["seconds"]


def test_a_line_holds_the_longest_gradient_since_the_last_one(tmp_path):
    log = RunLog(tmp_path, is_writer=True)
    for norm in (1.0, 3.0):
        log.add_step({"loss": 0.5, "norm": norm}, 0.0)
    log.write_running(learning_rate=0.1)
    log.add_step({"loss": 0.5, "norm": 2.0}, 0.0)
    log.write_running(learning_rate=0.2)
    first, second = lines(tmp_path)
    assert (first["step"], first["norm_max"], first["learning_rate"]) == (2, 3.0, 0.1)
    assert (second["step"], second["norm_max"], second["learning_rate"]) == (3, 2.0, 0.2)
    assert first["norm"] == pytest.approx(0.98 + 0.06)


def test_the_share_of_waiting_is_of_the_time_since_the_last_line(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("ecomap.run_log.time.monotonic", lambda: clock[0])
    log = RunLog(tmp_path, is_writer=True)
    for waited_s in (1.0, 3.0):
        log.add_step({"norm": 1.0}, waited_s)
        clock[0] += 10
        log.write_running()
    assert [(line["seconds"], line["data_wait"]) for line in lines(tmp_path)] == [
        (10.0, 0.1), (20.0, 0.3)
    ]  # fmt: skip


def test_a_gradient_ten_times_longer_than_usual_is_a_spike(tmp_path):
    log = RunLog(tmp_path, is_writer=False)
    assert not log.add_step({"norm": 100.0}, 0.0), "the first has nothing to be compared with"
    for _ in range(500):
        log.add_step({"norm": 1.0}, 0.0)
    assert not log.add_step({"norm": 9.0}, 0.0)
    assert log.add_step({"norm": 20.0}, 0.0)


def test_the_lowest_validation_loss_is_remembered(tmp_path):
    log = RunLog(tmp_path, is_writer=True)
    found = []
    for loss in (0.5, 0.6, 0.4, float("nan"), 0.4):
        log.add_step({"norm": 1.0}, 0.0)
        found.append(log.write_validation({"val_loss": loss}))
    assert found == [True, False, True, False, False]
    assert log.best == {"step": 3, "val_loss": 0.4}
    assert not log.write_validation({"val_psnr": 30.0})
    assert len(lines(tmp_path)) == 6


def test_only_the_writer_writes_and_drops_later_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    text = '{"step": 1}\n{"step": 3}\n{"step": 2}\n{"st'
    path.write_text(text)
    state = {"step": 2, "best": None, "running": {}, "norm_max": 0.0, "seconds": 5.0}
    reader = RunLog(tmp_path, is_writer=False)
    reader.resume(state)
    reader.write_running()
    assert path.read_text() == text
    RunLog(tmp_path, is_writer=True).resume(state)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    RunLog(tmp_path, is_writer=True).resume(None)
    assert path.read_text() == ""
