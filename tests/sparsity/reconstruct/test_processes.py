"""Reconstruction shared by two processes: the weights of one process with all samples, equal in both."""

import pytest
import torch

import nm2trt
from nm2trt.errors import DataError, SparsifyError
from nm2trt.nm.solver import kept_rows
from nm2trt.nm.solver.layer_solver import fit_layer
from nm2trt.sparsity.reconstruct import solve
from tests.sparsity.reconstruct.test_session import Block, convolutions
from tests.sparsity.two_processes import run_two

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # Python 3.12, if there are threads
# Of the largest value. Sums are float64, but chunks of float32 products end at other rows: 2e-6 was seen.
TOLERANCE = 2e-5
CUT = {"convolutions": 48, "attention": 20, "kept rows": 20}
FIRST = {
    "convolutions": "3.weight",
    "attention": "attention.in_proj_weight",
    "kept rows": "attention.in_proj_weight",
}


class Masked(Block):
    def forward(self, x, real):
        return super().forward(x * real[..., None])


def case(name):
    """Return a model in eval mode, its samples, and options."""
    torch.manual_seed(0)
    if name != "convolutions":
        x = torch.randn(40, 12, 32) @ torch.randn(32, 32)
        real = (torch.arange(12) < torch.randint(3, 13, (40, 1))).float()
        return Masked(same=True, batch_first=True).eval(), {"x": x, "real": real}, {"valid": "real"}
    model = convolutions()
    images = (torch.randn(128, 192) @ (torch.randn(192, 192) / 8)).relu().reshape(-1, 3, 8, 8)
    for _ in range(5):
        model.train()(images)
    return model.eval(), {"input": images}, {}


def rebuild(name, part, **options):
    model, samples, valid = case(name)
    batches = [dict(zip(samples, rows, strict=True)) for rows in zip(*(v[part].split(8) for v in samples.values()), strict=True)]  # fmt: skip
    moments = []

    def recorded(fitted, held, *rest, **how):
        moments.extend((fitted, held))
        return fit_layer(fitted, held, *rest, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve, "fit_layer", recorded)
        if name == "kept rows":
            patch.setattr(kept_rows, "_MANY_INPUTS", 32)
            patch.setattr(kept_rows, "_FEW_ROWS", 1e9)
        sparse = nm2trt.sparsify(model, method="reconstruct", calibration=batches, **valid, **options)
    report = sparse.report()
    found = {"state": sparse.finalize().state_dict(), "outputs": report["outputs"], "fits": report["fits"]}
    return {**found, "moments": [sums(m) for m in moments]}


def sums(m):
    if isinstance(m, kept_rows.KeptRows):
        x, y = m.inputs.double(), m.outputs.double()
        return [m.rows, m.yy, x.T @ x, y.T @ x, m.x, m.y]
    return [m.rows, m.yy, m.xx, m.yx, m.x, m.y]


def part_of(name, rank):
    return slice(CUT[name]) if rank == 0 else slice(CUT[name], None)


def error_of(name, rank, model, batch):
    with pytest.raises((DataError, SparsifyError)) as caught:
        nm2trt.sparsify(model, method="reconstruct", calibration=[batch], distributed=True)
    return f"{type(caught.value).__name__} {caught.value}"


def failures_of_the_first(rank, model, images):
    """Return what each process says if the samples of the first, or its solver, raise an error of another library."""

    def spoilt():
        if rank == 0:
            raise OSError("no such disk")
        yield images

    def failing(*_, **__):
        raise ZeroDivisionError("a solver's fault")

    told = {}
    with pytest.raises((OSError, DataError)) as caught:
        nm2trt.sparsify(model, method="reconstruct", calibration=spoilt(), distributed=True)
    told["samples"] = f"{type(caught.value).__name__} {caught.value}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve, "fit_layer", failing)
        with pytest.raises(DataError) as caught:
            nm2trt.sparsify(model, method="reconstruct", calibration=[images], distributed=True)
    return {**told, "solver": f"{type(caught.value).__name__} {caught.value}"}


def rebuild_a_part(rank, folder):
    found = {name: rebuild(name, part_of(name, rank), distributed=True) for name in CUT}
    model, samples, _ = case("convolutions")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = samples["input"][:16]
    spoilt = images * float("nan") if rank == 1 else images
    found["nan"] = error_of("nan", rank, model, spoilt)
    found["shape"] = error_of("shape", rank, model, images[..., : 8 - 2 * rank, :])
    found["kept"] = all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    found |= failures_of_the_first(rank, model, images)
    with torch.no_grad():
        model[9].bias += rank
    found["weights"] = error_of("weights", rank, model, images)
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run_two(rebuild_a_part, (folder,), folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CUT)
def test_two_processes_solve_what_one_does_and_end_with_equal_weights(name, found):
    one, (first, second) = rebuild(name, slice(None)), (process[name] for process in found)
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key
    assert first["outputs"] == second["outputs"]
    assert second["moments"] == []  # only the first process solves
    assert len(first["moments"]) == len(one["moments"]) >= 6
    for number, (mine, theirs) in enumerate(zip(first["moments"], one["moments"], strict=True)):
        rows, yy, *inputs, y = mine
        assert (rows, yy) == (theirs[0], pytest.approx(theirs[1], rel=TOLERANCE))
        for own, other in zip(
            (y, *inputs) if number < 2 else (y,), (theirs[-1], *theirs[2:-1]), strict=False
        ):
            assert float((own - other).abs().max()) <= TOLERANCE * float(other.abs().max())
    # Sums that differ in the seventh digit may settle on other masks; later layers see those.
    mine, theirs = (state["state"][FIRST[name]].flatten(1) for state in (first, one))
    alike = ((mine == 0) == (theirs == 0)).all(1)
    assert float(((mine == 0) == (theirs == 0)).double().mean()) > 0.98
    assert float((mine - theirs)[alike].abs().max()) <= 10 * TOLERANCE * float(theirs.abs().max())
    for process, alone in zip(first["outputs"], one["outputs"], strict=True):
        assert (process["samples"], process["held_out"]) == (alone["samples"], True)
        assert process["error"] == pytest.approx(alone["error"], rel=0.1)


def test_what_fails_in_one_process_fails_in_both_and_changes_nothing(found):
    first, second = found
    assert "process 1 of 2 failed: calibration batch 0 holds NaN" in first["nan"]
    assert second["nan"].startswith("DataError calibration batch 0 holds NaN")
    for process in found:
        assert "process 1 has other shapes of calibration input than process 0" in process["shape"]
        assert "process 1 has other weights than process 0; start all processes alike" in process["weights"]
        assert process["kept"]


def test_an_error_of_another_library_reaches_the_other_process(found):
    first, second = found
    assert first["samples"] == "OSError no such disk"
    assert second["samples"] == "DataError process 0 of 2 failed: OSError: no such disk"
    assert first["solver"].startswith("DataError Sequential cannot run calibration batch 0")
    assert first["solver"].endswith(": a solver's fault")
    assert second["solver"] == "DataError process 0 of 2 failed: ZeroDivisionError: a solver's fault"


def test_without_a_group_it_is_refused():
    with pytest.raises(SparsifyError, match=r"torchrun and call torch\.distributed\.init_process_group"):
        rebuild("convolutions", slice(None), distributed=True)
