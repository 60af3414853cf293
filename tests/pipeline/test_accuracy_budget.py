"""prune --max-drop: the share that is written keeps the budget, larger ones that were tried do not."""

import json

import numpy as np
import onnx
import pytest

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.cli import main
from nm2trt.errors import DifferenceError, InputError
from nm2trt.graph.reconstruct.sensitivity import Sensitivity, dense_by_sensitivity
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.eligibility import can_run_sparse
from nm2trt.pipeline import accuracy_budget
from tests.graph.reconstruct.test_reconstruct_model import network, samples


def answers(path, x):
    with open_onnx(path) as session:
        return session.run({"x": x})["y"].argmax(1)


@pytest.fixture
def made(tmp_path):
    """A network, calibration samples, and 300 others labelled by the network itself: its top-1 is 1."""
    model = network(tmp_path / "a.onnx")
    samples(tmp_path / "s.npz")
    x = np.load(samples(tmp_path / "e.npz", 300, seed=7))["x"]
    np.savez(tmp_path / "e.npz", x=x, labels=answers(model, x))
    return tmp_path


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
    assert main([*words, "--max-drop", "0.01pt"]) == 5
    error = capsys.readouterr().err
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_drop": None}, "--data is part of an accuracy budget; give --data EVAL and --max-drop 1pt"),
        ({"data": None}, "--max-drop is part of an accuracy budget"),
        ({"data": None, "max_drop": None, "gain": "g.json"}, "--gain is part of an accuracy budget"),
        ({"calib": None}, "a budget is kept by reconstruction, which needs samples; give them with --calib"),
        ({"max_drop": "much"}, "'much' is no drop"),
        ({"metrics": ("top-1", "top-2")}, "judges one metric, and name only one with --metric"),
        ({"metrics": ("best",)}, "'best' is no metric"),
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
    assert verify_model(made / "b.onnx").passed()
    with pytest.raises(DifferenceError):
        pruned(made, "0.001pt")
