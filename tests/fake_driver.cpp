// A CUDA driver without a GPU, for tests: device memory is memory of this machine, and a stream does
// nothing before somebody waits for it. So whoever reads too early reads what was there before, as
// on a GPU that is far behind. Kernels are functions that a test registers.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using Work = std::function<void()>;
enum Result { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100,
              INVALID_CONTEXT = 201, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, DEVICE_LOST = 46 };

struct Graph { std::vector<Work> works; };
struct Stream { std::vector<Work> waiting; Graph *recording = nullptr; };
struct Event { unsigned flags; Stream *stream = nullptr; uint64_t recorded = 0; bool reached = true; double ms = 0; };
using Kernel = void (*)(void **arguments, const unsigned *blocks, const unsigned *threads);
struct Function { Kernel kernel; std::vector<size_t> sizes; };

static std::recursive_mutex lock;
static std::map<uintptr_t, size_t> allocations;
static std::map<std::string, Function> functions;
static std::vector<Stream *> streams;
static size_t limit_bytes = SIZE_MAX, used_bytes = 0;
static int devices = 1;
static Result broken = SUCCESS;  // what every call that works in a context answers once it is set
static double clock_ms = 0;
static volatile bool gate_closed = false, gate_was_forced = false;  // while closed, no stream does anything
static std::map<uintptr_t, size_t> pinned;
struct Counts { uint64_t uploads, uploaded_bytes, downloads, downloaded_bytes, pageable, waits, spins, allocations; };
static Counts counts;
static int primary_context;
static unsigned primary_flags;
static int is_primary_active;
static thread_local std::vector<void *> contexts;

#define EXPORT extern "C" __attribute__((visibility("default"))) Result
#define HOLD std::lock_guard<std::recursive_mutex> held(lock)
#define CHECK_CONTEXT if (contexts.empty()) return INVALID_CONTEXT; if (broken) return broken
#define NEEDS_CONTEXT HOLD; CHECK_CONTEXT

static bool is_within(const std::map<uintptr_t, size_t> &blocks, uintptr_t address, size_t size) {
    auto next = blocks.upper_bound(address);
    if (next == blocks.begin()) return false;
    auto found = std::prev(next);
    return address + size <= found->first + found->second;
}
static bool is_on_device(uintptr_t address, size_t size) { return is_within(allocations, address, size); }
static bool is_pageable(const void *at, size_t size) {
    return !is_within(pinned, reinterpret_cast<uintptr_t>(at), size);
}

static Stream default_stream;
static void enqueue(Stream *stream, Work work) {
    if (!stream) stream = &default_stream;
    (stream->recording ? stream->recording->works : stream->waiting).push_back(std::move(work));
}

// Without the lock while it works: a host function may want Python's, whose owner may wait for ours.
static void drain(Stream *stream) {
    if (!stream) stream = &default_stream;
    for (int ms = 0; gate_closed; ++ms) {
        if (ms == 5000) { gate_was_forced = true; break; }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::vector<Work> works;
    { HOLD; works.swap(stream->waiting); }
    for (auto &work : works) { { HOLD; clock_ms += 1; } work(); }
}

// What tests set.

extern "C" void fake_reset() {
    HOLD;
    limit_bytes = SIZE_MAX; devices = 1; broken = SUCCESS; gate_closed = gate_was_forced = false;
}
// What was done since it was asked last: copies when a stream does them, all else when it is called.
extern "C" void fake_take_counts(Counts *taken) { HOLD; *taken = counts; counts = {}; }
extern "C" void fake_close_gate() { gate_closed = true; }
extern "C" bool fake_open_gate() { gate_closed = false; return !gate_was_forced; }
extern "C" void fake_limit_memory(size_t bytes) { HOLD; limit_bytes = bytes; }
extern "C" void fake_set_devices(int count) { HOLD; devices = count; }
extern "C" void fake_break(int result) { HOLD; broken = Result(result); }
extern "C" size_t fake_used_bytes() { HOLD; return used_bytes; }
extern "C" void fake_register(const char *name, Kernel kernel, int count, const size_t *sizes) {
    HOLD;
    functions[name] = {kernel, std::vector<size_t>(sizes, sizes + count)};
}

// The driver.

EXPORT cuInit(unsigned) { return devices ? SUCCESS : NO_DEVICE; }
EXPORT cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
EXPORT cuDeviceGetCount(int *count) { *count = devices; return SUCCESS; }
EXPORT cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < devices ? SUCCESS : NO_DEVICE; }
EXPORT cuDeviceGetName(char *name, int size, int) { strncpy(name, "Fake GPU", size); return SUCCESS; }
EXPORT cuDeviceGetAttribute(int *value, int which, int) {
    *value = which == 75 ? 8 : which == 76 ? 9 : which == 16 ? 128 : 1024;
    return SUCCESS;
}
EXPORT cuDeviceTotalMem_v2(size_t *bytes, int) { *bytes = size_t(24) << 30; return SUCCESS; }
EXPORT cuDevicePrimaryCtxRetain(void **context, int) {
    *context = &primary_context, is_primary_active = 1;
    return SUCCESS;
}
EXPORT cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
EXPORT cuDevicePrimaryCtxGetState(int, unsigned *flags, int *is_active) {
    *flags = primary_flags, *is_active = is_primary_active;
    return SUCCESS;
}
EXPORT cuDevicePrimaryCtxSetFlags_v2(int, unsigned flags) { primary_flags = flags; return SUCCESS; }
// What PyTorch leaves behind, or nobody.
EXPORT fake_primary_context(unsigned flags, int is_active) {
    primary_flags = flags, is_primary_active = is_active;
    return SUCCESS;
}
EXPORT cuCtxPushCurrent_v2(void *context) { contexts.push_back(context); return SUCCESS; }
EXPORT cuCtxPopCurrent_v2(void **context) {
    if (contexts.empty()) return INVALID_CONTEXT;
    if (context) *context = contexts.back();
    contexts.pop_back();
    return SUCCESS;
}
EXPORT cuCtxGetCurrent(void **context) { *context = contexts.empty() ? nullptr : contexts.back(); return SUCCESS; }
EXPORT cuCtxSetCurrent(void *context) {
    if (!contexts.empty()) contexts.pop_back();
    if (context) contexts.push_back(context);
    return SUCCESS;
}
EXPORT cuCtxDetach(void *) { return SUCCESS; }
EXPORT cuCtxGetDevice(int *device) { *device = 0; return contexts.empty() ? INVALID_CONTEXT : SUCCESS; }
EXPORT cuCtxGetApiVersion(void *, unsigned *version) { *version = 13000; return SUCCESS; }
EXPORT cuCtxSynchronize() { { NEEDS_CONTEXT; ++counts.waits; } for (auto stream : streams) drain(stream); return SUCCESS; }

EXPORT cuMemAlloc_v2(uintptr_t *address, size_t size) {
    NEEDS_CONTEXT;
    if (used_bytes + size > limit_bytes) return OUT_OF_MEMORY;
    *address = reinterpret_cast<uintptr_t>(malloc(size));
    memset(reinterpret_cast<void *>(*address), 0xA5, size);
    allocations[*address] = size;
    ++counts.allocations;
    used_bytes += size;
    return SUCCESS;
}
EXPORT fake_lend(uintptr_t address, size_t size) {  // memory of somebody else's, for good
    HOLD;
    allocations[address] = size;
    return SUCCESS;
}
EXPORT cuMemFree_v2(uintptr_t address) {
    HOLD;
    auto found = allocations.find(address);
    if (found == allocations.end()) return INVALID_VALUE;
    used_bytes -= found->second;
    allocations.erase(found);
    free(reinterpret_cast<void *>(address));
    return SUCCESS;
}
EXPORT cuMemGetInfo_v2(size_t *free_bytes, size_t *all) { *all = limit_bytes; *free_bytes = limit_bytes - used_bytes; return SUCCESS; }
EXPORT cuMemHostAlloc(void **address, size_t size, unsigned) {
    NEEDS_CONTEXT;
    *address = malloc(size);
    pinned[reinterpret_cast<uintptr_t>(*address)] = size;
    ++counts.allocations;
    return SUCCESS;
}
EXPORT cuMemAllocHost_v2(void **address, size_t size) { return cuMemHostAlloc(address, size, 0); }
EXPORT cuMemFreeHost(void *address) {
    HOLD;
    pinned.erase(reinterpret_cast<uintptr_t>(address));
    free(address);
    return SUCCESS;
}
EXPORT cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t size, Stream *stream) {
    NEEDS_CONTEXT;
    if (!is_on_device(to, size)) return ILLEGAL_ADDRESS;
    counts.pageable += is_pageable(from, size);
    enqueue(stream, [=] {
        { HOLD; ++counts.uploads; counts.uploaded_bytes += size; }
        memcpy(reinterpret_cast<void *>(to), from, size);
    });
    return SUCCESS;
}
EXPORT cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t size, Stream *stream) {
    NEEDS_CONTEXT;
    if (!is_on_device(from, size)) return ILLEGAL_ADDRESS;
    counts.pageable += is_pageable(to, size);
    enqueue(stream, [=] {
        { HOLD; ++counts.downloads; counts.downloaded_bytes += size; }
        memcpy(to, reinterpret_cast<void *>(from), size);
    });
    return SUCCESS;
}

EXPORT cuStreamCreate(Stream **stream, unsigned) { NEEDS_CONTEXT; streams.push_back(*stream = new Stream); return SUCCESS; }
EXPORT cuStreamDestroy_v2(Stream *) { return SUCCESS; }  // tests are short
EXPORT cuStreamSynchronize(Stream *stream) {
    { NEEDS_CONTEXT; ++counts.waits; ++counts.spins; }
    drain(stream);
    return SUCCESS;
}
EXPORT cuStreamBeginCapture_v2(Stream *stream, int) {
    NEEDS_CONTEXT;
    if (stream->recording) return INVALID_VALUE;
    stream->recording = new Graph;
    return SUCCESS;
}
EXPORT cuStreamEndCapture(Stream *stream, Graph **graph) {
    HOLD;
    *graph = stream->recording;
    stream->recording = nullptr;
    return *graph ? SUCCESS : INVALID_VALUE;
}
EXPORT cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
    HOLD;
    *executable = new Graph(*graph);
    return SUCCESS;
}
EXPORT cuGraphLaunch(Graph *graph, Stream *stream) {
    NEEDS_CONTEXT;
    for (auto &work : graph->works) enqueue(stream, work);
    return SUCCESS;
}
EXPORT cuGraphDestroy(Graph *graph) { delete graph; return SUCCESS; }
EXPORT cuGraphExecDestroy(Graph *graph) { delete graph; return SUCCESS; }
EXPORT cuLaunchHostFunc(Stream *stream, void (*function)(void *), void *data) {
    NEEDS_CONTEXT;
    enqueue(stream, [=] { function(data); });
    return SUCCESS;
}

EXPORT cuEventCreate(Event **event, unsigned flags) { NEEDS_CONTEXT; *event = new Event{flags}; return SUCCESS; }
EXPORT cuEventDestroy_v2(Event *) { return SUCCESS; }
EXPORT cuEventRecord(Event *event, Stream *stream) {
    NEEDS_CONTEXT;
    event->stream = stream;
    event->reached = false;
    enqueue(stream, [=] { event->reached = true; event->ms = clock_ms; });
    return SUCCESS;
}
EXPORT cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
    NEEDS_CONTEXT;
    enqueue(stream, [=] { if (!event->reached) drain(event->stream); });
    return SUCCESS;
}
EXPORT cuEventSynchronize(Event *event) {
    { NEEDS_CONTEXT; ++counts.waits; counts.spins += !(event->flags & 1); }  // BLOCKING_SYNC
    if (!event->reached) drain(event->stream);
    return SUCCESS;
}
EXPORT cuEventElapsedTime(float *ms, Event *from, Event *to) {
    HOLD;
    if (!from->reached || !to->reached) return INVALID_VALUE;
    *ms = float(to->ms - from->ms);
    return SUCCESS;
}
EXPORT cuEventElapsedTime_v2(float *ms, Event *from, Event *to) { return cuEventElapsedTime(ms, from, to); }

EXPORT cuModuleLoadData(void **module, const void *image) { NEEDS_CONTEXT; *module = strdup(static_cast<const char *>(image)); return SUCCESS; }
EXPORT cuModuleLoadDataEx(void **module, const void *image, unsigned, void *, void *) { return cuModuleLoadData(module, image); }
EXPORT cuModuleUnload(void *) { return SUCCESS; }
EXPORT cuModuleGetFunction(Function **function, void *, const char *name) {
    NEEDS_CONTEXT;
    auto found = functions.find(name);
    if (found == functions.end()) return NOT_FOUND;
    *function = &found->second;
    return SUCCESS;
}
EXPORT cuFuncSetBlockShape(Function *, int, int, int) { return SUCCESS; }  // pycuda says it twice
EXPORT cuFuncGetAttribute(int *value, int, Function *) { *value = 1024; return SUCCESS; }
EXPORT cuLaunchKernel(Function *function, unsigned bx, unsigned by, unsigned bz, unsigned tx,
                      unsigned ty, unsigned tz, unsigned, Stream *stream, void **arguments, void **extra) {
    NEEDS_CONTEXT;
    std::vector<std::vector<char>> values;  // as they are now, which is what a launch keeps
    const char *packed = nullptr;
    if (extra) for (int i = 0; extra[i]; i += 2) if (uintptr_t(extra[i]) == 1) packed = static_cast<char *>(extra[i + 1]);
    size_t at = 0;
    for (size_t i = 0; i < function->sizes.size(); ++i) {
        size_t size = function->sizes[i];
        at = (at + size - 1) / size * size;
        const char *from = packed ? packed + at : static_cast<char *>(arguments[i]);
        values.emplace_back(from, from + size);
        at += size;
    }
    enqueue(stream, [=]() mutable {
        std::vector<void *> pointers;
        for (auto &value : values) pointers.push_back(value.data());
        unsigned blocks[3] = {bx, by, bz}, threads[3] = {tx, ty, tz};
        function->kernel(pointers.data(), blocks, threads);
    });
    return SUCCESS;
}

struct Words { const char *name, *text; };
static const Words &words_of(int result) {
    static const std::map<int, Words> known = {
        {OUT_OF_MEMORY, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
        {NO_DEVICE, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
        {INVALID_CONTEXT, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
        {ILLEGAL_ADDRESS, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
        {DEVICE_LOST, {"CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"}},
        {INVALID_VALUE, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
        {NOT_FOUND, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    };
    static const Words other = {"CUDA_ERROR_UNKNOWN", "unknown error"};
    auto found = known.find(result);
    return found == known.end() ? other : found->second;
}
EXPORT cuGetErrorName(int result, const char **name) { *name = words_of(result).name; return SUCCESS; }
EXPORT cuGetErrorString(int result, const char **text) { *text = words_of(result).text; return SUCCESS; }
EXPORT cuGetProcAddress_v2(const char *name, void **address, int, uint64_t, int *status) {
    *address = nullptr;
    for (const char *suffix : {"_v2", "", "WithFlags"})
        if (!*address) *address = dlsym(RTLD_DEFAULT, (std::string(name) + suffix).c_str());
    if (status) *status = *address ? 0 : 1;
    return *address ? SUCCESS : NOT_FOUND;
}
