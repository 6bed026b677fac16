"""Fixtures and the Hypothesis profile: fixed examples, so that a run is repeatable and CI says what a desk says.

``pytest --hypothesis-profile=explore`` draws new examples every time.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # tests import helpers.py and strategies.py, installed or not

import backends
import core

COMMON = dict(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("fixed", derandomize=True, max_examples=60, **COMMON)
settings.register_profile("explore", max_examples=500, **COMMON)
settings.register_profile("brief", derandomize=True, max_examples=15, **COMMON)  # where each example is dear
settings.load_profile("fixed")

torch.set_num_threads(1)  # small tensors, small machines; tests of thread counts set their own


def pytest_generate_tests(metafunc):
    for name, values in (("isa", backends.isas), ("backend", backends.names)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values(), indirect=True)


def pytest_collection_modifyitems(items):
    """The longest first: what ends a run is then short, and ends on every core at once."""
    items.sort(key=lambda item: item.path.name != "test_simt_sanitizers.py")


def pytest_terminal_summary(terminalreporter):
    """What tests found out about the kernels without failing: registers, and lines that the SIMT runs went through."""
    build = Path(__file__).parent.parent / "build"
    reports = {
        "test_cuda_build.py": build / "registers.txt",
        "test_simt_sanitizers.py": build / "simt" / "coverage.txt",
    }
    ran = {Path(str(r.nodeid).split("::")[0]).name for r in terminalreporter.stats.get("passed", [])}
    for file, report in reports.items():
        if file in ran and report.exists():
            terminalreporter.section(f"{report.stem} of the CUDA sources")
            terminalreporter.write_line(report.read_text())


@pytest.fixture
def isa(request):
    """Every instruction set this machine can run, emulated ones included: the test runs once for each."""
    with backends.using_isa(request.param):
        yield request.param


@pytest.fixture
def backend(request):
    """Every backend this machine can run (backends.py): the test runs once for each."""
    with backends.using_backend(request.param):
        yield request.param


@pytest.fixture(scope="session", params=["plain", "ubsan"])
def core_library(request, tmp_path_factory):
    """csrc/core behind ctypes, compiled for the test; None where there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    return core.build(compiler, tmp_path_factory.mktemp(f"core_{request.param}"), request.param == "ubsan")


@pytest.fixture
def native_core(core_library, capfd):
    """``core_library``, failing if the undefined-behaviour sanitizer had something to say."""
    capfd.readouterr()
    yield core_library
    assert "runtime error" not in capfd.readouterr().err


@pytest.fixture
def checkout_root():
    """checkout_root(NAME) -> the folder in DLM_KERNELS_CHECKOUT_NAME."""

    def root(name):
        found = os.environ.get(f"DLM_KERNELS_CHECKOUT_{name}")
        if found is None:
            pytest.skip(f"DLM_KERNELS_CHECKOUT_{name} names no checkout")
        return Path(found)

    return root


@pytest.fixture
def checkout(checkout_root):
    """checkout(NAME, file, package=..., absent=...) -> a module of the codebase below DLM_KERNELS_CHECKOUT_NAME, in its package,
    its folder on the path, with stand-ins for its ``absent`` imports."""
    before, known, roots = list(sys.path), set(sys.modules), []

    def load(name, file, package="", absent=()):
        root = checkout_root(name)
        path = root / file
        roots.append(str(root))
        sys.path.insert(0, str(path.parent))
        for missing in absent:
            sys.modules.setdefault(missing, mock.MagicMock(__path__=[]))
        names = package.split(".") if package else []
        for depth in range(len(names)):  # packages whose __init__ is not run: it imports all of the codebase
            parent = types.ModuleType(".".join(names[: depth + 1]))
            parent.__path__ = [str(path.parents[len(names) - 1 - depth])]
            sys.modules[parent.__name__] = parent
        spec = importlib.util.spec_from_file_location(".".join([*names, path.stem]), path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    sys.path[:] = before
    for name in set(sys.modules) - known:
        module = sys.modules[name]
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
        if isinstance(module, mock.MagicMock) or any(str(place).startswith(tuple(roots)) for place in places):
            del sys.modules[name]


@pytest.fixture
def run_python(tmp_path):
    """run_python(code, **env) -> CompletedProcess of a fresh interpreter: what an import does can only be seen there.

    It runs in an empty folder, so that the source tree does not stand in for the installed package.
    """

    def run(code, check=True, **env):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run
