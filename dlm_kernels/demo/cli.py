"""`python -m dlm_kernels demo`: the arguments and their errors. Imports nothing heavy before it runs."""

import argparse
import importlib.util
import sys

from . import settings

NEEDED = ("rich", "safetensors", "tokenizers")
DRAWING = ("matplotlib",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's arguments to `parser`."""
    add = parser.add_argument
    add(
        "--prompt",
        default=settings.PROMPT,
        help='text to continue, "" to start from nothing (default: %(default)r)',
    )
    add("--steps", type=int, help="denoising steps (default: one per token)")
    add(
        "--temperature",
        type=float,
        help=f"of the draw, 0 = argmax (default: {', '.join(f'{name} {t}' for name, t in settings.TEMPERATURE.items())})",
    )
    add("--seed", type=int, default=settings.SEED, help="same seed, same text (default: %(default)s)")
    add("--length", type=int, default=settings.LENGTH, help="tokens to generate (default: %(default)s)")
    add(
        "--family",
        choices=settings.FAMILIES,
        default="masked",
        help="kind of diffusion (default: %(default)s)",
    )
    add(
        "--picture",
        metavar="FILE",
        help="where to draw what became of each token at each step; needs matplotlib (default: uniform "
        f"{settings.PICTURE}, masked none)",
    )
    add("--no-table", dest="table", action="store_false", help="text only, no timing at real size")


def main(args: argparse.Namespace) -> int:
    """Run the demo. 0; or, with one line on stderr, 2 for a wrong argument and 1 for a missing package."""
    picture = args.picture or (settings.PICTURE if args.family == "uniform" else None)
    needed = NEEDED + (DRAWING if picture else ())
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"the demo needs {', '.join(missing)}: pip install {' '.join(missing)}", file=sys.stderr)
        return 1
    from .show import run

    try:
        run(
            args.prompt, steps=args.steps, temperature=args.temperature, seed=args.seed, length=args.length,
            family=args.family, table=args.table, picture=picture,
        )  # fmt: skip
    except settings.ArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # the picture's file
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # what shells report for an interrupted command
    return 0
