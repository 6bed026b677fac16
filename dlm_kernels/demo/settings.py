"""The demo's defaults and argument rules; free of imports, so that a command line is built from them at
once."""

from pathlib import Path

FAMILIES = ("masked", "uniform")
PROMPT = "And God said"
TEMPERATURE = {"masked": 0.7, "uniform": 0.45}
SEED = 0
LENGTH = 80
MAX_LENGTH = 4096
PICTURE = "revisions.png"  # the uniform family draws one unasked
PICTURES = (".png", ".pdf", ".svg")


class ArgumentError(ValueError):
    """An argument of the demo outside its rule; the text reads "{argument}: {rule}, got {value}"."""


def check_arguments(*, steps: int | None, temperature: float | None, seed: int, length: int, family: str) -> None:
    """ArgumentError for the first argument with an illegal value."""
    rules = (
        ("steps", steps, steps is None or steps >= 1, "must be >= 1"),
        ("temperature", temperature, temperature is None or 0 <= temperature < float("inf"), "must be finite and >= 0"),
        ("seed", seed, -(2**63) <= seed < 2**63, "must fit in 64 bits"),
        ("length", length, 1 <= length <= MAX_LENGTH, f"must be in 1..{MAX_LENGTH}"),
        ("family", repr(family), family in FAMILIES, f"must be one of {', '.join(FAMILIES)}"),
    )
    for name, value, holds, rule in rules:
        if not holds:
            raise ArgumentError(f"{name}: {rule}, got {value}")


def check_picture(picture: str | Path | None) -> None:
    """ArgumentError if no picture can be written there: known before any text is generated."""
    if picture is None:
        return
    path = Path(picture)
    if path.suffix not in PICTURES:
        raise ArgumentError(f"picture: must end in {', '.join(PICTURES)}, got {path}")
    if not path.parent.is_dir():
        raise ArgumentError(f"picture: its folder must exist, got {path}")
