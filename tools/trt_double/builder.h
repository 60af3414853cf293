// The network and the builder of a TensorRT that needs no GPU: see ../trt_real_bindings.py, which compiles it.
//
// A network is y = 2 * scale * x in half precision, whatever file was parsed. An engine runs on the driver of
// tests/backends/gpu_double.py, whose clock it moves by 1 ms, or by 0.5 ms if sparse weights were allowed. What NVIDIA's
// documentation forbids is told as "RULE BROKEN", and a method that has no answer here ends the process.

#pragma once
#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <string>
#include <thread>
#include <vector>

[[noreturn]] static void unanswered(char const* method)
{
    fprintf(stderr, "RULE BROKEN: %s was called, which has no answer here\n", method);
    abort();
}

#include GENERATED

using S = ILogger::Severity;
static ILogger* theLogger;
static void log(S severity, std::string const& text) { theLogger->log(severity, text.c_str()); }

static bool broken(std::string const& rule)
{
    fprintf(stderr, "RULE BROKEN: %s\n", rule.c_str());
    log(S::kERROR, "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (" + rule + ")");
    return false;
}

static Dims dims(std::vector<int64_t> const& sizes)
{
    Dims made{};
    made.nbDims = static_cast<int32_t>(sizes.size());
    for (size_t i = 0; i < sizes.size(); i++)
        made.d[i] = sizes[i];
    return made;
}

static bool named(char const* name, char const* other) { return strcmp(name, other) == 0; }

struct Memory : IHostMemory, GHostMemory
{
    std::vector<char> bytes;
    explicit Memory(std::vector<char> b) : bytes(std::move(b)) { mImpl = this; }
    void* data() const noexcept override { return const_cast<char*>(bytes.data()); }
    size_t size() const noexcept override { return bytes.size(); }
    DataType type() const noexcept override { return DataType::kINT8; }
};

struct Tensor : ITensor, GTensor
{
    std::string name;
    Dims shape;
    bool input;
    Tensor(char const* n, Dims s, bool i) : name(n), shape(s), input(i) { mImpl = this; }
    char const* getName() const noexcept override { return name.c_str(); }
    Dims getDimensions() const noexcept override { return shape; }
    void setDimensions(Dims const& s) noexcept override { shape = s; }
    DataType getType() const noexcept override { return DataType::kHALF; }
    bool isNetworkInput() const noexcept override { return input; }
    bool isNetworkOutput() const noexcept override { return !input; }
    bool isShapeTensor() const noexcept override { return false; }
    char const* getDimensionName(int32_t axis) const noexcept override { return axis == 0 ? "batch" : nullptr; }
};

struct Layer : ILayer, GLayer
{
    Tensor* output;
    explicit Layer(Tensor* o) : output(o) { mLayer = this; }
    LayerType getType() const noexcept override { return LayerType::kMATRIX_MULTIPLY; }
    char const* getName() const noexcept override { return "product"; }
    int32_t getNbOutputs() const noexcept override { return 1; }
    ITensor* getOutput(int32_t) const noexcept override { return output; }
};

struct Network : INetworkDefinition, GNetworkDefinition
{
    NetworkDefinitionCreationFlags flags;
    mutable Tensor x{"x", dims({-1, 64}), true}, scale{"scale", dims({}), true}, y{"y", dims({-1, 64}), false};
    mutable Layer product{&y};
    bool parsed = false;
    explicit Network(NetworkDefinitionCreationFlags f) : flags(f) { mImpl = this; }
    int32_t getNbInputs() const noexcept override { return parsed ? 2 : 0; }
    int32_t getNbOutputs() const noexcept override { return parsed ? 1 : 0; }
    int32_t getNbLayers() const noexcept override { return parsed ? 1 : 0; }
    ITensor* getInput(int32_t index) const noexcept override { return index ? &scale : &x; }
    ITensor* getOutput(int32_t) const noexcept override { return &y; }
    ILayer* getLayer(int32_t) const noexcept override { return &product; }
};

struct Profile : IOptimizationProfile, GOptimizationProfile
{
    std::map<OptProfileSelector, Dims> shapes;
    Profile() { mImpl = this; }
    bool setDimensions(char const* name, OptProfileSelector which, Dims const& shape) noexcept override
    {
        shapes[which] = shape;
        return named(name, "x") || broken("a profile of an input that is not free");
    }
};

struct Cache : ITimingCache, GTimingCache
{
    std::vector<char> bytes;
    Cache(void const* begin, size_t size) : bytes(static_cast<char const*>(begin), static_cast<char const*>(begin) + size)
    {
        mImpl = this;
    }
    IHostMemory* serialize() const noexcept override { return new Memory(bytes.empty() ? std::vector<char>{'t'} : bytes); }
    bool combine(ITimingCache const&, bool) noexcept override { return true; }
};

struct Config : IBuilderConfig, GBuilderConfig
{
    uint32_t flags = 1U << static_cast<int>(BuilderFlag::kTF32);
    TacticSources sources = 0xff;
    std::vector<Profile const*> profiles;
    ProfilingVerbosity verbosity = ProfilingVerbosity::kLAYER_NAMES_ONLY;
    IProgressMonitor* monitor = nullptr;
    Config() { mImpl = this; }
    void setFlag(BuilderFlag flag) noexcept override { flags |= 1U << static_cast<int>(flag); }
    void clearFlag(BuilderFlag flag) noexcept override { flags &= ~(1U << static_cast<int>(flag)); }
    bool getFlag(BuilderFlag flag) const noexcept override { return flags >> static_cast<int>(flag) & 1; }
    void setProfilingVerbosity(ProfilingVerbosity v) noexcept override { verbosity = v; }
    void setBuilderOptimizationLevel(int32_t level) noexcept override
    {
        if (level < 0 || level > 5)
            broken("an optimization level beyond 0 to 5");
    }
    void setMemoryPoolLimit(MemoryPoolType, size_t) noexcept override {}
    int32_t addOptimizationProfile(IOptimizationProfile const* profile) noexcept override
    {
        profiles.push_back(static_cast<Profile const*>(profile));
        return static_cast<int32_t>(profiles.size()) - 1;
    }
    ITimingCache* createTimingCache(void const* begin, size_t size) const noexcept override { return new Cache(begin, size); }
    bool setTimingCache(ITimingCache const&, bool) noexcept override { return true; }
    void setProgressMonitor(IProgressMonitor* m) noexcept override { monitor = m; }
    TacticSources getTacticSources() const noexcept override { return sources; }
    bool setTacticSources(TacticSources s) noexcept override
    {
        sources = s;
        return true;
    }
};

// An engine's bytes: the head that NVIDIA's trtexec reads, and the sizes of x by profile, least, best and most.
struct Plan
{
    char tag[4];
    uint32_t layout;
    char unread[16];
    uint8_t version[4];
    int32_t sparse, detailed, profiles;
    int64_t sizes[16][3];
};
static OptProfileSelector const SELECTORS[] = {OptProfileSelector::kMIN, OptProfileSelector::kOPT, OptProfileSelector::kMAX};

struct Builder : IBuilder, GBuilder
{
    Builder() { mImpl = this; }
    IBuilderConfig* createBuilderConfig() noexcept override { return new Config; }
    INetworkDefinition* createNetworkV2(NetworkDefinitionCreationFlags flags) noexcept override { return new Network(flags); }
    IOptimizationProfile* createOptimizationProfile() noexcept override { return new Profile; }
    IHostMemory* buildSerializedNetwork(INetworkDefinition& n, IBuilderConfig& c) noexcept override
    {
        auto& network = static_cast<Network&>(n);
        auto& config = static_cast<Config&>(c);
        bool const sparse = config.getFlag(BuilderFlag::kSPARSE_WEIGHTS), free = network.x.shape.d[0] < 0;
        bool go_on = true;
        if (free && config.profiles.empty())
            broken("a free input and no profile");
        if (!(network.flags >> static_cast<int>(NetworkDefinitionCreationFlag::kSTRONGLY_TYPED) & 1))
            broken("a network that is not strongly typed, whose half-precision weights would run as float32");
        // TensorRT calls the logger and the monitor from threads of its own.
        std::thread work([&] {
            if (auto* monitor = config.monitor)
            {
                monitor->phaseStart("Building engine", nullptr, 2);
                monitor->phaseStart("Timing", "Building engine", 1);
                go_on = monitor->stepComplete("Timing", 0);
                monitor->phaseFinish("Timing");
                go_on = monitor->stepComplete("Building engine", 1) && go_on;
                monitor->phaseFinish("Building engine");
            }
            for (char const* line : {"Found 1 layer(s) eligible to use", "Chose 1 layer(s) using"})
                if (sparse)
                    log(S::kINFO, std::string("(Sparsity) ") + line + " sparse tactics: product");
        });
        work.join();
        if (!go_on)
        {
            log(S::kERROR, "the build was cancelled");
            return nullptr;
        }
        Plan plan{{'f', 't', 'r', 't'}, 0, {}, {NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH, 0}};
        plan.sparse = sparse;
        plan.detailed = config.verbosity == ProfilingVerbosity::kDETAILED;
        plan.profiles = free ? static_cast<int32_t>(config.profiles.size()) : 1;
        for (int p = 0; p < plan.profiles; p++)
            for (int s = 0; s < 3; s++)
                plan.sizes[p][s] = free ? config.profiles[p]->shapes.at(SELECTORS[s]).d[0] : network.x.shape.d[0];
        auto const* begin = reinterpret_cast<char const*>(&plan);
        return new Memory({begin, begin + sizeof plan});
    }
};
