"""One line for somebody else's code: ``accelerate(obj)``, its way back, and what became of it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import types
import warnings
import weakref
from dataclasses import dataclass, fields, replace
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
        if getattr(self.replacement, "report", None) is not self.report:
            memo[id(self.report)] = self.report  # a function's, which is not copied: it counts the calls of all copies
        return _Applied(*(copy.deepcopy(getattr(self, f.name), memo) for f in fields(self)))

    @property
    def in_place(self):
        """False once somebody else has replaced what replaced the original."""
        held = _own_attribute(self.seam.owner, self.seam.attribute)
        return bool(held) and held[0] is self.replacement


@dataclass
class _Record:
    obj: object  # not the one that holds the record if that is a shallow copy
    adapter: object
    applied: list
    unsupported: str | None = None

    def __reduce__(self):
        """What is pickled is not accelerated, so that it can be loaded where there is no dlm_kernels."""
        return (type(None), ())

    def __deepcopy__(self, memo):
        obj, applied = (copy.deepcopy(part, memo) for part in (self.obj, self.applied))
        return _Record(obj, self.adapter, applied, self.unsupported)


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
    changes nothing, unless something could not be replaced, or was replaced by others since: that is tried again. A deep copy of
    obj is accelerated, too; a shallow one has the methods of obj itself, until ``accelerate`` gives it its own.

    Returns:
        obj.

    Raises:
        TypeError: for an object of an unknown kind, naming the known ones.
        RuntimeError: with DLM_KERNELS_STRICT=1, where nothing of obj can be accelerated; otherwise that is a warning.
    """
    record = _record(obj)
    if record is not None:
        complete = record.unsupported is None and all(applied.in_place for applied in record.applied)
        if complete and record.obj is obj:
            return obj
        restore(obj)
    adapter = _adapter_of(obj)
    record = _Record(obj, adapter, [])
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
        if isinstance(obj, (types.ModuleType, type)):
            _modules[obj] = record
        else:
            object.__setattr__(obj, _RECORD, record)
    except BaseException:
        _undo(record, obj)
        raise
    return obj


def restore(obj):
    """Undo ``accelerate(obj)``: everything is as it was. Nothing happens to an object that is not accelerated. What others have
    put in the place of a replacement since then stays. Returns obj."""
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
            return Explanation(adapter.name, False, None, [_row_before(seam) for seam in adapter.seams(obj)])
        except Unsupported as why:
            return Explanation(adapter.name, False, str(why), [])
    return Explanation(record.adapter.name, True, record.unsupported, [_row_of(a) for a in record.applied])


def _row_before(seam):
    held = getattr(seam.owner, seam.attribute, None)
    if isinstance(report := getattr(held, "report", None), Report):  # fast as it is
        return _row(_where(seam), seam.does, report)
    for_others = _shared_at(seam)
    if for_others is None:
        return Row(_where(seam), seam.does, "the client's own code", 0, {})
    row = _row_of(for_others)
    return replace(row, runs=f"{row.runs} (shared with an object that is accelerated)")


def _row_of(applied):
    row = _row(_where(applied.seam), applied.seam.does, applied.report)
    return row if applied.in_place else replace(row, runs="nothing of dlm_kernels: replaced since")


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
        lines = [f"{self.client}: {'accelerated' if self.accelerated and not self.unsupported else 'not accelerated'}"]
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
    # An object that is dropped without restore must not keep the module changed for the next one.
    dropped = weakref.finalize(obj, _leave, _key(seam), id(obj)) if shared and obj is not seam.owner else None
    applied = _shared_at(seam) if shared else None
    if applied is None:
        before = _own_attribute(seam.owner, seam.attribute)
        report = Report()
        replacement = seam.make(_original(seam), report)
        report = getattr(replacement, "report", report)
        applied = _Applied(seam, report, replacement, before, {} if shared else None)
        seam.put(seam.owner, seam.attribute, replacement)
    if shared:
        _shared[_key(seam)] = applied
        applied.users[id(obj)] = dropped
        if dropped is not None:
            dropped.atexit = False
    return applied


def _key(seam):
    return (seam.owner, seam.attribute)


def _shared_at(seam):
    """What stands in a module or class in the place of its own, if nobody has replaced it since."""
    applied = _shared.get(_key(seam)) if isinstance(seam.owner, (types.ModuleType, type)) else None
    return applied if applied is not None and applied.in_place else None


def _own_attribute(owner, name):
    """(value,) of what the owner itself holds under this name, () if its class does, or nobody."""
    own = vars(owner)
    if name in own:
        return (own[name],)
    # A torch module keeps its parts elsewhere.
    return () if hasattr(type(owner), name) or not hasattr(owner, name) else (getattr(owner, name),)


def _original(seam):
    owner, name = seam.owner, seam.attribute
    return inspect.getattr_static(owner, name) if isinstance(owner, type) else getattr(owner, name)


def _undo(record, obj):
    for applied in reversed(record.applied):
        if applied.users is None:
            owner = obj if applied.seam.owner is record.obj else applied.seam.owner
            _put_back(replace(applied, seam=replace(applied.seam, owner=owner)))
        else:
            _leave(_key(applied.seam), id(obj))


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
    if not applied.in_place:  # what others have put there since is theirs
        return
    owner, name = applied.seam.owner, applied.seam.attribute
    if applied.before:
        applied.seam.put(owner, name, applied.before[0])
    else:
        delattr(owner, name)
