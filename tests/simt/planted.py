"""Runs the kernels of planted_bugs.cu, correct or with a bug, each case in a process of its own, since some crash.

``python planted.py LIBRARY`` reads a JSON list of cases from stdin and writes what went wrong in each, or null.
"""

import ctypes
import json
import os
import random
import re
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

SOURCE = Path(__file__).parent / "kernels" / "planted_bugs.cu"
BUGS = re.findall(r"BUG\((\w+), (\w+)\) *\\?$", SOURCE.read_text(), re.MULTILINE)  # (kernel, name), from 1 up
TIMEOUT = 60


class Schedule(NamedTuple):
    order: int = 0  # forward, reverse, random
    seed: int = 0
    resident_blocks: int = 1
    preempt: bool = False


class Case(NamedTuple):
    kernel: str
    bug: int  # 0 is the correct kernel
    schedules: list  # one run each
    shapes: int | None = None  # the seed of random shapes; None is the shape that shows every bug of the kernel


class Device:
    """A library, and exact allocations for its kernels: a byte beyond them belongs to nobody."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self._libc = ctypes.CDLL(None)
        self._libc.malloc.restype = ctypes.c_void_p
        self._libc.malloc.argtypes = [ctypes.c_size_t]
        self._libc.free.argtypes = [ctypes.c_void_p]
        self._held = []

    def array(self, name, values, dtype):
        values = np.ascontiguousarray(values, dtype)
        at = self._libc.malloc(max(1, values.nbytes))
        self._held.append(at)
        out = np.frombuffer((ctypes.c_byte * values.nbytes).from_address(at), dtype)
        out[:] = values.ravel()
        if hasattr(self.library, "simt_register"):  # the race build
            self.library.simt_register(ctypes.c_void_p(at), ctypes.c_size_t(values.nbytes), name.encode())
        return out

    def free(self):
        if hasattr(self.library, "simt_unregister_all"):
            self.library.simt_unregister_all()
        for at in self._held:
            self._libc.free(at)
        self._held.clear()

    def run(self, kernel, *arguments):
        function = getattr(self.library, f"planted_{kernel}")
        function.restype = ctypes.c_char_p
        error = function(*(ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments))
        if error is not None:
            raise AssertionError(error.decode())


def expect(name, got, want):
    want = np.asarray(want).ravel()
    if not np.array_equal(got, want):
        at = int(np.flatnonzero(got != want)[0])
        raise AssertionError(f"wrong value: {name}[{at}] is {got[at]}, not {want[at]}")


def row_sums(device, bug, draw):
    rows, width, splits = draw((1, 3), 3), draw((1, 1500), 801), draw((1, 9), 9)
    values = np.random.default_rng(draw((0, 99), 0)).integers(-9, 9, (rows, width))
    array = device.array("values", values, np.int32)
    arrived = device.array("arrived", np.zeros(rows), np.uint32)
    for _ in range(2):  # a counter that is not reset shows at the second launch
        partials = device.array("partials", np.full((rows, splits), -(2**40)), np.int64)
        sums = device.array("sums", np.full(rows, -(2**40)), np.int64)
        device.run("row_sums", bug, array, rows, width, splits, partials, arrived, sums)
        expect("sums", sums, values.sum(1))


def block_scan(device, bug, draw):
    values = np.random.default_rng(draw((0, 99), 0)).integers(1, 9, draw((1, 300), 128))
    sums = device.array("sums", np.full(values.size, -1), np.int32)
    device.run("block_scan", bug, device.array("values", values, np.int32), values.size, sums)
    expect("sums", sums, np.cumsum(values) - values)


def warp_reverse(device, bug, draw):
    count = draw((1, 2000), 1000)
    reversed_ = device.array("reversed", np.full(count, -1), np.int32)
    values = device.array("values", np.arange(count), np.int32)
    device.run("warp_reverse", bug, values, count, draw((1, 4), 2), reversed_)
    expect("reversed", reversed_, np.concatenate([values[i : i + 32][::-1] for i in range(0, count, 32)]))


def warp_relay(device, bug, draw):
    values = np.arange(32 * draw((1, 5), 2)).reshape(-1, 32)
    relayed = device.array("relayed", np.full(values.size, -1), np.float64)
    device.run("warp_relay", bug, device.array("values", values, np.int32), len(values), relayed)
    expect("relayed", relayed, (values + np.arange(1, 33))[:, np.arange(32) ^ 15])


def swap_pairs(device, bug, draw):
    values = np.arange(8 * draw((1, 600), 500)).reshape(-1, 4)
    swapped = device.array("swapped", np.full(values.size, -1), np.int32)
    device.run("swap_pairs", bug, device.array("values", values, np.int32), len(values), draw((1, 3), 2), swapped)
    expect("swapped", swapped, values[np.arange(len(values)) ^ 1])


def histogram(device, bug, draw):
    values = np.random.default_rng(draw((0, 99), 0)).integers(0, 200, draw((1, 3000), 3000))
    counts = device.array("counts", np.zeros(200), np.uint32)
    device.run("histogram", bug, device.array("values", values, np.uint8), values.size, draw((1, 4), 3), counts)
    expect("counts", counts, np.bincount(values, minlength=200))


def wide_sums(device, bug, draw):
    rng = np.random.default_rng(draw((0, 99), 0))
    values = rng.integers(2**30, 2**40, draw((1, 3000), 3000)).astype(np.uint64)
    sums, shares = device.array("sums", np.zeros(64), np.uint64), device.array("shares", np.zeros(128), np.int32)
    device.run("wide_sums", bug, device.array("values", values, np.uint64), values.size, sums, shares)
    want = np.zeros(64, np.uint64)
    np.add.at(want, (values % np.uint64(64)).astype(np.int64), values)
    expect("sums", sums, want)
    expect("shares", shares, (values.size - np.arange(128) + 127) // 128)


def bitonic_sort(device, bug, draw):
    blocks = draw((1, 3), 2)
    values = np.random.default_rng(draw((0, 99), 0)).integers(0, 999, (blocks, 256))
    keys = device.array("keys", values, np.int32)
    device.run("bitonic_sort", bug, keys, blocks)
    expect("keys", keys, np.sort(values, 1))


def compact(device, bug, draw):
    flags = np.random.default_rng(draw((0, 99), 0)).integers(0, 2, draw((1, 600), 300))
    flags[: draw((0, 64), 64)] = 0
    wanted = np.flatnonzero(flags)
    indices = device.array("indices", np.full(wanted.size, -1), np.int32)
    found = device.array("found", [-1], np.int32)
    device.run("compact", bug, device.array("flags", flags, np.uint8), flags.size, indices, found)
    expect("found", found, [wanted.size])
    expect("indices", indices, wanted)


def chained_scan(device, bug, draw):
    blocks = draw((1, 6), 5)
    values = np.random.default_rng(draw((0, 99), 0)).integers(1, 9, 128 * blocks)
    sums = device.array("sums", np.full(values.size, -1), np.int32)
    state = device.array("state", np.zeros(1 + blocks), np.uint32)
    device.run("chained_scan", bug, device.array("values", values, np.int32), blocks, state, sums)
    expect("sums", sums, np.cumsum(values))


def moves(device, bug, draw):
    rng = np.random.default_rng(draw((0, 99), 0))
    rows, width = draw((1, 9), 5), draw((1, 700), 300)
    values, canvas = rng.integers(-9, 9, (rows, width)), 2 * rng.integers(0, width, rows)
    canvas[: draw((0, rows), 2)] += 1  # these move
    held, total = device.array("canvas", canvas, np.int32), device.array("total", [0], np.uint32)
    device.run("moves", bug, device.array("values", values, np.int32), rows, width, held, total)
    others = values.sum(1) - np.where(canvas < width, values[np.arange(rows), np.minimum(canvas, width - 1)], 0)
    expect("canvas", held, np.where(canvas % 2 == 0, canvas + 1, others))
    expect("total", total, [(canvas % 2).sum()])


KERNELS = {
    k.__name__: k
    for k in (
        row_sums,
        block_scan,
        warp_reverse,
        warp_relay,
        swap_pairs,
        histogram,
        wide_sums,
        bitonic_sort,
        compact,
        chained_scan,
        moves,
    )
}


def fault(device, case):
    """What goes wrong in the first of the case's runs in which something does."""
    rng = random.Random(case.shapes)
    draw = (lambda span, _: rng.randint(*span)) if case.shapes is not None else (lambda _, telling: telling)
    for schedule in map(Schedule._make, case.schedules):
        device.library.simt_set_schedule(schedule.order, ctypes.c_uint64(schedule.seed))
        device.library.simt_set_resident_blocks(schedule.resident_blocks)
        device.library.simt_set_preempt(schedule.preempt)
        try:
            KERNELS[case.kernel](device, case.bug, draw)
        except AssertionError as error:
            return str(error)
        finally:
            device.free()
    return None


def fault_in_child(device, case):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with open(f"stderr.{os.getpid()}", "w") as stderr:
            os.dup2(stderr.fileno(), 2)
        signal.alarm(TIMEOUT)
        os.write(writer, json.dumps(fault(device, case)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if said:
        return json.loads(said)
    # The current folder is also where the sanitizers' logs go.
    reports = "".join(path.read_text() for path in Path().glob(f"*.{child}"))
    report = re.search(r"(AddressSanitizer: .*?|runtime error: .*?)(?: on address .*)?$", reports, re.MULTILINE)
    return report[1] if report else f"crash: {signal.strsignal(status & 127)}"


if __name__ == "__main__":
    opened = Device(sys.argv[1])
    json.dump([fault_in_child(opened, Case._make(case)) for case in json.load(sys.stdin)], sys.stdout)
