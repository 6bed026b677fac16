"""C++ users: what ``cmake --install --component cpp`` installs is enough to build examples/cpp and run it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dlm_kernels import _load

ROOT = Path(__file__).parent.parent
CMAKE = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))

pytestmark = pytest.mark.skipif(CMAKE is None or shutil.which("g++") is None, reason="needs cmake and g++")


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The prefix of an installation of the library that is under test here: configured anew, but not compiled again."""
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    built = _load.build_info()
    run(
        *(CMAKE, "-S", ROOT, "-B", build, "-DDLM_BUILD_TORCH=OFF", "-DDLM_BUILD_PYBIND=OFF"),
        *(f"-DDLM_VERSION={built['version']}", f"-DDLM_BUILD_CUDA={'ON' if 'cuda' in built['backends'] else 'OFF'}"),
    )
    shutil.copy(_load.library_path(), build / "libdlm_kernels.so")
    run(CMAKE, "--install", build, "--component", "cpp", "--prefix", prefix)
    return prefix


def test_the_example_builds_and_its_tokens_are_right(installed, tmp_path):
    run(CMAKE, "-S", ROOT / "examples" / "cpp", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={installed}")
    run(CMAKE, "--build", tmp_path)
    assert run(tmp_path / "denoise").splitlines()[0] == "cpu: -1 -1 20 30"


def test_only_the_plain_interface_is_installed(installed):
    headers = {path.relative_to(installed).as_posix() for path in installed.rglob("*.h")}
    assert headers == {f"include/dlm_kernels/{h}" for h in ("api.h", "core/dtype.h", "core/hd.h", "core/params.h")}
    assert len(list(installed.rglob("libdlm_kernels.so"))) == 1


def test_another_minor_version_is_not_taken(installed, tmp_path):
    """The C ABI is that of a minor version."""
    project = (
        "cmake_minimum_required(VERSION 3.22)\nproject(x LANGUAGES CXX)\nfind_package(dlm_kernels {} CONFIG REQUIRED)\n"
    )
    major, minor = _load.build_info()["version"].split(".")[:2]
    for version, found in ((f"{major}.{minor}", True), (f"{major}.{int(minor) + 1}", False)):
        (tmp_path / "CMakeLists.txt").write_text(project.format(version))
        command = [CMAKE, "-S", str(tmp_path), "-B", str(tmp_path / version), f"-DCMAKE_PREFIX_PATH={installed}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode == 0) == found, done.stderr
