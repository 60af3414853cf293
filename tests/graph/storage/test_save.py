"""save: everything survives a round trip, the pair of files is whole at every instant, memory stays small."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from nm2trt.errors import InputError, LineageError, ModelError, OutputError
from nm2trt.graph.storage import threads
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.external_data import pack
from nm2trt.graph.storage.model import load, set_metadata
from nm2trt.graph.storage.model_file import Rewrite
from nm2trt.graph.storage.protobuf_stream import pieces
from nm2trt.graph.storage.save import all_tensors, refuse_same_file, save
from nm2trt.graph.storage.tensors import read_tensor


def tensor(name, shape=(3, 4), seed=0):
    return numpy_helper.from_array(
        np.random.default_rng(seed).standard_normal(shape).astype(np.float32), name
    )


def graph(name, nodes, **parts):
    return helper.make_graph(
        nodes,
        name,
        parts.pop("inputs", []),
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        **parts,
    )


def sparse_tensor(name):
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), name)
    indices = numpy_helper.from_array(np.array([[0, 1], [2, 3]], np.int64), f"{name}_indices")
    return helper.make_sparse_tensor(values, indices, [3, 4])


def everything():
    """Return a model that has something in every field that a pass could lose."""
    body = graph("body", [helper.make_node("Identity", ["captured"], ["y"])], initializer=[tensor("in_body")])
    body.sparse_initializer.append(sparse_tensor("sparse_in_body"))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("constant")),
        helper.make_node("Constant", [], ["s"], sparse_value=sparse_tensor("sparse_attribute")),
        helper.make_node("If", ["flag"], ["i"], then_branch=body, else_branch=body),
        helper.make_node(
            "Custom", ["x"], ["z"], "custom", domain="mine", tensors=[tensor("t1"), tensor("t2")]
        ),
        helper.make_node(
            "F", ["x"], ["f"], domain="local", alpha=0.5, mode="a", sizes=[1, 2], texts=["a", "b"]
        ),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    nodes[3].doc_string = "of a node"
    nodes[3].metadata_props.add(key="of a node", value="kept")
    typed = TensorProto(name="typed", data_type=TensorProto.BFLOAT16, dims=[2], int32_data=[16256, 16384])
    int4 = helper.make_tensor("int4", TensorProto.INT4, [3], [1, -2, 3])
    text = helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"b"])
    main = graph(
        "main",
        nodes,
        inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        initializer=[tensor("weight", (300, 301)), typed, int4, text, tensor("empty", (0, 4))],
        value_info=[helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        doc_string="of the graph",
    )
    main.initializer[0].doc_string = "of a tensor"
    main.sparse_initializer.append(sparse_tensor("sparse"))
    annotation = main.quantization_annotation.add(tensor_name="weight")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="typed")
    function = helper.make_function(
        "local",
        "F",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["k"], value=tensor("in_function")),
            helper.make_node("Relu", ["a"], ["b"]),
        ],
        [helper.make_opsetid("", 18)],
    )
    function.attribute_proto.append(AttributeProto(name="d", type=AttributeProto.TENSOR, t=tensor("default")))
    model = helper.make_model(
        main,
        functions=[function],
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("mine", 3)],
    )
    training = model.training_info.add()
    training.initialization.CopyFrom(graph("init", [], initializer=[tensor("in_training")]))
    training.algorithm.CopyFrom(graph("step", [helper.make_node("Identity", ["x"], ["y"])]))
    training.update_binding.add(key="weight", value="y")
    model.metadata_props.add(key="author", value="somebody")
    model.producer_name, model.model_version, model.doc_string = "maker", 7, "of the model"
    return model


def make_external(model, folder, choose, location="w.data"):
    """Move the tensors that `choose` accepts to a data file, as any exporter would."""
    data = bytearray()
    for item in all_tensors(model):
        if item.data_type == TensorProto.STRING or not choose(item):
            continue
        raw = item.raw_data or pack(read_tensor(item, None), element_type(item))
        for field in ("raw_data", "int32_data", "float_data"):
            item.ClearField(field)
        item.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", len(data)), ("length", len(raw))):
            item.external_data.add(key=key, value=str(value))
        data += raw
    (folder / location).write_bytes(data)


def contents(path):
    """Return the parsed model with external data brought inside, for comparing."""
    model = load(path)
    for item in all_tensors(model.proto):
        if item.data_location == TensorProto.EXTERNAL:
            raw = pack(read_tensor(item, model.root), element_type(item))
            del item.external_data[:]
            item.ClearField("data_location")
            item.raw_data = raw
    return model.proto


def test_inline_model_is_equal_after_parse(tmp_path):
    onnx.save(everything(), tmp_path / "a.onnx")
    save(load(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert onnx.load(tmp_path / "b.onnx") == everything()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.sets(st.integers(0, 20)), other=st.booleans())
def test_any_choice_of_external_tensors_is_equal_after_parse(tmp_path_factory, chosen, other):
    folder = tmp_path_factory.mktemp("models")
    model = everything()
    numbers = iter(range(100))
    make_external(model, folder, lambda _: next(numbers) in chosen)
    onnx.save(model, folder / "a.onnx")
    target = folder / "other" / "b.onnx" if other else folder / "b.onnx"
    target.parent.mkdir(exist_ok=True)
    save(load(folder / "a.onnx"), target)
    assert contents(target) == contents(folder / "a.onnx")
    outside = [t for t in all_tensors(load(target).proto) if t.data_location == TensorProto.EXTERNAL]
    assert len(outside) == sum(t.data_location == TensorProto.EXTERNAL for t in all_tensors(model))
    assert target.with_name("b.onnx.data").exists() == bool(outside)


def test_pieces_are_the_serialized_model():
    model = everything()
    joined = b"".join(pieces(model))
    assert onnx.ModelProto.FromString(joined) == everything()
    assert model == everything(), "the model is as it was"


def test_unknown_fields_survive():
    # Field 900, as a later version of the format might add one, in the model and in its graph.
    later = b"\xa2\x38\x05later"
    model = onnx.ModelProto.FromString(everything().SerializeToString() + later)
    model.graph.MergeFromString(later)
    again = onnx.ModelProto.FromString(b"".join(pieces(model)))
    assert b"".join(pieces(again)).count(later) == 2


def test_rewrites_go_where_the_tensor_was(tmp_path):
    model = everything()
    make_external(model, tmp_path, lambda t: t.name == "weight")
    onnx.save(model, tmp_path / "a.onnx")
    loaded = load(tmp_path / "a.onnx")
    by_name = {t.name: t for t in loaded.proto.graph.initializer}
    ones = np.ones((300, 301), np.float32).tobytes()
    rewrites = [
        Rewrite(by_name["weight"], lambda: iter([ones[:100], ones[100:]])),
        Rewrite(by_name["typed"], lambda: iter([b"\x80\x3f\x80\x3f"])),
    ]
    save(loaded, tmp_path / "b.onnx", rewrites=rewrites)
    after = {t.name: t for t in load(tmp_path / "b.onnx").proto.graph.initializer}
    assert after["weight"].data_location == TensorProto.EXTERNAL
    assert (read_tensor(after["weight"], tmp_path) == 1).all()
    assert not after["typed"].int32_data
    assert read_tensor(after["typed"], None).astype(np.float32).tolist() == [1.0, 1.0]


def test_a_rewrite_of_the_wrong_length_leaves_nothing(tmp_path):
    model = everything()
    make_external(model, tmp_path, lambda t: t.name == "weight")
    onnx.save(model, tmp_path / "a.onnx")
    loaded = load(tmp_path / "a.onnx")
    short = Rewrite(loaded.proto.graph.initializer[0], lambda: iter([b"123"]))
    with pytest.raises(ModelError, match=r"'weight' needs 361200 bytes, but 3 were made"):
        save(loaded, tmp_path / "b.onnx", rewrites=[short])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "w.data"]


def opened_with_a_rewrite(path, *, alone=True, made=None):
    """Give a model whose weights stayed in its file, and a rewrite of its large one."""
    onnx.save(everything(), path)
    model = load(path, leave_weights=True)
    (weight,) = (t for t in model.proto.graph.initializer if model.refers_to_itself(t))
    numbers = read_tensor(weight, model.root)
    made = (numbers[::-1] * 2).tobytes() if made is None else made
    return model, Rewrite(weight, lambda: iter([made[:1000], made[1000:]]), alone=alone)


@pytest.mark.parametrize("cores", [1, 4])
def test_numbers_may_be_made_while_the_model_is_written(tmp_path, monkeypatch, cores):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: range(cores))
    wanted = read_tensor(everything().graph.initializer[0], None)[::-1] * 2
    seen = []

    def finish(after):
        weight = after.proto.graph.initializer[0]
        seen.append((weight.data_location, read_tensor(weight, after.root)))
        set_metadata(after.proto, {"said": "later"})

    for name, alone in (("first.onnx", True), ("second.onnx", False)):
        model, rewrite = opened_with_a_rewrite(tmp_path / "a.onnx", alone=alone)
        save(model, tmp_path / name, rewrites=[rewrite], finish=finish)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    assert [place for place, _ in seen] == [TensorProto.EXTERNAL, TensorProto.DEFAULT]
    after = load(tmp_path / "first.onnx").proto
    assert {entry.key: entry.value for entry in after.metadata_props}["said"] == "later"
    for numbers in (seen[0][1], seen[1][1], read_tensor(after.graph.initializer[0], None)):
        np.testing.assert_array_equal(numbers, wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "first.onnx", "second.onnx"]


def test_numbers_made_while_the_model_is_written_may_move_to_a_data_file(tmp_path):
    model, rewrite = opened_with_a_rewrite(tmp_path / "a.onnx")
    save(model, tmp_path / "b.onnx", rewrites=[rewrite], most_inline_bytes=1000)
    after = load(tmp_path / "b.onnx")
    assert after.proto.graph.initializer[0].data_location == TensorProto.EXTERNAL
    wanted = read_tensor(everything().graph.initializer[0], None)[::-1] * 2
    np.testing.assert_array_equal(read_tensor(after.proto.graph.initializer[0], after.root), wanted)


@pytest.mark.parametrize("fault", ["refused", "short", "changed"])
def test_a_failure_while_numbers_are_made_leaves_nothing(tmp_path, fault):
    def finish(_):
        if fault == "refused":
            raise LineageError("the masks are wrong")

    model, rewrite = opened_with_a_rewrite(tmp_path / "a.onnx", made=b"123" if fault == "short" else None)
    if fault == "changed":
        made = rewrite.chunks

        def chunks():
            (tmp_path / "a.onnx").write_bytes(b"another model")
            return made()

        rewrite = Rewrite(rewrite.tensor, chunks, alone=True)
    error, told = {
        "refused": (LineageError, "masks are wrong"),
        "short": (ModelError, "needs 361200 bytes"),
        "changed": (InputError, "was changed while it was being read"),
    }[fault]
    with pytest.raises(error, match=told):
        save(model, tmp_path / "b.onnx", rewrites=[rewrite], finish=finish)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_large_inline_tensors_move_out_when_the_model_would_be_too_large(tmp_path):
    onnx.save(everything(), tmp_path / "a.onnx")
    save(load(tmp_path / "a.onnx"), tmp_path / "b.onnx", most_inline_bytes=1000)
    after = load(tmp_path / "b.onnx").proto
    assert [t.name for t in all_tensors(after) if t.data_location == TensorProto.EXTERNAL] == ["weight"]
    assert contents(tmp_path / "b.onnx") == everything()


def external_pair(folder, name, fill):
    model = helper.make_model(
        graph("g", [helper.make_node("Identity", ["w"], ["y"])], initializer=[tensor("w", (64, 64))])
    )
    model.graph.initializer[0].raw_data = np.full((64, 64), fill, np.float32).tobytes()
    make_external(model, folder, lambda _: True, f"{name}.data")
    onnx.save(model, folder / name)
    return folder / name


def value_of(path):
    return float(contents(path).graph.initializer[0].raw_data[:4].hex() != "") and float(
        np.frombuffer(contents(path).graph.initializer[0].raw_data, np.float32)[0]
    )


def test_the_old_model_reads_its_old_data_until_the_last_moment(tmp_path):
    source, target = external_pair(tmp_path, "a.onnx", 1), external_pair(tmp_path, "b.onnx", 2)
    seen = []
    save(load(source), target, finish=lambda _: seen.append(value_of(target)))
    assert seen == [2.0]
    assert value_of(target) == 1.0
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names[:3] == ["a.onnx", "a.onnx.data", "b.onnx"]
    assert len(names) == 4, "the old data file is gone"


def test_a_failure_leaves_both_files_as_they_were(tmp_path):
    source, target = external_pair(tmp_path, "a.onnx", 1), external_pair(tmp_path, "b.onnx", 2)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(load(source), target, finish=fail)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_writing_over_itself_is_safe(tmp_path):
    source = external_pair(tmp_path, "a.onnx", 1)
    for _ in range(3):
        save(load(source), source)
        assert value_of(source) == 1.0
        assert len(list(tmp_path.iterdir())) == 2


def test_data_of_another_model_is_not_removed(tmp_path):
    # b.onnx reads what looks like a.onnx's own data file, which a.onnx does not name.
    source = external_pair(tmp_path, "b.onnx", 3)
    (tmp_path / "b.onnx.data").rename(tmp_path / "a.onnx.data")
    proto = onnx.load(source, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "a.onnx.data"
    onnx.save(proto, source)
    save(load(source), tmp_path / "a.onnx")
    save(load(source), tmp_path / "a.onnx")
    assert value_of(source) == value_of(tmp_path / "a.onnx") == 3.0


def test_an_output_that_is_the_models_data_is_refused(tmp_path):
    source = external_pair(tmp_path, "a.onnx", 1)
    with pytest.raises(
        InputError, match=r"a\.onnx\.data holds weights of .*a\.onnx; give another output path"
    ):
        save(load(source), tmp_path / "a.onnx.data")
    assert value_of(source) == 1.0


@pytest.mark.parametrize("how", ["same", "symlink", "hardlink"])
def test_the_input_as_output_is_refused(tmp_path, how):
    source, target = external_pair(tmp_path, "a.onnx", 1), tmp_path / "b.onnx"
    if how == "same":
        target = tmp_path / "." / "a.onnx"
    elif how == "symlink":
        target.symlink_to(source)
    else:
        target.hardlink_to(source)
    with pytest.raises(InputError, match="is the input; give another path with -o"):
        refuse_same_file(source, target)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda f: (f / "a.onnx.data").unlink(), "keep the data file beside the model", id="missing"
        ),
        pytest.param(lambda f: (f / "a.onnx.data").write_bytes(b"1"), "is truncated", id="truncated"),
    ],
)
def test_damaged_external_data_is_a_sentence(tmp_path, damage, message):
    source = external_pair(tmp_path, "a.onnx", 1)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message):
        save(load(source), tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_a_missing_folder_is_a_sentence(tmp_path):
    source = external_pair(tmp_path, "a.onnx", 1)
    with pytest.raises(OutputError, match="does not exist; create it"):
        save(load(source), tmp_path / "none" / "b.onnx")


_LARGE = """
import sys
from nm2trt.graph.storage.model import load, set_metadata
from nm2trt.graph.storage.save import save
from nm2trt.measure import peak_resident_bytes
save(load(sys.argv[1]), sys.argv[2])
print(peak_resident_bytes())
"""


@pytest.mark.slow
def test_external_data_beyond_2_gib_never_enters_memory(tmp_path):
    count, size = 9, 256 << 20
    tensors = []
    for index in range(count):
        item = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[size // 4])
        item.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "big.data"), ("offset", index * size), ("length", size)):
            item.external_data.add(key=key, value=str(value))
        tensors.append(item)
    with (tmp_path / "big.data").open("wb") as file:
        file.truncate(count * size)
        for index in range(count):
            file.seek(index * size + 4 * index)
            file.write(np.float32(index + 1).tobytes())
    onnx.save(helper.make_model(graph("g", [], initializer=tensors)), tmp_path / "a.onnx")
    done = subprocess.run(
        [sys.executable, "-c", _LARGE, tmp_path / "a.onnx", tmp_path / "b.onnx"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert int(done.stdout) < 300 << 20, "peak memory"
    after = load(tmp_path / "b.onnx").proto
    with (tmp_path / "b.onnx.data").open("rb") as file:
        for index, item in enumerate(after.graph.initializer):
            place = {entry.key: entry.value for entry in item.external_data}
            assert int(place["offset"]) % 4096 == 0
            file.seek(int(place["offset"]) + 4 * index)
            assert np.frombuffer(file.read(4), np.float32)[0] == index + 1
