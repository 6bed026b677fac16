"""csrc/core through ctypes: compiles core_shim.cpp and gives its functions Python faces."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CORE = HERE.parent / "csrc" / "core"
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "float64": 3}  # DType in dtype.h
RULES = (  # Rule in decide.h
    "topk",
    "threshold",
    "factor",
    "entropy_budget",
    "entropy_threshold",
    "entropy_budget_by_confidence",
    "segment_max",
)
CONFIDENCES = ("prob", "margin", "neg_entropy", "random", "gain", "change")  # Confidence in confidence.h


def build(compiler, folder, sanitize):
    library = folder / "libcore_shim.so"
    flags = ["-fsanitize=undefined", "-g", "-O1"] if sanitize else ["-O2"]
    command = [
        compiler,
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fPIC",
        "-shared",
        "-ffp-contract=off",
        *flags,
        "-I",
        str(CORE),
        str(HERE / "core_shim.cpp"),
        "-o",
        str(library),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Core(ctypes.CDLL(str(library)))


class Stats(ctypes.Structure):
    _fields_ = [
        ("max", ctypes.c_float),
        ("second", ctypes.c_float),
        ("argmax", ctypes.c_int64),
        ("rest", ctypes.c_double),
        ("tilt", ctypes.c_double),
    ]


def _array(values, dtype):
    return np.ascontiguousarray(values, dtype=dtype)


def _at(array):
    return array.ctypes.data_as(ctypes.c_void_p)


class Core:
    def __init__(self, library):
        self._library = library
        for name, result in [
            ("uniform_52", ctypes.c_double),
            ("uniform_23", ctypes.c_float),
            ("chunk_size", ctypes.c_int64),
            ("num_chunks", ctypes.c_int64),
            ("entropy", ctypes.c_double),
            ("log_sum_exp", ctypes.c_double),
            ("odds_against", ctypes.c_double),
            ("log_prob", ctypes.c_double),
            ("pick_chunk", ctypes.c_int64),
            ("leave_one_out_odds", ctypes.c_double),
            ("pick_route", ctypes.c_int32),
            ("noise_support", ctypes.c_int64),
            ("noise_token", ctypes.c_int64),
            ("position_trace_size", ctypes.c_int64),
            ("committed_token", ctypes.c_int64),
        ]:
            getattr(library, f"shim_{name}").restype = result

    def philox(self, counter, key):
        out = np.zeros(4, np.uint32)
        self._library.shim_philox(_at(_array(counter, np.uint32)), _at(_array(key, np.uint32)), _at(out))
        return out.tolist()

    def noise(self, seed, position, step, stream):
        out = np.zeros(4, np.uint32)
        self._library.shim_noise(*(ctypes.c_int64(v) for v in (seed, position, step)), ctypes.c_int32(stream), _at(out))
        return out.tolist()

    def uniform_52(self, words):
        return self._library.shim_uniform_52(_at(_array(words, np.uint32)))

    def uniform_23(self, words):
        return self._library.shim_uniform_23(_at(_array(words, np.uint32)))

    def chunk_size(self, vocab):
        return self._library.shim_chunk_size(ctypes.c_int64(vocab))

    def num_chunks(self, vocab):
        return self._library.shim_num_chunks(ctypes.c_int64(vocab))

    def widen(self, bits, half):
        bits = _array(bits, np.uint16)
        out = np.zeros(bits.size, np.float32)
        self._library.shim_widen(_at(bits), ctypes.c_int64(bits.size), ctypes.c_int32(half), _at(out))
        return out

    def round_to(self, values, dtype):
        values = _array(values, np.float64)
        out = np.zeros_like(values)
        self._library.shim_round_to(_at(values), ctypes.c_int64(values.size), ctypes.c_int32(DTYPES[dtype]), _at(out))
        return out

    def merge(self, parts, beta):
        array, out = (Stats * len(parts))(*parts), Stats()
        self._library.shim_merge(array, ctypes.c_int64(len(parts)), ctypes.c_double(beta), ctypes.byref(out))
        return out

    def entropy(self, stats):
        return self._library.shim_entropy(ctypes.byref(stats))

    def log_sum_exp(self, stats, beta):
        return self._library.shim_log_sum_exp(ctypes.byref(stats), ctypes.c_double(beta))

    def odds_against(self, stats, token, z, beta):
        return self._library.shim_odds_against(
            ctypes.byref(stats), ctypes.c_int64(token), ctypes.c_float(z), ctypes.c_double(beta)
        )

    def log_prob(self, stats, token, z, beta):
        return self._library.shim_log_prob(
            ctypes.byref(stats), ctypes.c_int64(token), ctypes.c_float(z), ctypes.c_double(beta)
        )

    def score(self, confidence, dtype, stats, token, odds, beta, rank_uniform, current):
        """``current``: the token that the position holds, and its logit."""
        value, key = ctypes.c_double(), ctypes.c_float()
        self._library.shim_score(
            CONFIDENCES.index(confidence),
            DTYPES[dtype],
            ctypes.byref(stats),
            ctypes.c_int64(token),
            ctypes.c_double(odds),
            ctypes.c_double(beta),
            ctypes.c_float(rank_uniform),
            ctypes.c_int64(current[0]),
            ctypes.c_float(current[1]),
            ctypes.byref(value),
            ctypes.byref(key),
        )
        return value.value, key.value

    def pick_chunk(self, maxima, masses, beta, uniform):
        target = ctypes.c_double()
        maxima = _array(maxima, np.float32)
        chunk = self._library.shim_pick_chunk(
            _at(maxima),
            _at(_array(masses, np.float64)),
            ctypes.c_int64(maxima.size),
            ctypes.c_double(beta),
            ctypes.c_double(uniform),
            ctypes.byref(target),
        )
        return chunk, target.value

    def transition_at(self, coefficients, b, p):
        """The 14 numbers of position (b, p) out of float64 [B, 14] or [B, L, 14]."""
        out = np.zeros(14, np.float64)
        coefficients = _array(coefficients, np.float64)
        sizes = [coefficients.shape[0], coefficients.shape[1] if coefficients.ndim == 3 else 0, b, p]
        self._library.shim_transition_at(_at(coefficients), *(ctypes.c_int64(v) for v in sizes), _at(out))
        return out.tolist()

    def route_weights(self, coefficients, odds, is_mask, support):
        """[stay, model, noise, mask]; ``mask`` is Route kRemask of transition.h."""
        out = np.zeros(4, np.float64)
        coefficients = _array(coefficients, np.float64)
        assert coefficients.size == 14
        self._library.shim_route_weights(
            _at(coefficients), ctypes.c_double(odds), int(is_mask), ctypes.c_double(support), _at(out)
        )
        return out.tolist()

    def leave_one_out_odds(self, odds, evidence, support, exponent=1.0):
        return self._library.shim_leave_one_out_odds(*(ctypes.c_double(v) for v in (odds, evidence, support, exponent)))

    def pick_route(self, weights, uniform):
        return self._library.shim_pick_route(_at(_array(weights, np.float64)), ctypes.c_double(uniform))

    def choose_route(self, coefficients, stats, temperature, current, tempered, vocab, mask_id, uniform):
        """``current``: the token that the position holds, and its logit."""
        return self._library.shim_choose_route(
            _at(_array(coefficients, np.float64)),
            ctypes.byref(stats),
            ctypes.c_float(temperature),
            ctypes.c_int64(current[0]),
            ctypes.c_float(current[1]),
            ctypes.c_int32(tempered == "after"),
            ctypes.c_int64(vocab),
            ctypes.c_int64(mask_id),
            ctypes.c_double(uniform),
        )

    def noising_route(self, noise, mask, uniform):
        return self._library.shim_noising_route(*(ctypes.c_double(v) for v in (noise, mask, uniform)))

    def noise_support(self, vocab, mask_id):
        return self._library.shim_noise_support(ctypes.c_int64(vocab), ctypes.c_int64(mask_id))

    def noise_token(self, uniform, support, mask_id):
        return self._library.shim_noise_token(
            ctypes.c_double(uniform), ctypes.c_int64(support), ctypes.c_int64(mask_id)
        )

    def decide(
        self, rule, position, value, key, entropy, *, quota=0, level=0.0, low=0.0, strict=True, conf_dtype="float32"
    ):
        value, key, entropy = _array(value, np.float64), _array(key, np.float32), _array(entropy, np.float32)
        chosen = np.zeros(value.size, np.uint8)
        self._library.shim_decide(
            RULES.index(rule),
            DTYPES[conf_dtype],
            int(strict),
            ctypes.c_double(level),
            ctypes.c_double(low),
            ctypes.c_int64(quota),
            ctypes.c_int64(value.size),
            _at(_array(position, np.int64)),
            _at(value),
            _at(key),
            _at(entropy),
            _at(chosen),
        )
        return chosen.astype(bool).tolist()

    def places(self, batch, width, num_rows, length, shift, start, rows, strides):
        """[num_rows, 4]: b, p, offset of the logits row that is read, offset of the row itself."""
        out = np.zeros((num_rows, 4), np.int64)
        start, rows = (None if v is None else _array(v, np.int64) for v in (start, rows))
        sizes = [ctypes.c_int64(v) for v in (batch, width, num_rows, length, shift)]
        self._library.shim_places(
            *sizes,
            None if start is None else _at(start),
            ctypes.c_int64(0 if start is None else start.size),
            None if rows is None else _at(rows),
            _at(_array(strides, np.int64)),
            _at(out),
        )
        return out

    def position_trace_size(self):
        return self._library.shim_position_trace_size()

    def fresh_position_trace(self):
        out = np.zeros(8, np.int32)
        self._library.shim_fresh_position_trace(_at(out))
        return out.tolist()

    def record(self, positions, steps, step, places, events, gain):
        """In place on torch tensors int32 [B, L, 8] and int64 [S, B, 8]. ``places`` [n, 2]: b, p; ``events`` [n, 4]: before,
        after, by_noise, committed; ``gain`` [n]. ``positions`` None: no trace is given."""
        sizes = _array([0, 0, 0] if positions is None else [len(steps), *positions.shape[:2]], np.int64)
        places, events, gain = _array(places, np.int64), _array(events, np.int64), _array(gain, np.float64)
        assert positions is None or positions.is_contiguous() and steps.is_contiguous()
        self._library.shim_record(
            *(None if t is None else ctypes.c_void_p(t.data_ptr()) for t in (positions, steps)),
            _at(sizes),
            ctypes.c_int64(step),
            ctypes.c_int64(len(gain)),
            _at(places),
            _at(events),
            _at(gain),
        )

    def committed_token(self, positions, b, p):
        sizes = _array([0, 0, 0] if positions is None else [0, *positions.shape[:2]], np.int64)
        data = None if positions is None else ctypes.c_void_p(positions.data_ptr())
        return self._library.shim_committed_token(data, _at(sizes), ctypes.c_int64(b), ctypes.c_int64(p))
