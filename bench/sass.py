"""Counts the machine instructions that the CUDA sweep spends per logit: what an issue slot is to a GPU, without a GPU.

    python bench/sass.py [--arch 90] [--dtype bfloat16] [--capped]

Compiles one rows kernel without its siblings, disassembles it with nvdisasm (pip install nvidia-cuda-nvdisasm), and walks its
control flow: the cheapest way round the tile loop that starts all of a tile's copies, reads all its words and takes all its
exponentials, and the cheapest from a chunk's last whole tile through what is left of the chunk, which also sums up the warp and
stores its partial. Branches that a whole, aligned tile does not take cost nothing; nor does what is called: the copies of the
last part of a chunk, some 40 instructions.
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).parent.parent / "csrc" / "cuda"
COPIES, WORDS, HALF, SOME = (
    4,
    16,
    8,
    2,
)  # of a lane: vectors that a tile is copied as, words of it; of what is no whole tile
PER_WORD = {"bfloat16": 2, "float16": 2, "float32": 1}  # logits
SPARE = 3  # exponentials that are no logit's, per turn of words: sums are brought to another maximum
CHUNK, LANES = 3952, 32  # LLaDA's chunk, 126464 / 32, of which a warp takes one
TYPES = {"bfloat16": "BFloat16", "float16": "Float16", "float32": "float"}
ONE_KERNEL = """#include "rows.h"
namespace dlm::cuda {{
template __global__ void rows_kernel<{}>(const __grid_constant__ RowsJob);
}}
"""


class Count(NamedTuple):
    """Instructions per logit: of a whole tile, and of a LLaDA chunk with everything that a chunk costs."""

    tile: float
    chunk: float


def nvdisasm() -> str | None:
    """The disassembler, from PATH or from the pip package; None without one."""
    spec = importlib.util.find_spec("nvidia")
    homes = [Path(place) for place in spec.submodule_search_locations] if spec else []
    packaged = [str(path) for home in homes for path in home.glob("*/bin/nvdisasm")]
    return shutil.which("nvdisasm") or next(iter(packaged), None)


def nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def count(dtype: str = "bfloat16", arch: str = "90", capped: bool = False) -> Count:
    """Of the greedy sweep (one law, no entropy) of this dtype on sm_``arch``; ``capped``: of softcapped logits, one law with its
    entropy, the only such sweep."""
    law = "Mix::kCapped, true" if capped else "Mix::kPlain, false"
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "rows.cu", Path(folder) / "rows.cubin"
        source.write_text(ONE_KERNEL.format(f"{TYPES[dtype]}, {law}"))
        flags = ["-std=c++17", "-O3", f"-arch=sm_{arch}", f"-I{SOURCES}", "-cubin", "-o", str(cubin)]
        subprocess.run([nvcc(), *flags, str(source)], check=True)
        text = subprocess.run([nvdisasm(), "-c", str(cubin)], check=True, capture_output=True, text=True).stdout
    blocks, edges = control_flow(function(text, "rows_kernel"))
    per_word = PER_WORD[dtype]
    exps = (2 if capped else 1) * per_word  # per word
    whole, left = divmod(-(-CHUNK // (LANES * per_word)), WORDS)
    halves, some = left // HALF, -(-(left % HALF) // SOME)
    tile = around(blocks, edges, Seen(1, COPIES, WORDS, exps * WORDS, 0), SPARE)
    words = WORDS + halves * HALF + some * SOME
    last = around(blocks, edges, Seen(2, COPIES, words, exps * words, 1), SPARE * (2 + halves + some))
    return Count(tile / (WORDS * per_word), ((whole - 1) * tile + last) * LANES / CHUNK)


def function(text: str, name: str) -> str:
    """The disassembly of the one function whose mangled name holds ``name``."""
    (section,) = (part for part in re.split(r"^//-+ ", text, flags=re.M) if re.match(rf"\.text\.\S*{name}", part))
    return section


def control_flow(section: str) -> tuple[list[list[str]], list[set[int]]]:
    """Basic blocks as lists of instructions, and the blocks that may follow each."""
    blocks: list[list[str]] = [[]]
    labels = {}
    for line in section.splitlines():
        label = re.match(r"\s*(\.L_x_\d+):", line)
        code = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.+?)\s*;", line)
        if label:
            if blocks[-1]:
                blocks.append([])
            labels[label[1]] = len(blocks) - 1
        elif code:
            blocks[-1].append(code[1])
            if re.search(r"\b(BRA|EXIT|RET|CALL)\b", code[1]):
                blocks.append([])
    edges = []
    for b, block in enumerate(blocks):
        last = block[-1] if block else ""
        target = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", last)
        ends = not last.startswith("@") and re.search(r"\b(BRA|EXIT|RET)\b(?!\.DIV)", last) and "BRA.DIV" not in last
        conditional = bool(re.search(r"\bBRA\b\S*\s+U?!?P\d", last))
        after = set() if (ends and not conditional) or b + 1 == len(blocks) else {b + 1}
        edges.append(after | ({labels[target[1]]} if target and target[1] in labels else set()))
    return blocks, edges


class Seen(NamedTuple):
    """What a way has come by: groups of copies, copies of vectors, words read from shared memory, exponentials, stores of
    vectors."""

    groups: int
    copies: int
    words: int
    exps: int
    stores: int


def seen_in(block: list[str]) -> Seen:
    patterns = r"\bLDGDEPBAR\b", r"\bLDGSTS\S*\.128\b", r"\bLDS R\d", r"\bMUFU\.EX2\b", r"\bSTG?\b\S*\.128\b"
    return Seen(*(sum(bool(re.search(pattern, i)) for i in block) for pattern in patterns))


def around(blocks: list[list[str]], edges: list[set[int]], wanted: Seen, spare: int) -> int:
    """Instructions on the cheapest way from a block with copies back to it that comes by what is ``wanted`` and no more, but for
    ``spare`` exponentials."""
    seen, most = [seen_in(block) for block in blocks], wanted._replace(exps=wanted.exps + spare)

    def cheapest(start: int) -> int | None:
        queue, best = [(0, start, Seen(0, 0, 0, 0, 0))], {}
        while queue:
            cost, block, done = heapq.heappop(queue)
            if best.get((block, done), 1 << 30) <= cost and cost > 0:
                continue
            best[block, done] = cost
            if block == start and cost > 0 and all(a >= b for a, b in zip(done, wanted)):
                return cost
            done = Seen(*(a + b for a, b in zip(done, seen[block])))
            if any(a > b for a, b in zip(done, most)):
                continue
            for following in edges[block]:
                heapq.heappush(queue, (cost + len(blocks[block]), following, done))
        return None

    ways = [way for start, here in enumerate(seen) if here.copies > 0 and (way := cheapest(start)) is not None]
    if not ways:
        raise LookupError("no such way: has the kernel changed its copies or its loops?")
    return min(ways)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="90")
    parser.add_argument("--dtype", default="bfloat16", choices=TYPES)
    parser.add_argument("--capped", action="store_true", help="of softcapped logits, with the entropy")
    args = parser.parse_args()
    if nvcc() is None or nvdisasm() is None:
        sys.exit("needs nvcc and nvdisasm (pip install nvidia-cuda-nvdisasm)")
    found = count(args.dtype, args.arch, args.capped)
    sweep = "capped sweep with entropy" if args.capped else "greedy sweep"
    print(f"sm_{args.arch} {args.dtype} {sweep}: {found.tile:.2f} instructions per logit of a whole tile,")
    print(f"{found.chunk:.2f} per logit of a chunk of {CHUNK}, with its last part, warp sums and stores")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
