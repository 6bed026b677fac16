"""What a number depends on: processor, memory, versions, allocator, load. No host names, no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

# Settings of glibc's malloc that keep large temporaries on the heap, so that torch pays its page faults once instead
# of at every call. The trim threshold keeps the heap from being given back in between.
ALLOCATORS = {
    "default": {},
    "tuned": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36)},
}
_ISA_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve")


def allocator_env(name: str, env: dict[str, str]) -> dict[str, str]:
    """Copy of `env` under which a child process runs with allocator `name`; "default" removes outside settings."""
    kept = {key: value for key, value in env.items() if not key.startswith("MALLOC_")}
    return {**kept, **ALLOCATORS[name]}


def allocator_name() -> str:
    """The allocator of this process: a key of ALLOCATORS, or "custom"."""
    settings = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")}
    return next((name for name, wanted in ALLOCATORS.items() if wanted == settings), "custom")


def describe(threads: int) -> dict:
    """The `env` of a result row."""
    import torch

    return {
        **_cpu(),
        "threads": threads,
        "memory_gib": _memory_gib(),
        "os": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dlm_kernels": _version(),
        "commit": _commit(),
        "backend": backend(),
        "allocator": allocator_name(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu() -> dict:
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    family = "/".join(fields[key] for key in ("cpu family", "model") if key in fields)
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cpu_family": family,
        "isa": [flag for flag in _ISA_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "cache": _caches(),
    }


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _version() -> str:
    from .._version import __version__

    return __version__


def _commit() -> str:
    """Commit of the checkout this file lies in, "+" if tracked files differ from it, "" outside a checkout. A script that
    built the package elsewhere says it in DLM_BENCH_COMMIT."""
    if "DLM_BENCH_COMMIT" in os.environ:
        return os.environ["DLM_BENCH_COMMIT"]
    root = Path(__file__).resolve().parents[1]
    if not (root / "csrc").is_dir():  # installed; a repository around it would be somebody else's
        return ""
    git = ("git", "-C", str(root))
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        if head.returncode:
            return ""
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def backend() -> str:
    """What `dlm_kernels` computes CPU tensors with here: "cpu (<isa>)", or "reference"."""
    from . import native

    return f"cpu ({native.current_isa()})" if native.available() else "reference"
