"""Seams: the attributes of a client's objects that an adapter replaces, with a way back.

An adapter names them, ``accelerate.py`` puts them in place. What replaces a client's function only adapts: where it does not
cover a call it raises ``Unsupported`` before anything has changed, and the client's own code runs.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from .. import _load


class Unsupported(Exception):
    """Why the fast path does not cover a call, or a whole client. Never seen by the user except in ``explain``."""


@dataclass
class Report:
    """What became of the calls of one seam."""

    fast: int = 0
    fallbacks: Counter = field(default_factory=Counter)  # reason -> calls
    backend: str | None = None  # of the latest fast call


@dataclass(frozen=True)
class Seam:
    """One attribute of ``owner`` (an instance, module or class). ``make(original, report)`` is what takes its place."""

    owner: Any
    attribute: str
    make: Callable[[Any, Report], Any]
    does: str  # in a few words, for explain()
    put: Callable[[Any, str, Any], None] = setattr


class Adapter(Protocol):
    """What a module of this package has in its ``ADAPTERS`` for every kind of object that it knows."""

    name: str  # as a user would call the object: "transformers DiffusionGemma model"

    def matches(self, obj) -> bool:
        """Whether obj is one. Imports nothing: a client that is not loaded has no objects."""
        ...

    def seams(self, obj) -> Iterable[Seam]:
        """What to replace. Raises Unsupported if this version of the client is not known."""
        ...


def guarded(fast, original, report):
    """``fast``, or ``original`` where that says ``Unsupported``. Has its signature: clients filter keywords by that."""

    @functools.wraps(original)
    def call(*args, **kwargs):
        return serve(fast, original, report, args, kwargs)

    return call


def serve(fast, original, report, args, kwargs):
    """One call of what ``guarded`` makes."""
    try:
        out = fast(*args, **kwargs)
    except Unsupported as why:
        report.fallbacks[str(why)] += 1
        return original(*args, **kwargs)
    report.fast += 1
    if report.fast == 1:
        report.backend = backend_of(_device(args, kwargs))
    return out


def method_seam(obj, name, fast, does):
    """A method of one instance; ``fast(self, ...)``. Bound as methods are, so that a deep copy of obj calls itself. Unsupported
    where the method is not the client's own."""
    require_inherited(obj, name)

    def make(original, report):
        return types.MethodType(guarded(fast, original.__func__, report), obj)

    return Seam(obj, name, make, does)


def require_inherited(obj, name):
    """Unsupported where obj, or a class that was derived in another module than the client's, has a method of its own: that
    may do anything. ``name`` is what is replaced, or what the original of it calls on obj."""
    original = getattr(obj, name)
    stubs = lambda kind: kind is torch.nn.Module or getattr(vars(kind)[name], "__isabstractmethod__", False)
    homes = [kind for kind in type(obj).__mro__ if name in vars(kind) and not stubs(kind)]
    inherited = homes and homes[0].__module__ == homes[-1].__module__
    # An object that was pickled may hold the bound method of its class.
    bound = inherited and getattr(original, "__func__", None) is vars(homes[0])[name]
    if not (bound and is_written_in(homes[0].__module__, original)):
        raise Unsupported(f"{type(obj).__name__} has a {name} of its own")


def require_own(owner, name):
    """Unsupported where the function of this name in a module or class was put there by somebody else."""
    home = owner.__module__ if isinstance(owner, type) else owner.__name__
    written = getattr(owner, name).__module__
    if written.partition(".")[0] != home.partition(".")[0]:
        raise Unsupported(f"{home} has a {name} of somebody else's, {written}")


def is_written_in(module, *functions):
    """Whether all functions are, and none was put there by somebody else. What decorates them does not count."""
    if module not in sys.modules:
        return True
    home = vars(sys.modules[module])
    globals_of = lambda function: getattr(function, "__globals__", None)
    return all(globals_of(f) is home or globals_of(inspect.unwrap(f)) is home for f in functions)


def function_seam(owner, name, fast, does):
    """A function of a module, or of a class (then ``fast(self, ...)``)."""
    return Seam(owner, name, lambda original, report: guarded(fast, original, report), does)


def step_seams(owner, *steps):
    """Seams for ``steps``, pairs (function, what it does in words): of each that ``owner``, an instance, class or module, has
    under the function's name. Unsupported where the parameters there are not known."""
    shared = isinstance(owner, (types.ModuleType, type))
    for fast, does in steps:
        original = getattr(owner, fast.__name__, None)
        if original is not None:
            known_parameters(original, fast if shared else types.MethodType(fast, owner))
            if shared:
                require_own(owner, fast.__name__)
            yield (function_seam if shared else method_seam)(owner, fast.__name__, fast, does)


def backend_of(device):
    """What serves tensors of ``device``, in words."""
    kind = "cpu" if device is None else device.type
    if kind == "cuda":
        why = _load.why_not_cuda()
        return "cuda" if why is None else f"reference ({why})"
    if kind == "cpu":
        loaded = _load.load()
        return f"cpu ({_load.cpu_isa()})" if loaded.backend == "cpu" else f"reference ({loaded.error or 'as asked'})"
    return f"reference (there is no kernel for {kind} tensors)"


def _device(args, kwargs):
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return value.device
    return None


def is_a(obj, *names):
    """Whether a class of obj, or one it derives from, has one of these qualified names ("module.Class"; a module is matched
    with what lies below it, so that re-exports and private files do not matter)."""
    for kind in type(obj).__mro__:
        for name in names:
            package, _, wanted = name.rpartition(".")
            if kind.__name__ == wanted and (kind.__module__ == package or kind.__module__.startswith(package + ".")):
                return True
    return False


def class_named(obj, *names):
    """The class of obj, or the first one it derives from, that has one of these names, in whatever module: code from a hub or a
    checkout lies in modules of many names. None if there is none."""
    return next((kind for kind in type(obj).__mro__ if kind.__name__ in names), None)


def has_parameters(function, *names):
    """Whether function is callable and has parameters of these names: what tells codebases without a package apart."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return all(name in parameters for name in names)


def known_parameters(original, fast):
    """Unsupported unless ``fast`` begins with the parameters of ``original``, with the same defaults: where a codebase has no
    version, a new one shows there."""
    ours = inspect.signature(fast).parameters
    for place, theirs in enumerate(inspect.signature(original).parameters.values()):
        known = list(ours.values())[place] if place < len(ours) else None
        if known is None or (theirs.name, theirs.default) != (known.name, known.default):
            raise Unsupported(f"{original.__name__} has a parameter {theirs} that is not known")


def known_version(client, version, *known):
    """Unsupported unless ``version`` begins with one of ``known`` ("5.23"): samplers change between releases."""
    if not any(version == k or version.startswith(k + ".") for k in known):
        raise Unsupported(f"{client} {version} is not one of the versions this was tested with ({', '.join(known)})")
