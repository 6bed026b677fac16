"""Arguments of the Python functions for fuzz.py, which take numbers, lists and objects beside tensors."""

import inspect
import math

import torch
from dlm_kernels.reference.confidence import COMPARING
from fuzz_arguments import Tensors
from fuzz_values import LOGIT_DTYPES

import dlm_kernels as dlm
from dlm_kernels import remasking, transitions

FUNCTIONS = {
    "row_stats": dlm.row_stats,
    "row_kl": dlm.row_kl,
    "draw_tokens": dlm.draw_tokens,
    "denoise_step_": dlm.denoise_step_,
    "topk_unmask_": dlm.topk_unmask_,
    "remask_": dlm.remask_,
    "uniform_step_": dlm.uniform_step_,
    "transition_step_": dlm.transition_step_,
    "renoise_step_": dlm.renoise_step_,
    "q_sample": dlm.q_sample,
    "klass_step_": dlm.klass_step_,
    "wino_step_": remasking.wino_step_,
    "p2_step_": remasking.p2_step_,
    "dinfer_remask_step_": remasking.dinfer_remask_step_,
}
# Keywords that a function passes on to another one; uniform_step_ has those of transition_step_ but its transition.
PASSED_ON = {
    "uniform_step_": dlm.transition_step_,
    "klass_step_": dlm.denoise_step_,
    "wino_step_": dlm.draw_tokens,
    "p2_step_": dlm.draw_tokens,
    "dinfer_remask_step_": dlm.draw_tokens,
}
# What the functions of these names write besides the canvas, and what errors may name that is inside an argument.
WRITTEN = ("x", "probs", "edits_left", "accepted", "state", "trace")
INNER_NAMES = (
    "trace_steps",
    "tempered",
    "redraw",
    "level",
    "previous",
    "stable",
    "argmax",
    "unchanged",
    "done",
    "committed",
    "at_least",
    "k",
    "transition",  # that uniform_step_ makes
    "schedule values",
)
# What errors say that torch raises, or that say no more than torch does: no memory, and values of what has none.
TORCHS_OWN = (
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "cannot be called on meta tensors",
)
NOT_PASSED = {
    "transition",
    "rule",
    "ready",
    "shift",
    "rows",
    "length",
    "start",
    "check",
    "given",
    "x",
    "logits",
    "edit",
}
NOT_PASSED |= {"edits_left"}


def names_of(function):
    """Every argument of a Python function, those among **keywords too."""
    own = inspect.signature(FUNCTIONS[function]).parameters
    names = [name for name, p in own.items() if p.kind != p.VAR_KEYWORD]
    if function in PASSED_ON:
        names += [n for n in inspect.signature(PASSED_ON[function]).parameters if n not in NOT_PASSED | set(names)]
    return names


def needed_of(function):
    parameters = inspect.signature(FUNCTIONS[function]).parameters.items()
    return {n for n, p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD}


class OfFunctions(Tensors):
    """Arguments of the Python functions, which take numbers, lists and objects too."""

    @property
    def has_rows(self):
        return "rows" in names_of(self.target)

    threshold = shadow_threshold = remask_threshold = low_threshold = kl_threshold = Tensors.fraction
    kappa = uniform_share = confidence_threshold = entropy_bound = Tensors.fraction

    def or_number(self, tensor, *numbers):
        return self.random.choice((tensor(), *numbers))

    def temperature(self):
        return self.or_number(super().temperature, 1.0, 0.5, 1 if self.target[:4] == "row_" else 0)

    def top_k(self):
        return self.or_number(super().top_k, 0, 3, 2**40)

    def top_p(self):
        return self.or_number(super().top_p, 0.0, 0.9, 1)

    def min_p(self):
        return self.or_number(super().min_p, 0.0, 0.1, 1)

    def suppress(self):
        return self.or_number(super().suppress, [], [0, 5], 3)

    demote = suppress

    def seed(self):
        numbers = (0, 7, -(2**63), 2**63 - 1)
        return (
            self.or_number(super().seed, None, *numbers) if self.target != "q_sample" else self.random.choice(numbers)
        )

    def step(self):
        return self.or_number(super().step, 0, 3, 2**63 - 1)

    def start(self):
        return self.or_number(super().start, 0, self.L - self.W)

    def generator(self):
        return torch.Generator().manual_seed(3)

    def window(self):
        return (self.random.randint(0, self.L // 2), self.random.randint(self.L // 2, self.L))

    def conf_dtype(self):
        return self.random.choice((torch.float32, torch.bfloat16, torch.float64))

    def softcap(self):
        return self.random.choice((None, 30, 1e-6))

    def top_p_crossing(self):
        return self.random.choice(("keep", "drop"))

    def top_k_ties(self):
        return self.random.choice(("lowest", "all"))

    def check(self):
        return self.chance(0.5)

    return_route = check

    def prediction(self):
        return self.random.choice(transitions.PREDICTIONS)

    def length(self):
        return self.L if self.is_packed else None

    def k(self):
        return self.or_number(self.quota, 0, 1, 3, 2**63 - 1)

    def rule(self):
        k, share = self.k(), self.fraction()
        makes = (
            lambda: dlm.TopK(k),
            lambda: dlm.Threshold(share, at_least=k, within=share),
            lambda: dlm.Factor(3 * share),
        )
        makes += (
            lambda: dlm.EntropyBudget(3 * share),
            lambda: dlm.EntropyThreshold(share, k),
            lambda: dlm.SegmentMax(share),
        )
        return self.random.choice(makes)()

    below = eta = lambda self: self.random.choice((0.0, 0.5, 1, math.inf))
    history = stability_threshold = lambda self: self.random.choice((0, 1, 2))

    def edit(self):
        return self.fraction() if self.is_masked else None

    def accepted(self):
        return self.laid_out(self.ints(0, 31, (self.B,)), written=True)

    def trace(self):
        if 0 in (self.B, self.L):
            return None
        return dlm.RevisionTrace(self.B, self.L, self.random.choice(("counters", "full")), max_steps=4)

    def state(self):
        if self.target == "klass_step_":
            state = dlm.KlassState.start(self.logits(), self.random.choice(LOGIT_DTYPES))
            if self.chance(0.7):
                state.previous.copy_(self.logits())
            return state
        return dlm.RenoiseState.start(self.x(), self.chance(0.5))

    def alpha(self):
        tensor = lambda: self.floats(self.random.choice(((self.B,), (self.B, self.L))))
        return self.or_number(tensor, 0.0, 0.5, 1, dlm.schedules.Level(0.25, 0.75))

    def alpha_t(self):
        return self.random.choice((0.0, 0.3, self.floats((self.B,)) / 2, dlm.schedules.Level(0.25, 0.75)))

    def alpha_s(self):
        return self.random.choice((0.5, 1.0, 0.5 + self.floats((self.B,)) / 2, dlm.schedules.Level(0.75, 0.25)))

    def transition(self):
        t, s = self.random.choice(((0.2, 0.7), (0.0, 1.0), (self.floats((self.B,)) / 2, 0.5)))
        makes = [lambda: transitions.uniform(t, s), lambda: transitions.max_coupling(t, s)]
        makes += [
            lambda: transitions.with_min_p(transitions.uniform(t, s), 0.1),
            lambda: transitions.sedd_analytic(2.0, 1.0),
        ]
        if self.is_masked:
            makes += [lambda: transitions.absorbing(t, s), lambda: transitions.gidd(0.9, 0.5, 0.2)]
        return self.random.choice(makes)()

    def settled(self, given):
        drop = lambda *names: [given.pop(name, None) for name in names]
        drop(*self.misplaced())
        if "seed" in given:
            drop("generator")
        if given.get("edit") is None:
            drop("edit", "edits_left")
        if "ready" in given:
            given["rule"] = dlm.Threshold(0.5)
        if not isinstance(given.get("rule"), dlm.TopK) or given.get("confidence") == "random":
            drop("rank_temperature")
        if given.get("confidence") in COMPARING and self.target == "draw_tokens":
            given["given"] = self.given()
        if getattr(given.get("transition"), "redraw", "none") != "none":
            given["temperature"] = 1.0
        if given.get("mask_id") is None and self.target == "q_sample":
            drop("uniform_share")
        return given
