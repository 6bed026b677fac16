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


@dataclasses.dataclass(frozen=True)
class Entry:
    """A case and the names of its peers. tier 0: what the bars need; 1: the matrix; 2: what rounds it off."""

    case: Case
    peers: tuple[str, ...]
    tier: int


def _case(model: str, rows: int, temperature: float = 0.0, **fields) -> Case:
    return Case(model=model, vocab=VOCAB[model], rows=rows, temperature=temperature, **fields)


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
    # How much the distribution matters (rejection and skipping are data-dependent), and the rest of the dtypes.
    for dist in ("peaked", "normal1"):
        for temperature in (0.0, 1.0):
            yield Entry(_case("llada", 1024, temperature, dist=dist), _NOT_COMPILED, 2)
    yield Entry(_case("llada2", 32, 1.0), _NOT_COMPILED, 2)
    yield Entry(_case("llada", 1024, dtype="fp16"), _NOT_COMPILED, 2)
    yield Entry(_case("llada", 32, dtype="fp32"), _NOT_COMPILED, 2)
    yield Entry(_case("llada", 256, batch=8), _NOT_COMPILED, 2)
    yield Entry(_case("llada", 1024, open_rows=64), _NOT_COMPILED, 2)


MATRIX = tuple(_entries())
# A dry run: the same kinds of problem, small enough for one CPU core.
REHEARSAL = tuple(
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
