"""Progress of long work on the terminal."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def open_console() -> Console:
    """Where progress goes: standard error, moving on a terminal alone, not in a notebook."""
    return Console(stderr=True, force_jupyter=False, force_terminal=sys.stderr.isatty())


def progress_bar(console: Console, *, disable: bool = False, has_loss: bool = True) -> Progress:
    """Bar with count, running loss where there is one, and time left."""
    loss = [TextColumn("loss {task.fields[loss]:.4f}")] if has_loss else []
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *loss,
        TimeRemainingColumn(),
        console=console,
        disable=disable,
    )
