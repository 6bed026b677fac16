"""The canvas in the terminal: redrawn in place on a terminal, as a few plain lines anywhere else."""

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from .frame import Frame, State
from .tokenizer import TextTokenizer

# "default" is white on a dark terminal and stays readable on a light one.
STYLES = {
    State.GIVEN: "cyan",
    State.OPEN: "grey50",
    State.NOISE: "grey50",
    State.COMMITTED: "bold green",
    State.REWRITTEN: "bold dark_orange",
    State.KEPT: "default",
}
LEGEND = {
    State.GIVEN: "given",
    State.OPEN: "masked",
    State.NOISE: "noise",
    State.COMMITTED: "this step",
    State.REWRITTEN: "rewritten",
    State.KEPT: "kept",
}
ABSENT = {"masked": (State.NOISE, State.REWRITTEN), "uniform": (State.OPEN,)}
MASK, ASCII_MASK = " ░░░", " _"


def canvas_text(frame: Frame, tokenizer: TextTokenizer, mask: str = MASK) -> Text:
    """The canvas as styled text, each open position a grey block."""
    text = Text()
    for token, state in zip(frame.ids, frame.states, strict=True):
        text.append(mask if state is State.OPEN else tokenizer.piece(token), STYLES[state])
    text.rstrip()
    return text


def canvas_line(frame: Frame, tokenizer: TextTokenizer) -> str:
    """The canvas as one line of plain text: "_" for an open position, " / " for a line break."""
    pieces = (
        ASCII_MASK if state is State.OPEN else tokenizer.piece(token)
        for token, state in zip(frame.ids, frame.states, strict=True)
    )
    return "".join(pieces).strip().replace("\n", " / ")


class LiveCanvas:
    """Shows every frame in place, at a pace the eye can follow. Call it with frames inside a `with` block."""

    def __init__(
        self, console: Console, tokenizer: TextTokenizer, title: str, family: str, seconds_per_frame: float = 0.04
    ):
        self._tokenizer, self._title, self._pause = tokenizer, title, seconds_per_frame
        shown = (Text(name, STYLES[state]) for state, name in LEGEND.items() if state not in ABSENT[family])
        self._legend = Text("  ").join(shown)
        self._mask = ASCII_MASK if console.options.ascii_only else MASK
        self._live = Live(console=console, auto_refresh=False)
        self._shown = 0.0

    def __enter__(self) -> "LiveCanvas":
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def __call__(self, frame: Frame) -> None:
        panel = Panel(
            canvas_text(frame, self._tokenizer, self._mask),
            title=f"{self._title}, step {frame.step}/{frame.steps}",
            subtitle=self._legend,
            padding=(1, 2),
        )
        time.sleep(max(0.0, self._pause - (time.monotonic() - self._shown)))
        self._live.update(panel, refresh=True)
        self._shown = time.monotonic()


class PlainCanvas:
    """Prints the first, the last and about `lines` frames between them, for pipes and logs."""

    def __init__(self, console: Console, tokenizer: TextTokenizer, title: str, family: str, lines: int = 6):
        self._console, self._tokenizer, self._title, self._lines = console, tokenizer, title, lines

    def __enter__(self) -> "PlainCanvas":
        self._print(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def __call__(self, frame: Frame) -> None:
        every = max(1, frame.steps // self._lines)
        if frame.step % every == 0 or frame.step == frame.steps:
            width = len(str(frame.steps))
            self._print(f"step {frame.step:{width}}/{frame.steps}  {canvas_line(frame, self._tokenizer)}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def canvas_view(console: Console, tokenizer: TextTokenizer, title: str, family: str) -> LiveCanvas | PlainCanvas:
    """The live view where `console` is a terminal, else the plain one."""
    return (LiveCanvas if console.is_terminal else PlainCanvas)(console, tokenizer, title, family)
