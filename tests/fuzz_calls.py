"""Random calls for fuzz.py: of the registered ops by their schemas, and of the Python functions by their signatures."""

import torch
from fuzz_arguments import OfOps, schema_of
from fuzz_functions import FUNCTIONS, INNER_NAMES, TORCHS_OWN, WRITTEN, OfFunctions, names_of, needed_of
from fuzz_values import spoil, tensors_in

from dlm_kernels import _ops

__all__ = ["FUNCTIONS", "INNER_NAMES", "TORCHS_OWN", "WRITTEN", "schema_of", "spoil", "tensors_in"]
TARGETS = [("op", name) for name in _ops.SCHEMAS] + [("function", name) for name in FUNCTIONS]
TOGETHER = (("rows", "length"), ("trace", "trace_steps"))


def call_of(layer, name, random):
    """(arguments, all that it could have, what made them) of a call that is legal as far as one can tell in advance."""
    made = (OfOps if layer == "op" else OfFunctions)(name, random)
    if layer == "op":
        names = list(schema_of(name))
        needed = {n for n, a in schema_of(name).items() if not a.has_default_value()}
    else:
        names, needed = names_of(name), needed_of(name)
    wanted = {n for n in names if n in needed or n == "mask_id" or random.random() < 0.25}
    wanted |= {"rows"} if made.is_packed else set()
    for pair in TOGETHER:
        wanted |= set(pair) & set(names) if wanted & set(pair) else set()
    return made.settled({n: getattr(made, n)() for n in names if n in wanted}), names, made


PLAIN = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "Tensor": (torch.Tensor,)}


def is_plain(op, arguments):
    """Whether these reach the op as they are, and the reference can take them: torch turns many things into numbers."""
    kinds = {name: str(a.type) for name, a in schema_of(op).items()}
    for name, value in arguments.items():
        kind = kinds[name].removeprefix("Optional[").removesuffix("]")
        if not (type(value) in PLAIN[kind] or (value is None and kind != kinds[name])):
            return False
        if isinstance(value, str) and ("\0" in value or len(value) > 100):
            return False
        if isinstance(value, torch.Tensor):
            if (
                value.device.type != "cpu"
                or value.layout != torch.strided
                or value.numel() > 10**6
                or not value.is_leaf
            ):
                return False
    return True
