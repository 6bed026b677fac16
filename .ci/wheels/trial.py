"""A wheel in a fresh environment outside the source, beside a torch of one's choice."""

import tempfile
from pathlib import Path

from .command import run

SMOKE = Path(__file__).with_name("smoke.py")


def run_beside(torch, wheel, python):
    """Install both for ``python`` in a new folder, run smoke.py there, and throw it away. Returns what it printed."""
    with tempfile.TemporaryDirectory(prefix="dlm_kernels-") as folder:
        run([python.executable, "-m", "venv", f"{folder}/env"])
        there = Path(folder) / "env" / "bin" / "python"
        # torch first, as its users have it; its own numpy warning is not ours.
        run([there, "-m", "pip", "install", "--quiet", f"torch=={torch}"], quiet=True)
        run([there, "-m", "pip", "install", "--quiet", wheel.resolve()], quiet=True)
        return run([there, SMOKE], quiet=True, cwd=folder).strip()
