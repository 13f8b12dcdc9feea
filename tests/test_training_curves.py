"""Curves of a run: the numbers logged are the numbers drawn, whatever they are called."""

import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from ecomap import training_curves
from ecomap.errors import DataError
from ecomap.run_metrics import Series, collect, read_lines
from ecomap.training_curves import draw_curves, words_of

LINES = [
    {"step": 10, "seconds": 5.0, "loss": 2.0, "norm": 3.0, "norm_max": 4.0, "data_wait": 0.02},
    {"step": 20, "seconds": 9.0, "loss": 1.0, "norm": 2.0, "norm_max": 30.0, "data_wait": 0.01},
    {"step": 20, "val_loss": 1.5, "val_loss_shuffled": 1.9,
     "val_loss_sigma_0.0625": 1.0, "val_loss_sigma_0.9375": 2.0},
    {"step": 30, "seconds": 2.0, "loss": 0.9, "norm": 2.0, "norm_max": 3.0, "data_wait": 0.01},
    {"step": 40, "seconds": 4.5, "loss": 0.8, "norm": 2.0, "norm_max": 3.0, "data_wait": 0.03},
    {"step": 40, "val_loss": 1.25, "val_loss_shuffled": 1.75,
     "val_loss_sigma_0.0625": 1.0, "val_loss_sigma_0.9375": 1.5},
    {"step": 60, "val_loss": 1.3, "val_loss_shuffled": 1.7,
     "val_loss_sigma_0.0625": 1.1, "val_loss_sigma_0.9375": 1.5},
]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """The figure that is rendered, beside its bytes."""
    kept: list[Figure] = []
    render = training_curves.to_png
    monkeypatch.setattr(training_curves, "to_png", lambda f: kept.append(f) or render(f))
    return kept


def panel(figure: Figure, title: str):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(title))


def lines_of(axes) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): [tuple(xy) for xy in line.get_xydata().tolist()] for line in axes.lines
    }


def test_whole_lines_are_read_and_a_line_in_the_making_waits(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_lines(path) == ([], 0)
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo')
    first, offset = read_lines(path)
    assert first == [{"step": 1, "loss": 2.0}]
    with path.open("a") as file:
        file.write('ss": NaN}\n')
    second, end = read_lines(path, offset)
    assert [line["step"] for line in second] == [2]
    assert math.isnan(second[0]["loss"])
    assert end == path.stat().st_size


@pytest.mark.parametrize("line", ["{", '{"loss": 1}', "[1]", "3"])
def test_a_damaged_line_is_an_error_that_shows_it(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(DataError, match="Expected a JSON object with a step"):
        read_lines(tmp_path / "metrics.jsonl")


def test_series_keep_their_own_steps_and_time_survives_a_resumed_clock():
    series = collect(LINES)
    assert series["loss"].steps.tolist() == [10, 20, 30, 40]
    assert series["val_loss"].values.tolist() == [1.5, 1.25, 1.3]
    # Between 20 and 30 the clock began anew, so that time is not known.
    assert series["step_time"].steps.tolist() == [20, 40]
    assert series["step_time"].values.tolist() == [0.4, 0.25]
    assert not {"step", "seconds"} & set(series)


def test_the_lowest_value_is_found_among_finite_ones():
    values = np.array([3.0, math.nan, 1.0, 1.0, -math.inf])
    assert Series(np.arange(5), values).lowest == (2, 1.0)
    assert Series(np.arange(1), np.array([math.nan])).lowest is None


def test_training_and_held_out_loss_share_a_panel_that_marks_the_lowest(drawn):
    draw_curves(collect(LINES))
    loss = lines_of(panel(drawn[0], "Loss"))
    assert loss["training, running mean"] == [(10, 2), (20, 1), (30, 0.9), (40, 0.8)]
    assert loss["held out, averaged weights"] == [(20, 1.5), (40, 1.25), (60, 1.3)]
    own = loss["held out, told another frame's text and climate"]
    assert own == [(20, 1.9), (40, 1.75), (60, 1.7)]
    assert loss["lowest held out: 1.25 at step 40"] == [(40, 1.25)]


def test_noise_levels_are_drawn_over_steps_and_against_each_other(drawn):
    draw_curves(collect(LINES))
    levels = lines_of(panel(drawn[0], "Held-out loss at each noise level"))
    assert levels == {
        "0.06": [(20, 1), (40, 1), (60, 1.1)],
        "0.94": [(20, 2), (40, 1.5), (60, 1.5)],
    }
    axes = panel(drawn[0], "Held-out loss by noise level")
    assert lines_of(axes) == {
        "step 20": [(0.0625, 1), (0.9375, 2)],
        "step 40, lowest mean": [(0.0625, 1), (0.9375, 1.5)],
        "step 60": [(0.0625, 1.1), (0.9375, 1.5)],
    }
    assert "Noise level" in axes.get_xlabel()


def test_every_number_has_a_panel_and_every_axis_a_name(drawn):
    more = {"psnr_a": 1.0, "val_psnr_a": 30.0, "val_temperature_c_error_a": 5.0, "entropy": 2.0}
    draw_curves(collect([*LINES, {"step": 70} | more]))
    titles = {axes.get_title(loc="left"): axes.get_ylabel() for axes in drawn[0].axes}
    assert titles == {
        "Loss": "loss",
        "Held-out loss at each noise level": "loss",
        "Held-out loss by noise level": "loss",
        "PSNR a": "dB",
        "Held out: temperature error a": "°C",
        "Training: entropy": "value as logged",
        "Length of the gradient before clipping": "norm",
        "Waiting for data": "share of time",
        "Time of a step, pauses for validation included": "s",
    }
    both = lines_of(panel(drawn[0], "PSNR a"))
    assert both == {"training, running mean": [(70, 1)], "held out, averaged weights": [(70, 30)]}
    norms = lines_of(panel(drawn[0], "Length of the gradient"))
    assert (20, 30) in norms["longest since the last point"]
    assert (20, 2) in norms["training, running mean"]
    assert all(axes.get_xlabel() for axes in drawn[0].axes)


def test_shares_of_steps_align_and_begin_at_zero(drawn):
    draw_curves(collect(LINES))
    over_steps = [a for a in drawn[0].axes if a.get_xlabel() == "Optimiser step"]
    assert {axes.get_xlim() for axes in over_steps} == {(0, 1.02 * 60)}
    assert panel(drawn[0], "Waiting for data").get_ylim()[0] == 0


def test_what_is_not_finite_is_left_out_and_counted(drawn):
    draw_curves(collect([*LINES, {"step": 50, "loss": math.nan}, {"step": 51, "loss": math.inf}]))
    axes = panel(drawn[0], "Loss")
    assert "2 not finite, not drawn" in axes.get_title(loc="left")
    assert len(lines_of(axes)["training, running mean"]) == 4
    draw_curves(collect([{"step": 1, "loss": math.nan}]))
    assert "1 not finite" in drawn[1].axes[0].get_title(loc="left")


def test_a_legend_covers_no_data(drawn):
    draw_curves(collect(LINES))
    figure = drawn[0]
    axes = panel(figure, "Loss")
    low = axes.get_legend().get_window_extent().y0
    drawn_up_to = max(y for points in lines_of(axes).values() for _, y in points)
    assert axes.transData.transform((0, drawn_up_to))[1] < low


def test_the_same_numbers_give_the_same_bytes_and_none_give_nothing():
    series = collect(LINES)
    assert draw_curves(series) == draw_curves(series)
    assert draw_curves({}) is None


def test_words_of_a_key_it_was_never_told_of():
    assert words_of("val_precipitation_mm_day_error_x") == (
        "Held out: precipitation error x", "mm/day",
    )  # fmt: skip
    assert words_of("season_month") == ("Training: season month", "")


def test_a_line_is_json_as_the_loop_writes_it(tmp_path):
    from ecomap.run_log import METRICS_FILE, RunLog

    log = RunLog(tmp_path, is_writer=True)
    log.add_step({"loss": 1.0, "norm": 2.0}, 0.0)
    log.write_running(learning_rate=1e-4)
    log.write_validation({"val_loss": 3.0})
    lines, _ = read_lines(tmp_path / METRICS_FILE)
    assert [line["step"] for line in lines] == [1, 1]
    series = collect(lines)
    assert {"loss", "norm", "learning_rate", "val_loss"} <= set(series)
    assert json.loads((tmp_path / METRICS_FILE).read_text().splitlines()[1])["val_loss"] == 3.0
