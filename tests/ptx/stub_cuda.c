/* A stand-in for libcuda.so.1: device memory is malloc, a stream runs at once, a kernel is a
 * function that the test registers. It keeps the rules that the `cuda` device must obey: what a
 * capture forbids, that capturing runs nothing, that a replay uses the parameters as captured, that
 * a copy to page-locked memory has arrived when an event after it was waited for, and not before.
 * Signatures follow NVIDIA's CUDA Driver API reference.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901
};
enum { MODE_GLOBAL = 0, MODE_THREAD_LOCAL = 1, MODE_RELAXED = 2 };
enum { PARAMETERS = 32, NAMES = 128 };

/* What a test may read and set. */

static struct { char name[64]; int calls, fail; } functions[NAMES];
static struct { int version, major, minor, optin, devices; } machine = {13000, 9, 0, 232448, 1};
static size_t memory_total = 1 << 20, memory_used;

static int called(const char *name) {
    for (int i = 0; i < NAMES; i++) {
        if (!functions[i].name[0]) strncpy(functions[i].name, name, 63);
        if (strcmp(functions[i].name, name)) continue;
        functions[i].calls++;
        int fail = functions[i].fail;
        functions[i].fail = 0;
        return fail;
    }
    abort();
}
#define ENTER int failure = called(__func__); if (failure) return failure

int stub_calls(const char *name) {
    for (int i = 0; i < NAMES; i++)
        if (!strcmp(functions[i].name, name)) return functions[i].calls;
    return 0;
}
void stub_fail_next(const char *name, int code) {
    called(name);
    for (int i = 0; i < NAMES; i++)
        if (!strcmp(functions[i].name, name)) functions[i].calls--, functions[i].fail = code;
}
void stub_machine(int version, int major, int minor, int devices) {
    machine.version = version, machine.major = major, machine.minor = minor;
    machine.devices = devices;
}
size_t stub_memory_used(void) { return memory_used; }

/* Devices and contexts. A context is current per thread, and most calls need one. */

static __thread int context_current;
static __thread int capture_mode = MODE_GLOBAL;
int stub_capture_mode(void) { return capture_mode; }
#define ENTER_CONTEXT ENTER; if (!context_current) return INVALID_CONTEXT

int cuInit(unsigned flags) { ENTER; return machine.devices ? SUCCESS : 100 /* NO_DEVICE */; }
int cuDriverGetVersion(int *version) { ENTER; *version = machine.version; return SUCCESS; }
int cuDeviceGetCount(int *count) { ENTER; *count = machine.devices; return SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) {
    ENTER;
    strncpy(name, "Stub GPU", length);
    return SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER;
    *value = attribute == 75 ? machine.major : attribute == 76 ? machine.minor
           : attribute == 97 ? machine.optin : 1;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { ENTER; *context = &machine; return 0; }
int cuDevicePrimaryCtxRelease(int device) { ENTER; return SUCCESS; }
int cuCtxSetCurrent(void *context) { ENTER; context_current = context != NULL; return SUCCESS; }
int cuCtxGetStreamPriorityRange(int *least, int *most) { ENTER; *least = *most = 0; return 0; }
int cuGetErrorName(int error, const char **name) {
    *name = error == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS"
          : error == 100 ? "CUDA_ERROR_NO_DEVICE"
          : error == 701 ? "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES" : "CUDA_ERROR_OTHER";
    return SUCCESS;
}
int cuGetErrorString(int error, const char **text) { *text = "stub"; return SUCCESS; }

/* Kernels: registered by name with the sizes of their parameters and a function to run. */

typedef void (*Body)(const unsigned *shape, void **parameters);
typedef struct { char name[64]; int count, size[PARAMETERS], dynamic; Body body; } Kernel;
static Kernel kernels[NAMES];
static int kernel_count;

void stub_kernel(const char *name, int count, const int *sizes, Body body) {
    Kernel *kernel = &kernels[kernel_count++];
    strncpy(kernel->name, name, 63);
    kernel->count = count, kernel->body = body, kernel->dynamic = 48 << 10;
    memcpy(kernel->size, sizes, count * sizeof *sizes);
}

/* Streams, captures and graphs: a graph is its launches, each with a copy of its parameters. */

typedef struct { Kernel *kernel; unsigned shape[7]; uint64_t value[PARAMETERS]; } Node;
typedef struct { void *data; void (*destroy)(void *); int references; } UserObject;
typedef struct { int count, owned; UserObject *owners[8]; Node nodes[1024]; } Graph;
typedef struct { Graph *graph; int mode, invalid; } Stream;
static __thread Stream *capturing;  /* this thread's ongoing capture, if any */

static void run_node(const Node *node) {
    void *parameters[PARAMETERS];
    for (int i = 0; i < PARAMETERS; i++) parameters[i] = (void *)&node->value[i];
    node->kernel->body(node->shape, parameters);
}
/* Calls that a graph cannot record spoil a capture, except in relaxed mode. */
static int unsafe(void) {
    if (!capturing || capturing->mode == MODE_RELAXED || capture_mode == MODE_RELAXED) return 0;
    capturing->invalid = 1;
    return CAPTURE_UNSUPPORTED;
}
#define ENTER_UNSAFE ENTER_CONTEXT; if ((failure = unsafe())) return failure

int cuStreamCreateWithPriority(Stream **stream, unsigned flags, int priority) {
    ENTER_CONTEXT;
    *stream = calloc(1, sizeof **stream);
    return SUCCESS;
}
int cuStreamDestroy(Stream *stream) { ENTER; free(stream); return SUCCESS; }
static void land(int until);
int cuStreamSynchronize(Stream *stream) {
    ENTER_CONTEXT;
    land(1 << 30);
    return stream->graph ? CAPTURE_UNSUPPORTED : SUCCESS;
}
int cuStreamBeginCapture(Stream *stream, int mode) {
    ENTER_CONTEXT;
    stream->graph = calloc(1, sizeof *stream->graph);
    stream->mode = mode, stream->invalid = 0, capturing = stream;
    return SUCCESS;
}
int cuStreamGetCaptureInfo(Stream *stream, int *status, uint64_t *id, Graph **graph,
                           const void **nodes, const void **edges, size_t *count) {
    ENTER;
    *status = !stream->graph ? 0 : stream->invalid ? 2 : 1;
    if (graph) *graph = stream->graph;
    return SUCCESS;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
    ENTER;
    if (graph) *graph = stream->graph;
    stream->graph = NULL, capturing = NULL;
    return stream->invalid ? CAPTURE_INVALIDATED : SUCCESS;
}
int cuThreadExchangeStreamCaptureMode(int *mode) {
    ENTER;
    int previous = capture_mode;
    capture_mode = *mode;
    *mode = previous;
    return SUCCESS;
}
/* User objects: what a graph owns, given back when the last graph or clone is gone. */
int cuUserObjectCreate(UserObject **object, void *data, void (*destroy)(void *), unsigned count,
                       unsigned flags) {
    ENTER;
    *object = malloc(sizeof **object);
    **object = (UserObject){data, destroy, count};
    return SUCCESS;
}
int cuUserObjectRelease(UserObject *object, unsigned count) {
    if ((object->references -= count) > 0) return SUCCESS;
    object->destroy(object->data);
    free(object);
    return SUCCESS;
}
int cuGraphRetainUserObject(Graph *graph, UserObject *object, unsigned count, unsigned move) {
    ENTER;
    if (!move) object->references += count;
    while (count--) graph->owners[graph->owned++] = object;
    return SUCCESS;
}
int cuGraphReleaseUserObject(Graph *graph, UserObject *object, unsigned count) {
    ENTER;
    for (int i = graph->owned - 1; i >= 0 && count; i--) {
        if (graph->owners[i] != object) continue;
        graph->owners[i] = graph->owners[--graph->owned];
        cuUserObjectRelease(object, 1), count--;
    }
    return SUCCESS;
}
static int destroy_graph(Graph *graph) {
    for (int i = 0; i < graph->owned; i++) cuUserObjectRelease(graph->owners[i], 1);
    free(graph);
    return SUCCESS;
}
typedef struct { uint64_t flags; void *stream, *node; int result; } InstantiateParams;
int cuGraphInstantiateWithParams(Graph **executable, Graph *graph, InstantiateParams *params) {
    ENTER_CONTEXT;
    *executable = malloc(sizeof *graph);
    memcpy(*executable, graph, sizeof *graph);
    for (int i = 0; i < graph->owned; i++) graph->owners[i]->references++;
    params->result = 0;
    return SUCCESS;
}
int cuGraphLaunch(Graph *executable, Stream *stream) {
    ENTER_CONTEXT;
    for (int i = 0; i < executable->count; i++) run_node(&executable->nodes[i]);
    return SUCCESS;
}
int cuGraphDestroy(Graph *graph) { ENTER; return destroy_graph(graph); }
int cuGraphExecDestroy(Graph *executable) { ENTER; return destroy_graph(executable); }

typedef struct { unsigned shape[7]; Stream *stream; void *attributes; unsigned count; } Config;
typedef struct { int id, padding; union { char bytes[64]; int on; } value; } Attribute;
static int programmatic_launches;
int stub_programmatic_launches(void) { return programmatic_launches; }
int cuLaunchKernelEx(const Config *config, Kernel *kernel, void **parameters, void **extra) {
    ENTER_CONTEXT;
    if (config->shape[6] > (unsigned)kernel->dynamic) return INVALID_VALUE;
    const Attribute *attributes = config->attributes;
    for (unsigned i = 0; i < config->count; i++)
        programmatic_launches += attributes[i].id == 6 && attributes[i].value.on;
    Node node = {.kernel = kernel};
    memcpy(node.shape, config->shape, sizeof node.shape);
    for (int i = 0; i < kernel->count; i++)
        memcpy(&node.value[i], parameters[i], kernel->size[i]);
    Graph *graph = config->stream->graph;
    if (graph) graph->nodes[graph->count++] = node;
    else run_node(&node);
    return SUCCESS;
}

/* Code. */

int cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned c, void *d,
                      void *e, unsigned f) {
    ENTER_UNSAFE;
    if (memcmp(code, "\177ELF", 4)) return INVALID_VALUE;  /* a cubin is an ELF file */
    *library = &kernels;
    return SUCCESS;
}
int cuLibraryUnload(void *library) { ENTER; return SUCCESS; }
int cuLibraryGetKernel(Kernel **kernel, void *library, const char *name) {
    ENTER;
    for (int i = kernel_count - 1; i >= 0; i--)  /* the newest of a name */
        if (!strcmp(kernels[i].name, name)) return *kernel = &kernels[i], SUCCESS;
    return NOT_FOUND;
}
int cuKernelGetFunction(Kernel **function, Kernel *kernel) {
    ENTER_UNSAFE;
    return *function = kernel, SUCCESS;
}
int cuKernelSetAttribute(int attribute, int value, Kernel *kernel, int device) {
    ENTER_CONTEXT;
    if (attribute != 8 || value > machine.optin) return INVALID_VALUE;
    kernel->dynamic = value;
    return SUCCESS;
}

/* Memory: the size stands in front of each allocation. */

int cuMemAlloc(uint64_t *address, size_t bytes) {
    ENTER_UNSAFE;
    if (memory_used + bytes > memory_total) return OUT_OF_MEMORY;
    char *block = aligned_alloc(256, 256 + (bytes + 255) / 256 * 256);
    *(size_t *)block = bytes, memory_used += bytes;
    *address = (uint64_t)(block + 256);
    return SUCCESS;
}
int cuMemFree(uint64_t address) {
    ENTER_UNSAFE;
    memory_used -= *(size_t *)(address - 256);
    free((void *)(address - 256));
    return SUCCESS;
}
int cuMemGetInfo(size_t *available, size_t *total) {
    ENTER_CONTEXT;
    *available = memory_total - memory_used, *total = memory_total;
    return SUCCESS;
}
int cuMemcpyHtoDAsync(uint64_t to, const void *from, size_t bytes, Stream *stream) {
    ENTER_CONTEXT;
    memcpy((void *)to, from, bytes);
    return SUCCESS;
}
/* Page-locked memory: a copy takes its source's contents now and lands later. */
static int ticks;
static struct { char *start; size_t bytes; } locked[NAMES];
static struct { void *to; int tick; size_t bytes; char data[64]; } flying[NAMES];

static void land(int until) {
    for (int i = 0; i < NAMES; i++)
        if (flying[i].to && flying[i].tick < until) {
            memcpy(flying[i].to, flying[i].data, flying[i].bytes);
            flying[i].to = NULL;
        }
}
int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    ENTER_UNSAFE;
    int i = 0;
    while (locked[i].start) i++;
    *address = locked[i].start = memset(malloc(bytes), 0xAA, bytes), locked[i].bytes = bytes;
    return SUCCESS;
}
int cuMemFreeHost(char *address) {
    ENTER_UNSAFE;
    for (int i = 0; i < NAMES; i++)
        if (locked[i].start == address) locked[i].start = NULL;
    free(address);
    return SUCCESS;
}
int cuMemcpyDtoHAsync(void *to, uint64_t from, size_t bytes, Stream *stream) {
    ENTER_CONTEXT;
    for (int i = 0; i < NAMES; i++)
        if (locked[i].start && (char *)to >= locked[i].start &&
            (char *)to < locked[i].start + locked[i].bytes) {
            int free_place = 0;
            while (flying[free_place].to) free_place++;
            flying[free_place].to = to, flying[free_place].tick = ticks;
            flying[free_place].bytes = bytes;
            memcpy(flying[free_place].data, (void *)from, bytes);
            return SUCCESS;
        }
    memcpy(to, (void *)from, bytes);
    return SUCCESS;
}

/* Events: a clock that advances 5 ms with every record. */

int cuEventCreate(int **event, unsigned flags) { ENTER; *event = malloc(sizeof(int)); return 0; }
int cuEventRecord(int *event, Stream *stream) { ENTER_CONTEXT; *event = ++ticks; return SUCCESS; }
int cuEventSynchronize(int *event) { ENTER_CONTEXT; land(*event); return SUCCESS; }
int cuEventElapsedTime(float *ms, int *a, int *b) { ENTER; *ms = 5.0f * (*b - *a); return 0; }
int cuEventDestroy(int *event) { ENTER; free(event); return SUCCESS; }

/* Everything else is a function this driver does not have. */

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                        int *status) {
    *function = dlsym(dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD), name);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
