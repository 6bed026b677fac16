"""A short run of fuzz.py, and that it would notice. Minutes of it, under AddressSanitizer: docs/robustness.md."""

import random
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
import torch

import dlm_kernels as dlm

ROOT = Path(__file__).parent.parent


def test_random_calls():
    command = [sys.executable, "tests/fuzz.py", "--seconds", "8", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    calls, *kinds = (int(n) for n in done.stdout.split("\n")[-3].split()[1:])
    assert calls == sum(kinds) and min(kinds[:2]) > calls / 5  # many go through, many are rejected


def call_of(name, **arguments):
    """A Call with these arguments instead of random ones."""
    call = fuzz.Call(random.Random(0), name)
    call.layer, call.name, call.arguments, call.compared = "function", name, arguments, False
    call.names = fuzz.calls.names_of(name)
    return call


def a_step(**more):
    x, logits = torch.full((1, 4), 9), torch.zeros(1, 4, 9)
    return dict(x=x, logits=logits, mask_id=9, rule=dlm.TopK(2), **more)


@pytest.mark.parametrize(
    "does, problem",
    [
        (lambda x, **_: x.zero_(), "must not write"),  # what is frozen
        (lambda logits, **_: logits.zero_().add_(1), "must not write"),
        (lambda **_: 1 / 0, "names no argument"),
        (lambda **_: (_ for _ in ()).throw(ValueError("that is wrong")), "names no argument"),
        (lambda **_: (_ for _ in ()).throw(TypeError("somebody: must be else, got me")), "names no argument"),
    ],
)
def test_wrong_behaviour_is_noticed(monkeypatch, does, problem):
    call = call_of("denoise_step_", **a_step(frozen=torch.tensor([[True, False, False, False]])))
    assert call.run() == "done"
    monkeypatch.setitem(fuzz.calls.FUNCTIONS, "denoise_step_", does)
    with pytest.raises(fuzz.WrongBehaviour, match=problem):
        call.run()


def test_a_write_before_an_error_is_noticed(monkeypatch):
    def writes_and_raises(x, **_):
        x[0, 3] = 1
        raise ValueError("x: must be else, got this")

    call = call_of("denoise_step_", **a_step(temperature=-1.0))
    assert call.run() == "rejected"
    monkeypatch.setitem(fuzz.calls.FUNCTIONS, "denoise_step_", writes_and_raises)
    with pytest.raises(fuzz.WrongBehaviour, match="wrote 8 bytes|wrote [1-8] bytes"):
        call.run()


def test_a_crash_is_a_failure_with_its_case(tmp_path):
    """The process that runs the cases dies in the third one."""
    code = (
        "import sys, os, struct; sys.path.insert(0, 'tests'); import fuzz\n"
        "class Dies(fuzz.Call):\n"
        "    made = 0\n"
        "    def run(self):\n"
        "        Dies.made += 1\n"
        "        if Dies.made == 3: os.abort()\n"
        "        return 'done'\n"
        "fuzz.Call = Dies\n"
        "raise SystemExit(fuzz.main())\n"
    )
    program = tmp_path / "dies.py"
    program.write_text(code)
    script = "import sys, fuzz; fuzz.SCRIPT = sys.argv.pop(1); raise SystemExit(fuzz.main())"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tests'); {script}", str(program), "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "python tests/fuzz.py --seed 5 --case 2" in done.stdout, done.stdout + done.stderr
