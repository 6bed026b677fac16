"""The whole demo: text from noise, live, then the step at real size against the original."""

import time

from rich.console import Console

from . import settings
from .canvas import canvas_view
from .sampling import Generation, generate, load
from .table import print_table


def run(
    prompt: str = settings.PROMPT,
    *,
    steps: int | None = None,
    temperature: float = settings.TEMPERATURE,
    seed: int = settings.SEED,
    length: int = settings.LENGTH,
    family: str = "masked",
    table: bool = True,
    console: Console | None = None,
) -> Generation:
    """Generate as `sampling.generate` does, showing the canvas after every step on `console` (default:
    stdout), then print the text and, with `table`, the time of our step and of the eager LLaDA step at a
    vocabulary of 126464."""
    console = Console() if console is None else console
    settings.check_arguments(steps=steps, temperature=temperature, seed=seed, length=length, family=family)
    model, tokenizer = load(family)
    tokenizer.encode(prompt)  # an unknown character is reported before anything is printed
    parameters = sum(p.numel() for p in model.parameters())
    title = f"{family} diffusion, {parameters / 1e6:.1f}M parameters, seed {seed}, temperature {temperature:g}"
    start = time.perf_counter()
    with canvas_view(console, tokenizer, title) as view:
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
    if table:
        console.print()
        print_table(console)
    return result
