"""Cases with filters, on the CPU and as a GPU run has them: who takes part, and that what is not filtered as it should gets no
number."""

import dataclasses
import sys
import types

import pytest
import torch
from dlm_kernels.bench import filtering, gpu_peers, report
from dlm_kernels.bench.cases import OURS, Case
from dlm_kernels.bench.check import check
from dlm_kernels.bench.inputs import make_inputs, make_logits
from test_bench_gpu import check_row, measured, small

FILTERS = [dict(top_p=0.6), dict(top_k=20), dict(min_p=0.2)]


def test_rows_with_filters():
    cases = [small(temperature=1.0, dtype="bf16", **filtered) for filtered in FILTERS]
    rows = measured(*cases, peers=("sorted_top_p", "eager_filters", "llada"))
    for row in rows:
        check_row(row)
    peers = ["sorted_top_p", "eager_filters", "eager_filters"]
    assert [row["provider"]["name"] for row in rows] == [name for peer in peers for name in (OURS, peer)]
    assert [report.filter_text(row["case"]) for row in rows[::2]] == [", top_p 0.6", ", top_k 20", ", min_p 0.2"]


@pytest.mark.parametrize("filtered", FILTERS, ids=str)
def test_filters_are_checked(filtered):
    """A step that keeps a little less, or what it should but scores it by the whole law, gets no number."""
    case = small(temperature=1.0, rows=64, **filtered)
    inputs = make_inputs(case, make_logits(case))
    [name] = filtered
    fewer = dataclasses.replace(case, **{name: dict(top_p=0.5, top_k=14, min_p=0.3)[name]})
    whole = dataclasses.replace(case, **{name: dict(top_p=1.0, top_k=0, min_p=0.0)[name]})
    for provider in gpu_peers.resolve(("sorted_top_p", "eager_filters")):
        if provider.takes(case):
            assert check(provider, provider.build(inputs), inputs).passed
            assert not check(provider, provider.build(dataclasses.replace(inputs, case=fewer)), inputs).passed
    ours = gpu_peers.GPU_PROVIDERS[OURS]
    assert not check(ours, ours.build(dataclasses.replace(inputs, case=whole)), inputs).passed


def test_flashinfer_filters_probabilities(monkeypatch):
    """By the sampler of the case's filter, whose tokens must be among those that stay."""

    def sampler(name):
        def draw(probs, number, deterministic):
            assert probs.dtype == torch.float32 and torch.allclose(probs.sum(-1), torch.ones(8)) and deterministic
            called.append((name, number))
            return probs.argmax(-1).int()

        return draw

    called, provider = [], gpu_peers.GPU_PROVIDERS["flashinfer"]
    sampling = types.SimpleNamespace(
        **{f"{name}_sampling_from_probs": sampler(name) for name in ("top_p", "top_k", "min_p")}
    )
    module = types.ModuleType("flashinfer")
    module.sampling = sampling
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    for filtered in FILTERS:
        case = small(temperature=1.0, **filtered)
        inputs = make_inputs(case, make_logits(case))
        assert provider.takes(case) and check(provider, provider.build(inputs), inputs).passed
        least = inputs.logits.argmin(-1)
        assert not check(provider, lambda x, u=None, tokens=least: (tokens, None), inputs).passed
    assert called == [(name, number) for filtered in FILTERS for name, number in filtered.items()]


def test_what_stays_of_a_row():
    z = torch.tensor([[0.5, 0.15, 0.15, 0.15, 0.05]], dtype=torch.float64).log()
    stays = lambda **fields: (filtering.kept(z, Case(vocab=5, rows=1, k=1, temperature=1.0, **fields))[0] > -torch.inf)[
        0
    ]
    assert stays(top_k=2).tolist() == [True, True, True, True, False]  # ties with the second
    assert stays(min_p=0.2).tolist() == [True, True, True, True, False]
    assert stays(top_p=0.6).tolist() == [True, True, False, False, False]  # the one that crosses


def test_one_filter_at_temperature_1():
    for fields in (
        dict(top_k=-1),
        dict(top_k=20),
        dict(min_p=1.5),
        dict(min_p=0.1, temperature=0.5),
        dict(top_k=2, min_p=0.1),
    ):
        with pytest.raises(ValueError, match="top_p|top_k|min_p"):
            Case(**{"vocab": 10, "rows": 8, "temperature": 1.0, **fields})
    case = Case(temperature=1.0, top_k=50)
    assert case.filter == "top_k" and case.id.endswith("top_k=50") and case.greedy == Case()
