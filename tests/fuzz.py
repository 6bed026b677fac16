"""Fuzz of the op layer: calls with random arguments, legal and not, of ``torch.ops.dlm_kernels`` and of the Python functions.

    python tests/fuzz.py --seconds 300 --seed 7             the installed build
    python tests/fuzz.py --seconds 300 --seed 7 --asan      a build under AddressSanitizer and UBSan, made first
    python tests/fuzz.py --seed 7 --case 1234               one case again, as a failure prints it

What must hold: no crash and no sanitizer report. A call that is rejected raises ValueError or TypeError with "argument: rule, got
value", of an argument that the call has, and has not written a byte. (What torch itself raises, before an op sees its arguments,
may be a RuntimeError.) A call that goes through has written nothing but the arguments that its schema or docstring says, nothing
between their elements, and of the canvas nothing that is frozen or outside the window. The ops reject what the reference
rejects, in the same words. Cases run in a process of their own: a crash or a hang is a failure like any other.
"""

import argparse
import copy
import mmap
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import fuzz_calls as calls
import torch

import dlm_kernels as dlm
from dlm_kernels import _load, _ops, calling, reference

HERE = Path(__file__).parent
SCRIPT = str(HERE / "fuzz.py")  # what the process that runs the cases runs
HANG = 120  # seconds that no case needs


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asan", action="store_true", help="build and run under AddressSanitizer and UBSan")
    parser.add_argument("--only", help="one op or function")
    parser.add_argument("--case", type=int, help="run this case alone, and say what it is")
    parser.add_argument("--failures", type=int, default=1, help="stop after so many")
    parser.add_argument("--progress", help=argparse.SUPPRESS)  # of the process that runs the cases
    args = parser.parse_args(argv)
    return run_cases(args) if args.progress else watch(args)


# ---- the process that watches --------------------------------------------------------------------------------------


def watch(args):
    """Runs the cases in another process, and says which case ended that, if one did."""
    environment, logs = dict(os.environ), Path(tempfile.mkdtemp())
    if args.asan:
        import sanitized

        environment |= sanitized.asan_environment(logs)
    progress = logs / "progress"
    progress.write_bytes(bytes(8))
    command = [sys.executable, SCRIPT, *sys.argv[1:], "--progress", str(progress)]
    child, last, since = subprocess.Popen(command, env=environment), None, time.monotonic()
    while child.poll() is None:
        time.sleep(0.1)
        now = progress.read_bytes()
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > HANG:
            child.send_signal(signal.SIGABRT)
            child.wait()
    (case,) = struct.unpack("q", progress.read_bytes())
    reports = [path.read_text() for path in sorted(logs.iterdir()) if path != progress]
    reports = [text for text in reports if "ERROR" in text or "runtime error" in text]  # not: more than memory has
    if child.returncode not in (0, 1) or reports:
        print(*reports, sep="\n")
        print(f"FAILED: the process ended with {child.returncode} in\n    {again(args, case)}")
        return 1
    return child.returncode


def again(args, case):
    only = f" --only {args.only}" if args.only else ""
    return f"python tests/fuzz.py --seed {args.seed}{only} --case {case}" + (" --asan" if args.asan else "")


# ---- the process that runs -----------------------------------------------------------------------------------------


def run_cases(args):
    warnings.simplefilter("ignore")
    with open(args.progress, "r+b") as file:
        progress = mmap.mmap(file.fileno(), 8)
    counts, failures, begun = Counter(), 0, time.monotonic()
    cases = iter(range(1 << 62)) if args.case is None else iter([args.case])
    for case in cases:
        if args.case is None and time.monotonic() - begun > args.seconds:
            break
        progress[:] = struct.pack("q", case)
        torch.set_num_threads(1 + case % 2)
        if _load.cpu_isas():  # other builds and machines have others, and the same cases
            _load.set_cpu_isa(random.Random(case).choice(_load.cpu_isas()))
        call = Call(random.Random(f"{args.seed}/{case}"), args.only)
        if args.case is not None:
            print(call, flush=True)
        try:
            verdict = call.run()
        except Exception as problem:
            failures += 1
            verdict = "failed"
            print(f"FAILED: {again(args, case)}\n{call}\n{''.join(traceback.format_exception(problem))}", flush=True)
        counts[call.layer, call.name, verdict] += 1
        if failures >= args.failures:
            break
    print(figures(counts, time.monotonic() - begun))
    return 1 if failures else 0


def figures(counts, seconds):
    lines = [f"{'':12}{'':22}{'calls':>9}{'done':>9}{'rejected':>9}{'by torch':>9}{'failed':>9}"]
    kinds = ("done", "rejected", "by torch", "failed")
    row = lambda layer, name, numbers: f"{layer:12}{name:22}{sum(numbers):9}" + "".join(f"{n:9}" for n in numbers)
    for layer, name in sorted({key[:2] for key in counts}):
        lines.append(row(layer, name, [counts[layer, name, kind] for kind in kinds]))
    total = [sum(n for key, n in counts.items() if key[2] == kind) for kind in kinds]
    return "\n".join([*lines, row("", "all", total), f"{seconds:.0f} s"])


class WrongBehaviour(Exception):
    """What a call must not do."""


class Call:
    """One random call, and the judgement of what it does."""

    def __init__(self, chance, only=None):
        self.layer, self.name = chance.choice([t for t in calls.TARGETS if only in (None, t[1])])
        self.arguments, self.names, made = calls.call_of(self.layer, self.name, chance)
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            calls.spoil(chance, self.arguments, self.names, made)
        self.compared = self.layer == "op" and chance.random() < 0.5 and calls.is_plain(self.name, self.arguments)

    def __str__(self):
        lines = [f"{name} = {_text(value)}" for name, value in self.arguments.items()]
        return "\n    ".join([f"{self.layer} {self.name}", *lines])

    def run(self):
        """The verdict, or WrongBehaviour."""
        others = copy.deepcopy(self.arguments) if self.compared else None
        memory = Memory(self.arguments)
        function = getattr(_ops, self.name) if self.layer == "op" else calls.FUNCTIONS[self.name]
        try:
            out = function(**self.arguments)
        except Exception as raised:
            # of the op itself: the kind and the text that its error has
            error = calling.public_error(raised) if self.layer == "op" else raised
            checked = self.arguments.get("check") is True and "got a bad one at" in str(error)
            written = [(p, None) for p in calls.tensors_in(self.arguments.get("probs")) if checked]
            memory.must_be(written, untouched=True)  # probs are written before check looks at the rows
            if _is_torchs_own(self.name if self.layer == "op" else None, error):
                return "by torch"
            self._must_name_an_argument(error)
            said = f"{type(error).__name__}: {error}"
        else:
            memory.must_be(self._written())
            said = [(t.dtype, t.shape) for t in out] if self.layer == "op" else None
        if self.compared:
            self._must_agree(said, others)
        return "rejected" if isinstance(said, str) else "done"

    def _must_name_an_argument(self, error):
        allowed = {*self.names, *(calls.INNER_NAMES if self.layer == "function" else ())}
        found = re.match(r"([\w ]+): .*\S, got ", str(error), re.DOTALL)
        if not isinstance(error, (ValueError, TypeError)) or found is None or found[1] not in allowed:
            raise WrongBehaviour("an error that names no argument") from error

    def _written(self):
        """[(tensor, which of its elements may have changed, or None for all)] of a call that went through."""
        if self.layer == "op":
            written = [n for n, a in calls.schema_of(self.name).items() if a.alias_info and a.alias_info.is_write]
        else:
            written = calls.WRITTEN if self.name.endswith("_") else ()
        a = self.arguments
        views = [(t, None) for name in written if name != "x" for t in calls.tensors_in(a.get(name))]
        if "x" in written and (self.layer == "function" or calls.is_plain(self.name, a)):
            start, stop = a.get("window") or (a.get("window_start") or 0, a.get("window_stop", -1))
            may = torch.ones_like(a["x"], dtype=torch.bool)
            may[:, :start] = False
            if stop is not None and stop != -1:
                may[:, stop:] = False
            views.append((a["x"], may if a.get("frozen") is None else may & ~(a["frozen"].view(torch.uint8) != 0)))
        elif "x" in written:
            views.append((a["x"], None))
        return [(view, may) for view, may in views if view.device.type == "cpu"]

    def _must_agree(self, said, others):
        try:
            out = getattr(reference, self.name)(**others)
            reference_said = [(t.dtype, t.shape) for t in out]
        except Exception as error:
            reference_said = f"{type(error).__name__}: {error}"
        if _common(said) != _common(reference_said):
            raise WrongBehaviour(f"the op: {said}\nthe reference: {reference_said}")


class Memory:
    """What all the memory behind some arguments held, and how long the histories of their traces were."""

    def __init__(self, arguments):
        tensors = [t for t in calls.tensors_in(arguments) if t.device.type == "cpu" and t.layout == torch.strided]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
        self._before = {pointer: (storage, _bytes(storage).clone()) for pointer, storage in storages.items()}
        self._traces = [(v, len(v.history)) for v in arguments.values() if isinstance(v, dlm.RevisionTrace)]

    def must_be(self, written=(), untouched=False):
        """As it was but for these elements of these tensors."""
        for pointer, (storage, before) in self._before.items():
            changed = _bytes(storage) != before
            for view, may in written:
                if view.untyped_storage().data_ptr() == pointer:
                    elements = torch.zeros(-(-len(before) // view.itemsize), dtype=torch.bool)
                    seen = elements.as_strided(view.shape, view.stride(), view.storage_offset())
                    seen.fill_(True) if may is None else seen.logical_or_(may)
                    changed &= ~elements.repeat_interleave(view.itemsize)[: len(before)]
            if bool(changed.any()):
                raise WrongBehaviour(f"wrote {int(changed.sum())} bytes that it must not write")
        if untouched and any(len(trace.history) != n for trace, n in self._traces):
            raise WrongBehaviour("the history of the trace has grown")


def _bytes(storage):
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _common(said):
    """The ops do not know the names of dtypes that nobody accepts."""
    return (
        re.sub("got (an unsupported dtype|u?int16|uint8|complex64)$", "got another", said)
        if isinstance(said, str)
        else said
    )


def _is_torchs_own(op, error):
    """Raised before the op saw its arguments, or by the allocator."""
    text = str(error)
    of_dispatcher = op is not None and text.startswith(f"dlm_kernels::{op}() ")
    return isinstance(error, RuntimeError) and (of_dispatcher or any(words in text for words in calls.TORCHS_OWN))


def _text(value):
    if not isinstance(value, torch.Tensor):
        inner = calls.tensors_in(value)
        return repr(value)[:100] if not inner else f"{type(value).__name__} of {', '.join(map(_text, inner))}"
    kind = f"{str(value.dtype)[6:]} {list(value.shape)} on {value.device}"
    if value.layout != torch.strided:
        return f"{kind}, {value.layout}"
    small = value.device.type == "cpu" and value.numel() <= 8
    return (
        f"{kind}, strides {value.stride()}" + (f", {value.tolist()}" if small else "") + ", grad" * value.requires_grad
    )


if __name__ == "__main__":
    raise SystemExit(main())
