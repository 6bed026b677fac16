"""The whole demo: text from noise, live, then the step at real size against the original."""

import time
from pathlib import Path

from rich.console import Console

from . import settings
from .canvas import canvas_view
from .sampling import Generation, generate, load
from .table import print_table


def run(
    prompt: str = settings.PROMPT,
    *,
    steps: int | None = None,
    temperature: float | None = None,
    seed: int = settings.SEED,
    length: int = settings.LENGTH,
    family: str = "masked",
    table: bool = True,
    picture: str | Path | None = None,
    console: Console | None = None,
) -> Generation:
    """Generate as `sampling.generate` does, showing the canvas after every step on `console` (default: stdout), then
    print the text; of the uniform family, what became of its tokens; with `picture`, a file, draw that; and with
    `table`, print the time of our step and of the family's eager one at real size."""
    console = Console() if console is None else console
    settings.check_arguments(steps=steps, temperature=temperature, seed=seed, length=length, family=family)
    settings.check_picture(picture)
    model, tokenizer = load(family)
    tokenizer.encode(prompt)  # an unknown character is reported before anything is printed
    parameters = sum(p.numel() for p in model.parameters())
    temperature = settings.TEMPERATURE[family] if temperature is None else temperature
    title = f"{family} diffusion, {parameters / 1e6:.1f}M parameters, seed {seed}, temperature {temperature:g}"
    start = time.perf_counter()
    with canvas_view(console, tokenizer, title, family) as view:
        result = generate(
            prompt,
            steps=steps,
            temperature=temperature,
            seed=seed,
            length=length,
            family=family,
            on_frame=view,
        )
    seconds = time.perf_counter() - start
    console.print()
    console.print(result.text, markup=False, highlight=False, soft_wrap=not console.is_terminal)
    console.print(f"\n{length} tokens in {result.steps} steps, {seconds:.1f} s with the display", highlight=False)
    if family == "uniform":
        console.print()
        console.print(result.trace.table())
        console.print(round_trips(result.trace.summary()), highlight=False)
    if picture is not None:
        result.trace.plot(picture)
        console.print(f"picture: {picture}", markup=False, highlight=False, soft_wrap=True)
    if table:
        console.print()
        print_table(console, family)
    return result


def round_trips(summary: dict) -> str:
    """The question of the field: whether all that rewriting gets anywhere."""
    revisions, returned = summary["revisions"], summary["round_trips"]
    share = f" ({returned / revisions:.0%})" if revisions else ""
    return f"{revisions} revisions by the model, {returned} of them round trips A -> B -> A{share}"
