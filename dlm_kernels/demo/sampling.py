"""From a prompt to text: loads the shipped model and runs a family's sampler over a canvas."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

import dlm_kernels as dlm

from . import masked, settings, uniform
from .frame import Frame
from .model import Denoiser, load_model
from .tokenizer import TextTokenizer

ASSETS = Path(__file__).parent / "assets"

# family -> sampler(model, canvas, given, *, steps, temperature, seed, trace) -> frames. Weights:
# assets/<family>.safetensors.
SAMPLERS: dict[str, Callable[..., Iterator[Frame]]] = {"masked": masked.denoise, "uniform": uniform.denoise}


@dataclass(frozen=True)
class Generation:
    """text: prompt and continuation. tokens: the canvas. steps: denoising steps done. trace: what became of each position."""

    text: str
    tokens: list[int]
    steps: int
    trace: "dlm.RevisionTrace" = field(compare=False, repr=False)


@lru_cache(maxsize=4)
def load(family: str = "masked", folder: Path = ASSETS) -> tuple[Denoiser, TextTokenizer]:
    """Model and tokenizer of `family` from `folder`. RuntimeError if a file does not match its SHA256SUMS."""
    weights, tokenizer = folder / f"{family}.safetensors", folder / "tokenizer.json"
    sums = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    for path in (weights, tokenizer):
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sums.get(path.name):
            raise RuntimeError(f"{path.name}: damaged, its SHA-256 is {found}, SHA256SUMS has {sums.get(path.name)}")
    return load_model(weights), TextTokenizer(tokenizer)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: matrices this small gain nothing from a second one and lose much on a busy machine, and
    the text then does not depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def new_trace(length: int, steps: int) -> "dlm.RevisionTrace":
    """Keeps every canvas, for the picture, as long as that is some tens of MB, and else counts only."""
    mode = "full" if length * steps <= 1 << 22 else "counters"
    return dlm.RevisionTrace(1, length, mode=mode, max_steps=min(steps + length, 1 << 16))


def generate(
    prompt: str = "",
    *,
    steps: int | None = None,
    temperature: float | None = None,
    seed: int = settings.SEED,
    length: int = settings.LENGTH,
    family: str = "masked",
    on_frame: Callable[[Frame], None] | None = None,
) -> Generation:
    """Continue `prompt` by `length` tokens, the last of them a line break, so that the text comes to an end.

    steps: denoising steps for the whole text; None = one token per step. temperature: of the draw, 0 =
    argmax. seed: the same seed and arguments give the same text. on_frame: called before the first step and
    after each. ArgumentError (a ValueError) names the argument whose value breaks its rule, or a prompt's
    unknown characters.
    """
    settings.check_arguments(steps=steps, temperature=temperature, seed=seed, length=length, family=family)
    model, tokenizer = load(family)
    given_ids = tokenizer.encode(prompt)
    canvas = torch.zeros(1, len(given_ids) + length, dtype=torch.int64)
    given = torch.zeros_like(canvas, dtype=torch.bool)
    canvas[0, : len(given_ids)] = torch.tensor(given_ids, dtype=torch.int64)
    given[0, : len(given_ids)] = True
    # The model reads both ways: a line break fixed at the end makes it write towards the end of a verse.
    (line_break,) = tokenizer.encode("\n")
    canvas[0, -1], given[0, -1] = line_break, True

    sampler = SAMPLERS[family]
    steps = length if steps is None else steps
    temperature = settings.TEMPERATURE[family] if temperature is None else temperature
    trace = new_trace(canvas.shape[1], steps)
    frame = None
    with one_thread():
        for frame in sampler(model, canvas, given, steps=steps, temperature=temperature, seed=seed, trace=trace):
            if on_frame is not None:
                on_frame(frame)
    tokens = canvas[0].tolist()
    return Generation(tokenizer.decode(tokens).rstrip("\n"), tokens, frame.step, trace)
