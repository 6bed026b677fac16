"""Arguments of the registered ops for fuzz.py: sizes that fit each other, one method per argument."""

import math

import torch
from dlm_kernels.reference.confidence import COMPARING, CONFIDENCES, DTYPES, SOURCES
from dlm_kernels.reference.cutoff import ORDERS
from dlm_kernels.reference.decide import RULES
from dlm_kernels.reference.redraw import REDRAWS
from fuzz_values import FLOATS, INTS, LOGIT_DTYPES, SCORES

from dlm_kernels import _ops

VOCABS = (1, 2, 3, 15, 16, 17, 33, 64, 65, 257, 1025, 2049)
NOT_COMPARING = ("wino_step_", "p2_step_", "dinfer_remask_step_")


def schema_of(op):
    return {a.name: a for a in getattr(_ops, op)._schema.arguments}


class Tensors:
    """What ops and functions have in common: the sizes of one call, and the tensors that fit them."""

    def __init__(self, target, random):
        self.target, self.random = target, random
        self.generator_ = torch.Generator().manual_seed(random.getrandbits(40))
        chance = random.random
        self.B, self.L, self.V = random.choice((1, 1, 2, 3)), random.choice((1, 2, 5, 8, 17)), random.choice(VOCABS)
        if chance() < 0.04:
            self.B, self.L = random.choice(((0, self.L), (self.B, 0), (0, 0)))
        self.W = random.choice((self.L, random.randint(0 if chance() < 0.1 else min(1, self.L), self.L)))
        self.is_packed = self.has_rows and chance() < 0.35
        self.is_flat = self.is_packed or (target in ("row_stats", "row_kl", "draw_tokens") and chance() < 0.3)
        self.R = random.randint(0 if chance() < 0.1 else 1, self.B * self.L + 3)
        self.rows_shape = (self.R,) if self.is_flat else (self.B, self.W)
        self.dtype, self.x_dtype = random.choice(LOGIT_DTYPES), random.choice((torch.int64, torch.int32))
        # no two of these ever meet: a mask outside the vocabulary, its last token, none
        self.mask = random.choice((self.V, self.V - 1, self.V + 100, random.randrange(self.V)))
        self.is_masked = chance() < 0.8

    has_rows = True

    # ---- numbers and layouts

    def chance(self, probability):
        return self.random.random() < probability

    def ints(self, low, high, shape):
        return torch.randint(low, max(high, low + 1), shape, generator=self.generator_)

    def floats(self, shape):
        return torch.rand(shape, generator=self.generator_)

    def flags(self, shape, share=0.3):
        return self.floats(shape) < share

    def laid_out(self, values, unit=False, written=False, contiguous=False):
        """The same values in another piece of memory: with gaps, dimensions in another order, or (if only read) repeated."""
        if contiguous or self.chance(0.4):
            return values.contiguous()
        if not written and values.numel() and self.chance(0.1):
            d = self.random.randrange(max(1, values.dim() - unit)) if values.dim() > unit else None
            return values if d is None else values.narrow(d, 0, 1).clone().expand_as(values)
        order = list(range(values.dim() - unit))
        self.random.shuffle(order)
        order += [values.dim() - 1] if unit else []
        strides, step = [0] * values.dim(), 1
        for d in reversed(order):
            strides[d] = step
            step *= max(1, values.shape[d]) + self.random.choice((0, 0, 1, 3))
            if d == order[-1] and not unit:
                strides[d], step = 2, 2 * step
        offset = self.random.choice((0, 1, 5))
        room = torch.zeros(step + offset, dtype=values.dtype)
        return room.as_strided(values.shape, strides, offset).copy_(values)

    def per_request(self, values):
        """[1] or [B] of one of these functions of a shape."""
        n = self.R if self.is_flat and self.target in ("row_stats", "row_kl") else self.B
        if self.is_flat and self.target == "draw_tokens" and not self.is_packed:
            n = 1
        return self.laid_out(values((self.random.choice((1, n)),)))

    # ---- what the law is made of

    def logits(self):
        shape = (*self.rows_shape, self.V)
        z = torch.randn(shape, generator=self.generator_) * self.random.choice((0.0, 1.0, 5.0, 200.0, 1e30))
        if self.chance(0.3):
            odd = torch.tensor(self.random.choices(FLOATS, k=5))
            where = self.flags(shape, self.random.choice((0.01, 0.5, 1.0)))
            z = torch.where(where, odd[self.ints(0, 5, shape)], z)
        return self.laid_out(z.to(self.dtype), unit=True)

    uncond_logits = previous = shadow_logits = logits

    def temperature(self):
        least = 0.05 if self.target in ("row_stats", "row_kl") or self.chance(0.5) else 0.0
        return self.per_request(lambda shape: self.floats(shape).clamp(min=least))

    kl_temperature = temperature

    def suppress(self):
        return self.laid_out(self.ints(-2, self.V + 3, (self.random.choice((0, 1, 3, 40)),)))

    demote = suppress

    def top_k(self):
        return self.per_request(lambda shape: self.ints(0, self.V + 3, shape))

    def top_p(self):
        return self.per_request(lambda shape: self.floats(shape).double())

    min_p = top_p

    def uniform(self):
        columns = {"renoise_step_": (2,), "q_sample": (2,), "transition_step_": (3,), "uniform_step_": (3,)}
        rows = (self.B, self.L) if self.target == "q_sample" else self.rows_shape
        return self.laid_out(self.floats((*rows, *columns.get(self.target, ()))).double())

    def given(self):
        return self.laid_out(self.ints(-1, self.V + 1, self.rows_shape))

    # ---- where it is for

    def x(self):
        low = 0 if self.target in ("transition_step_", "uniform_step_") else -2
        tokens = self.ints(low, self.V, (self.B, self.L))
        if self.is_masked:
            tokens = torch.where(self.flags(tokens.shape, 0.6), self.mask, tokens)
        return self.laid_out(tokens.to(self.x_dtype), written=self.target != "q_sample")

    x_0 = x

    def seed(self):
        return self.per_request(lambda shape: self.ints(-(2**63), 2**63 - 1, shape))

    def step(self):
        shape = self.random.choice(((), (1,), (1, 1)))
        return torch.full(shape, self.random.choice((0, 1, 2, 5, 70000, -3, *INTS)))

    def start(self):
        return self.per_request(lambda shape: self.ints(0, self.L - self.W + 1, shape))

    def rows(self):
        n = self.B * self.L
        places = torch.cat([torch.randperm(n, generator=self.generator_), torch.full((self.R,), -1)])[: self.R]
        places = torch.where(self.flags(places.shape, 0.1), -1, places)
        return self.laid_out(places[torch.randperm(self.R, generator=self.generator_)], written=True)

    def frozen(self):
        return self.laid_out(self.flags((self.B, self.L)))

    def ready(self):
        return self.laid_out(self.flags(self.rows_shape))

    wanted = ready

    def shift(self):
        return self.random.choice((0, 0, -1)) if not self.is_flat else 0

    # ---- what is done with it

    def quota(self):
        return self.per_request(lambda shape: self.ints(0, self.L + 2, shape))

    def tokens(self):
        return self.laid_out(self.ints(-1, self.V + 1, self.rows_shape).to(self.x_dtype))

    def confidence_of_rows(self):
        odd = torch.tensor(FLOATS)[self.ints(0, len(FLOATS), self.rows_shape)]
        scores = torch.where(self.flags(self.rows_shape, 0.2), odd, self.floats(self.rows_shape))
        return self.laid_out(scores.to(self.random.choice(SCORES)))

    def confidence(self):
        if self.target in ("topk_unmask_", "remask_"):
            return self.confidence_of_rows()
        return self.random.choice(CONFIDENCES if self.target not in NOT_COMPARING else CONFIDENCES[:4])

    def confidence_from(self):
        return self.random.choice(SOURCES)

    def filter_order(self):
        return self.random.choice(ORDERS)

    def edits_left(self):
        return self.laid_out(self.ints(-1, 3, (self.B,)), written=True)

    def probs(self):
        return self.laid_out(torch.zeros((*self.rows_shape, self.V), dtype=torch.bfloat16), unit=True, written=True)

    def cfg_scale(self):
        return self.random.choice((0.0, 0.0, 1.5, -1.0, 1e30))

    def rank_temperature(self):
        return self.random.choice((0.0, 0.5, 1e-300, 1e300))

    def tempered(self):
        return self.random.choice(("before", "after"))

    def mask_id(self):
        return self.mask if self.is_masked else None

    def vocab_size(self):
        return self.random.choice((self.V, self.V, 2**31, 2**63 - 1)) if self.x_dtype == torch.int64 else self.V

    def fraction(self):
        return self.random.choice((0.0, 0.3, 0.9, 1.0))

    def misplaced(self):
        """What says where rows stand, and does not go with how these are laid out."""
        packed = ("start", "shift") if self.is_packed else ("rows", "length")
        return (*packed, "start", "shift") if self.is_flat else packed


class OfOps(Tensors):
    """Arguments of torch.ops.dlm_kernels, which are tensors and plain numbers."""

    @property
    def has_rows(self):
        return "rows" in schema_of(self.target)

    edit = level = Tensors.fraction

    def low(self):
        return self.random.choice((0.0, 0.0, 0.3))

    below = softcap = confident = lambda self: self.random.choice((0.0, 0.5, 30.0))

    def strict(self):
        return self.chance(0.5)

    drop_crossing = keep_ties = strict

    def rule(self):
        return self.random.choice(RULES)

    def redraw(self):
        return self.random.choice(REDRAWS)

    def conf_dtype(self):
        return self.random.choice(tuple(DTYPES))

    def window_start(self):
        return self.random.randint(0, self.L // 2)

    def window_stop(self):
        return self.random.choice((-1, self.random.randint(self.L // 2, self.L)))

    def length(self):
        return self.L

    def stability(self):
        return self.random.randint(0, 3)

    def mask_id(self):
        nobody = -1 if self.target in ("renoise_step_", "transition_step_", "q_sample") else None
        return self.mask if self.is_masked else nobody

    def edited(self):
        return self.laid_out(self.flags(self.rows_shape), written=True)

    def num_edited(self):
        return self.laid_out(self.ints(0, 9, (self.B,)), written=True)

    def committed(self):
        return self.laid_out(self.flags((self.B, self.L)), written=True)

    def argmax(self):
        return self.laid_out(self.ints(0, self.V, (self.B, self.L)).to(self.x_dtype), written=True)

    unchanged = Tensors.edits_left

    def done(self):
        return self.laid_out(self.flags((self.B,)), written=True)

    def coefficients(self):
        shape = self.random.choice(((1,), (self.B,), (self.B, self.L)))
        numbers = self.floats((*shape, 14)).double()
        odd = torch.tensor([f for f in FLOATS if math.isfinite(f)], dtype=torch.float64)
        numbers = torch.where(self.flags(numbers.shape, 0.1), odd[self.ints(0, len(odd), numbers.shape)], numbers)
        if not self.is_masked:
            numbers[..., 7] = 0
        return self.laid_out(numbers, unit=True)

    def rates(self):
        shape = self.random.choice(((1,), (self.B,), (self.B, self.L)))
        rates = self.floats((*shape, 2)).double() / 2
        if not self.is_masked:
            rates[..., 1] = 0
        return self.laid_out(rates, unit=True)

    def trace(self):
        words = self.ints(-2, self.V, (self.B, self.L, 8)).int()
        if self.chance(0.3):
            words = self.ints(-(2**31), 2**31, (self.B, self.L, 8)).int()
        return words

    def trace_steps(self):
        return self.ints(0, 9, (self.random.choice((1, 4)), self.B, 8))

    def settled(self, given):
        """These arguments without what contradicts another one."""
        drop = lambda *names: [given.pop(name, None) for name in names]
        drop(*self.misplaced())
        if self.target in ("topk_unmask_", "remask_", *NOT_COMPARING) and "trace" in given:
            given["step"] = self.step()
        if "trace" not in given or "trace_steps" not in given:
            drop("trace", "trace_steps")
        if "edit" not in given or given.get("mask_id") is None:
            drop("edit", "edits_left", "edited", "num_edited")
        if "ready" in given:
            given.update(rule="threshold", low=0.0)
        if given.get("rule") != "topk" or given.get("confidence") == "random" or self.target == "draw_tokens":
            drop("rank_temperature")
        if given.get("confidence") in COMPARING and self.target == "draw_tokens":
            given["given"] = self.given()
        if "argmax" not in given:
            drop("unchanged")
        if "unchanged" not in given:
            drop("done")
        if given.get("redraw", "none") != "none":
            given["temperature"] = torch.ones(1)
        if given.get("redraw") == "guidance":
            given.update(uncond_logits=self.logits(), cfg_scale=0.0)
        return given
