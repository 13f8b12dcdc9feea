"""Progress of long work on the terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
