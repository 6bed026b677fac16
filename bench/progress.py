"""How far a run has come, on stderr: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def shown(wanted: bool) -> Iterator[Callable[[str, float], None]]:
    """Gives a function of (what is being done, share of all that is done). Lines of text without rich."""
    if not wanted:
        yield lambda text, done: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError:
        yield lambda text, done: print(f"{done * 100:3.0f} % {text}", file=sys.stderr, flush=True)
        return
    columns = (BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    # Drawn when told, between the samples: a thread that redraws by itself would run inside them.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda text, done: bar.update(task, description=text, completed=done, refresh=True)
