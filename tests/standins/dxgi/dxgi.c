/* Answers as `dxgi.dll` and `nvcuda.dll` do of one card. The methods stand where the system's own headers put them, so
 * that a place counted wrongly is a crash or another answer here. What is answered, each an exported variable:
 *   standin_ordinal   the only card's number for CUDA; of others cuDeviceGet answers 101
 *   standin_init      what cuInit answers; 100 is CUDA_ERROR_NO_DEVICE
 *   standin_factory   what CreateDXGIFactory1 answers, standin_query what QueryVideoMemoryInfo answers; 0 is success
 *   standin_budget    bytes
 *   standin_open      objects that were handed out and not released
 * Build: x86_64-w64-mingw32-gcc -shared dxgi.c -o dxgi.dll */
#define CINTERFACE
#define INITGUID
#include <windows.h>
#include <initguid.h>
#include <dxgi1_4.h>
#include <string.h>

#define API __declspec(dllexport)
#define UNUSED __attribute__((unused))

API long long standin_ordinal, standin_init, standin_factory, standin_query, standin_budget, standin_open;

static const LUID the_luid = {0x1234, 7};

static ULONG STDMETHODCALLTYPE release(UNUSED void *this) {
    standin_open--;
    return 0;
}

static HRESULT STDMETHODCALLTYPE query(UNUSED IDXGIAdapter3 *this, UINT node, DXGI_MEMORY_SEGMENT_GROUP group,
                                       DXGI_QUERY_VIDEO_MEMORY_INFO *info) {
    if (node != 0 || group != DXGI_MEMORY_SEGMENT_GROUP_LOCAL) return E_INVALIDARG;
    if (standin_query != 0) return (HRESULT)standin_query;
    info->Budget = standin_budget;
    info->CurrentUsage = 1, info->AvailableForReservation = 2, info->CurrentReservation = 3;
    return S_OK;
}

static IDXGIAdapter3Vtbl adapter_methods;
static IDXGIAdapter3 adapter = {&adapter_methods};

static HRESULT STDMETHODCALLTYPE by_luid(UNUSED IDXGIFactory4 *this, LUID luid, REFIID riid, void **found) {
    if (luid.LowPart != the_luid.LowPart || luid.HighPart != the_luid.HighPart) return DXGI_ERROR_NOT_FOUND;
    if (memcmp(riid, &IID_IDXGIAdapter3, sizeof *riid) != 0) return E_NOINTERFACE;
    standin_open++;
    *found = &adapter;
    return S_OK;
}

static IDXGIFactory4Vtbl factory_methods;
static IDXGIFactory4 factory = {&factory_methods};

API HRESULT WINAPI CreateDXGIFactory1(REFIID riid, void **made) {
    if (standin_factory != 0) return (HRESULT)standin_factory;
    if (memcmp(riid, &IID_IDXGIFactory4, sizeof *riid) != 0) return E_NOINTERFACE;
    adapter_methods.Release = (void *)release;
    adapter_methods.QueryVideoMemoryInfo = query;
    factory_methods.Release = (void *)release;
    factory_methods.EnumAdapterByLuid = by_luid;
    standin_open++;
    *made = &factory;
    return S_OK;
}

API int cuInit(unsigned int flags) { return flags == 0 ? (int)standin_init : 1; }

API int cuDeviceGet(int *device, int ordinal) {
    *device = 40 + ordinal;
    return ordinal == standin_ordinal ? 0 : 101;
}

API int cuDeviceGetLuid(char *luid, unsigned int *nodes, int device) {
    memcpy(luid, &the_luid, sizeof the_luid);
    *nodes = 1;
    return device == 40 + standin_ordinal ? 0 : 101;
}
