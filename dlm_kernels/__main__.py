"""``python -m dlm_kernels info | demo | bench``."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

# Each names the module that adds its own arguments and runs; only the chosen one is imported.
COMMANDS = {
    "info": ("info", "versions, backends, what was built and what is here"),
    "demo": ("demo.cli", "generate text with a small diffusion language model, then time the step at real size"),
    "bench": ("bench.cli", "time the steps against their peers"),
}


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m dlm_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="info|demo|bench")
    chosen = argv[0] if argv else None
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            import_module(f".{module}", __package__).add_arguments(command)
    args = parser.parse_args(argv)
    return import_module(f".{COMMANDS[args.command][0]}", __package__).main(args)


if __name__ == "__main__":
    sys.exit(main())
