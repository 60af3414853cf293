"""The reader of NVIDIA's bindings: classes, members and bases from their C++, and what counts as missing."""

from tools import trt_bindings, trt_real_bindings

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
        'a.py:4: error: "type[BuilderFlag]" has no attribute "STRICT_NANS"  [attr-defined]\n'
        "a.py:3: error: Call to untyped function  [no-untyped-call]\n"
    )
    assert [line[:6] for line in trt_bindings.unguarded(report, 8)] == ["a.py:2"]
    assert [line[:6] for line in trt_bindings.unguarded(report, 10)] == ["a.py:1", "a.py:2"]


HEADER = """
class VEngineInspector : public VRoot
{
public:
    virtual IEngineInspector* getPImpl() noexcept = 0;
    virtual char const* getLayerInformation(int32_t index, Format format = Format::kONE) const noexcept = 0;
    [[nodiscard]] virtual bool setExecutionContext(
        IExecutionContext const* context) noexcept = 0;
};
class IParser
{
public:
    virtual ~IParser() noexcept = default;
    virtual int getNbErrors() const = 0;
};
class VUnused : public VRoot
{
public:
    virtual void nothing() noexcept = 0;
};
"""


def test_every_method_of_an_interface_is_answered_by_its_name():
    made = " ".join(trt_real_bindings.unanswered(HEADER).split())
    assert made.partition("using namespace nvonnxparser; ")[2] == (
        "struct GEngineInspector : nvinfer1::apiv::VEngineInspector { "
        'IEngineInspector* getPImpl() noexcept override { unanswered("VEngineInspector::getPImpl"); } '
        "char const* getLayerInformation(int32_t index, Format format) const noexcept override "
        '{ unanswered("VEngineInspector::getLayerInformation"); } '
        "bool setExecutionContext( IExecutionContext const* context) noexcept override "
        '{ unanswered("VEngineInspector::setExecutionContext"); } }; '
        "struct GParser : nvonnxparser::IParser { "
        'int getNbErrors() const override { unanswered("IParser::getNbErrors"); } };'
    )
