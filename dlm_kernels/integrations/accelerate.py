"""One line for somebody else's code: ``accelerate(obj)``, its way back, and what became of it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import types
import warnings
import weakref
from dataclasses import dataclass, fields
from importlib import import_module

from .. import _load
from .seams import Report, Unsupported

# The modules beside this one that have ADAPTERS, the most specific first.
_CLIENTS = (
    "dinfer",
    "dllm",
    "fast_dllm",
    "llada",
    "llada2",
    "dream",
    "mdlm",
    "remdm",
    "sumi",
    "gidd",
    "udlm",
    "duo",
    "sedd",
    "transformers",
    "diffusers",
    "vllm",
    "sglang",
)

_RECORD = "_dlm_kernels_seams"


@dataclass
class _Applied:
    """A seam in place."""

    seam: object
    report: Report
    replacement: object
    before: tuple  # the raw attribute of the owner itself, if it had one
    users: dict | None  # of a shared owner (module, class): id of an accelerated object -> what notices its end

    def __deepcopy__(self, memo):
        if self.users is not None:  # modules cannot be copied, and the copy of an object did not ask for this one
            return self
        return _Applied(*(copy.deepcopy(getattr(self, f.name), memo) for f in fields(self)))


@dataclass
class _Record:
    adapter: object
    applied: list
    unsupported: str | None = None


_shared: dict = {}  # (owner, attribute) -> _Applied, of modules and classes
_modules: dict = {}  # module -> _Record: a module has no place of its own for it that nobody lists


def _adapters():
    for client in _CLIENTS:
        yield from import_module(f".{client}", __package__).ADAPTERS


def _adapter_of(obj):
    known = list(_adapters())
    for adapter in known:
        if adapter.matches(obj):
            return adapter
    names = "; ".join(adapter.name for adapter in known)
    raise TypeError(f"obj: must be one of: {names}; got {_describe(obj)}")


def _describe(obj):
    if isinstance(obj, types.ModuleType):
        return f"module {obj.__name__}"
    kind = obj if isinstance(obj, type) else type(obj)
    return f"{'class ' if obj is kind else ''}{kind.__module__}.{kind.__qualname__}"


def accelerate(obj):
    """Let dlm_kernels do the sampler work of ``obj``: a model, pipeline, scheduler, sampler, decoder or module of a known client.

    Nothing but the named attributes is replaced (``explain(obj)`` lists them), on this object alone where the client allows it.
    Where a call uses an option that is not covered, the client's own code runs, and ``explain`` says why. Doing it twice
    changes nothing.

    Returns:
        obj.

    Raises:
        TypeError: for an object of an unknown kind, naming the known ones.
        RuntimeError: with DLM_KERNELS_STRICT=1, where nothing of obj can be accelerated; otherwise that is a warning.
    """
    if _record(obj) is not None:
        return obj
    adapter = _adapter_of(obj)
    record = _Record(adapter, [])
    try:
        seams = list(adapter.seams(obj))
    except Unsupported as why:
        record.unsupported, seams = str(why), []
        text = f"dlm_kernels does not accelerate {_describe(obj)}: {why}"
        if _load.strict():
            raise RuntimeError(f"{text} (DLM_KERNELS_STRICT=1 forbids that)") from None
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    try:
        for seam in seams:
            record.applied.append(_apply(seam, obj))
    except BaseException:
        _undo(record, obj)
        raise
    if isinstance(obj, (types.ModuleType, type)):
        _modules[obj] = record
    else:
        object.__setattr__(obj, _RECORD, record)
    return obj


def restore(obj):
    """Undo ``accelerate(obj)``: everything is as it was. Nothing happens to an object that is not accelerated. Returns obj."""
    record = _record(obj)
    if record is None:
        return obj
    _undo(record, obj)
    if isinstance(obj, (types.ModuleType, type)):
        del _modules[obj]
    else:
        object.__delattr__(obj, _RECORD)
    return obj


def is_accelerated(obj):
    """Whether ``accelerate`` was called for obj, and not undone."""
    return _record(obj) is not None


@contextlib.contextmanager
def accelerated(obj):
    """``with accelerated(obj):`` restores at the end, unless obj was accelerated before."""
    before = is_accelerated(obj)
    try:
        yield accelerate(obj)
    finally:
        if not before:
            restore(obj)


def explain(obj):
    """What of ``obj`` runs on which backend, and the reason for every fallback. Returns an Explanation, which prints.

    Raises:
        TypeError: for an object of an unknown kind.
    """
    record = _record(obj)
    if record is None:
        adapter = _adapter_of(obj)
        if isinstance(report := getattr(obj, "report", None), Report):  # fast as it is
            return Explanation(
                adapter.name, True, None, [_row(_describe(obj), "the class is dlm_kernels' own", report)]
            )
        try:
            rows = [Row(_where(seam), seam.does, "the client's own code", 0, {}) for seam in adapter.seams(obj)]
            return Explanation(adapter.name, False, None, rows)
        except Unsupported as why:
            return Explanation(adapter.name, False, str(why), [])
    rows = [_row(_where(applied.seam), applied.seam.does, applied.report) for applied in record.applied]
    return Explanation(record.adapter.name, True, record.unsupported, rows)


def _row(where, does, report):
    runs = f"dlm_kernels, {report.backend}" if report.fast else "not called yet"
    if report.fallbacks and not report.fast:
        runs = "the client's own code"
    return Row(where, does, runs, report.fast, dict(report.fallbacks))


@dataclass(frozen=True)
class Row:
    """One seam."""

    where: str
    does: str
    runs: str
    fast_calls: int
    fallbacks: dict  # reason -> calls that the client's own code served


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` found."""

    client: str
    accelerated: bool
    unsupported: str | None  # why nothing is replaced
    rows: list

    def __str__(self):
        lines = [f"{self.client}: {'accelerated' if self.accelerated else 'not accelerated'}"]
        if self.unsupported:
            lines.append(f"  the client's own code runs: {self.unsupported}")
        for row in self.rows:
            lines.append(f"  {row.where}: {row.does}")
            lines.append(f"    {row.runs}" + (f", {row.fast_calls} calls" if row.fast_calls else ""))
            lines += [f"    {calls} calls ran the client's own code: {why}" for why, calls in row.fallbacks.items()]
        return "\n".join(lines)


# ---- putting seams in place ------------------------------------------------------------------------------------------


def _record(obj):
    if isinstance(obj, (types.ModuleType, type)):
        return _modules.get(obj)
    try:
        return object.__getattribute__(obj, _RECORD)
    except AttributeError:
        return None


def _where(seam):
    return f"{_describe(seam.owner)}.{seam.attribute}"


def _apply(seam, obj):
    shared = isinstance(seam.owner, (types.ModuleType, type))
    key = (seam.owner, seam.attribute)
    if shared and key in _shared:
        applied = _shared[key]
    else:
        before = _own_attribute(seam.owner, seam.attribute)
        report = Report()
        replacement = seam.make(_original(seam), report)
        report = getattr(replacement, "report", report)
        applied = _Applied(seam, report, replacement, before, {} if shared else None)
        setattr(seam.owner, seam.attribute, replacement)
    if shared:
        _shared[key] = applied
        # An object that is dropped without restore must not keep the module changed for the next one.
        applied.users[id(obj)] = None if obj is seam.owner else weakref.finalize(obj, _leave, key, id(obj))
        if applied.users[id(obj)] is not None:
            applied.users[id(obj)].atexit = False
    return applied


def _own_attribute(owner, name):
    """(value,) of what the owner itself holds under this name, () if its class does."""
    own = vars(owner)
    if name in own:
        return (own[name],)
    return () if hasattr(type(owner), name) else (getattr(owner, name),)  # a torch module keeps its parts elsewhere


def _original(seam):
    owner, name = seam.owner, seam.attribute
    return inspect.getattr_static(owner, name) if isinstance(owner, type) else getattr(owner, name)


def _undo(record, obj):
    for applied in reversed(record.applied):
        if applied.users is None:
            _put_back(applied)
        else:
            _leave((applied.seam.owner, applied.seam.attribute), id(obj))


def _leave(key, user):
    applied = _shared.get(key)
    if applied is None or user not in applied.users:
        return
    finalizer = applied.users.pop(user)
    if finalizer is not None:
        finalizer.detach()
    if not applied.users:
        del _shared[key]
        _put_back(applied)


def _put_back(applied):
    owner, name = applied.seam.owner, applied.seam.attribute
    if applied.before:
        setattr(owner, name, applied.before[0])
    else:
        delattr(owner, name)
