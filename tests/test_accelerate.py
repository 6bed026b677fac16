"""accelerate, restore, accelerated, explain: on toy clients; the real ones have files of their own."""

import abc
import copy
import functools
import gc
import inspect
import pickle
import types

import pytest
import torch

import dlm_kernels as dlm
from dlm_kernels.integrations import accelerate as home
from dlm_kernels.integrations.seams import (
    Seam,
    Unsupported,
    function_seam,
    is_a,
    known_version,
    method_seam,
    step_seams,
)


class Model(torch.nn.Module):
    """A client: its step doubles, and can also triple."""

    version = "1.2"

    def step(self, x, *, by=2, generator=None):
        """Multiply."""
        return x * by

    def __repr__(self):
        return "Model()"


class ModelAdapter:
    name = "toy model"

    def matches(self, obj):
        return is_a(obj, f"{__name__}.Model")

    def seams(self, obj):
        known_version("toy", obj.version, "1.1", "1.2")
        return [method_seam(obj, "step", _fast_step, "doubling")]


def _fast_step(self, x, *, by=2, generator=None):
    if by != 2:
        raise Unsupported(f"by={by} is not covered")
    self.fast_calls = getattr(self, "fast_calls", 0) + 1
    return x + x


remote = types.ModuleType("remote_code")
remote.sample = lambda x: x * 2


class Remote:
    """A client whose sampler is a function of a module that all of them share."""


class RemoteAdapter:
    name = "toy remote code"

    def matches(self, obj):
        return is_a(obj, f"{__name__}.Remote") or obj is remote

    def seams(self, obj):
        return [function_seam(remote, "sample", lambda x: x + x, "doubling")]


@pytest.fixture(autouse=True)
def adapters(monkeypatch):
    monkeypatch.setattr(home, "_adapters", lambda: iter([ModelAdapter(), RemoteAdapter()]))


def test_the_fast_path_runs_and_everything_comes_back():
    model, before = Model(), dict(vars(Model()))
    assert dlm.accelerate(model) is model
    assert model.step(torch.tensor(3)).item() == 6 and model.fast_calls == 1
    assert dlm.restore(model) is model
    del model.fast_calls
    assert vars(model).keys() == before.keys()
    assert model.step.__func__ is Model.step


def test_twice_is_once():
    model = dlm.accelerate(Model())
    step = model.step
    assert dlm.accelerate(model).step == step
    model.step(torch.tensor(1))
    assert model.fast_calls == 1
    dlm.restore(model)
    assert "step" not in vars(model)
    dlm.restore(model)  # nothing to do


def test_other_instances_are_left_alone():
    dlm.accelerate(Model())
    assert "step" not in vars(Model())


def test_an_uncovered_option_runs_the_clients_code_and_says_why():
    model = dlm.accelerate(Model())
    assert model.step(torch.tensor(2), by=3).item() == 6
    assert not hasattr(model, "fast_calls")
    model.step(torch.tensor(2))
    [row] = dlm.explain(model).rows
    assert row.fallbacks == {"by=3 is not covered": 1} and row.fast_calls == 1
    text = str(dlm.explain(model))
    assert "by=3 is not covered" in text and "cpu" in text and "Model.step" in text


def test_keywords_are_still_seen_by_inspection():
    model = dlm.accelerate(Model())
    assert inspect.signature(model.step) == inspect.signature(Model().step)
    assert model.step.__doc__ == "Multiply."


def test_an_error_of_the_fast_path_is_not_swallowed():
    model = dlm.accelerate(Model())
    with pytest.raises(TypeError):
        model.step(torch.tensor(1), unknown=1)


def test_context_restores_only_what_it_began():
    model = Model()
    with dlm.accelerated(model) as same:
        assert same is model and "step" in vars(model)
    assert "step" not in vars(model)
    dlm.accelerate(model)
    with dlm.accelerated(model):
        pass
    assert "step" in vars(model)


def test_context_restores_after_an_exception():
    model = Model()
    with pytest.raises(ZeroDivisionError), dlm.accelerated(model):
        raise ZeroDivisionError
    assert "step" not in vars(model)


def test_explain_before():
    explanation = dlm.explain(Model())
    assert not explanation.accelerated and len(explanation.rows) == 1
    assert "not accelerated" in str(explanation)


@pytest.mark.parametrize("call", [dlm.accelerate, dlm.explain])
def test_unknown_objects(call):
    with pytest.raises(TypeError, match="obj: must be one of: toy model; toy remote code; got builtins.dict"):
        call({})
    with pytest.raises(TypeError, match="got module math"):
        call(__import__("math"))


def test_unknown_version_falls_back_with_the_reason(monkeypatch):
    model = Model()
    model.version = "1.20"
    with pytest.warns(RuntimeWarning, match=r"toy 1\.20 is not one of the versions .* \(1\.1, 1\.2\)"):
        dlm.accelerate(model)
    assert "step" not in vars(model)
    assert "1.20" in dlm.explain(model).unsupported
    dlm.restore(model)
    monkeypatch.setenv("DLM_KERNELS_STRICT", "1")
    with pytest.raises(RuntimeError, match="STRICT"):
        dlm.accelerate(model)


def test_a_failing_seam_undoes_the_others(monkeypatch):
    model = Model()

    def seams(self, obj):
        yield method_seam(obj, "step", _fast_step, "doubling")
        yield Seam(obj, "missing", lambda original, report: original, "nothing")

    monkeypatch.setattr(ModelAdapter, "seams", seams)
    with pytest.raises(AttributeError):
        dlm.accelerate(model)
    assert "step" not in vars(model) and not dlm.explain(model).accelerated


def test_a_deep_copy_calls_itself():
    model = dlm.accelerate(Model())
    twin = copy.deepcopy(model)
    twin.step(torch.tensor(1))
    assert twin.fast_calls == 1 and not hasattr(model, "fast_calls")
    assert dlm.explain(twin).rows[0].fast_calls == 1
    dlm.restore(twin)
    assert "step" not in vars(twin) and "step" in vars(model)


def _mine(self, x, *, by=2, generator=None):
    return x - by


def derived():
    """An instance of a class from elsewhere that does something else."""
    return type("Derived", (Model,), {"step": _mine, "__module__": "elsewhere"})()


def patched():
    model = Model()
    model.step = functools.partial(_mine, model)
    return model


@pytest.mark.parametrize("make", [derived, patched])
def test_a_method_of_the_users_own_is_left_to_them(make):
    model = make()
    with pytest.warns(RuntimeWarning, match="(Derived|Model) has a step of its own"):
        dlm.accelerate(model)
    assert model.step(torch.tensor(5)).item() == 3
    assert "has a step of its own" in dlm.explain(model).unsupported
    dlm.restore(model)
    assert model.step(torch.tensor(5)).item() == 3


def test_what_a_class_only_declares_is_nobodys_own():
    base = type("Base", (torch.nn.Module,), {"step": abc.abstractmethod(_mine), "__module__": "elsewhere"})
    kind = type("Model", (base,), {"step": Model.step, "version": "1.2", "__module__": __name__})
    model = dlm.accelerate(kind())
    assert dlm.explain(model).unsupported is None and model.step(torch.tensor(5)).item() == 10


def test_a_function_of_somebody_elses_is_left_alone():
    module = types.ModuleType("client")
    module.sample = lambda x: x - 1
    fast = lambda x: x + x
    fast.__name__ = "sample"
    with pytest.raises(Unsupported, match=f"client has a sample of somebody else's, {__name__}"):
        list(step_seams(module, (fast, "doubling")))
    module.sample.__module__ = "client.steps"
    assert len(list(step_seams(module, (fast, "doubling")))) == 1


def test_a_patch_that_came_later_stays():
    model = dlm.accelerate(Model())
    model.step = mine = functools.partial(_mine, model)
    [row] = dlm.explain(model).rows
    assert row.runs == "nothing of dlm_kernels: replaced since"
    dlm.restore(model)
    assert model.step is mine and not dlm.explain(model).accelerated

    original = remote.sample
    dlm.accelerate(remote)
    remote.sample = mine
    dlm.restore(remote)
    assert remote.sample is mine
    remote.sample = original


def test_what_was_put_back_by_hand_is_replaced_again():
    model = dlm.accelerate(Model())
    del model.step
    assert dlm.explain(model).rows[0].runs == "nothing of dlm_kernels: replaced since"
    dlm.accelerate(model)
    assert model.step(torch.tensor(3)).item() == 6 and model.fast_calls == 1
    dlm.restore(model)
    assert "step" not in vars(model)


def test_what_was_not_covered_is_tried_again():
    model = Model()
    model.version = "2.0"
    with pytest.warns(RuntimeWarning):
        dlm.accelerate(model)
    model.version = "1.1"
    dlm.accelerate(model)
    assert dlm.explain(model).unsupported is None and "step" in vars(model)


def test_a_shallow_copy_gets_methods_of_its_own_and_loses_only_those():
    model = dlm.accelerate(Model())
    first, second = copy.copy(model), copy.copy(model)
    dlm.accelerate(first).step(torch.tensor(1))
    assert first.fast_calls == 1 and not hasattr(model, "fast_calls")
    for twin in (first, second):
        dlm.restore(twin)
        assert twin.step.__func__ is Model.step and twin.step.__self__ is twin
    model.step(torch.tensor(1))
    assert model.fast_calls == 1
    assert dlm.restore(model).step.__func__ is Model.step


def test_what_is_pickled_is_not_accelerated():
    model = dlm.accelerate(Model())
    data = pickle.dumps(model)
    assert b"dlm_kernels.integrations" not in data  # loads where there is none
    loaded = pickle.loads(data)
    assert loaded.step(torch.tensor(3)).item() == 6 and not hasattr(loaded, "fast_calls")
    assert not dlm.explain(loaded).accelerated
    dlm.accelerate(loaded).step(torch.tensor(3))
    assert loaded.fast_calls == 1
    dlm.restore(loaded)
    assert loaded.step.__func__ is Model.step


def test_a_shared_function_comes_back_with_its_last_user():
    original = remote.sample
    a, b = dlm.accelerate(Remote()), dlm.accelerate(Remote())
    replaced = remote.sample
    assert replaced is not original
    replaced(torch.tensor(1))
    dlm.restore(a)
    assert remote.sample is replaced
    explanation = dlm.explain(a)
    assert not explanation.accelerated and explanation.rows[0].fast_calls == 1
    assert "shared with an object that is accelerated" in str(explanation)
    del b
    gc.collect()
    assert remote.sample is original


def test_a_module_is_an_object_too():
    original = remote.sample
    dlm.accelerate(remote)
    assert remote.sample(torch.tensor(4)).item() == 8 and remote.sample is not original
    assert dlm.explain(remote).rows[0].fast_calls == 1
    dlm.restore(remote)
    assert remote.sample is original


def test_a_part_of_a_torch_module_comes_back():
    model = Model()
    model.part = part = torch.nn.Linear(1, 1)
    applied = home._apply(Seam(model, "part", lambda original, report: torch.nn.Identity(), "nothing"), model)
    assert isinstance(model.part, torch.nn.Identity)
    home._put_back(applied)
    assert model.part is part and "part" not in vars(model)
