// The engine of a TensorRT that needs no GPU, and what NVIDIA's bindings call by name: see builder.h.

#include "builder.h"

template <class F>
static F of_driver(char const* name)
{
    return reinterpret_cast<F>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}

struct Engine;

struct Context : IExecutionContext, GExecutionContext
{
    Engine const& engine;
    std::map<std::string, char*> addresses;
    int64_t batch = -1, enqueued = -1;
    int32_t profile = 0;
    IProfiler* profiler = nullptr;
    explicit Context(Engine const& e) : engine(e) { mImpl = this; }
    int32_t getOptimizationProfile() const noexcept override { return profile; }
    bool setOptimizationProfileAsync(int32_t index, cudaStream_t stream) noexcept override
    {
        profile = index;
        batch = enqueued = -1; // shapes have to be set again
        return stream || broken("a profile set on the default stream");
    }
    bool setInputShape(char const* name, Dims const& shape) noexcept override;
    Dims getTensorShape(char const* name) const noexcept override { return named(name, "scale") ? dims({}) : dims({batch, 64}); }
    bool setTensorAddress(char const* name, void* data) noexcept override
    {
        addresses[name] = static_cast<char*>(data);
        return reinterpret_cast<uintptr_t>(data) % 256 == 0 || broken("an address that is not aligned to 256 bytes");
    }
    void setProfiler(IProfiler* p) noexcept override { profiler = p; }
    bool enqueueV3(cudaStream_t stream) noexcept override;
};

struct Inspector : IEngineInspector, GEngineInspector
{
    std::string text;
    explicit Inspector(Plan const& plan)
    {
        mImpl = this;
        std::string const kernel = plan.sparse ? "sm80_xmma_sparse_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x64_sptensor16x8x16"
                                               : "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x64";
        std::string const layer = "{\"Name\": \"product\", \"LayerType\": \"gemm\", \"TacticName\": \"" + kernel + "\"}";
        text = "{\"Layers\": [" + (plan.detailed ? layer : "\"product\"") + "],\n";
        text += NV_TENSORRT_MAJOR > 10 ? "\"I/O Tensors\": [{\"Name\": \"x\"}]}" : "\"Bindings\": [\"x\", \"y\"]}";
    }
    bool setExecutionContext(IExecutionContext const*) noexcept override { return true; }
    char const* getEngineInformation(LayerInformationFormat) const noexcept override { return text.c_str(); }
};

#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR > 9
struct RunConfig : IRuntimeConfig, GRuntimeConfig
{
    RunConfig() { mImpl = this; }
};
#endif

struct Engine : ICudaEngine, GCudaEngine
{
    Plan plan;
    explicit Engine(Plan const& p) : plan(p) { mImpl = this; }
    int32_t getNbOptimizationProfiles() const noexcept override { return plan.profiles; }
    int32_t getNbIOTensors() const noexcept override { return 3; }
    char const* getIOTensorName(int32_t index) const noexcept override
    {
        static char const* const NAMES[] = {"x", "scale", "y"};
        return NAMES[index];
    }
    TensorIOMode getTensorIOMode(char const* name) const noexcept override
    {
        return named(name, "y") ? TensorIOMode::kOUTPUT : TensorIOMode::kINPUT;
    }
    Dims getTensorShape(char const* name) const noexcept override
    {
        bool const fixed = plan.sizes[0][0] == plan.sizes[0][2];
        return named(name, "scale") ? dims({}) : dims({fixed ? plan.sizes[0][0] : -1, 64});
    }
    DataType getTensorDataType(char const*) const noexcept override { return DataType::kHALF; }
    TensorLocation getTensorLocation(char const*) const noexcept override { return TensorLocation::kDEVICE; }
    Dims getProfileShape(char const*, int32_t p, OptProfileSelector which) const noexcept override
    {
        int const at = which == SELECTORS[0] ? 0 : which == SELECTORS[1] ? 1 : 2;
        return dims({plan.sizes[p][at], 64});
    }
    IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept override { return new Context(*this); }
#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR > 9
    IRuntimeConfig* createRuntimeConfig() noexcept override { return new RunConfig; }
#endif
    IEngineInspector* createEngineInspector() const noexcept override { return new Inspector(plan); }
};

bool Context::setInputShape(char const* name, Dims const& shape) noexcept
{
    if (named(name, "scale"))
        return shape.nbDims == 0 || broken("a scalar with an axis");
    auto const& sizes = engine.plan.sizes[profile];
    if (shape.nbDims != 2 || shape.d[1] != 64 || shape.d[0] < sizes[0] || shape.d[0] > sizes[2])
        return broken("a shape outside of the profile");
    batch = shape.d[0];
    return true;
}

bool Context::enqueueV3(cudaStream_t stream) noexcept
{
    bool const capturing = of_driver<int (*)()>("is_capturing")();
    if (!stream || batch < 0)
        return broken("enqueued on the default stream, or without a shape");
    for (char const* name : {"x", "scale", "y"})
        if (!addresses[name])
            return broken(std::string("enqueued without an address of ") + name);
    if (capturing && (enqueued != batch || profiler))
        return broken("captured with a profiler, or before an inference in this shape");
    enqueued = batch;
    of_driver<void (*)(double)>("gpu_works")(engine.plan.sparse ? 0.5 : 1.0);
    if (profiler)
        profiler->reportLayerTime("product", engine.plan.sparse ? 0.5F : 1.0F);
    auto const* x = reinterpret_cast<_Float16 const*>(addresses["x"]);
    auto* y = reinterpret_cast<_Float16*>(addresses["y"]);
    float const scale = *reinterpret_cast<_Float16 const*>(addresses["scale"]);
    for (int64_t i = 0; i < batch * 64; i++)
        y[i] = static_cast<_Float16>(2 * scale * static_cast<float>(x[i]));
    return true;
}

struct Runtime : IRuntime, GRuntime
{
    Runtime() { mImpl = this; }
    ICudaEngine* deserializeCudaEngine(void const* begin, size_t size) noexcept override
    {
        if (size != sizeof(Plan))
        {
            log(S::kERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (the plan is damaged)");
            return nullptr;
        }
        return new Engine(*static_cast<Plan const*>(begin));
    }
};

struct Parser : GParser
{
    Network& network;
    explicit Parser(Network& n) : network(n) {}
    bool parseFromFile(char const*, int) noexcept override { return network.parsed = true; }
    int getNbErrors() const noexcept override { return 0; }
};

extern "C" {
void* createInferBuilder_INTERNAL(void* logger, int32_t) noexcept
{
    theLogger = static_cast<ILogger*>(logger);
    return static_cast<IBuilder*>(new Builder);
}
void* createInferRuntime_INTERNAL(void* logger, int32_t) noexcept
{
    theLogger = static_cast<ILogger*>(logger);
    return static_cast<IRuntime*>(new Runtime);
}
void* createNvOnnxParser_INTERNAL(void* network, void*, int) PARSER_NOEXCEPT
{
    return static_cast<nvonnxparser::IParser*>(new Parser(static_cast<Network&>(*static_cast<INetworkDefinition*>(network))));
}
void* createInferRefitter_INTERNAL(void*, void*, int32_t) noexcept { return nullptr; }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int32_t) PARSER_NOEXCEPT { return nullptr; }
int getNvOnnxParserVersion() PARSER_NOEXCEPT { return NV_TENSORRT_MAJOR * 10000; }
IPluginRegistry* getBuilderPluginRegistry(EngineCapability) noexcept { return nullptr; }
IPluginRegistry* getPluginRegistry() noexcept { return nullptr; }
bool initLibNvInferPlugins(void*, char const*) { return true; }
}
