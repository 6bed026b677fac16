"""``python -m dlm_kernels info``: what was built, for what, and what is here. Paste it into an issue."""

from __future__ import annotations

import json
import os
import platform

from ._version import __version__


def collect() -> dict:
    """Versions, backends and the reason for every one that is missing. Never raises."""
    facts = {
        "dlm_kernels": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("DLM_KERNELS_")},
    }
    facts["built"] = _or_error(_built)
    facts["torch"] = _or_error(_torch)
    facts["driver"] = _or_error(_driver)
    facts["backends"] = _or_error(_backends)
    facts["numpy_entry"] = _or_error(_numpy_entry)
    return facts


def _or_error(probe):
    try:
        return probe()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _cpu_model():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _built():
    from . import _load

    return _load.build_info()


def _torch():
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads(), "gpus": gpus}


def _driver():
    from . import _load

    return _load.cuda_driver() or {"version": None}


def _backends():
    from . import _load

    loaded = _load.load()
    native = loaded.backend == "cpu"
    out = {
        "cpu": {"runs_on": "native" if native else "reference", "isa": _load.cpu_isa(), "isas": _load.cpu_isas()},
        "cuda": {"runs_on": "native"},
    }
    why = _load.why_not_cuda()
    if why:
        out["cuda"] = {"runs_on": "reference", "why": why}
    if loaded.error is not None:
        out["cpu"]["why"] = str(loaded.error)
    return out


def _numpy_entry():
    from .array import _array

    return {"module": _array.__name__, "loaded": True}


def add_arguments(parser):
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def main(args) -> int:
    facts = collect()
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        if isinstance(value, dict):
            print(name)
            for key, item in value.items():
                print(f"  {key:<16} {item}")
        else:
            print(f"{name:<18} {value}")
    return 0
