"""Tensors of the vocabulary's size that a client's loop passes on, but seldom looks at: probabilities between two of its
functions, a posterior of which only the sum is shown. They stand there as ``Deferred``, whose values nobody has computed yet.
"""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_map

from ..reference import cutoff
from ..step import row_stats
from .transfer import readable, refuse


class Deferred(torch.Tensor):
    """Stands for the tensor ``make()``, which is computed when an operation first needs its values, and then kept.

    ``source`` [..., V] gives its shape and device, and is what a step reads instead, as long as no value was computed.
    """

    @staticmethod
    def __new__(cls, source, make, dtype=None):
        return torch.Tensor._make_wrapper_subclass(
            cls, source.shape, dtype=dtype or source.dtype, device=source.device, requires_grad=False
        )

    def __init__(self, source, make, dtype=None):
        self._source, self._make, self._value = source, make, None

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return function(*tree_map(value_of, args), **tree_map(value_of, kwargs or {}))

    @property
    def source(self):
        """None once the values are there: somebody may have changed them."""
        return self._source if self._value is None else None

    def value(self):
        """The tensor itself."""
        if self._value is None:
            self._value = self._make()
            self._source = self._make = None
        return self._value

    def __repr__(self):
        return repr(self.value())

    def numpy(self, *args, **kwargs):
        return self.value().numpy(*args, **kwargs)

    def __array__(self, *args, **kwargs):
        return self.value().__array__(*args, **kwargs)

    def tolist(self):
        return self.value().tolist()

    def __reduce_ex__(self, protocol):
        return self.value().__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        return self.value().clone()


def value_of(value):
    """What a Deferred stands for; anything else as it is."""
    return value.value() if isinstance(value, Deferred) else value


def logits_of(value):
    """What a step reads [B, L, V] where a client hands it ``value``: a Deferred's source or else the tensor, as one of the dtypes
    and strides that the ops take."""
    source = value.source if isinstance(value, Deferred) else None
    return _as_logits(value_of(value) if source is None else source)


def law_of(value):
    """(logits, options for a step) where a client hands it probabilities: those a Law is made from, or their logarithms."""
    if isinstance(value, Law) and value.source is not None:
        return logits_of(value.source), value.options
    if isinstance(value, Deferred) and value.source is not None:
        return _as_logits(value.source), {}
    return _as_logits(value_of(value).log()), {}


def _as_logits(logits):
    refuse(logits.dim() != 3, f"logits: must have 3 dimensions [B, L, V], got {list(logits.shape)}")
    return readable(logits.float() if logits.dtype == torch.float64 else logits)


class Law(Deferred):
    """softmax(logits / temperature) as probabilities in ``dtype``, temperature 0 the argmax alone, filtered by ``top_k`` and then
    ``top_p`` (None or 0, and 1: off), which keep what ties with the k-th token, and what crosses p unless ``top_p_crossing`` is
    "drop". ``logits`` may themselves be Deferred."""

    @staticmethod
    def __new__(cls, logits, temperature=1.0, dtype=torch.float32, top_k=None, top_p=None, top_p_crossing="keep"):
        return Deferred.__new__(cls, logits, None, dtype)

    def __init__(self, logits, temperature=1.0, dtype=torch.float32, top_k=None, top_p=None, top_p_crossing="keep"):
        super().__init__(logits, self._probabilities, dtype)
        self.temperature, self.top_k, self.top_p, self.top_p_crossing = temperature, top_k, top_p, top_p_crossing

    @property
    def filtered(self):
        return bool(self.top_k) or self.top_p not in (None, 1)

    @property
    def options(self):
        """Of a step that is to draw from this law."""
        names = ("temperature", "top_k", "top_p", "top_p_crossing")
        return {name: getattr(self, name) for name in names} | {"top_k_ties": "all"}

    def max(self, *args, **kwargs):
        """Over the vocabulary from the statistics of the rows, in one read; otherwise as of any tensor."""
        over_vocabulary = (args, kwargs) in (((-1,), {}), ((), {"dim": -1}))
        if self.source is None or not over_vocabulary or self.filtered or self.temperature == 0:
            return super().max(*args, **kwargs)
        stats = row_stats(self.source, temperature=self.temperature)
        top = torch.where(stats.bad, torch.nan, 1 / (1 + stats.rest)).to(self.dtype)
        return torch.return_types.max((top, stats.argmax.clamp(min=0)))

    def _probabilities(self):
        logits = self._source.to(self.dtype)
        if self.temperature == 0:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        rows = logits.flatten(0, -2)
        one = lambda value, dtype: None if value is None else torch.full((1,), value, dtype=dtype, device=rows.device)
        drops, numbers = self.top_p_crossing == "drop", (one(self.top_k, torch.int64), one(self.top_p, torch.float64))
        filters = cutoff.Filters(*numbers, drop_crossing=drops, keep_ties=True)
        sequence = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        temperature = torch.full((len(rows),), self.temperature, dtype=torch.float64, device=rows.device)
        return (cutoff.keep(rows, temperature, sequence, filters).view_as(logits) / self.temperature).softmax(-1)


class Posterior(Deferred):
    """Probabilities that were drawn from without having been computed; ``num_bad`` [B] of their rows would be NaN. What a loop
    prints, ``.sum()`` and ``.isnan().sum()``, is known from that."""

    @staticmethod
    def __new__(cls, source, make, num_bad, dtype=None):
        return Deferred.__new__(cls, source, make, dtype)

    def __init__(self, source, make, num_bad, dtype=None):
        super().__init__(source, make, dtype)
        self.num_bad = num_bad

    def sum(self, *args, **kwargs):
        if self.source is None or args or kwargs:
            return super().sum(*args, **kwargs)
        rows = float(self.shape[:-1].numel())
        return torch.where(self.num_bad.sum() > 0, torch.nan, rows).to(self.dtype)

    def isnan(self):
        return super().isnan() if self.source is None else _IsNan(self)


class _IsNan(Deferred):
    @staticmethod
    def __new__(cls, posterior):
        return Deferred.__new__(cls, posterior, None, torch.bool)

    def __init__(self, posterior):
        super().__init__(posterior, lambda: posterior.value().isnan(), torch.bool)

    def sum(self, *args, **kwargs):
        if self.source is None or args or kwargs:
            return super().sum(*args, **kwargs)
        return self.source.num_bad.sum() * self.shape[-1]
