"""The reader of NVIDIA's bindings: classes, members and bases from their C++, and what counts as missing."""

from tools import trt_bindings

SOURCE = """
    py::enum_<BuilderFlag>(m, "BuilderFlag", py::arithmetic{}, BuilderFlagDoc::descr, py::module_local())
        .value("FP16", BuilderFlag::kFP16, BuilderFlagDoc::FP16)
        .value("SPARSE_WEIGHTS", BuilderFlag::kSPARSE_WEIGHTS, BuilderFlagDoc::SPARSE_WEIGHTS);
    py::class_<IErrorRecorder, PyErrorRecorder> baseLoggerBinding{m, "IErrorRecorder", py::module_local()};
    py::class_<ILayer, std::unique_ptr<ILayer, py::nodelete>>(
        m, "ILayer", ILayerDoc::descr, py::module_local())
        .def_property("name", &ILayer::getName, &ILayer::setName)
        .def("get_output", &ILayer::getOutput, "index"_a);
    py::class_<IConvolutionLayer, ILayer, std::unique_ptr<IConvolutionLayer, py::nodelete>>(m, "IConvolutionLayer")
        .def_property("kernel", lambdas::get, lambdas::set);
"""


def test_names_are_read_from_the_bindings():
    found = trt_bindings.read([SOURCE, "// no class here"])
    assert found["BuilderFlag"] == ([], {"FP16", "SPARSE_WEIGHTS"})
    assert found["ILayer"] == ([], {"name", "get_output"})
    assert found["IConvolutionLayer"] == (["ILayer"], {"kernel"})
    assert "IErrorRecorder" in found


def test_the_stub_is_python_that_knows_these_names_only():
    stub = trt_bindings.stub(trt_bindings.read([SOURCE]))
    compile(stub, "tensorrt.pyi", "exec")
    assert "class IConvolutionLayer(ILayer):" in stub
    assert "SPARSE_WEIGHTS: Any" in stub
    assert "STRICT_NANS" not in stub


def test_a_name_that_is_guarded_is_not_missing_in_the_release_that_lacks_it():
    report = (
        'a.py:1: error: Module has no attribute "IProgressMonitor"  [attr-defined]\n'
        'a.py:2: error: "IBuilderConfig" has no attribute "clear_flag"  [attr-defined]\n'
        "a.py:3: error: Call to untyped function  [no-untyped-call]\n"
    )
    assert [line[:6] for line in trt_bindings.unguarded(report, 8)] == ["a.py:2"]
    assert [line[:6] for line in trt_bindings.unguarded(report, 10)] == ["a.py:1", "a.py:2"]
