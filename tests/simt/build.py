"""Compiles .cu sources with the SIMT runtime into a shared library, in one of four kinds, and remembers what it compiled."""

import fcntl
import hashlib
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / "build" / "simt"  # a folder for what is built, kept between runs
COMPILER = "g++"
COMMON = (
    *("-std=c++17", "-g1", "-fPIC", "-fvisibility=hidden", "-ftls-model=initial-exec", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas"),
)
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")
# The kernels' flags. The race build is not linked to libtsan: race*.cpp are what its instrumentation calls.
KERNELS = {
    # What is never written is the race build's to find: compilers later than ours take the sweep's sums for that.
    "plain": ("-O2", "-Werror", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
    "asan": ("-O2", *SANITIZERS),
    "race": ("-O2", "-fsanitize=thread", "--param", "tsan-distinguish-volatile=1"),
    "coverage": ("-O1", "--coverage"),
}
RUNTIME = {
    "plain": ("-O2",),
    "asan": ("-O2", "-DSIMT_ASAN"),
    "race": ("-O2",),
    "coverage": ("-O2", "-DSIMT_COVERAGE"),
}
LINK = {"plain": (), "asan": SANITIZERS, "race": ("-ldl",), "coverage": ("--coverage",)}


class BuildError(Exception):
    """What the compiler said."""


def library(kind, sources, folder, *, includes=(), defines=(), libraries=()):
    """Path of a library of the runtime and ``sources``, built in ``folder`` unless it is there and up to date."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    runtime = [p for p in sorted((HERE / "src").glob("*.cpp")) if kind == "race" or not p.name.startswith("race")]
    defines = [f"-D{d}" for d in ("DLM_SIMT", 'DLM_SIMT_HEADER="simt/simt.h"', *defines)]
    headers = [part for path in (HERE / "include", *includes) for part in ("-I", str(path))]
    jobs = [(path, (*COMMON, *RUNTIME[kind], *defines)) for path in runtime]
    jobs += [(Path(path).resolve(), (*COMMON, *KERNELS[kind], *defines, *headers)) for path in sources]
    with (folder / "lock").open("w") as lock, ThreadPoolExecutor(2) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        objects = list(pool.map(lambda job: _compile(*job, folder, kind), jobs))
        target = folder / f"libsimt_{kind}-{_digest(*map(str, objects))[:12]}.so"
        link = (COMPILER, "-shared", "-Wl,-z,defs", *map(str, objects), *LINK[kind], *map(str, libraries))
        stamp = _digest(*link, *(path.read_bytes() for path in objects))
        made = target.with_suffix(".made")
        if not (target.exists() and made.exists() and made.read_text() == stamp):
            _run(*link, "-o", str(target))
            made.write_text(stamp)
    return target


def shared_object(source, flags, libraries, folder):
    """Path of a library of one ordinary source, with nothing of the runtime."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = _compile(Path(source).resolve(), tuple(flags), folder, "host")
        target = made.with_name(f"lib{made.stem}-{_digest(*map(str, libraries))[:8]}.so")
        if not target.exists() or target.stat().st_mtime < made.stat().st_mtime:
            _run(COMPILER, "-shared", str(made), *libraries, "-o", str(target))
    return target


def asan_environment(log_folder):
    """For a Python process that loads a library of kind asan. Reports go to files asan.<pid> in ``log_folder``."""
    # libstdc++ as well: ASan looks for __cxa_throw once, before Python has loaded any C++.
    preload = (_run(COMPILER, f"-print-file-name={name}").strip() for name in ("libasan.so", "libstdc++.so"))
    options = f"log_path={Path(log_folder) / 'asan'}"
    return {
        "LD_PRELOAD": " ".join(str(Path(path).resolve()) for path in preload),
        "ASAN_OPTIONS": f"detect_leaks=0:{options}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{options}",
    }


def _compile(source, flags, folder, kind):
    """The object of a source. Beside it lies what it was made from: the flags, and every file read, by content."""
    output = folder / f"{source.stem}-{kind}-{_digest(str(source), *flags)[:12]}.o"
    made, read = output.with_suffix(".made"), output.with_suffix(".d")
    if made.exists() and output.exists() and made.read_text() == _contents(read):
        return output
    for stale in (made, output.with_suffix(".gcda")):
        stale.unlink(missing_ok=True)
    started = time.time()
    _run(COMPILER, *flags, "-MD", "-MF", str(read), "-c", "-x", "c++", str(source), "-o", str(output))
    if all(path.stat().st_mtime < started for path in _files(read)):  # or else it was edited in the meantime
        made.write_text(_contents(read))
    return output


def _files(read):
    """Those that a make rule names."""
    return [Path(path) for path in read.read_text().replace("\\\n", " ").split(":", 1)[1].split()]


def _contents(read):
    return "\n".join(f"{path} {_digest(path.read_bytes()) if path.exists() else None}" for path in _files(read))


def _digest(*parts):
    return hashlib.sha256(b"\0".join(p if isinstance(p, bytes) else p.encode() for p in parts)).hexdigest()


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout
