"""The handle: attach, states, copies, finalize, and one sentence for each mistake."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import nm2trt
from nm2trt.errors import SparsifyError, SparsityError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PLAN_ATTRIBUTE
from nm2trt.sparsity.core import session
from nm2trt.sparsity.core.state_keys import dense_keys
from nm2trt.sparsity.registry import METHODS
from nm2trt.sparsity.sparsify import sparsify

STEPS = 8


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 32),
        nn.Linear(32, 5),
    )


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, 6, 6, generator=generator)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        optimizer.step()


@pytest.fixture(params=["sr-ste", "ste", "lbc", "magnitude", "gradual"])
def attach_method(request):
    """Sparsify by each method, gradual pruning included."""
    method, options = ("magnitude", {"gradual": True}) if request.param == "gradual" else (request.param, {})

    def attach(model, **more):
        return sparsify(model, method=method, total_steps=STEPS, **options, **more)

    return attach


# Methods with a start of their own change more than weights, and have tests of their own.
PLAIN_METHODS = [name for name, spec in METHODS.items() if not spec.start]


def test_every_registered_method_is_tested():
    assert {"sr-ste", "ste", "lbc", "magnitude"} == set(PLAIN_METHODS), "add the new method to attach_method"


def test_methods_are_told_apart_by_what_they_do():
    """(pruned entries get the task gradient, they decay without one, there are scores)."""
    found = {}
    for name in PLAIN_METHODS:
        model = net()
        sparse = sparsify(model, method=name, total_steps=STEPS, **({"end": 0.9} if name == "lbc" else {}))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparse.attach(optimizer)
        linear = model[4].parametrizations.weight
        train(model, optimizer, range(6))
        mask, before = linear[0].mask.clone(), linear.original.detach().clone()
        optimizer.zero_grad()
        model(batch(0)).square().mean().backward()
        gradient = bool((linear.original.grad[~mask] != 0).any())
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
        decays = not torch.equal(linear.original[~mask], before[~mask])
        found[name] = (gradient, decays, "scores" in dict(linear[0].named_parameters()))
    assert found == {
        "sr-ste": (True, True, False),
        "ste": (True, False, False),
        "lbc": (False, False, True),
        "magnitude": (False, False, False),
    }


def test_finalised_model_is_plain_holds_the_pattern_and_carries_the_plan(attach_method):
    model = net()
    sparse = attach_method(model)
    optimizer = sgd(model)
    sparse.attach(optimizer)
    train(model, optimizer, range(STEPS))
    model.eval()
    before = model(batch(0))
    parameters = {id(p) for p in model.parameters()}
    assert sparse.finalize() is model
    assert type(model[4]) is nn.Linear
    assert not parametrize.is_parametrized(model[4])
    assert [k for k, _ in model.named_parameters() if "parametrizations" in k] == []
    assert set(map(id, model.parameters())) <= parameters, "the optimizer still trains the same parameters"
    torch.testing.assert_close(model(batch(0)), before, rtol=0, atol=1e-6)
    for layer in (4, 5):
        assert check(model[layer].weight.detach().numpy(), NMPattern(2, 4), axis=1).holds
    plan = getattr(model, PLAN_ATTRIBUTE)
    assert [e.weight for e in plan.sparse] == ["4.weight", "5.weight"]
    assert getattr(copy.deepcopy(model), PLAN_ATTRIBUTE) == plan
    nm2trt.keep_zeros(model)
    train(model, optimizer, range(1))  # the session's hooks are gone
    assert check(model[4].weight.detach().numpy(), NMPattern(2, 4), axis=1).holds
    assert sparse.step == STEPS


def test_dense_checkpoint_loads_into_an_attached_model_and_back(attach_method):
    trained = net()
    with torch.no_grad():
        for p in trained.parameters():
            p.copy_(torch.randn_like(p))
    attached = net()
    sparse = attach_method(attached)
    attached.load_state_dict(trained.state_dict())
    sparse.report()
    back = net()
    back.load_state_dict(dense_keys(attached.state_dict()))
    for key, value in trained.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


def test_masks_follow_a_loaded_state():
    trained, attached = net(), net()
    with torch.no_grad():
        trained[4].weight.copy_(torch.randn_like(trained[4].weight))
    sparsify(attached)
    attached.load_state_dict(trained.state_dict())
    expected = net()
    expected.load_state_dict(trained.state_dict())
    sparsify(expected)
    assert torch.equal(
        attached[4].parametrizations.weight[0].mask, expected[4].parametrizations.weight[0].mask
    )


def test_a_mask_that_follows_the_weight_adds_only_its_pattern_to_the_state():
    model = net()
    keys = set(model.state_dict())
    sparse = sparsify(model)
    assert set(sparse.dense_state_dict()) == keys
    assert len(model.state_dict()) == len(keys) + len(sparse.weights)


def test_loading_the_dense_master_weights_into_a_plain_model_is_told(attach_method):
    attached = net()
    attach_method(attached)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*4\.parametrizations\.weight\.0\._extra_state"):
        net().load_state_dict(attached.state_dict())


def test_loading_other_layers_leaves_the_method_state_alone():
    model = net()
    sparse = sparsify(model, method="lbc", total_steps=STEPS)
    optimizer = sgd(model)
    sparse.attach(optimizer)
    train(model, optimizer, range(5))
    before = model[4].parametrizations.weight[0].alive.clone()
    model.load_state_dict({"0.bias": torch.zeros(16)}, strict=False)
    assert torch.equal(model[4].parametrizations.weight[0].alive, before)


@pytest.mark.parametrize("at", [2, 6])
def test_resumes_bit_for_bit(attach_method, at, tmp_path):
    def run(stop=None, path=None):
        model = net()
        sparse = attach_method(model)
        optimizer = sgd(model)
        sparse.attach(optimizer)
        first = 0
        if path is not None:
            saved = torch.load(path, weights_only=True)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            sparse.load_state_dict(saved["sparse"])
            assert sparse.step == at
            first = at
        train(model, optimizer, range(first, STEPS if stop is None else stop))
        if stop is not None:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "sparse": sparse.state_dict(),
            }
            torch.save(state, tmp_path / "state.pt")
            return None
        report = sparse.report()
        return sparse.finalize().state_dict(), report

    whole, whole_report = run()
    run(stop=at)
    resumed, resumed_report = run(path=tmp_path / "state.pt")
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    assert resumed_report == whole_report


@pytest.mark.parametrize("wrapped", [False, True], ids=["deepcopy", "AveragedModel"])
def test_masks_of_an_ema_copy_follow_its_own_weights(attach_method, wrapped):
    model = net()
    sparse = attach_method(model)
    optimizer = sgd(model)
    sparse.attach(optimizer)
    ema = torch.optim.swa_utils.AveragedModel(model) if wrapped else copy.deepcopy(model)
    plain = ema.module if wrapped else ema
    for step in range(STEPS):
        train(model, optimizer, [step])
        if wrapped:
            ema.update_parameters(model)
        else:
            with torch.no_grad():
                for mine, theirs in zip(ema.parameters(), model.parameters(), strict=True):
                    mine.lerp_(theirs, 0.5)
    sparse.refresh(ema)
    mask = plain[4].parametrizations.weight[0].mask
    if plain[4].parametrizations.weight[0].mask_follows_weight:
        again = nn.Linear(16 * 16, 32)
        again.weight.data.copy_(plain[4].parametrizations.weight.original)
        sparsify(again)
        assert torch.equal(mask, again.parametrizations.weight[0].mask)
    else:
        assert torch.equal(mask, model[4].parametrizations.weight[0].mask)
    sparse.finalize(ema)
    assert check(plain[4].weight.detach().numpy(), NMPattern(2, 4), axis=1).holds
    assert getattr(plain, PLAN_ATTRIBUTE) == sparse.plan, "what is exported is the model inside"
    assert parametrize.is_parametrized(model[4]), "the trained model stays attached"
    sparse.finalize()


def test_the_model_inside_an_average_is_made_sparse():
    """Its names are those that the exporter and `keep_zeros` look for."""
    ema = torch.optim.swa_utils.AveragedModel(net())
    sparse = sparsify(ema, method="magnitude")
    sparse.finalize()
    assert [entry.weight for entry in sparse.plan] == [entry.weight for entry in sparsify(net()).plan]
    assert set(nm2trt.keep_zeros(ema).masks()) == {entry.weight for entry in sparse.plan.sparse}


def test_two_optimizers_may_share_the_weights():
    model = net()
    sparse = sparsify(model, lambda_w=0.0)
    first, second = torch.optim.SGD(model[:5].parameters(), 0.5), torch.optim.SGD(model[5].parameters(), 0.5)
    sparse.attach(first, second)
    masks = [model[i].parametrizations.weight[0].mask.clone() for i in (4, 5)]
    for step in range(3):
        first.zero_grad()
        model(batch(step)).square().sum().backward()
        first.step()
    assert not torch.equal(model[4].parametrizations.weight[0].mask, masks[0])
    assert torch.equal(model[5].parametrizations.weight[0].mask, masks[1])


def test_a_closure_gets_its_decay_after_the_gradients():
    weights = []
    for with_closure in (False, True):
        model = net()
        sparse = sparsify(model, lambda_w=0.5)
        optimizer = sgd(model)
        sparse.attach(optimizer)
        for step in range(3):

            def closure(optimizer=optimizer, model=model, step=step):
                optimizer.zero_grad()
                loss = model(batch(step)).square().mean()
                loss.backward()
                return loss

            if with_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        weights.append(model[4].parametrizations.weight.original.detach().clone())
    assert torch.equal(*weights)


def test_weights_shared_by_layers_are_decayed_once_and_stay_shared():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    model[1].weight = model[0].weight
    sparse = sparsify(model, lambda_w=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sparse.attach(optimizer)
    start = model[0].parametrizations.weight.original.detach().clone()
    mask = model[0].parametrizations.weight[0].mask.clone()
    (model(torch.randn(2, 16)) * 0).sum().backward()
    optimizer.step()
    now = model[0].parametrizations.weight.original.detach()
    torch.testing.assert_close(now, torch.where(mask, start, start * 0.5))
    sparse.finalize()
    assert model[0].weight is model[1].weight


def test_layers_that_no_longer_share_their_weight_are_refused_until_they_do():
    """Only the first would be made sparse. `a` and `b` are tied again by their dense parameter."""
    model = nn.ModuleDict({"a": nn.Linear(16, 16), "b": nn.Linear(16, 16)})
    model["b"].weight = model["a"].weight
    given = {key: value.clone() for key, value in model.state_dict().items()}
    sparse = sparsify(model)
    model.load_state_dict(given, assign=True)
    average = copy.deepcopy(model)
    told = (
        r"b\.weight no longer shares the parameter of a\.weight.*parametrizations\.weight\.original of both"
    )
    for call in (sparse.finalize, lambda: sparse.attach(sgd(model)), lambda: sparse.finalize(average)):
        with pytest.raises(SparsifyError, match=told):
            call()
    model["b"].parametrizations.weight.original = model["a"].parametrizations.weight.original
    sparse.attach(sgd(model))
    sparse.finalize()
    assert model["a"].weight is model["b"].weight
    assert check(model["b"].weight.detach().numpy(), NMPattern(2, 4), axis=1).holds


def test_gradual_pruning_prunes_in_steps_and_revives_nothing():
    model = net()
    sparse = sparsify(model, method="magnitude", gradual=True, total_steps=STEPS, pattern="1:8")
    optimizer = sgd(model)
    sparse.attach(optimizer)
    mask, kept = model[4].parametrizations.weight[0].mask.clone(), []
    for step in range(STEPS):
        train(model, optimizer, [step])
        now = model[4].parametrizations.weight[0].mask
        assert not (now & ~mask).any()
        mask = now.clone()
        kept.append(int(mask.sum()) * 8 // mask.numel())
    assert kept == [4, 2, 2, 1, 1, 1, 1, 1]


def test_one_shot_magnitude_needs_no_training_and_keeps_the_largest():
    model = net()
    weight = model[5].weight.detach().clone()
    sparsify(model, method="magnitude").finalize()
    groups = weight.view(5, 8, 4)
    threshold = groups.abs().sort(dim=-1).values[..., 2:3]
    expected = torch.where(groups.abs() >= threshold, groups, 0).view(5, 32)
    assert torch.equal(model[5].weight, expected)


def test_fixed_mask_stays_while_the_weights_train():
    model = net()
    sparse = sparsify(model, method="magnitude")
    optimizer = sgd(model)
    sparse.attach(optimizer)
    mask = model[4].parametrizations.weight[0].mask.clone()
    train(model, optimizer, range(5))
    assert torch.equal(model[4].parametrizations.weight[0].mask, mask)
    assert sparse.report()["sad_anchored"]["count"] == 0


def test_report_is_plain_numbers_by_layer_and_in_all():
    model = net()
    sparse = sparsify(model, pattern={"4": "2:4", "5": "1:8"})
    optimizer = sgd(model)
    sparse.attach(optimizer)
    train(model, optimizer, range(3))
    report = sparse.report()
    assert (report["method"], report["step"]) == ("sr-ste", 3)
    assert report["layers"]["4.weight"]["sparsity"] == 0.5
    assert report["layers"]["5.weight"]["sparsity"] == 0.875
    zeros = 0.5 * 32 * 256 + 0.875 * 5 * 32
    assert report["sparsity"] == pytest.approx(zeros / (32 * 256 + 5 * 32))
    for key in ("sad_step", "sad_anchored"):
        assert report[key]["count"] == sum(layer[key]["count"] for layer in report["layers"].values())
    assert report["sad_anchored"]["count"] > 0


def test_public_function_is_the_same():
    model = net()
    sparse = nm2trt.sparsify(model, method="ste", pattern="1:4", exclude="5")
    assert isinstance(sparse, session.SparseSession)
    assert [str(e.pattern) for e in sparse.plan.sparse] == ["1:4"]


# Mistakes, one sentence each.


def test_a_pattern_that_fits_no_layer():
    with pytest.raises(
        SparsifyError, match=r"no layer of Sequential can be made sparse \(0.weight: 3 input channels"
    ):
        sparsify(net(), pattern="1:7")


def test_everything_excluded():
    with pytest.raises(
        SparsifyError, match=r"no layer of Linear can be made sparse \(weight: excluded by '\*'\)"
    ):
        sparsify(nn.Linear(16, 4), exclude="*")


def test_a_model_without_layers():
    with pytest.raises(SparsifyError, match="it has no convolution, linear or attention layer"):
        sparsify(nn.ReLU())


def test_nan_weights():
    model = net()
    with torch.no_grad():
        model[4].weight[1, 2] = float("nan")
    with pytest.raises(SparsifyError, match=r"4\.weight holds NaN or infinity"):
        sparsify(model)
    assert not parametrize.is_parametrized(model[5])


def test_nan_after_training_changes_nothing():
    model = net()
    sparse = sparsify(model)
    with torch.no_grad():
        model[5].parametrizations.weight.original[0, 0] = float("nan")
    with pytest.raises(SparsifyError, match=r"5\.weight holds NaN or infinity"):
        sparse.finalize()
    assert parametrize.is_parametrized(model[4])


def test_a_mask_that_was_changed_from_outside():
    model = net()
    sparse = sparsify(model, method="magnitude")
    model[4].parametrizations.weight[0].mask.fill_(True)
    with pytest.raises(
        SparsityError, match=r"4.weight breaks 2:4 in 2,048 of 2,048 groups, first at \(0, 0\)"
    ):
        sparse.finalize()


def test_unknown_method_option_and_value():
    with pytest.raises(
        SparsifyError, match="method 'srste' is unknown; choose one of sr-ste, ste, lbc, magnitude"
    ):
        sparsify(net(), method="srste")
    with pytest.raises(
        SparsifyError, match="'sr-ste' does not know the option 'lamda'; its options are lambda_w, dec"
    ):
        sparsify(net(), lamda=1)
    with pytest.raises(
        SparsifyError, match="'ste' does not know the option 'lambda_w'; its options are freeze"
    ):
        sparsify(net(), method="ste", lambda_w=1.0)
    with pytest.raises(SparsifyError, match="lambda_w must be a finite number or \"auto\", not 'much'"):
        sparsify(net(), lambda_w="much")
    with pytest.raises(SparsifyError, match="an option of 'lbc' has the wrong type"):
        sparsify(net(), method="lbc", end="late", total_steps=STEPS)
    with pytest.raises(SparsifyError, match="total_steps must be a positive whole number, not 0"):
        sparsify(net(), total_steps=0)
    with pytest.raises(SparsifyError, match=r"lambda_w of 'sr-ste' must be a number, not True"):
        sparsify(net(), lambda_w=True)
    with pytest.raises(SparsifyError, match=r"decoupled of 'sr-ste' must be True or False, not 'no'"):
        sparsify(net(), decoupled="no")


@pytest.mark.parametrize("arguments", [{"method": "lbc"}, {"method": "magnitude", "gradual": True}])
def test_a_schedule_without_its_length(arguments):
    model = net()
    with pytest.raises(
        SparsifyError, match=r"has a schedule: give total_steps, the optimizer steps of the whole"
    ):
        sparsify(model, **arguments)
    assert not parametrize.is_parametrized(model[4])


def test_attach_to_an_optimizer_that_lacks_parameters():
    model = net()
    before = torch.optim.SGD(model.parameters(), 0.1)
    sparse = sparsify(model, method="lbc", total_steps=STEPS)
    with pytest.raises(
        SparsifyError, match=r"does not train 4.weight; make it from model.parameters\(\) after sparsify"
    ):
        sparse.attach(before)
    for other in (model, torch.optim.lr_scheduler.ConstantLR(before), None):
        with pytest.raises(SparsifyError, match="attach takes torch optimizers"):
            sparse.attach(other)


class Wrapper(torch.optim.Optimizer):
    """As accelerate's, which calls no constructor of torch, and so has no hooks."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups


def test_the_optimizer_inside_a_wrapper_is_followed():
    model = net()
    sparse = sparsify(model)
    optimizer = sgd(model)
    sparse.attach(Wrapper(optimizer))
    train(model, optimizer, [0])
    assert sparse.step == 1
    sparse.detach(Wrapper(optimizer))


def test_a_frozen_layer_needs_no_optimizer():
    model = net()
    model[5].weight.requires_grad_(False)
    sparse = sparsify(model)
    sparse.attach(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1))


def test_a_step_before_attach_warns_once():
    model = net()
    sparse = sparsify(model)
    optimizer = sgd(model)
    with pytest.warns(UserWarning, match=r"without being attached.*call attach\(optimizer\)"):
        train(model, optimizer, [0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, [1])
        sparse.attach(optimizer)
        train(model, optimizer, [2])


def test_other_models_may_train_meanwhile():
    sparsify(net())
    other = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    other(torch.randn(2, 4)).sum().backward()
    optimizer.step()


def test_finalize_twice():
    sparse = sparsify(net())
    sparse.finalize()
    for call in (sparse.finalize, sparse.refresh, lambda: sparse.attach()):
        with pytest.raises(SparsifyError, match="the model is finalised already"):
            call()


def test_a_layer_that_was_replaced_after_sparsify():
    model = net()
    sparse = sparsify(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparse.attach(optimizer)
    kept, model[4] = model[4], copy.deepcopy(net()[4])
    for call in (sparse.finalize, lambda: sparse.attach(optimizer)):
        with pytest.raises(SparsifyError, match=r"the layer of 4\.weight was taken out of the model; put it"):
            call()
    model[4] = kept
    sparse.finalize()
    assert check(model[4].weight.detach().numpy(), NMPattern(2, 4), axis=1).holds


@pytest.mark.parametrize("method", ["sr-ste", "reconstruct", "fcpts", "spre"])
def test_a_lazy_layer_that_has_no_shape_yet(method):
    given = {"calibration": [torch.randn(4, 32)]} if method in ("reconstruct", "fcpts") else {}
    with pytest.raises(SparsifyError, match=r"0\.weight has no shape yet; run one batch"):
        sparsify(nn.Sequential(nn.LazyLinear(16)), method=method, **given)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # importing torch.compile's back end
def test_masks_of_a_copy_are_found_behind_a_compiled_layer():
    """A deepcopy of a compiled layer is the layer itself, under a shorter name."""
    model = nn.Sequential(torch.compile(nn.Linear(32, 32), backend="eager"), nn.Linear(32, 32))
    sparse = sparsify(model)
    ema = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        for parameter in ema.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    sparse.refresh(ema)
    finished = sparse.finalize(ema)
    weights = [p for p in finished.parameters() if p.ndim == 2]
    assert len(weights) == 2
    assert all(check(weight.detach().numpy(), NMPattern(2, 4), axis=1).holds for weight in weights)


def test_a_model_that_was_made_in_inference_mode():
    with torch.inference_mode():
        model = net()
        sparsify(copy.deepcopy(model), method="magnitude").finalize()
    with pytest.raises(SparsifyError, match=r"0\.weight was made in torch\.inference_mode\(\)"):
        sparsify(model)


def test_sparsify_twice():
    model = net()
    sparsify(model)
    with pytest.raises(
        SparsifyError, match=r"4.weight is attached to a method already; call finalize\(\) first"
    ):
        sparsify(model)


def test_session_state_of_another_method_or_pattern():
    state = sparsify(net()).state_dict()
    with pytest.raises(
        SparsifyError, match="the state has other method than the model: sr-ste there, ste here"
    ):
        sparsify(net(), method="ste").load_state_dict(state)
    with pytest.raises(SparsifyError, match="the state has other layers or patterns than the model"):
        sparsify(net(), pattern="1:4").load_state_dict(state)


def test_model_state_of_another_method_or_pattern():
    saved = net()
    sparsify(saved, method="lbc", total_steps=STEPS)
    other = net()
    sparsify(other)
    with pytest.raises(SparsifyError, match=r"4.weight holds .*scores.*saved by another method"):
        other.load_state_dict(saved.state_dict())
    third = net()
    sparsify(third, method="lbc", pattern="1:4", total_steps=STEPS)
    with pytest.raises(SparsifyError, match=r"saved with the pattern 2:4, the model is attached with 1:4"):
        third.load_state_dict(saved.state_dict())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # importing torch.compile's back end
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "OptimizedModule"])
def test_wrapped_models(wrap):
    wrapped = wrap(net())
    for given in (wrapped, torch.optim.swa_utils.AveragedModel(wrapped)):
        with pytest.raises(
            SparsifyError, match=f"wrapped in {type(wrapped).__name__}; sparsify first, then wrap"
        ):
            sparsify(given)


def test_no_module():
    with pytest.raises(SparsifyError, match=r"takes a torch.nn.Module, not dict"):
        sparsify({})


def test_a_copy_that_is_none():
    sparse = sparsify(net())
    with pytest.raises(SparsifyError, match=r"the copy lacks the attached layers; make it by copy.deepcopy"):
        sparse.refresh(net())
