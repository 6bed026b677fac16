"""Ops on both sides of a fork, and in spawned processes: fork_driver.py, in a process of its own."""

import subprocess
import sys
from pathlib import Path


def test_ops_in_workers():
    driver = Path(__file__).with_name("fork_driver.py")
    done = subprocess.run([sys.executable, driver], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("8 items alike\n")
