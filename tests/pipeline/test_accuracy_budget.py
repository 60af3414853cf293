"""prune --max-drop: the share that is written keeps the budget, larger ones that were tried do not."""

import json
import shutil

import numpy as np
import onnx
import pytest

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.cli import main
from nm2trt.errors import InputError
from nm2trt.graph.reconstruct.sensitivity import Sensitivity, dense_by_sensitivity
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.eligibility import can_run_sparse
from nm2trt.pipeline import accuracy_budget
from tests.graph.reconstruct.test_reconstruct_model import network, samples


def answers(path, x):
    with open_onnx(path) as session:
        return session.run({"x": x})["y"].argmax(1)


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    model = network(folder / "a.onnx")
    samples(folder / "s.npz")
    x = np.load(samples(folder / "e.npz", 300, seed=7))["x"]
    np.savez(folder / "e.npz", x=x, labels=answers(model, x))
    return folder


@pytest.fixture
def made(_made, tmp_path):
    """A network, calibration samples, and 300 others labelled by the network itself: its top-1 is 1."""
    return shutil.copytree(_made, tmp_path, dirs_exist_ok=True)


def pruned(folder, drop, **more):
    arguments = {"calib": folder / "s.npz", "data": folder / "e.npz", "max_drop": drop, **more}
    return nm2trt.prune(folder / "a.onnx", folder / "b.onnx", **arguments)


def test_a_generous_budget_prunes_everything_and_tries_nothing_else(made):
    report = pruned(made, "90pt")
    assert [point.share for point in report.points] == [1.0]
    assert report.report.counts["pruned"] == 5
    assert report.chosen.dense == ()
    data = np.load(made / "e.npz")
    assert report.chosen.value == pytest.approx(
        (answers(made / "b.onnx", data["x"]) == data["labels"]).mean()
    )
    assert report.dense_value == 1


def test_the_written_share_keeps_the_budget_and_the_next_larger_one_breaks_it(made):
    everything = pruned(made, "90pt").chosen
    budget = 0.8 * -everything.difference_low
    report = pruned(made, f"{100 * budget:.4f}pt", plot=made / "p.png")
    above = [point for point in report.points if point.share > report.chosen.share]
    assert above
    assert not any(point.passed for point in above)
    assert -report.chosen.difference_low <= budget
    assert [point.share for point in report.points] == sorted((p.share for p in report.points), reverse=True)
    # What was written is what was scored, and holds its plan.
    data = np.load(made / "e.npz")
    assert report.chosen.value == pytest.approx(
        (answers(made / "b.onnx", data["x"]) == data["labels"]).mean()
    )
    checked = verify_model(made / "b.onnx")
    assert checked.passed()
    dense = {row.weight for row in checked.weights if row.pattern == "dense-by-plan"}
    assert set(report.chosen.dense) <= dense
    assert (made / "p.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["budget"]["chosen"]["share"] == report.chosen.share
    assert found["output"] == str(made / "b.onnx")


def test_nothing_fits_names_the_best_share_and_writes_nothing(made, capsys):
    words = ["prune", str(made / "a.onnx"), "--calib", str(made / "s.npz"), "--data", str(made / "e.npz")]
    assert main([*words, "--max-drop", "0.01pt", "--json"]) == 5
    out, error = capsys.readouterr()
    found = json.loads(out)
    assert (found["kind"], found["exit_status"], found["budget"]["chosen"]) == ("DifferenceError", 5, None)
    shares = [point["share"] for point in found["budget"]["points"]]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) > 1
    assert not any(point["passed"] for point in found["budget"]["points"])
    assert error.count("\n") == 1
    assert "% of the work: top-1: " in error
    assert sorted(path.name for path in made.iterdir()) == ["a.onnx", "e.npz", "s.npz"]


def test_only_work_that_the_builder_can_run_sparse_counts(made):
    report = pruned(made, "90pt", backend="trt-rtx", targets="sm86")
    rows = {row.weight: row for row in verify_model(made / "b.onnx").weights}
    assert report.place.startswith(" on sm86 with trt-rtx")
    # The oracle: shape rules alone, asked of the file that was written.
    shapes = {name: can_run_sparse(row.facts, rung="shape").answer for name, row in rows.items()}
    assert {name for name, answer in shapes.items() if answer == "no"} <= set(report.beyond)
    for name in report.beyond:
        assert rows[name].pattern in ("dense-by-plan", "not-groupable")


class Curve(accuracy_budget._ShareSearch):
    """A search whose points come from a function of the share instead of a reconstruction."""

    def __init__(self, fits, share=1.0):
        self._options = type("Options", (), {"share": share})
        self._by_choice, self._fits, self.tried = {}, fits, []

    def _point(self, share):
        self.tried.append(share)
        dense = (f"{share:.3f}",)
        if dense not in self._by_choice:
            one = accuracy_budget.BudgetPoint(share, dense, 0, 0, 0, 0, 0, 0, self._fits(share), "")
            self._by_choice[dense] = one
        return self._by_choice[dense]


@pytest.mark.parametrize("limit", [0.3, 0.42, 0.5, 0.61, 0.74, 0.75, 0.9, 0.99])
def test_the_search_comes_within_a_twelfth_of_the_largest_share(limit):
    points = Curve(lambda share: share <= limit).run()
    best = max(point.share for point in points if point.passed)
    assert limit - 0.085 <= best <= limit
    assert len(points) <= 7


def test_the_search_gives_up_below_a_quarter():
    curve = Curve(lambda share: False)
    assert not any(point.passed for point in curve.run())
    assert curve.tried == [1.0, 0.75, 0.5, 0.25]


def test_layers_of_most_divergence_per_gain_stay_dense_first():
    found = {"a": Sensitivity(0.1, 10), "b": Sensitivity(0.3, 10), "c": Sensitivity(0.2, 10)}
    assert set(dense_by_sensitivity(found, 0.6)) == {"b"}
    assert set(dense_by_sensitivity(found, 0.6, gains={"a": 1, "b": 10, "c": 5})) == {"a"}


def gain_table(folder, batch, speedups):
    """Write a table whose rows are the products of the network's layers, each with its speed-up."""
    products = {"w1": (64, 16, 144), "w3": (64, 16, 16), "w4": (16, 32, 64), "w5": (1, 32, 16)}
    rows = [
        {"m": batch * m, "n": n, "k": k, "dtype": "int8", "dense_ms": speedups.get(name, 0.9), "sparse_ms": 1}
        for name, (m, n, k) in products.items()
    ]
    table = {"schema": 1, "device": {"name": "A GPU", "target": "sm86"}, "rows": rows}
    (folder / "g.json").write_text(json.dumps(table))
    return folder / "g.json"


def test_only_layers_that_pay_by_the_gain_table_are_pruned(made, capsys):
    gain_table(made, 4096, {"w4": 1.5, "w1": 2.0})
    words = ["prune", str(made / "a.onnx"), "-o", str(made / "b.onnx"), "--calib", str(made / "s.npz")]
    words += ["--data", str(made / "e.npz"), "--max-drop", "90pt", "--gain", str(made / "g.json")]
    # One sample is far from what was measured, so that the table says nothing.
    assert main(words) == 2
    assert "names no layer that pays" in capsys.readouterr().err
    assert main([*words, "--shape", "x:4096", "--target", "sm80,sm86", "--json"]) == 0
    found, notes = capsys.readouterr()
    assert "gains are those of int8 on A GPU" in notes
    budget = json.loads(found)["budget"]
    assert "0.90x in int8" in budget["beyond"]["w3"]
    rows = {row.weight: row.pattern for row in verify_model(made / "b.onnx").weights}
    # The table has no product like w6's: nothing speaks against it.
    assert {name for name, pattern in rows.items() if pattern == "holds"} == {"w1", "w4", "w6"}


def test_layers_go_back_to_dense_by_what_the_table_says_that_they_save(made, monkeypatch):
    # By work w1 would stay dense last; by the table it saves next to nothing.
    gain_table(made, 1, {"w1": 1.06, "w4": 3.0, "w3": 3.0})
    found = {name: Sensitivity(0.1, work) for name, work in (("w1", 147456), ("w3", 16384), ("w4", 32768))}
    seen = []
    real = accuracy_budget._ShareSearch

    class Seen(real):
        def _point(self, share):
            seen.append(set(dense_by_sensitivity(found, 0.1, gains=self._gains)))
            return super()._point(share)

    monkeypatch.setattr(accuracy_budget, "_ShareSearch", Seen)
    pruned(made, "90pt", gain=made / "g.json", targets="sm86")
    assert "w1" in seen[0]
    assert "w1" not in dense_by_sensitivity(found, 0.1)


def test_the_shapes_of_the_samples_fill_free_sizes():
    from nm2trt.graph.analysis.multiply_accumulates import free_shapes
    from nm2trt.graph.storage.model import load

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 48, "w"])
    fixed = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 2])
    graph = onnx.helper.make_graph([], "g", [value, fixed], [])
    model = load(onnx.helper.make_model(graph))
    given = {"x": np.zeros((8, 3, 48, 320)), "z": np.zeros((8, 2))}
    assert free_shapes(model, given) == {"x": (1, 3, 48, 320)}


def test_the_best_share_of_an_error_is_that_of_the_least_rise(made):
    judge = object.__new__(accuracy_budget._Judge)
    judge.max_drop, judge.higher_is_better = 0.01, False
    points = [
        accuracy_budget.BudgetPoint(0.75, (), 0.3, 0, 1, 0.2, 0.1, 0.3, False, "the worse one"),
        accuracy_budget.BudgetPoint(0.5, (), 0.2, 0, 1, 0.1, 0.05, 0.15, False, "the better one"),
    ]
    assert "prunes 50 % of the work: the better one" in accuracy_budget._nothing(made, points, judge)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "s.npz", "metrics": ("agreement",)}, "cannot choose the weights and judge them too"),
        ({"data": "wide.npz"}, r"input 'x' takes samples of shape nx16x8x8, the data has \(\d+, 32, 8, 8\)"),
        ({"plot": "p.xyz"}, r"p\.xyz has a suffix that matplotlib does not write; use \.png or \.svg"),
        ({"gain": "e.npz"}, "is damaged or not a gain table"),
        ({"targets": "sm1"}, "is not a target"),
        ({"shapes": ("x:8",)}, "give the table with --gain"),
    ],
)
def test_what_cannot_work_is_told_before_the_work(made, monkeypatch, change, words):
    from nm2trt.errors import Nm2trtError
    from nm2trt.pipeline import accuracy_budget as module

    data = np.load(made / "e.npz")
    np.savez(made / "wide.npz", x=np.repeat(data["x"], 2, axis=1), labels=data["labels"])
    monkeypatch.setattr(module, "normalised", lambda *_, **__: pytest.fail("the work has begun"))
    paths = {k: made / v if k in ("data", "plot", "gain") else v for k, v in change.items()}
    given = {"calib": made / "s.npz", "data": made / "e.npz", "max_drop": "1pt", **paths}
    with pytest.raises(Nm2trtError, match=words):
        nm2trt.prune(made / "a.onnx", made / "b.onnx", **given)
    assert not (made / "b.onnx").exists()


def test_the_verdict_is_for_the_targets_that_were_named_and_verifies_nothing_again(made, monkeypatch, capsys):
    import importlib

    module = importlib.import_module("nm2trt.pipeline.verify")
    monkeypatch.setattr(module, "verify", lambda *_, **__: pytest.fail("verified once more"))
    words = ["prune", str(made / "a.onnx"), "--calib", str(made / "s.npz"), "--data", str(made / "e.npz")]
    assert main([*words, "--max-drop", "90pt", "--target", "sm86"]) == 0
    verdict = capsys.readouterr().out.partition("verdict: ")[2]
    assert "on sm86 with" in verdict
    assert "sm80" not in verdict
    assert "--target sm86" in verdict


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_drop": None}, "--data is part of an accuracy budget; give --data EVAL and --max-drop 1pt"),
        ({"data": None}, "--max-drop is part of an accuracy budget"),
        ({"data": None, "max_drop": None, "gain": "g.json"}, "--gain is part of an accuracy budget"),
        ({"calib": None}, "a budget is kept by reconstruction, which needs samples; give them with --calib"),
        ({"max_drop": "much"}, "'much' is not a drop"),
        ({"metrics": ("top-1", "top-2")}, "judges one metric, and name only one with --metric"),
        ({"metrics": ("best",)}, "'best' is not a metric"),
        (
            {"pattern": "1:4", "targets": "sm86"},
            "sparse kernels take 2:4; leave --target and --gain out for 1:4",
        ),
        ({"output": "e.npz"}, "the output .*e.npz is the file of samples"),
    ],
)
def test_half_a_budget_is_refused(made, arguments, words):
    given = {"calib": made / "s.npz", "data": made / "e.npz", "max_drop": "1pt", **arguments}
    output = made / given.pop("output", "b.onnx")
    with pytest.raises(InputError, match=words):
        nm2trt.prune(made / "a.onnx", output, **given)
    assert not (made / "b.onnx").exists()


def test_labels_are_needed_unless_a_metric_says_otherwise(made):
    x = np.load(made / "e.npz")["x"]
    np.savez(made / "e.npz", x=x)
    with pytest.raises(InputError, match="the data has no labels; name one with --metric"):
        pruned(made, "1pt")
    report = pruned(made, "90pt", metrics=("agreement",))
    assert report.metric == "agreement"
    assert report.dense_value == 1


def test_a_model_with_external_data_is_written_with_its_data(made):
    onnx.save(
        onnx.load(made / "a.onnx"),
        made / "a.onnx",
        save_as_external_data=True,
        location="a.data",
        size_threshold=0,
    )
    pruned(made, "90pt")
    assert list(made.glob("b.onnx*.data"))
    assert verify_model(made / "b.onnx").passed()
