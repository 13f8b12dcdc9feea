"""Page and TensorBoard of a run: both say what the folder says, however often it was resumed."""

import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ecomap.card import BundleCard
from ecomap.errors import DataError
from ecomap.outputs import SYNTHETIC_STATEMENT, contact_sheet
from ecomap.training_report import (
    CURVES_FILE,
    EVENTS_FOLDER,
    PICTURE_WIDTH_PX,
    RunReport,
    card_facts,
    pictures_of,
    write_training_page,
)


def line(step, **numbers):
    return json.dumps({"step": step} | numbers) + "\n"


def write_run(folder, steps=range(10, 50, 10)):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        "task: transformer\nname: pampas\nbase: null\noptim:\n  steps: 60\n  warmup_steps: 3\n"
    )
    (folder / "versions.json").write_text(json.dumps([{"torch": "9.8.7"}, {"torch": "9.9.0"}]))
    (folder / "data.json").write_text(json.dumps({"data/tiles": "abc123"}))
    text = ""
    for step in steps:
        text += line(step, seconds=step / 2, loss=100 / step, norm=1.0, data_wait=0.25)
        if step % 20 == 0:
            text += line(
                step, val_loss=50 / step, val_loss_shuffled=75 / step,
                **{"val_loss_sigma_0.0625": 5.0, "val_loss_sigma_0.9375": 7.0},
            )  # fmt: skip
    (folder / "metrics.jsonl").write_text(text)
    return folder


def write_picture(folder, step, width=None):
    path = folder / "images" / f"step_{step:08d}_synth.png"
    path.parent.mkdir(exist_ok=True)
    if width:
        Image.new("RGB", (width, 10), (step % 256, 0, 0)).save(path)
    else:
        contact_sheet(path, [np.full((4, 4, 3), step % 256, np.uint8)], ["a"], 1)
    return path


def size_of(path):
    with Image.open(path) as image:
        return image.size


def words(path):
    text = re.sub(r'"data:image/png;base64,[^"]+"', "", path.read_text())
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def pictures_on(path):
    import base64

    found = re.findall(r'data:image/png;base64,([^"]+)"', path.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def events(folder):
    found = EventAccumulator(str(folder / EVENTS_FOLDER), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def scalars(found, tag):
    return [(event.step, pytest.approx(event.value)) for event in found.Scalars(tag)]


def test_the_page_says_where_the_run_stands_and_with_what_it_was_made(tmp_path):
    folder = write_run(tmp_path / "run")
    path = write_training_page(folder, facts={"licence": "CC-BY-4.0 <of all>"})
    text = words(path)
    assert "Training: pampas" in text
    assert "steps 40 of 60" in text
    assert "time of a step, median 0.5 s" in text
    assert "time spent waiting for data 25.0%" in text
    assert "training loss, running mean 2.5" in text
    assert "held-out loss, lowest 1.25 at step 40" in text
    assert "told another frame's text and climate 1.875 (+50.0%)" in text
    assert "licence CC-BY-4.0 <of all>" in text
    for setting in ("optim.warmup_steps 3", "base not set", "torch 9.8.7", "torch 9.9.0", "abc123"):
        assert setting in text
    assert (folder / CURVES_FILE).read_bytes().startswith(b"\x89PNG")
    assert len(pictures_on(path)) == 1
    assert not list(folder.glob("*.tmp"))


def test_a_run_of_another_task_has_a_page_too(tmp_path):
    folder = tmp_path / "autoencoder"
    folder.mkdir()
    assert "No step is logged yet" in words(write_training_page(folder))
    (folder / "metrics.jsonl").write_text(
        line(5, seconds=1.0, squared=0.5, loss=1.0) + line(5, val_psnr_eco=31.0)
    )
    text = words(write_training_page(folder))
    assert "steps 5 " in text
    assert "held-out loss" not in text
    assert "noise levels" not in text


def test_a_lowest_loss_of_last_time_does_not_pass_for_the_last(tmp_path):
    folder = write_run(tmp_path)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line(60, val_loss=2.0, val_loss_shuffled=1.9))
    text = words(write_training_page(folder))
    assert "held-out loss, last 2 " in text
    assert "held-out loss, lowest 1.25 at step 40" in text
    assert "climate 1.9 (-5.0%)" in text


def test_the_page_holds_the_newest_grid_and_others_evenly_from_the_first(tmp_path):
    folder = write_run(tmp_path)
    for step in range(10, 110, 10):
        write_picture(folder, step)
    path = write_training_page(folder)
    text = words(path)
    shown = [int(step) for step in re.findall(r"Step (\d+)(?= |$)", text)]
    assert shown == [100, 70, 40, 10]
    assert "4 of 10 grids" in text
    assert SYNTHETIC_STATEMENT in text
    first_of_grid = pictures_on(path)[1].convert("RGB").getpixel((30, 60))
    assert first_of_grid == (100, 100, 100)


def test_wide_grids_are_shown_smaller_and_kept_whole(tmp_path):
    folder = write_run(tmp_path)
    path = write_picture(folder, 10, width=2 * PICTURE_WIDTH_PX)
    assert pictures_on(write_training_page(folder))[-1].size == (PICTURE_WIDTH_PX, 5)
    assert size_of(path) == (2 * PICTURE_WIDTH_PX, 10)


def test_events_are_the_lines_of_the_metrics_and_the_files_of_the_pictures(tmp_path):
    folder = write_run(tmp_path)
    picture = write_picture(folder, 20)
    report = RunReport(folder)
    report.update()
    found = events(folder)
    assert scalars(found, "training/loss") == [(10, 10), (20, 5), (30, 100 / 30), (40, 2.5)]
    assert scalars(found, "held_out/loss_shuffled") == [(20, 3.75), (40, 1.875)]
    assert scalars(found, "held_out_by_noise_level/0.9375") == [(20, 7), (40, 7)]
    assert not any("seconds" in tag or tag.endswith("step") for tag in found.Tags()["scalars"])
    (image,) = found.Images("samples")
    assert (image.step, image.encoded_image_string) == (20, picture.read_bytes())
    assert (image.width, image.height) == size_of(picture)
    report.close()


def test_an_update_adds_only_what_is_new(tmp_path):
    folder = write_run(tmp_path, range(10, 30, 10))
    report = RunReport(folder)
    report.update()
    report.update()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line(30, seconds=15, loss=3.0))
    write_picture(folder, 30)
    report.close()
    found = events(folder)
    assert scalars(found, "training/loss") == [(10, 10), (20, 5), (30, 3)]
    assert [image.step for image in found.Images("samples")] == [30]
    assert "steps 30 of 60" in words(folder / "index.html")


def test_a_resumed_run_shows_each_step_once_as_it_was_done_last(tmp_path):
    folder = write_run(tmp_path)
    first = RunReport(folder)
    first.update()  # killed here: never closed
    open_before = events(folder)
    text = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [entry for entry in text if json.loads(entry)["step"] <= 20]
    (folder / "metrics.jsonl").write_text("".join(kept) + line(30, seconds=15, loss=9.0))
    second = RunReport(folder)
    second.close()
    assert scalars(events(folder), "training/loss") == [(10, 10), (20, 5), (30, 9)]
    told = [file for file in (folder / EVENTS_FOLDER).iterdir() if file.stat().st_size]
    assert len(told) == 1
    # A TensorBoard that was open all the time drops what it knew.
    open_before.Reload()
    assert [event.step for event in open_before.Scalars("training/loss")] == [10, 20, 30]


def test_a_damaged_line_is_an_error(tmp_path):
    folder = write_run(tmp_path)
    (folder / "metrics.jsonl").write_text("{broken}\n")
    with pytest.raises(DataError, match="delete the line"):
        RunReport(folder).update()


def test_facts_of_a_card_leave_out_what_it_does_not_say():
    card = BundleCard(
        name="pampas", imagery="Sentinel-2", training={"tiles": 12, "config": {"seed": 3}}
    )
    facts = card_facts(card)
    assert facts["imagery"] == "Sentinel-2"
    assert facts["tiles"] == "12"
    assert facts["trained variables"].startswith("temperature_c, ")
    assert not {"limits", "license", "config", "training"} & set(facts)


def test_pictures_are_in_the_order_of_steps(tmp_path):
    for step in (900, 20, 100):
        write_picture(tmp_path, step, width=3)
    (tmp_path / "images" / "other.png").write_bytes(b"")
    assert [int(path.stem.split("_")[1]) for path in pictures_of(tmp_path)] == [20, 100, 900]
