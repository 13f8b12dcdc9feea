"""Changes on top of a scenario's climate: warmer or drier, for good or for a while."""

from collections.abc import Callable
from dataclasses import replace

from data_prep.scenario_base import Normals
from data_prep.scenario_courses import Ask, Course
from ecomap.climate import Change
from ecomap.errors import RequestError
from ecomap.schema import CLIMATE


def changed(ask: Ask, course: Course) -> Course:
    """A course with the scenario's changes on top.

    A change of all months is another climate: normals change with it. One of some months is
    weather: normals stay, and the months are anomalies of them.

    Raises:
        RequestError: If a variable is not known, a value leaves what is possible on Earth, or the
            months of the changes are not among those shown and the year before them.
    """
    changes, window = ask.scenario.changes, ask.scenario.change_months
    if not changes:
        return course
    _check_window(ask)
    values = dict(course.series.values)
    for name, change in changes.items():
        if all(value is None for value in values.get(name, ())):
            raise RequestError(
                f"{ask.name} changes {CLIMATE[name].label.lower()}, which {course.source} does not "
                "have here. Give a series that has it."
            )
        values[name] = tuple(
            _one(ask, name, value, change, month) if window is None or month in window else value
            for month, value in zip(course.series.months, values[name], strict=True)
        )
    told = {CLIMATE[name].short: change.text for name, change in changes.items()}
    notes = list(course.notes)
    if window is not None and not any(month in window for month in ask.months):
        notes.append(
            f"No month shown is among those that change ({ask.scenario.months}); what is seen is "
            "what follows them."
        )
    return replace(
        course,
        series=replace(course.series, values=values),
        normals=course.normals if window else _changed_normals(ask, course.normals),
        kind="observed" if window else course.kind,
        source=f"{course.source}; changed: {ask.scenario.change_words}",
        facts=course.facts | {"changes": told, "change_months": ask.scenario.months},
        notes=tuple(notes),
    )


def _check_window(ask: Ask) -> None:
    """Refuse changes of months that are neither shown nor in the year before."""
    window = ask.scenario.change_months
    if window is not None and not any(month in window for month in ask.span):
        raise RequestError(
            f"{ask.name} changes {ask.scenario.months}, and neither the months shown "
            f"({ask.months[0]} to {ask.months[-1]}) nor the year before them have any of it. "
            "Edit months: in the scenario's file, or ask for months that contain "
            f"{ask.scenario.months}."
        )


def _changed_normals(ask: Ask, normals: Callable[[str], Normals]) -> Callable[[str], Normals]:
    """Normals under a change that lasts."""

    def new(month: str) -> Normals:
        return {
            name: tuple(
                _one(ask, name, value, ask.scenario.changes[name], f"{number:02d}")
                for number, value in enumerate(values, start=1)
            )
            if name in ask.scenario.changes
            else values
            for name, values in normals(month).items()
        }

    return new


def _one(ask: Ask, name: str, value: float | None, change: Change, month: str) -> float | None:
    """A value after a change; what cannot be negative stops at zero."""
    if value is None:
        return None
    variable = CLIMATE[name]
    new = value * change.value if change.kind == "factor" else value + change.value
    new = max(new, 0.0) if variable.is_ratio else new
    if not variable.minimum <= new <= variable.maximum:
        raise RequestError(
            f"{ask.name}: {variable.label.lower()} {change.text} makes {new:.4g} {variable.unit} "
            f"of {value:.4g} in month {month}, and Earth has {variable.minimum:g} to "
            f"{variable.maximum:g}. Choose a smaller change."
        )
    return new
