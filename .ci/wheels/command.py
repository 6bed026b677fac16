"""Running other programs, and the one error that a person is to read."""

import shlex
import subprocess


class WheelError(Exception):
    """argument: rule, got value."""


def run(command, *, quiet=False, **kwargs):
    """Run a program; its output is shown, or returned if ``quiet``. WheelError with its last lines if it fails."""
    command = [str(word) for word in command]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}
    done = subprocess.run(command, text=True, **output, **kwargs)
    if done.returncode != 0:
        last = "\n".join((done.stdout or "its output is above").strip().splitlines()[-20:])
        raise WheelError(f"failed: {shlex.join(command)}\n{last}")
    return done.stdout
