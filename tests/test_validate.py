"""Bad arguments: a clear TypeError or ValueError, the same from the kernels and the reference; nothing written."""

import math
import re

import pytest
import torch
from backends import ops
from helpers import assert_equal

import dlm_kernels as dlm
from dlm_kernels import reference
from dlm_kernels.step import _call

B, W, L, V, R = 2, 4, 8, 10, 5


def i64(*values):
    return torch.tensor(values, dtype=torch.int64)


def call_of(op, packed=False):
    """A legal call as one dict of arguments; tests spoil one of them."""
    x = torch.full((B, L), -1)
    logits = torch.zeros(R, V) if packed else torch.zeros(B, W, V)
    drawing = dict(temperature=torch.zeros(1), seed=i64(0), step=torch.tensor(0))
    rows = dict(rows=torch.arange(R)) if packed else {}
    if op == "row_stats":
        return dict(logits=logits, temperature=torch.ones(1))
    if op == "draw_tokens":
        return dict(logits=logits, **drawing, **rows, **(dict(length=L) if packed else {}))
    if op == "denoise_step_":
        return dict(x=x, logits=logits, **drawing, quota=i64(1), mask_id=-1, rule="topk", **rows)
    tokens = torch.zeros(R, dtype=torch.int64) if packed else torch.zeros(B, W, dtype=torch.int64)
    return dict(x=x, tokens=tokens, confidence=torch.zeros(tokens.shape), quota=i64(1), mask_id=-1, **rows)


half = torch.zeros(B, W, V, dtype=torch.float16)
meta = lambda tensor: tensor.to("meta")
T, E = TypeError, ValueError

# op, packed, what is spoilt, error, text
CASES = [
    # x
    ("denoise_step_", 0, dict(x=torch.zeros(B, L)), T, "x: dtype must be int64 or int32, got float32"),
    ("topk_unmask_", 0, dict(x=torch.zeros(B, L)), T, "x: dtype must be int64 or int32, got float32"),
    ("denoise_step_", 0, dict(x=i64(1, 2)), E, "x: must be 2-dimensional, [B, L], got [2]"),
    (
        "denoise_step_",
        0,
        dict(x=torch.full((B, 1), -1).expand(B, L)),
        E,
        "x: must not overlap itself (stride 0), got strides [1, 0]",
    ),
    # logits
    (
        "row_stats",
        0,
        dict(logits=torch.zeros(B, W, V).double()),
        T,
        "logits: dtype must be float32, float16 or bfloat16, got float64",
    ),
    (
        "denoise_step_",
        0,
        dict(logits=torch.zeros(B, W, V, dtype=torch.int64)),
        T,
        "logits: dtype must be float32, float16 or bfloat16, got int64",
    ),
    ("row_stats", 0, dict(logits=torch.zeros(V)), E, "logits: must be [B, W, V] or [R, V], got [10]"),
    (
        "draw_tokens",
        0,
        dict(logits=torch.zeros(1, B, W, V)),
        E,
        "logits: must be [B, W, V] or [R, V], got [1, 2, 4, 10]",
    ),
    ("denoise_step_", 0, dict(logits=torch.zeros(R, V)), E, "logits: must be 3-dimensional, [B, W, V], got [5, 10]"),
    ("denoise_step_", 1, dict(logits=torch.zeros(B, W, V)), E, "logits: must be 2-dimensional, [R, V], got [2, 4, 10]"),
    ("draw_tokens", 1, dict(logits=torch.zeros(B, W, V)), E, "logits: must be 2-dimensional, [R, V], got [2, 4, 10]"),
    ("draw_tokens", 0, dict(logits=torch.zeros(B, W, 0)), E, "logits: the vocabulary must not be empty, got [2, 4, 0]"),
    (
        "denoise_step_",
        0,
        dict(logits=torch.zeros(B, W, 2 * V)[..., ::2]),
        E,
        "logits: stride of the last dimension must be 1, got 2",
    ),
    (
        "denoise_step_",
        0,
        dict(logits=torch.zeros(B, V, W).mT),
        E,
        "logits: stride of the last dimension must be 1, got 4",
    ),
    ("denoise_step_", 0, dict(logits=torch.zeros(3, W, V)), E, "logits: dimension 0 must be 2 as in x, got 3"),
    ("denoise_step_", 0, dict(logits=torch.zeros(B, 9, V)), E, "logits: dimension 1 must be at most 8 as in x, got 9"),
    # temperature
    (
        "denoise_step_",
        0,
        dict(temperature=torch.zeros(1).double()),
        T,
        "temperature: dtype must be float32, got float64",
    ),
    ("denoise_step_", 0, dict(temperature=torch.tensor(0.0)), E, "temperature: shape must be [1] or [2], got []"),
    ("denoise_step_", 0, dict(temperature=torch.zeros(3)), E, "temperature: shape must be [1] or [2], got [3]"),
    ("row_stats", 1, dict(temperature=torch.ones(3)), E, "temperature: shape must be [1] or [5], got [3]"),
    ("draw_tokens", 1, dict(temperature=torch.tensor(0.0)), E, "temperature: must be 1-dimensional, [B], got []"),
    ("denoise_step_", 0, dict(temperature=torch.tensor([-0.5])), E, "temperature: must be finite and >= 0, got -0.5"),
    (
        "draw_tokens",
        0,
        dict(temperature=torch.tensor([1.0, math.nan])),
        E,
        "temperature: must be finite and >= 0, got nan",
    ),
    (
        "draw_tokens",
        0,
        dict(temperature=torch.tensor([math.inf, -1.0])),
        E,
        "temperature: must be finite and >= 0, got inf",
    ),
    ("row_stats", 0, dict(temperature=torch.tensor([1.0, 0.0])), E, "temperature: must be finite and > 0, got 0"),
    ("row_stats", 0, dict(temperature=torch.tensor([-1e-7])), E, "temperature: must be finite and > 0, got -1e-07"),
    # given
    ("row_stats", 0, dict(given=torch.zeros(B, W)), T, "given: dtype must be int64, got float32"),
    (
        "row_stats",
        0,
        dict(given=torch.zeros(B, W + 1, dtype=torch.int64)),
        E,
        "given: shape must be [2, 4], got [2, 5]",
    ),
    # seed, step
    ("denoise_step_", 0, dict(seed=torch.zeros(1)), T, "seed: dtype must be int64, got float32"),
    ("denoise_step_", 0, dict(seed=i64(1, 2, 3)), E, "seed: shape must be [1] or [2], got [3]"),
    (
        "draw_tokens",
        1,
        dict(seed=i64(1, 2, 3), temperature=torch.zeros(2)),
        E,
        "seed: shape must be [1] or [2], got [3]",
    ),
    ("draw_tokens", 1, dict(seed=torch.tensor(3)), E, "seed: must be 1-dimensional, [B], got []"),
    ("draw_tokens", 1, dict(temperature=torch.zeros(0)), E, "temperature: must not be empty, got [0]"),
    ("draw_tokens", 1, dict(temperature=torch.ones(1), seed=i64()), E, "seed: must not be empty, got [0]"),
    ("denoise_step_", 0, dict(step=torch.tensor(1.0)), T, "step: dtype must be int64, got float32"),
    ("draw_tokens", 0, dict(step=i64(1, 2)), E, "step: must have one element, got [2]"),
    # quota
    ("denoise_step_", 0, dict(quota=torch.ones(1)), T, "quota: dtype must be int64, got float32"),
    ("topk_unmask_", 0, dict(quota=i64(1, 2, 3)), E, "quota: shape must be [1] or [2], got [3]"),
    ("denoise_step_", 0, dict(quota=i64(3, -2)), E, "quota: must be >= 0, got -2"),
    ("topk_unmask_", 0, dict(quota=i64(-1)), E, "quota: must be >= 0, got -1"),
    # rule
    ("denoise_step_", 0, dict(rule="top_k"), E, "rule: must be topk, threshold, factor or entropy_budget, got top_k"),
    ("denoise_step_", 0, dict(rule="threshold", level=1.5), E, "level: must be in [0, 1] for threshold, got 1.5"),
    ("denoise_step_", 0, dict(rule="threshold", level=-0.1), E, "level: must be in [0, 1] for threshold, got -0.1"),
    ("denoise_step_", 0, dict(rule="threshold", level=math.nan), E, "level: must be in [0, 1] for threshold, got nan"),
    ("denoise_step_", 0, dict(rule="factor", level=-1.0), E, "level: must be >= 0 for factor, got -1"),
    (
        "denoise_step_",
        0,
        dict(rule="entropy_budget", level=-0.25),
        E,
        "level: must be >= 0 for entropy_budget, got -0.25",
    ),
    # window, frozen
    ("denoise_step_", 0, dict(window_start=-1), E, "window_start: must be in [0, 8], got -1"),
    ("topk_unmask_", 0, dict(window_start=9), E, "window_start: must be in [0, 8], got 9"),
    ("denoise_step_", 0, dict(window_start=3, window_stop=2), E, "window_stop: must be -1 or in [3, 8], got 2"),
    ("topk_unmask_", 0, dict(window_stop=9), E, "window_stop: must be -1 or in [0, 8], got 9"),
    ("denoise_step_", 0, dict(frozen=torch.zeros(B, L)), T, "frozen: dtype must be bool, got float32"),
    (
        "topk_unmask_",
        0,
        dict(frozen=torch.zeros(B, W, dtype=torch.bool)),
        E,
        "frozen: shape must be [2, 8], got [2, 4]",
    ),
    # start, rows, length, shift
    ("denoise_step_", 0, dict(start=torch.zeros(1)), T, "start: dtype must be int64, got float32"),
    ("denoise_step_", 0, dict(start=i64(1, 2, 3)), E, "start: shape must be [1] or [2], got [3]"),
    ("denoise_step_", 0, dict(start=i64(0, 5)), E, "start: must be in [0, 4] (L - W), got 5"),
    ("topk_unmask_", 0, dict(start=i64(-1)), E, "start: must be in [0, 4] (L - W), got -1"),
    ("draw_tokens", 0, dict(start=i64(-3)), E, "start: must be >= 0, got -3"),
    ("denoise_step_", 1, dict(start=i64(0)), E, "start: must not be given with packed logits [R, V], got [1]"),
    ("draw_tokens", 1, dict(start=i64(0)), E, "start: must not be given with packed logits [R, V], got [1]"),
    ("denoise_step_", 1, dict(rows=torch.arange(R).int()), T, "rows: dtype must be int64, got int32"),
    ("denoise_step_", 1, dict(rows=torch.arange(R - 1)), E, "rows: shape must be [5], got [4]"),
    ("topk_unmask_", 1, dict(rows=torch.arange(R - 1)), E, "rows: shape must be [5], got [4]"),
    ("denoise_step_", 1, dict(rows=i64(0, 1, 2, 3, B * L)), E, "rows: must be in [-1, 16), got 16"),
    ("denoise_step_", 1, dict(rows=i64(0, 1, -2, 3, 4)), E, "rows: must be in [-1, 16), got -2"),
    ("denoise_step_", 1, dict(rows=i64(0, 7, 2, -1, 7)), E, "rows: must not hold a position twice, got 7"),
    ("topk_unmask_", 1, dict(rows=i64(0, -1, -1, 0, 7)), E, "rows: must not hold a position twice, got 0"),
    ("draw_tokens", 1, dict(rows=i64(0, 1, -2, 3, 4)), E, "rows: must be >= -1, got -2"),
    ("draw_tokens", 1, dict(rows=i64(0, 1, 2, 3, 16), seed=i64(1, 2)), E, "rows: must be in [-1, 16), got 16"),
    ("draw_tokens", 1, dict(length=0), E, "length: must be >= 1 with rows, got 0"),
    ("draw_tokens", 0, dict(length=8), E, "length: must be 0 without rows, got 8"),
    ("denoise_step_", 0, dict(shift=1), E, "shift: must be 0 or -1, got 1"),
    ("draw_tokens", 0, dict(shift=-2), E, "shift: must be 0 or -1, got -2"),
    ("denoise_step_", 1, dict(shift=-1), E, "shift: must be 0 with packed logits [R, V], got -1"),
    ("draw_tokens", 1, dict(shift=-1), E, "shift: must be 0 with packed logits [R, V], got -1"),
    # suppress, demote, guidance
    ("row_stats", 0, dict(suppress=torch.zeros(2)), T, "suppress: dtype must be int64, got float32"),
    ("denoise_step_", 0, dict(suppress=torch.tensor(3)), E, "suppress: must be 1-dimensional, [n], got []"),
    ("draw_tokens", 0, dict(demote=torch.zeros(2, dtype=torch.int32)), T, "demote: dtype must be int64, got int32"),
    (
        "denoise_step_",
        0,
        dict(demote=torch.zeros(1, 2, dtype=torch.int64)),
        E,
        "demote: must be 1-dimensional, [n], got [1, 2]",
    ),
    ("denoise_step_", 0, dict(uncond_logits=half), T, "uncond_logits: dtype must be float32, got float16"),
    (
        "row_stats",
        0,
        dict(uncond_logits=torch.zeros(B, W, V + 1)),
        E,
        "uncond_logits: shape must be [2, 4, 10], got [2, 4, 11]",
    ),
    (
        "draw_tokens",
        0,
        dict(uncond_logits=torch.zeros(B, W, 2 * V)[..., ::2]),
        E,
        "uncond_logits: stride of the last dimension must be 1, got 2",
    ),
    ("denoise_step_", 0, dict(cfg_scale=math.inf), E, "cfg_scale: must be finite, got inf"),
    ("row_stats", 0, dict(cfg_scale=-math.inf), E, "cfg_scale: must be finite, got -inf"),
    # uniform, scoring
    ("denoise_step_", 0, dict(uniform=torch.zeros(B, W)), T, "uniform: dtype must be float64, got float32"),
    ("draw_tokens", 1, dict(uniform=torch.zeros(R + 1).double()), E, "uniform: shape must be [5], got [6]"),
    ("draw_tokens", 0, dict(uniform=torch.ones(B, W).double()), E, "uniform: must be in [0, 1), got 1"),
    ("denoise_step_", 0, dict(uniform=torch.full((B, W), math.nan).double()), E, "uniform: must be in [0, 1), got nan"),
    (
        "denoise_step_",
        0,
        dict(confidence="probability"),
        E,
        "confidence: must be prob, margin, neg_entropy or random, got probability",
    ),
    ("draw_tokens", 0, dict(confidence_from="logits"), E, "confidence_from: must be raw or sampled, got logits"),
    ("draw_tokens", 0, dict(conf_dtype="float16"), E, "conf_dtype: must be float32, bfloat16 or float64, got float16"),
    # topk_unmask_'s own
    ("topk_unmask_", 0, dict(tokens=torch.zeros(B, W).int()), T, "tokens: dtype must be int64, got int32"),
    ("topk_unmask_", 0, dict(tokens=i64(1, 2)), E, "tokens: must be 2-dimensional, [B, W], got [2]"),
    (
        "topk_unmask_",
        1,
        dict(tokens=torch.zeros(B, W, dtype=torch.int64)),
        E,
        "tokens: must be 1-dimensional, [R], got [2, 4]",
    ),
    (
        "topk_unmask_",
        0,
        dict(tokens=torch.zeros(B, 9, dtype=torch.int64)),
        E,
        "tokens: dimension 1 must be at most 8 as in x, got 9",
    ),
    (
        "topk_unmask_",
        0,
        dict(tokens=torch.zeros(3, W, dtype=torch.int64)),
        E,
        "tokens: dimension 0 must be 2 as in x, got 3",
    ),
    (
        "topk_unmask_",
        0,
        dict(confidence=torch.zeros(B, W).long()),
        T,
        "confidence: dtype must be float32, float64, float16 or bfloat16, got int64",
    ),
    ("topk_unmask_", 0, dict(confidence=torch.zeros(B, W + 1)), E, "confidence: shape must be [2, 4], got [2, 5]"),
]


def run(implementation, op, arguments):
    return _call(getattr(implementation, op), **arguments)


@pytest.mark.parametrize("op, packed, spoilt, error, text", CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_message(op, packed, spoilt, error, text):
    for implementation in (ops, reference):
        arguments = {**call_of(op, packed), **spoilt}
        before = arguments["x"].clone() if "x" in arguments else None
        with pytest.raises(error, match=f"^{re.escape(text)}$"):
            run(implementation, op, arguments)
        if before is not None:
            assert_equal("x", arguments["x"], before)


@pytest.mark.parametrize("op", ["row_stats", "draw_tokens", "denoise_step_", "topk_unmask_"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_calls_that_are_spoilt_are_legal(op, packed):
    for implementation in (ops, reference):
        run(implementation, op, call_of(op, packed))


def test_every_check_has_a_case():
    """A message of validate.py that no case provokes would be one nobody has read."""
    source = open(reference.validate.__file__).read()
    arguments = {text.split(":")[0] for _, _, _, _, text in CASES}
    assert arguments >= set(re.findall(r'_require\w*\(\s*"(\w+)"', source)) | set(
        re.findall(r'_per_request\("(\w+)"', source)
    )
    fragments = [
        f.replace("{{", "{")
        for f in re.findall(r'f?"(must [^"]+|shape must[^"]+|stride of[^"]+|the vocab[^"]+)"', source)
    ]
    patterns = [re.sub(r"\\\{.*?\\\}", ".*", re.escape(f)) for f in fragments]
    unread = [p for p in patterns if not any(re.search(p, text) for *_, text in CASES)]
    assert unread == [r"must\ be\ on\ .*\ as\ .*"]  # test_devices


@pytest.mark.parametrize(
    "argument",
    ["temperature", "seed", "step", "quota", "frozen", "start", "suppress", "demote", "uncond_logits", "uniform"],
)
def test_devices(argument):
    """Every tensor lives where x does. "meta" stands in for a second device here."""
    extra = dict(
        frozen=torch.zeros(B, L, dtype=torch.bool),
        start=i64(0),
        suppress=i64(1),
        demote=i64(1),
        uncond_logits=torch.zeros(B, W, V),
        uniform=torch.zeros(B, W).double(),
    )
    arguments = {**call_of("denoise_step_"), **extra}
    arguments[argument] = meta(arguments[argument])
    anchor = "logits" if argument in ("suppress", "demote", "uncond_logits", "uniform") else "x"
    before = arguments["x"].clone()
    with pytest.raises(ValueError, match=f"^{argument}: must be on cpu as {anchor}, got meta$"):
        run(reference, "denoise_step_", arguments)
    assert_equal("x", arguments["x"], before)


@pytest.mark.parametrize(
    "bad", [dict(temperature=torch.tensor([-1.0])), dict(quota=i64(-1)), dict(rule="none"), dict(conf_dtype="float16")]
)
def test_several_faults_name_the_first_argument(bad):
    """The order is that of the signature: a bad argument is blamed before any that follow it."""
    for implementation in (ops, reference):
        arguments = {**call_of("denoise_step_"), **bad, "confidence_from": "nowhere", "x": torch.zeros(B, L)}
        with pytest.raises(TypeError, match="^x: "):
            run(implementation, "denoise_step_", arguments)
        arguments["x"] = torch.full((B, L), -1)
        first = next(iter(bad)) if next(iter(bad)) != "conf_dtype" else "confidence_from"
        with pytest.raises(ValueError, match=f"^{first}: "):
            run(implementation, "denoise_step_", arguments)


def test_legal_though_odd():
    """Mask ids and suppressed ids outside the vocabulary, several paddings, windows of nothing, whole empty batches."""
    for implementation in (ops, reference):
        arguments = call_of("denoise_step_", packed=True)
        arguments.update(
            mask_id=126336, rows=i64(-1, -1, 3, -1, 0), suppress=i64(-5, V, 2**40), window_start=L, window_stop=L
        )
        run(implementation, "denoise_step_", arguments)
        for shape in [(0, L), (B, 0)]:
            arguments = call_of("denoise_step_")
            arguments.update(x=torch.full(shape, -1), logits=torch.zeros(*shape, V))
            tokens, *_, num_committed, num_open, num_bad = run(implementation, "denoise_step_", arguments)
            assert list(tokens.shape) == list(shape)
            for counts in (num_committed, num_open, num_bad):
                assert counts.tolist() == [0] * shape[0]
        for op in ("row_stats", "draw_tokens"):
            for shape in [(0, W, V), (B, 0, V), (0, V)]:
                arguments = {**call_of(op), "logits": torch.zeros(shape)}
                assert all(out.shape == shape[:-1] for out in run(implementation, op, arguments))
        arguments = {**call_of("denoise_step_", packed=True), "logits": torch.zeros(0, V), "rows": i64()}
        assert run(implementation, "denoise_step_", arguments)[5].tolist() == [0, 0]


def test_many_dimensions_are_rejected_in_words():
    """More dimensions than any argument has: a message, not a read past the end."""
    for name, shape in [("logits", (1, 1, B, W, V)), ("uniform", (1, 1, 1, B, W)), ("temperature", (1, 1, 1, 1, 1))]:
        for implementation in (ops, reference):
            arguments = call_of("denoise_step_")
            value = torch.zeros(shape)
            arguments[name] = value.double() if name == "uniform" else value
            with pytest.raises(ValueError, match=f"^{name}: .*, got \\[{', '.join(map(str, shape))}\\]$"):
                run(implementation, "denoise_step_", arguments)


# ---- the Python layer ----------------------------------------------------------------------------------------------


def step(**changes):
    x = changes.pop("x", torch.full((B, L), -1))
    logits = changes.pop("logits", torch.zeros(B, W, V))
    return dlm.denoise_step_(x, logits, **{**dict(mask_id=-1, rule=dlm.TopK(1)), **changes})


@pytest.mark.parametrize(
    "changes, error, text",
    [
        (dict(x=[[1, 2]]), T, "x: must be a torch.Tensor, got list"),
        (dict(logits=None), T, "logits: must be a torch.Tensor, got NoneType"),
        (dict(rule="topk"), T, "rule: must be TopK, Threshold, Factor or EntropyBudget, got str"),
        (dict(temperature=-1.0), E, "temperature: must be finite and >= 0, got -1"),
        (dict(temperature=math.nan), E, "temperature: must be finite and >= 0, got nan"),
        (dict(temperature="hot"), T, "temperature: must be a number, got str"),
        (dict(seed=1.5), T, "seed: must be an int, got float"),
        (dict(step=True), T, "step: must be an int, got bool"),
        (dict(mask_id=1.0), T, "mask_id: must be an int, got float"),
        (
            dict(conf_dtype=torch.float16),
            E,
            "conf_dtype: must be torch.float32, torch.bfloat16 or torch.float64, got torch.float16",
        ),
        (dict(confidence="entropy"), E, "confidence: must be prob, margin, neg_entropy or random, got entropy"),
        (dict(window=(3, 2)), E, "window: must be (start, stop) with 0 <= start <= stop, got (3, 2)"),
        (dict(window=4), T, "window: must be (start, stop), got 4"),
        (dict(suppress=[1.5]), T, "suppress: must be an int, got float"),
        (dict(start=9), E, "start: must be in [0, 4] (L - W), got 9"),
        (dict(rows=[1, 2]), T, "rows: must be a torch.Tensor, got list"),
    ],
)
def test_python_layer(changes, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        step(**changes)


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: dlm.TopK(-1), E),
        (lambda: dlm.TopK(1.5), T),
        (lambda: dlm.Threshold(1.5), E),
        (lambda: dlm.Threshold(-0.1), E),
        (lambda: dlm.Threshold(math.nan), E),
        (lambda: dlm.Threshold(0.5, at_least=-1), E),
        (lambda: dlm.Factor(-1.0), E),
        (lambda: dlm.EntropyBudget(-0.5), E),
    ],
)
def test_rules_check_themselves_at_the_latest_in_the_step(make, error):
    x = torch.full((B, L), -1)
    with pytest.raises(error, match=r"^\w+: .+, got .+$"):
        step(x=x, rule=make())
    assert bool((x == -1).all())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("packed", [False, True])
def test_check_names_the_first_bad_row(isa, value, packed):
    """check=True raises before anything is written; without it the row is counted and left open."""
    logits = torch.randn(B, L, V, generator=torch.Generator().manual_seed(0))
    logits[0, 5, 3] = value  # frozen: never read
    logits[1, 2, 9] = value
    logits[1, 6] = -math.inf
    x, frozen = torch.full((B, L), -1), torch.zeros(B, L, dtype=torch.bool)
    frozen[0, 5] = True
    kwargs = dict(mask_id=-1, rule=dlm.TopK(3), frozen=frozen)
    if packed:
        order = torch.randperm(B * L, generator=torch.Generator().manual_seed(1))
        order = order[(order != 1 * L + 6)]
        logits, kwargs["rows"] = logits.reshape(-1, V)[order], order
    before = x.clone()
    with pytest.raises(ValueError, match=r"^logits: .*, got .*\(1, 2\)"):
        dlm.denoise_step_(x, logits, check=True, **kwargs)
    assert_equal("x", x, before)
    out = dlm.denoise_step_(x, logits, **kwargs)
    assert out.num_bad.tolist() == [0, 1 if packed else 2] and out.num_committed.tolist() == [3, 3]
    assert x[1, 2] == -1 and x[0, 5] == -1
    logits = logits.nan_to_num(posinf=0.0, neginf=-5.0)
    out = dlm.denoise_step_(x, logits, check=True, **kwargs)  # good data passes the check
    assert out.num_bad.tolist() == [0, 0] and out.x is x


def test_check_of_draws_and_confidences():
    logits = torch.zeros(B, W, V)
    logits[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match=r"^logits: .*\(1, 2\)"):
        dlm.draw_tokens(logits, check=True)
    x, confidence = torch.full((B, W), -1), torch.zeros(B, W)
    confidence[1, 3] = math.nan
    with pytest.raises(ValueError, match=r"^confidence: .*\(1, 3\)"):
        dlm.topk_unmask_(x, x + 2, confidence, 2, mask_id=-1, check=True)
    assert bool((x == -1).all())
