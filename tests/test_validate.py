"""Bad arguments: a clear TypeError or ValueError, the same from the kernels and the reference; nothing written."""

import math
import re
from pathlib import Path

import pytest
import torch
from backends import eager_ops, ops
from helpers import assert_equal
from validate_calls import OPS, B, E, L, T, V, W, call_of, i64, meta, schedule, state, tracing
from validate_cases import CASES

import dlm_kernels as dlm
from dlm_kernels import reference, remasking, transitions
from dlm_kernels.calling import public_error


def run(implementation, op, arguments):
    try:
        return getattr(implementation, op)(**arguments)
    except (RuntimeError, ValueError, TypeError) as error:
        raise public_error(error) from None


@pytest.mark.parametrize("op, packed, spoilt, error, text", CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_message(op, packed, spoilt, error, text):
    for implementation in (ops, eager_ops, reference):
        arguments = {**call_of(op, packed), **spoilt}
        before = arguments["x"].clone() if "x" in arguments else None
        with pytest.raises(error, match=f"^{re.escape(text)}$"):
            run(implementation, op, arguments)
        if before is not None:
            assert_equal("x", arguments["x"], before)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("packed", [False, True])
def test_the_calls_that_are_spoilt_are_legal(op, packed):
    for implementation in (ops, eager_ops, reference):
        run(implementation, op, call_of(op, packed))
        more = tracing(step=torch.tensor(0)) if op.endswith("_") else {}
        if op == "renoise_step_":
            more.update(state(), committed=torch.zeros(B, L).bool())
        run(implementation, op, {**call_of(op, packed), **more})


def test_checks_come_in_one_order():
    """Of two bad arguments, the compiled ops and the reference name the same one."""
    for i, (op, packed, spoilt, *_) in enumerate(CASES):
        for other, its_packed, more, *_ in CASES[i + 1 :]:
            if (op, packed) != (other, its_packed) or spoilt.keys() & more.keys():
                continue
            texts = set()
            for implementation in (ops, reference):
                with pytest.raises((ValueError, TypeError)) as raised:
                    run(implementation, op, {**call_of(op, packed), **spoilt, **more})
                texts.add(str(raised.value))
            assert len(texts) == 1, texts


def test_every_check_has_a_case():
    """A message of check.py or validate.py that no case provokes would be one nobody has read."""
    source = Path(reference.check.__file__).read_text() + Path(reference.validate.__file__).read_text()
    arguments = {text.split(":")[0] for _, _, _, _, text in CASES}
    assert arguments >= set(re.findall(r'    (?:check|require)\w*\(\s*"(\w+)"', source))
    fragments = [
        f.replace("{{", "{")
        for f in re.findall(r'f?"(must [^"]+|shape must[^"]+|stride of[^"]+|the vocab[^"]+)"', source)
    ]
    patterns = [re.sub(r"\\\{.*?\\\}", ".*", re.escape(f)) for f in fragments]
    unread = [p for p in patterns if not any(re.search(p, text) for *_, text in CASES)]
    assert unread == [r"must\ be\ on\ .*\ as\ .*"]  # test_devices


def full_call(op):
    """A legal call with every tensor that the op takes."""
    flags, columns = torch.zeros(B, L, dtype=torch.bool), {"renoise_step_": [2], "transition_step_": [3]}.get(op, [])
    if op == "q_sample":
        return {**call_of(op), "frozen": flags, "uniform": schedule(B, L, 2)}
    of_logits = dict(suppress=i64(1), uncond_logits=torch.zeros(B, W, V), uniform=schedule(B, W, *columns))
    filters = dict(top_k=i64(2), top_p=schedule(1), min_p=schedule(1))
    extra = {**of_logits, **filters, "frozen": flags, "start": i64(0), **tracing()}
    if op == "denoise_step_":
        extra.update(demote=i64(1), rule="threshold", ready=flags[:, :W].clone())
        extra.update(edit=0.5, edits_left=i64(1, 2), edited=flags[:, :W].clone(), num_edited=i64(0, 0))
    if op == "renoise_step_":
        extra.update(state(), committed=flags.clone(), probs=torch.zeros(B, W, V).bfloat16())
    return {**call_of(op), **extra}


@pytest.mark.parametrize("op", ["denoise_step_", "renoise_step_", "transition_step_", "q_sample"])
def test_devices(op):
    """Every tensor lives where x does. "meta" stands in for a second device here."""
    for argument, value in full_call(op).items():
        if argument == "x" or not isinstance(value, torch.Tensor):
            continue
        arguments = {**full_call(op), argument: meta(value)}
        like_logits = (
            argument in ("suppress", "demote", "uncond_logits", "uniform", "ready", "edited") and op != "q_sample"
        )
        before = arguments["x"].clone()
        with pytest.raises(
            ValueError, match=f"^{argument}: must be on cpu as {'logits' if like_logits else 'x'}, got meta$"
        ):
            run(reference, op, arguments)
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
        for op in ("row_stats", "row_kl", "draw_tokens"):
            for shape in [(0, W, V), (B, 0, V), (0, V)]:
                arguments = {**call_of(op), "logits": torch.zeros(shape)}
                if op == "row_kl":
                    arguments["previous"] = torch.zeros(shape)
                assert all(out.shape == shape[:-1] for out in run(implementation, op, arguments))
        for op in ("denoise_step_", "renoise_step_", "transition_step_"):
            arguments = {**call_of(op, packed=True), "logits": torch.zeros(0, V), "rows": i64()}
            assert run(implementation, op, arguments)[-1].tolist() == [0, 0]
        for op in ("renoise_step_", "transition_step_", "q_sample"):
            for shape in [(0, L), (B, 0)]:
                arguments = {**call_of(op), "x": torch.zeros(shape, dtype=torch.int64)}
                if op != "q_sample":
                    arguments["logits"] = torch.zeros(*shape, V)
                assert list(run(implementation, op, arguments)[0].shape) == list(shape)


def test_a_transition_does_not_mind_what_cannot_change():
    """Tokens outside the vocabulary where it is frozen or outside the window, and a mask outside it anywhere."""
    for implementation in (ops, reference):
        arguments = call_of("transition_step_")
        x, frozen = torch.full((B, L), V), torch.zeros(B, L, dtype=torch.bool)
        frozen[:, :2] = True
        arguments.update(x=x, frozen=frozen, window_stop=2)
        run(implementation, "transition_step_", arguments)
        run(implementation, "transition_step_", {**arguments, "mask_id": V, "frozen": None, "window_stop": -1})


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
        (dict(rule="topk"), T, "rule: must be a rule, such as TopK(k), got str"),
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
        (
            dict(confidence="entropy"),
            E,
            "confidence: must be prob, margin, neg_entropy, random, gain or change, got entropy",
        ),
        (dict(window=(3, 2)), E, "window: must be (start, stop) with 0 <= start <= stop, got (3, 2)"),
        (dict(window=4), T, "window: must be (start, stop), got 4"),
        (dict(top_k=-1), E, "top_k: must be >= 0, got -1"),
        (dict(top_k=1.5), T, "top_k: must be an int, got float"),
        (dict(top_p=math.nan), E, "top_p: must be in [0, 1], got nan"),
        (dict(top_p=torch.tensor([1.5])), E, "top_p: must be in [0, 1], got 1.5"),
        (dict(min_p=-0.1), E, "min_p: must be in [0, 1], got -0.1"),
        (dict(min_p="some"), T, "min_p: must be a number, got str"),
        (dict(filter_order="min_p_first"), E, "filter_order: must be top_k_first or top_p_first, got min_p_first"),
        (dict(top_p_crossing="half"), E, "top_p_crossing: must be keep or drop, got half"),
        (dict(top_k_ties="none"), E, "top_k_ties: must be lowest or all, got none"),
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
        (lambda: dlm.Threshold(0.5, within=-1e-5), E),
        (lambda: dlm.EntropyBudget(-0.5), E),
        (lambda: dlm.EntropyBudget(0.5, order="margin"), E),
        (lambda: dlm.EntropyThreshold(math.nan), E),
        (lambda: dlm.EntropyThreshold(0.5, at_least=-1), E),
        (lambda: dlm.EntropyThreshold("low"), T),
        (lambda: dlm.SegmentMax(1.5), E),
        (lambda: dlm.SegmentMax(low=-0.1), E),
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


@pytest.mark.parametrize("check", [False, True])
def test_memory_of_its_own(check):
    """Also where the op is given copies."""
    with pytest.raises(ValueError, match=r"^x: must not overlap itself, got strides \[0, 1\]$"):
        x = torch.full((1, L), V).expand(B, L)
        dlm.denoise_step_(x, torch.zeros(B, L, V), mask_id=V, rule=dlm.TopK(1), check=check)
    x = torch.zeros(B, L, dtype=torch.int64)
    state = dlm.RenoiseState.start(x)
    state.argmax = x
    with pytest.raises(ValueError, match="^argmax: must have memory of its own, got memory of x$"):
        dlm.renoise_step_(x, torch.zeros(B, L, V), state=state, check=check)
    assert not bool(x.any())


@pytest.mark.parametrize(
    "step, argument",
    [
        (lambda x, z, meta: remasking.wino_step_(x, z, z.to("meta"), x[:, 0].clone(), mask_id=V), "shadow_logits"),
        (lambda x, z, meta: dlm.q_sample(x, meta, vocab_size=V), "alpha"),
        (lambda x, z, meta: dlm.q_sample(x, 0.5, vocab_size=V, mask_id=V, uniform_share=meta), "uniform_share"),
        (lambda x, z, meta: dlm.transition_step_(x, z, transition=transitions.uniform(meta, 0.5)), "transition"),
        (
            lambda x, z, meta: dlm.uniform_step_(x, z, alpha_t=0.1, alpha_s=0.2, mask_id=1, suppress=meta.long()),
            "suppress",
        ),
    ],
)
def test_tensors_without_numbers(step, argument):
    with pytest.raises(ValueError, match=f"^{argument}: must be on .*, got meta$"):
        step(torch.zeros(B, L, dtype=torch.int64), torch.zeros(B, L, V), torch.full((B,), 0.3, device="meta"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_nothing_for_a_tensor(device):
    with pytest.raises(TypeError, match="^logits: must be a torch.Tensor, got NoneType$"):
        run(ops, "row_kl", dict(logits=None, previous=torch.zeros(1, 1, 2), temperature=torch.ones(1, device=device)))


def test_no_memory_for_results(isa):
    with pytest.raises(torch.OutOfMemoryError, match="^not enough memory for "):
        dlm.row_stats(torch.zeros(1, 1).expand(2**62, 1))


@pytest.mark.parametrize("argument", ["temperature", "seed", "top_k", "top_p", "min_p"])
def test_numbers_of_too_few_sequences(argument):
    """Of a step that packs its rows."""
    x, few = torch.full((3, L), V), torch.full((2,), 1 if argument in ("seed", "top_k") else 0.5)
    with pytest.raises(ValueError, match=rf"^{argument}: shape must be \[1\] or \[3\], got \[2\]$"):
        remasking.p2_step_(x, torch.zeros(3, L, V), mask_id=V, kappa=0.5, **{argument: few})
    assert bool((x == V).all())
