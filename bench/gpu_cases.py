"""The GPU matrix: which problems, against whom, in which order. What comes first is measured even if time runs out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from .cases import VOCAB, Case

# Every peer that may be asked; a case takes those that have its confidence and temperature.
EAGER = ("llada", "fast_dllm", "dream", "torch_fp32")
PEERS = (*EAGER, "compiled_fp32", "triton_one_pass", "flashinfer", "compiled_chunked")
# torch.compile takes seconds per shape: our own algorithm compiled is asked at the shapes that say most.
_WITHOUT_CHUNKED = tuple(name for name in PEERS if name != "compiled_chunked")
_NOT_COMPILED = tuple(name for name in PEERS if not name.startswith("compiled"))
# Of the uniform family: each step's original, and what PyTorch can do with care.
ORIGINALS = ("sumi", "gidd", "duo", "diffusion_gemma")
_UNIFORM_PEERS = (*ORIGINALS, "torch_fp32")
# Of draws from a part of the law.
FILTERING = ("sorted_top_p", "eager_filters")
_FILTER_PEERS = (*FILTERING, "flashinfer")
_FILTERS = ({"top_p": 0.9}, {"top_k": 50}, {"min_p": 0.05})


@dataclasses.dataclass(frozen=True)
class Entry:
    """A case and the names of its peers. tier 0: what the bars need; 1: the matrix; 2: what rounds it off."""

    case: Case
    peers: tuple[str, ...]
    tier: int


def _case(model: str, rows: int, temperature: float = 0.0, **fields) -> Case:
    return Case(model=model, vocab=VOCAB[model], rows=rows, temperature=temperature, **fields)


def _uniform(op: str, model: str, tier: int, **fields) -> Entry:
    fields = {"rows": 256, "dist": "peaked", "temperature": 1.0, **fields}
    return Entry(Case(op=op, model=model, vocab=VOCAB[model], **fields), _UNIFORM_PEERS, tier)


def _entries() -> Iterator[Entry]:
    # Block decoding in one launch, and the sizes at which bandwidth is all that counts.
    yield Entry(_case("llada2", 32), PEERS, 0)
    for temperature in (0.0, 1.0):
        yield Entry(_case("llada", 1024, temperature), PEERS, 0)
    for temperature in (0.0, 1.0):
        yield Entry(_case("llada", 32, temperature), PEERS, 0)
    for temperature in (0.0, 1.0):
        yield Entry(_case("llada", 4096, temperature), _WITHOUT_CHUNKED, 0)
    for rows in (128, 256):
        for temperature in (0.0, 1.0):
            yield Entry(_case("llada", rows, temperature), _WITHOUT_CHUNKED, 1)
    for rows in (32, 1024):
        yield Entry(_case("llada", rows, 0.7), _WITHOUT_CHUNKED, 1)
    for rows in (32, 256, 1024):
        for confidence in ("neg_entropy", "margin"):
            yield Entry(_case("dream", rows, confidence=confidence), _WITHOUT_CHUNKED, 1)
    for temperature in (0.0, 1.0):
        yield Entry(_case("llada", 1024, temperature, dtype="fp32"), _WITHOUT_CHUNKED, 1)
    for rows in (32, 1024):
        yield Entry(_case("llada", rows, cfg_scale=1.5), _WITHOUT_CHUNKED, 1)
    for rows in (128, 512, 1024, 4096):
        yield Entry(_case("llada2", rows), _WITHOUT_CHUNKED, 1)
    # Draws from the top of the law, of flat rows, where most tokens are cut off late: the second read at its longest.
    for rows in (32, 1024):
        for filtered in _FILTERS:
            yield Entry(_case("llada", rows, 1.0, dist="normal1", **filtered), _FILTER_PEERS, 1)
    # A step of Sumi as it mostly is (one row in a hundred draws again), and DiffusionGemma's.
    yield _uniform("uniform_step", "sumi", 1, steps=128)
    yield _uniform("uniform_step", "sumi", 1, steps=128, rows=1184)
    yield _uniform("renoise_step", "gemma", 1, temperature=0.6)
    # The largest vocabulary, against one pass in Triton.
    for dtype in ("bf16", "fp32"):
        yield Entry(_case("gemma", 256, 1.0, dtype=dtype), _NOT_COMPILED, 1)
    # How much the distribution matters (rejection and skipping are data-dependent), and the rest of the dtypes.
    for dist in ("peaked", "normal1"):
        for temperature in (0.0, 1.0):
            yield Entry(_case("llada", 1024, temperature, dist=dist), _NOT_COMPILED, 2)
    yield Entry(_case("llada2", 32, 1.0), _NOT_COMPILED, 2)
    yield Entry(_case("llada", 1024, dtype="fp16"), _NOT_COMPILED, 2)
    yield Entry(_case("llada", 32, dtype="fp32"), _NOT_COMPILED, 2)
    yield Entry(_case("llada", 256, batch=8), _NOT_COMPILED, 2)
    yield Entry(_case("llada", 1024, open_rows=64), _NOT_COMPILED, 2)
    # Every row draws again; whole canvases; the other transitions; Sumi's adaptive step.
    yield _uniform("uniform_step", "sumi", 2, steps=1)
    yield _uniform("renoise_step", "gemma", 2, temperature=0.6, dtype="fp32")
    for model in ("gidd", "duo"):
        yield _uniform("transition_step", model, 2, steps=128, rows=1024)
    yield _uniform("select_step", "sumi", 2, k=4, temperature=0.7, confidence="gain")


MATRIX = tuple(_entries())
# A dry run: the same kinds of problem, small enough for one CPU core.
REHEARSAL = (
    tuple(
        Entry(Case(rows=8, vocab=2048, k=2, **fields), PEERS, tier)
        for tier, fields in (
            (0, {}),
            (0, {"temperature": 1.0}),
            (1, {"confidence": "neg_entropy"}),
            (1, {"confidence": "margin"}),
            (1, {"cfg_scale": 1.5}),
            (2, {"temperature": 0.7, "dtype": "fp32", "dist": "peaked"}),
        )
    )
    + tuple(
        Entry(Case(rows=8, vocab=2048, temperature=1.0, dist="peaked", **fields), _UNIFORM_PEERS, 2)
        for fields in (
            {"op": "uniform_step", "model": "sumi", "steps": 8},
            {"op": "renoise_step", "model": "gemma"},
            {"op": "transition_step", "model": "gidd", "steps": 8},
        )
    )
    + tuple(
        Entry(Case(rows=8, vocab=2048, k=2, temperature=1.0, **filtered), _FILTER_PEERS, 2) for filtered in _FILTERS
    )
)


def select(rehearsal: bool = False, pattern: str | None = None) -> list[Entry]:
    """The entries, in order of importance, whose case's id matches the regular expression `pattern`."""
    try:
        wanted = re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"filter: must be a regular expression ({error}), got {pattern!r}") from None
    return [entry for entry in (REHEARSAL if rehearsal else MATRIX) if wanted.search(entry.case.id)]


def groups(entries: list[Entry]) -> list[list[Entry]]:
    """Neighbours of one tier that share their logits: timed interleaved with each other."""
    found: dict[tuple, list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.tier, entry.case.group), []).append(entry)
    return list(found.values())
