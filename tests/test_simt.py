"""The SIMT runtime itself: every collective, barrier, atomic and intrinsic against what CUDA's manual says of it."""

import ctypes
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if shutil.which("g++") is None or platform.machine() != "x86_64" or sys.platform != "linux":
    pytest.skip("the SIMT runtime needs g++ on x86-64 Linux", allow_module_level=True)

from simt import build, coverage

KERNELS = Path(build.__file__).parent / "kernels"
SOURCES = [KERNELS / name for name in ("collectives.cu", "intrinsics.cu", "blocks.cu", "errors.cu")]
KINDS = os.environ.get("SIMT_TEST_KINDS", "plain,race").split(",")
not_in_asan = pytest.mark.skipif("asan" in KINDS, reason="this is the process that test_under_asan has started")
FULL = 0xFFFFFFFF
LANES = range(32)
# order (forward, reverse, random), seed, resident blocks, preemption
SCHEDULES = [(0, 0, 1, 0), (1, 0, 1, 0), (2, 17, 1, 0), (0, 0, 3, 0), (1, 0, 2, 0), (2, 18, 4, 1), (2, 19, 2, 1)]


class Library:
    """Calls by name: arrays as pointers, an error text as an exception."""

    def __init__(self, path):
        self.cdll = ctypes.CDLL(str(path))

    def __getattr__(self, name):
        function = getattr(self.cdll, name)
        function.restype = ctypes.c_char_p

        def call(*args):
            error = function(*(a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in args))
            if error is not None:
                raise RuntimeError(error.decode())

        return call

    def last_error(self):
        function = self.cdll.simt_last_error
        function.restype = ctypes.c_char_p
        return function().decode()

    def schedule(self, order=0, seed=0, resident=1, preempt=0):
        self.cdll.simt_set_schedule(order, ctypes.c_uint64(seed))
        self.cdll.simt_set_resident_blocks(resident)
        self.cdll.simt_set_preempt(bool(preempt))


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def library(kind):
    return Library(build.library(kind, SOURCES, build.CACHE))


@pytest.fixture
def simt(library):
    library.schedule()
    return library


@pytest.fixture(params=SCHEDULES, ids=str)
def scheduled(request, library):
    library.schedule(*request.param)
    yield library
    library.schedule()


# ---- collectives ---------------------------------------------------------------------------------------------------

SHUFFLES = ("idx", "up", "down", "xor")
TYPES = (np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64)
# kind, argument, width -> the lane that lanes 0, 1, ... read
SOURCE_LANES = [
    ("idx", 5, 32, [5] * 32),
    ("idx", 5, 8, [5] * 8 + [13] * 8 + [21] * 8 + [29] * 8),
    ("idx", 9, 8, [1] * 8 + [9] * 8 + [17] * 8 + [25] * 8),  # modulo the width
    ("idx", -1, 32, [31] * 32),
    ("idx", 1, 2, [1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15, *[17] * 2, *[19] * 2, *[21] * 2]),
    ("up", 1, 32, [0, *range(31)]),
    ("up", 2, 8, [0, 1, 0, 1, 2, 3, 4, 5, 8, 9, 8, 9, 10, 11, 12, 13]),
    ("up", 32, 32, list(LANES)),  # five bits of it count
    ("up", 33, 32, [0, *range(31)]),
    ("down", 33, 32, [*range(1, 32), 31]),
    ("down", 1, 32, [*range(1, 32), 31]),
    ("down", 2, 8, [2, 3, 4, 5, 6, 7, 6, 7, 10, 11, 12, 13, 14, 15, 14, 15]),
    ("down", 16, 16, list(LANES)),
    ("xor", 1, 32, [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14]),
    ("xor", 31, 32, list(range(31, -1, -1))),
    ("xor", 3, 4, [3, 2, 1, 0, 7, 6, 5, 4]),
    ("xor", 4, 4, [0, 1, 2, 3, 0, 1, 2, 3, 8, 9, 10, 11, 8, 9, 10, 11]),  # an earlier segment may be read
    ("xor", 0, 1, list(LANES)),
]


def shuffle(simt, kind, dtype, values, arguments, width=32, mask=FULL, others_end=True):
    out = np.zeros(32, dtype)
    arguments = np.ascontiguousarray(np.broadcast_to(np.asarray(arguments, np.int32), 32))
    values = np.ascontiguousarray(values, dtype)
    simt.shuffle_lanes(TYPES.index(dtype), SHUFFLES.index(kind), mask, others_end, values, arguments, width, out)
    return out


def test_shuffles(scheduled):
    for kind_of_shuffle, argument, width, sources in SOURCE_LANES:
        out = shuffle(scheduled, kind_of_shuffle, np.int32, 100 + np.arange(32), argument, width)
        wanted = [100 + source for source in sources]
        assert out[: len(sources)].tolist() == wanted, (kind_of_shuffle, argument, width)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind_of_shuffle", SHUFFLES)
def test_shuffles_keep_every_bit(simt, dtype, kind_of_shuffle):
    values = np.random.default_rng(3).bytes(32 * np.dtype(dtype).itemsize)
    values = np.frombuffer(values, dtype)
    sources = {"idx": [3] * 32, "up": [0, 1, 2, *range(29)], "down": [*range(3, 32), 29, 30, 31]}
    sources["xor"] = [lane ^ 3 for lane in LANES]
    assert shuffle(simt, kind_of_shuffle, dtype, values, 3).tobytes() == values[sources[kind_of_shuffle]].tobytes()


def test_a_lane_names_its_own_source(simt):
    arguments = np.random.default_rng(4).integers(0, 32, 32)
    assert shuffle(simt, "idx", np.int32, np.arange(32), arguments).tolist() == arguments.tolist()


@pytest.mark.parametrize("others_end", [True, False])
@pytest.mark.parametrize("mask", [0x0000FFFF, 0xFFFF0000, 0x00FF00FF])
def test_shuffles_of_part_of_a_warp(scheduled, mask, others_end):
    out = shuffle(scheduled, "xor", np.int32, np.arange(32), 7, 32, mask, others_end)
    assert out.tolist() == [lane ^ 7 if mask >> lane & 1 else 0 for lane in LANES]


def test_lanes_that_have_ended_are_not_waited_for(scheduled):
    for mask in (0x0000FFFF, 0xFFFF0000, 0x80000000, 0x7FFFFFFF):
        out = np.zeros(32, np.uint32)
        scheduled.ballot_of_the_rest(mask, out)
        assert out.tolist() == [mask if mask >> lane & 1 else 0 for lane in LANES]


def wrapped(total, bits=32):
    return total & ((1 << bits) - 1)


VOTES = [
    ("ballot", lambda lanes, mine: sum(1 << lane for lane, v in lanes if v)),
    ("any", lambda lanes, mine: any(v for _, v in lanes)),
    ("all", lambda lanes, mine: all(v for _, v in lanes)),
    ("match_any", lambda lanes, mine: sum(1 << lane for lane, v in lanes if v == mine)),
    ("match_any of 64 bits", lambda lanes, mine: sum(1 << lane for lane, v in lanes if v == mine)),
    ("reduce_add", lambda lanes, mine: sum(v for _, v in lanes)),
    ("reduce_min", lambda lanes, mine: min(v for _, v in lanes)),
    ("reduce_max", lambda lanes, mine: max(v for _, v in lanes)),
    ("reduce_add, unsigned", lambda lanes, mine: sum(v for _, v in lanes)),
    ("reduce_min, unsigned", lambda lanes, mine: min(wrapped(v) for _, v in lanes)),
    ("reduce_max, unsigned", lambda lanes, mine: max(wrapped(v) for _, v in lanes)),
    ("reduce_and", lambda lanes, mine: fold(lanes, lambda a, b: a & b)),
    ("reduce_or", lambda lanes, mine: fold(lanes, lambda a, b: a | b)),
    ("reduce_xor", lambda lanes, mine: fold(lanes, lambda a, b: a ^ b)),
]
OPERANDS = {
    "few": [0, 0, 5, 0, -1, 5, 5, 0, 1, 2, 3, 0, 0, 0, -7, 9, 0, 0, 5, 0, -1, 5, 5, 0, 1, 2, 3, 0, 0, 0, -7, 9],
    "none": [0] * 32,
    "same": [-3] * 32,
    "large": [2**31 - 1, -(2**31), 2**30, -(2**30)] * 8,
    "one": [0] * 31 + [1],
}


def fold(lanes, operation):
    total = lanes[0][1]
    for _, value in lanes[1:]:
        total = operation(total, value)
    return total


@pytest.mark.parametrize("mask", [FULL, 0x0000FFFF, 0x80000001, 0x55555555])
def test_votes_and_reductions(scheduled, mask):
    for (number, (name, expected)), operands in itertools.product(enumerate(VOTES), OPERANDS):
        values, out = np.array(OPERANDS[operands], np.int32), np.zeros(32, np.uint32)
        scheduled.vote_in_halves(number, mask, values, out)
        for lane in LANES:
            mine = mask if mask >> lane & 1 else ~mask
            lanes = [(other, int(values[other])) for other in LANES if mine >> other & 1]
            assert out[lane] == wrapped(int(expected(lanes, int(values[lane])))), (name, operands, lane)


# ---- blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 31, 32, 33, 128, 1000, 1024])
def test_barriers_that_count(scheduled, threads):
    for predicates in (np.arange(threads) % 3, np.zeros(threads), np.full(threads, -1), np.arange(threads) == 5):
        predicates, out = predicates.astype(np.int32), np.zeros((3, threads), np.int32)
        scheduled.barrier_votes(threads, predicates, out)
        count = np.count_nonzero(predicates)
        assert (out == [[count], [count == threads], [count > 0]]).all()


@pytest.mark.parametrize("threads", [32, 96, 100, 128, 1024])
def test_blocks_give_the_same_in_every_schedule(scheduled, threads):
    blocks, steps = 5, 7
    values = np.random.default_rng(5).integers(0, 2**20, (blocks, threads)).astype(np.uint32)
    out, sums = np.zeros_like(values), np.zeros(blocks, np.uint32)
    scheduled.rotate_and_sum(blocks, threads, steps, values, out, sums)
    rotated = np.roll(values, steps, 1)
    assert (out == rotated).all()
    assert (sums == rotated[:, : threads // 32 * 32].sum(1)).all()


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_the_last_block_sees_what_the_others_published(scheduled, blocks):
    counter, partial, out = np.zeros(1, np.uint32), np.zeros(blocks, np.uint32), np.zeros(1, np.uint32)
    for _ in range(2):
        partial[:], out[:] = 99, 99
        scheduled.last_block_sums(blocks, 64, counter, partial, out)
        assert out[0] == sum(t + b for t in range(64) for b in range(blocks))
        assert counter[0] == 0


@pytest.mark.parametrize("order", [0, 1, 2])
def test_resident_blocks_can_wait_for_each_other(simt, order):
    counter, inside, out = np.zeros(1, np.uint32), np.zeros(4, np.uint32), np.zeros(4, np.uint32)
    simt.schedule(order, 7, resident=4)
    simt.grid_barrier(4, counter, inside, out)
    assert out.tolist() == [2, 3, 4, 1]
    simt.schedule(order, 7, resident=3)
    counter[:] = 0
    with pytest.raises(RuntimeError, match=r"grid_barrier: livelock: .* blocks\.cu:\d+; .*\(3 of 4 are\)"):
        simt.grid_barrier(4, counter, inside, out)


def test_indices(scheduled):
    grid, block = (3, 2, 2), (4, 3, 2)
    out = np.zeros((12 * 24, 4, 3), np.uint32)
    scheduled.indices(*grid, *block, out)
    for b, t in np.ndindex(12, 24):
        assert out[b * 24 + t].tolist() == [
            [t % 4, t // 4 % 3, t // 12],
            [b % 3, b // 3 % 2, b // 6],
            list(block),
            list(grid),
        ]


def test_shared_memory(scheduled, kind):
    out = np.zeros((6, 6), np.uint32)
    scheduled.shared_objects(6, False, out)
    assert out.tolist() == [[0, 7, 8, 5, 0, 0]] * 6
    if kind == "race":
        with pytest.raises(RuntimeError, match="uninitialised"):
            scheduled.shared_objects(6, True, out)
    else:
        scheduled.shared_objects(6, True, out)
        assert (out[:, 0] == 4 * 255 + 2**32 - 1 - 2**32).all()


# ---- atomics -------------------------------------------------------------------------------------------------------

M, N = 2**32 - 1, 2**64 - 1
C_TYPES = dict(zip(("int", "uint", "long", "ulong", "float", "double"), TYPES))
# operation and type, memory before, operands -> memory after each
ATOMICS = [
    ("atomicAdd_int", 2**31 - 1, [1, -1, 5], [-(2**31), 2**31 - 1, -(2**31) + 4]),
    ("atomicAdd_uint", M, [1, 7], [0, 7]),
    ("atomicAdd_ulong", M, [1, N], [M + 1, M]),
    ("atomicAdd_float", 0.1, [0.2, 1e10], [np.float32(0.1) + np.float32(0.2), 1e10]),
    ("atomicAdd_double", 0.1, [0.2, -0.5], [0.1 + 0.2, 0.1 + 0.2 - 0.5]),
    ("atomicInc_uint", 0, [2, 2, 2, 2, 0, M], [1, 2, 0, 1, 0, 1]),
    ("atomicInc_uint", 9, [3], [0]),
    ("atomicDec_uint", 1, [2, 2, 2, 0], [0, 2, 1, 0]),
    ("atomicDec_uint", 9, [3], [3]),
    ("atomicMin_int", 3, [5, -2, 0], [3, -2, -2]),
    ("atomicMin_uint", M, [5, 9], [5, 5]),
    ("atomicMin_long", 3, [-(2**40), 0], [-(2**40), -(2**40)]),
    ("atomicMin_ulong", N, [2**40, N], [2**40, 2**40]),
    ("atomicMax_int", -3, [-5, 2, 0], [-3, 2, 2]),
    ("atomicMax_uint", 1, [M, 9], [M, M]),
    ("atomicMax_long", -3, [2**40, -(2**40)], [2**40, 2**40]),
    ("atomicMax_ulong", 1, [N, 5], [N, N]),
    ("atomicExch_int", 1, [-2, 3], [-2, 3]),
    ("atomicExch_uint", 1, [M], [M]),
    ("atomicExch_ulong", 1, [N], [N]),
    ("atomicExch_float", 1, [0.5], [0.5]),
    ("atomicAnd_int", -1, [6, 3], [6, 2]),
    ("atomicAnd_uint", M, [0xF0F0, 0x0FF0], [0xF0F0, 0x00F0]),
    ("atomicAnd_ulong", N, [1 << 63], [1 << 63]),
    ("atomicOr_int", 0, [-8, 1], [-8, -7]),
    ("atomicOr_uint", 1, [0x80000000], [0x80000001]),
    ("atomicOr_ulong", 1, [1 << 63], [(1 << 63) + 1]),
    ("atomicCAS_uint", 5, [5, 6, 5, 7, 6, M], [6, 6, M]),
    ("atomicCAS_ulong", N, [N, 1, N, 2], [1, 1]),
]


@pytest.mark.parametrize("name, before, operands, after", ATOMICS)
def test_atomics(simt, name, before, operands, after):
    dtype = C_TYPES[name.split("_")[1]]
    memory, old = np.array([before], dtype), np.zeros(len(after), dtype)
    getattr(simt, name)(memory, np.array(operands, dtype), len(operands), old)
    wanted = np.array([before, *after], dtype)
    assert old.tolist() == wanted[:-1].tolist()
    assert memory[0] == wanted[-1]


# ---- intrinsics ----------------------------------------------------------------------------------------------------


def bits(value):
    return int(np.float32(value).view(np.uint32))


NAN = bits("nan")
BYTE_PERM = [(0x3210, 0x33221100), (0x7654, 0x77665544), (0, 0), (0x1032, 0x11003322), (0x5140, 0x55114400)]
INTRINSICS = [  # name, and arguments -> result
    ("__popc", [((0,), 0), ((M,), 32), ((0x80000001,), 2), ((0x0F0F0F0F,), 16)]),
    ("__popcll", [((0,), 0), ((N,), 64), ((1 << 63 | 1,), 2)]),
    ("__clz", [((0,), 32), ((1,), 31), ((M,), 0), ((0x00010000,), 15)]),
    ("__clzll", [((0,), 64), ((1,), 63), ((1 << 63,), 0), ((1 << 32,), 31)]),
    ("__ffs", [((0,), 0), ((1,), 1), ((0x80000000,), 32), ((0x30,), 5)]),
    ("__ffsll", [((0,), 0), ((1 << 63,), 64), ((1 << 40 | 1 << 50,), 41)]),
    ("__brev", [((0,), 0), ((1,), 0x80000000), ((0x12345678,), 0x1E6A2C48), ((M,), M)]),
    ("__funnelshift_l", [((0x89ABCDEF, 0x01234567, 8), 0x23456789), ((5, 7, 0), 7), ((5, 7, 32), 7), ((M, 0, 31), 0x7FFFFFFF)]),
    ("__funnelshift_r", [((0x89ABCDEF, 0x01234567, 8), 0x6789ABCD), ((5, 7, 0), 5), ((5, 7, 32), 5), ((0, M, 31), 0xFFFFFFFE)]),
    ("__byte_perm", [((0x33221100, 0x77665544, selector), result) for selector, result in BYTE_PERM]),
    ("__float_as_uint", [((0x7FC00001,), 0x7FC00001), ((0x80000000,), 0x80000000)]),
    ("__float_as_int", [((0x3F800000,), 0x3F800000), ((M,), M)]),
    ("__double_as_longlong", [((1 << 63,), 1 << 63), ((0x7FF0000000000001,), 0x7FF0000000000001)]),
    ("umin", [((3, M), 3), ((M, 3), 3)]),
    ("umax", [((3, M), M), ((0, 0), 0)]),
    ("min", [((3, M), M), ((3, 4), 3)]),
    ("max", [((3, M), 3), ((0x80000000, 0), 0)]),
    ("min, int and unsigned", [((M, 5), 5), ((5, M), 5)]),
    ("min, float", [((bits(1), bits(-2)), bits(-2)), ((NAN, bits(3)), bits(3)), ((bits(3), NAN), bits(3))]),
    ("max, float", [((bits(1), bits(-2)), bits(1)), ((NAN, bits(3)), bits(3)), ((bits(3), NAN), bits(3))]),
    ("__fmaf_rn", [((bits(1 + 2**-23), bits(1 - 2**-23), bits(-1)), bits(-(2**-46)))]),
    ("__fadd_rn and __fmul_rn", [((bits(1 + 2**-23), bits(1 - 2**-23), bits(-1)), bits(0))]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(INTRINSICS)), ids=[name for name, _ in INTRINSICS])
def test_intrinsics(simt, number):
    for arguments, wanted in INTRINSICS[number][1]:
        a, b, c = (*arguments, 0, 0)[:3]
        out = np.zeros(1, np.uint64)
        simt.intrinsic(number, ctypes.c_uint64(a), b, c, out)
        assert out[0] == wanted, (arguments, hex(out[0]), hex(wanted))


# ---- mistakes ------------------------------------------------------------------------------------------------------


def place(mark):
    """errors.cu:line of the line with this mark."""
    lines = (KERNELS / "errors.cu").read_text().splitlines()
    return f"errors.cu:{next(i for i, line in enumerate(lines, 1) if line.endswith(f'// <- {mark}'))}"


ERRORS = {
    "deadlock": "deadlock: 16 threads of block 0 in __shfl_xor_sync with mask 0xffffffff of warp 0 at "
    f"{place('deadlock, of 16 threads')}; 48 threads of block 0 in __syncthreads at {place('deadlock')}",
    "deadlock_of_masks": f"deadlock: 8 threads of block 0 in __syncwarp with mask 0x800000ff of warp 0 at "
    f"{place('deadlock_of_masks')}; 8 threads of block 0 in __syncwarp with mask 0x8000ff00 of warp 0 at "
    f"{place('deadlock_of_masks')}; 16 threads of block 0 in __syncthreads at ",
    "divergent_barrier": f"divergent barrier: block 0 thread 1 in __syncthreads at {place('divergent_barrier, odd')}, "
    f"block 0 thread 0 in __syncthreads at {place('divergent_barrier, even')}",
    "divergent_form": "divergent barrier: block 0 thread 32 in __syncthreads_or",
    "partial_exit": "barrier after a partial exit: block 0 thread 5 has ended, 5 threads of its block wait in "
    f"__syncthreads at {place('partial_exit')}",
    "first_exits": f"barrier after a partial exit: block 0 thread 1 in __syncthreads at {place('first_exits')}, "
    "1 threads of its block have ended",
    "abandoned_frames": "barrier after a partial exit: block 0 thread 63 has ended, 63 threads",
    "not_in_mask": "lane not in its own mask: block 0 thread 31 in __syncwarp with mask 0x7fffffff at "
    f"{place('not_in_mask')}",
    "masks_differ": "divergent collective: block 0 thread 3 in __ballot_sync with mask 0xffffffff at "
    f"{place('masks_differ')}",
    "operations_differ": "divergent collective: block 0 thread 1 in __all_sync with mask 0xffffffff at "
    f"{place('operations_differ')}",
    "types_differ": f"divergent collective: block 0 thread 1 in __shfl_sync with mask 0xffffffff at {place('types_differ')}",
    "absent_source": "shuffle from lane 16, which takes no part: block 0 thread 15 in __shfl_down_sync with mask "
    f"0x0000ffff at {place('absent_source')}",
    "ended_source": f"shuffle from lane 16, which takes no part: block 0 thread 32 in __shfl_xor_sync with mask "
    f"0xffffffff at {place('ended_source')}",
    "bad_width": "shuffle of width 12, not a power of two up to 32: block 0 thread 0 in __shfl_sync with mask "
    f"0xffffffff at {place('bad_width')}",
    "livelock": f"livelock: atomics and fences change nothing any more, block 0 thread 31 at {place('livelock')}; ",
    "misaligned_atomic": f"misaligned atomic: block 0 thread 0 at {place('misaligned_atomic')}",
    "too_much_shared": "shared memory: `rest` makes it 49156 bytes, with 0 dynamic ones beside",
    "unsupported_selector": f"unsupported: __byte_perm with a selector above 7 at {place('unsupported_selector')}",
    "thrown": "exception: forty; thrown by block 0 thread 40",
    "nested_launch": "launch: inner from within a kernel",
    "block_too_large": "launch: a block has 1 to 1024 threads, got 64 x 32 x 1",
    "empty_grid": "launch: the grid must lie in",
}
OVERRUNS = {"shared_overrun": (1, "row"), "dynamic_overrun": (0, "tail")}


@pytest.mark.parametrize("name", ERRORS)
def test_mistakes_are_reported(simt, name):
    with pytest.raises(RuntimeError, match="^" + re.escape(f"{name}: {ERRORS[name]}")):
        getattr(simt, name)()
    assert simt.last_error().startswith(f"{name}: ")
    simt.touch_stacks()  # nothing of it stays behind
    simt.barrier_votes(128, np.ones(128, np.int32), np.zeros(3 * 128, np.int32))
    assert simt.last_error() == ""


@pytest.mark.parametrize("name", OVERRUNS)
def test_overruns_of_shared_memory(simt, kind, name):
    if kind == "asan":
        pytest.skip("ends the process: test_asan_names_the_line")
    block, array = OVERRUNS[name]
    wanted = {
        "plain": f"^{name}: out of bounds: block {block} has written to shared memory behind `{array}`",
        "race": rf"^{name}: out of bounds: write .* at {place(name)}.*{array}",
    }
    with pytest.raises(RuntimeError, match=wanted[kind]):
        getattr(simt, name)()


@not_in_asan
@pytest.mark.parametrize(
    "variable, text", [("SIMT_SCHEDULE", "sideways"), ("SIMT_RESIDENT", "0"), ("SIMT_PREEMPT", "x")]
)
def test_the_environment_is_checked(variable, text):
    path = build.library("plain", SOURCES, build.CACHE)
    code = f"import ctypes; f = ctypes.CDLL({str(path)!r}).thrown; f.restype = ctypes.c_char_p; print(f())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, variable: text}, capture_output=True, text=True
    )
    assert f"thrown: {variable}: must be" in done.stdout


NOT_CUDA_HERE = [
    "__activemask();",
    "__shared__ int x;",
    "__ldg(&global);",
    "__expf(1.0f);",
    "__nanosleep(5);",
    "__syncwarp(1, 2);",
    "__shfl(1, 2);",
    "struct Pair { int a, b; }; __shfl_sync(~0u, Pair{}, 0);",
    "atomicXor(&counter, 1u);",
    "atomicAdd(&signed_long, 1ll);",  # CUDA has no such overload either
    "atomicAdd(&narrow, 1);",
    "min(1, 2l);",
    "struct Built { int x = 3; }; DLM_SHARED(Built, built);",
    "asm volatile(\"membar.gl;\"); __threadfence_system();",
]  # fmt: skip


@not_in_asan
@pytest.mark.parametrize("statement", ["__syncwarp();", *NOT_CUDA_HERE])
def test_what_is_not_there_does_not_compile(tmp_path, statement):
    source = tmp_path / "kernel.cu"
    names = "unsigned counter; long long signed_long; short narrow; int global;"
    source.write_text(f"#include <simt/simt.h>\n{names}\n__global__ void kernel() {{ {statement} }}\n")
    command = [
        build.COMPILER,
        "-std=c++17",
        "-fsyntax-only",
        "-I",
        str(KERNELS.parent / "include"),
        "-x",
        "c++",
        source,
    ]
    failed = subprocess.run(command, capture_output=True).returncode != 0
    assert failed == (statement != "__syncwarp();")


# ---- the other builds ----------------------------------------------------------------------------------------------


@not_in_asan
def test_under_asan(tmp_path):
    """All of this file again, in a process that has AddressSanitizer loaded."""
    command = [sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-q", __file__]
    environment = {**os.environ, **build.asan_environment(tmp_path), "SIMT_TEST_KINDS": "asan"}
    build.library("asan", SOURCES, build.CACHE)  # the compiler should not run under it
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    logs = "".join(path.read_text() for path in tmp_path.glob("asan*"))
    assert done.returncode == 0 and not logs, logs + done.stdout + done.stderr


@not_in_asan
@pytest.mark.parametrize("name", OVERRUNS)
def test_asan_names_the_line(tmp_path, name):
    path = build.library("asan", SOURCES, build.CACHE)
    code = f"import ctypes; ctypes.CDLL({str(path)!r}).{name}()"
    environment = {**os.environ, **build.asan_environment(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    (log,) = (path.read_text() for path in tmp_path.glob("asan*"))
    assert done.returncode != 0
    assert "use-after-poison" in log and place(name) in log


@not_in_asan
def test_ucontext_switches_as_well(tmp_path):
    simt = Library(build.library("plain", SOURCES, build.CACHE, defines=["SIMT_UCONTEXT"]))
    out = np.zeros(1, np.uint32)
    simt.last_block_sums(3, 64, np.zeros(1, np.uint32), np.zeros(3, np.uint32), out)
    assert out[0] == sum(t + b for t in range(64) for b in range(3))
    with pytest.raises(RuntimeError, match="deadlock"):
        simt.deadlock()


@not_in_asan
def test_coverage_counts_the_lines_of_kernels(tmp_path):
    simt = Library(build.library("coverage", [KERNELS / "blocks.cu"], tmp_path))
    arrays = [np.zeros(n, np.uint32) for n in (1, 3, 1)]
    for _ in range(2):
        simt.last_block_sums(3, 64, *arrays)
        counts = coverage.lines(tmp_path, KERNELS, simt.cdll)["blocks.cu"]
    source = (KERNELS / "blocks.cu").read_text().splitlines()
    times = {text.strip(): counts[i] for i, text in enumerate(source, 1) if i in counts}
    assert times["atomicAdd(&sum, threadIdx.x + blockIdx.x);"] == 2 * 3 * 64
    assert times["partial[blockIdx.x] = sum;"] == 2 * 3
    assert times["*out = all;"] == 2
    assert times["in[b] = b + 1;"] == 0
    assert re.match(r"blocks\.cu +\d+/\d+ +\d+\.\d%  \d+", coverage.table({"blocks.cu": counts}))
    coverage.reset(tmp_path)
    assert coverage.lines(tmp_path, KERNELS) == {}
