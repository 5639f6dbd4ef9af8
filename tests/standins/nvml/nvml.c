/* Answers as NVIDIA's management library does, from a text file that is read again at every call.
 *
 * The file is named by NVML_STANDIN_FILE; one "key=value" a line, the first line of a key counts:
 *   driver=610.43            what nvmlSystemGetDriverVersion says
 *   cards=2                  how many cards
 *   0.name= 0.uuid=          card 0; a uuid may also be that of a MIG instance
 *   0.total= 0.used= 0.reserved= 0.free=   bytes; free is what the others leave when it is not given
 *   0.model=0                driver model: 0 WDDM, 1 TCC, 2 MCDM; not given: "not supported", as outside Windows
 *   0.process.0=4711,CG,1048576,/usr/bin/python3   who is on the card, counted from 0: pid, C for compute and G for
 *                            graphics, bytes ("-": not available; under WDDM it is so whatever is said), its name
 *                            ("" : it may not be asked for)
 *   0.utilization=97 0.temperature=71 0.power=305000 0.sm_clock=1530 0.memory_clock=9501 0.throttle=36   per cent, degrees,
 *                            milliwatts, MHz, bits of the reasons; each not given: "not supported"
 *   0.mig=1                  MIG mode on; not given: "not supported"
 *   0.lost=1                 its handle cannot be had: "GPU is lost"
 *   0.forbidden=1            likewise: "no permission"
 *   0.cgroup=/sys/fs/cgroup/memory/x       total and used are that group's limit and usage (version 1 or 2)
 *   error.nvmlDeviceGetMemoryInfo_v2=15    this function answers this error
 *   hang.nvmlDeviceGetMemoryInfo_v2=1      this function waits until the file says so no longer; after 40 s it fails
 *   log=/tmp/calls           the name of each function called is appended there
 * -DNO_V3, -DNO_V2 (neither 2 nor 3 of the process lists) and -DNO_V1 leave functions out, as drivers of other ages do.
 * Build: cc -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 nvml.c -o libnvidia-ml.so.1
 *        x86_64-w64-mingw32-gcc -shared -static-libgcc nvml.c -o nvml.dll    (cdecl, as the real one) */
#include "../answers.h"
#ifdef _WIN32
#define API __declspec(dllexport)
static void wait_a_moment(void) { Sleep(10); }
#else
#include <time.h>
#define API
static void wait_a_moment(void) {
    struct timespec rest = {0, 10000000};
    nanosleep(&rest, NULL);
}
#endif

enum { OK, UNINITIALIZED, INVALID, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 6, TOO_SMALL, LOST = 15, VERSION = 25 };
enum { UNKNOWN = 999 };
enum { MOST_CARDS = 16 };
typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_v1;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } process_info; /* versions 2 and 3 */
typedef struct { char text[16384]; } answers;

static int started = 0;         /* nvmlInit calls not yet undone; cards are handles by their address */
static char cards[MOST_CARDS];

static u64 card_number(const answers *from, int card, const char *name, u64 otherwise) {
    char value[64];
    return get(from->text, value, sizeof value, "%d.%s", card, name) ? strtoull(value, NULL, 10) : otherwise;
}

static int read_answers(answers *into) {
    char path[1024];
    return read_all(answer_file("NVML_STANDIN_FILE", path, sizeof path), into->text, sizeof into->text);
}

/* What every function does first: read the file, log, hang, fail as told, and want an nvmlInit. */
static int begin(const char *function, answers *from, int wants_init) {
    char value[1024];
    int moments = 4000;
    if (!read_answers(from)) return UNKNOWN;
    if (get(from->text, value, sizeof value, "log")) append_line(value, function);
    for (; get(from->text, value, sizeof value, "hang.%s", function); moments--) {
        if (moments == 0) return UNKNOWN;
        wait_a_moment();
        if (!read_answers(from)) return UNKNOWN;
    }
    if (get(from->text, value, sizeof value, "error.%s", function)) return atoi(value);
    return wants_init && started == 0 ? UNINITIALIZED : OK;
}

static int count_of(const answers *from) {
    char value[16];
    int count = get(from->text, value, sizeof value, "cards") ? atoi(value) : 0;
    return count < MOST_CARDS ? count : MOST_CARDS;
}

/* Begin a function that is asked of one card. */
static int begin_card(const char *function, answers *from, const void *handle, int *card) {
    char uuid[96];
    int error = begin(function, from, 1);
    if (error) return error;
    *card = (int)((const char *)handle - cards);
    if ((const char *)handle < cards || *card >= MOST_CARDS) return INVALID;
    if (*card < count_of(from)) return OK;
    return get(from->text, uuid, sizeof uuid, "%d.uuid", *card) && strncmp(uuid, "MIG-", 4) == 0 ? OK : LOST;
}

static int give(const char *text, char *into, unsigned size) {
    if (strlen(text) >= size) return TOO_SMALL;
    strcpy(into, text);
    return OK;
}

static u64 group_number(const char *folder, const char *name_v1, const char *name_v2) {
    char one[640], two[640], value[64];
    snprintf(one, sizeof one, "%s/%s", folder, name_v1);
    snprintf(two, sizeof two, "%s/%s", folder, name_v2);
    return read_all(one, value, sizeof value) || read_all(two, value, sizeof value) ? strtoull(value, NULL, 10) : 0;
}

static int memory_of(const char *function, const void *handle, memory_v2 *into) {
    answers from;
    char folder[512];
    int card, error = begin_card(function, &from, handle, &card);
    if (error) return error;
    into->total = card_number(&from, card, "total", 0);
    into->used = card_number(&from, card, "used", 0);
    into->reserved = card_number(&from, card, "reserved", 0);
    if (get(from.text, folder, sizeof folder, "%d.cgroup", card)) {
        into->total = group_number(folder, "memory.limit_in_bytes", "memory.max");
        into->used = group_number(folder, "memory.usage_in_bytes", "memory.current");
        if (into->total == 0) return UNKNOWN;
        if (into->used > into->total) into->used = into->total;
    }
    into->free = card_number(&from, card, "free", into->total - into->used - into->reserved);
    return OK;
}

#ifndef NO_V1
API int nvmlDeviceGetMemoryInfo(const void *handle, memory_v1 *into) {
    memory_v2 all;
    int error = memory_of("nvmlDeviceGetMemoryInfo", handle, &all);
    if (error) return error;
    into->total = all.total;
    into->free = all.free;
    into->used = all.used + all.reserved; /* as version 1 does */
    return OK;
}
#endif

#ifndef NO_V2
API int nvmlDeviceGetMemoryInfo_v2(const void *handle, memory_v2 *into) {
    memory_v2 all;
    int error = memory_of("nvmlDeviceGetMemoryInfo_v2", handle, &all);
    if (error) return error;
    if (into->version != 0x02000028u) return VERSION;
    all.version = into->version;
    *into = all;
    return OK;
}
#endif

static int start(const char *function) {
    answers from;
    int error = begin(function, &from, 0);
    if (!error) started++;
    return error;
}
API int nvmlInitWithFlags(unsigned flags) { (void)flags; return start("nvmlInitWithFlags"); }
API int nvmlInit_v2(void) { return start("nvmlInit_v2"); }
API int nvmlInit(void) { return start("nvmlInit"); }

API int nvmlShutdown(void) {
    answers from;
    int error = begin("nvmlShutdown", &from, 1);
    if (!error) started--;
    return error;
}

API const char *nvmlErrorString(int error) { return error == LOST ? "GPU is lost" : "stand-in error"; }

API int nvmlSystemGetDriverVersion(char *into, unsigned size) {
    answers from;
    char value[80];
    int error = begin("nvmlSystemGetDriverVersion", &from, 1);
    if (error) return error;
    return get(from.text, value, sizeof value, "driver") ? give(value, into, size) : NOT_SUPPORTED;
}

API int nvmlDeviceGetCount_v2(unsigned *into) {
    answers from;
    int error = begin("nvmlDeviceGetCount_v2", &from, 1);
    if (!error) *into = (unsigned)count_of(&from);
    return error;
}

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, const void **into) {
    answers from;
    char value[16];
    int error = begin("nvmlDeviceGetHandleByIndex_v2", &from, 1);
    if (error) return error;
    if (index >= (unsigned)count_of(&from)) return INVALID;
    if (get(from.text, value, sizeof value, "%u.lost", index)) return LOST;
    if (get(from.text, value, sizeof value, "%u.forbidden", index)) return NO_PERMISSION;
    *into = cards + index;
    return OK;
}

API int nvmlDeviceGetHandleByUUID(const char *uuid, const void **into) {
    answers from;
    char value[96];
    int error = begin("nvmlDeviceGetHandleByUUID", &from, 1);
    if (error) return error;
    for (int card = 0; card < MOST_CARDS; card++) /* one past `cards=` is an instance, seen only by its uuid */
        if (get(from.text, value, sizeof value, "%d.uuid", card) && strcmp(uuid, value) == 0) {
            *into = cards + card;
            return OK;
        }
    return NOT_FOUND;
}

static int text_of(const char *function, const char *name, const void *handle, char *into, unsigned size) {
    answers from;
    char value[96];
    int card, error = begin_card(function, &from, handle, &card);
    if (error) return error;
    return get(from.text, value, sizeof value, "%d.%s", card, name) ? give(value, into, size) : NOT_SUPPORTED;
}
API int nvmlDeviceGetUUID(const void *handle, char *into, unsigned size) {
    return text_of("nvmlDeviceGetUUID", "uuid", handle, into, size);
}
API int nvmlDeviceGetName(const void *handle, char *into, unsigned size) {
    return text_of("nvmlDeviceGetName", "name", handle, into, size);
}

static int number_of(const char *function, const char *name, const void *handle, u64 *into) {
    answers from;
    char value[32];
    int card, error = begin_card(function, &from, handle, &card);
    if (error) return error;
    if (!get(from.text, value, sizeof value, "%d.%s", card, name)) return NOT_SUPPORTED;
    *into = strtoull(value, NULL, 10);
    return OK;
}
static int small_number_of(const char *function, const char *name, const void *handle, unsigned *into) {
    u64 found = 0;
    int error = number_of(function, name, handle, &found);
    if (!error) *into = (unsigned)found;
    return error;
}
API int nvmlDeviceGetUtilizationRates(const void *handle, unsigned *into) { /* of the card, and of its memory */
    int error = small_number_of("nvmlDeviceGetUtilizationRates", "utilization", handle, into);
    if (!error) into[1] = 0;
    return error;
}
API int nvmlDeviceGetTemperature(const void *handle, int sensor, unsigned *into) {
    return sensor ? INVALID : small_number_of("nvmlDeviceGetTemperature", "temperature", handle, into);
}
API int nvmlDeviceGetPowerUsage(const void *handle, unsigned *into) {
    return small_number_of("nvmlDeviceGetPowerUsage", "power", handle, into);
}
API int nvmlDeviceGetClockInfo(const void *handle, int kind, unsigned *into) {
    return small_number_of("nvmlDeviceGetClockInfo", kind == 1 ? "sm_clock" : "memory_clock", handle, into);
}
#ifndef NO_V2 /* a driver of today has both names of one function, an older one the first */
API int nvmlDeviceGetCurrentClocksEventReasons(const void *handle, u64 *into) {
    return number_of("nvmlDeviceGetCurrentClocksEventReasons", "throttle", handle, into);
}
#endif
API int nvmlDeviceGetCurrentClocksThrottleReasons(const void *handle, u64 *into) {
    return number_of("nvmlDeviceGetCurrentClocksThrottleReasons", "throttle", handle, into);
}

static int pair_of(const char *function, const char *name, const void *handle, unsigned *one, unsigned *two) {
    answers from;
    char value[16];
    int card, error = begin_card(function, &from, handle, &card);
    if (error) return error;
    if (!get(from.text, value, sizeof value, "%d.%s", card, name)) return NOT_SUPPORTED;
    *one = *two = (unsigned)atoi(value);
    return OK;
}
API int nvmlDeviceGetMigMode(const void *handle, unsigned *now, unsigned *next) {
    return pair_of("nvmlDeviceGetMigMode", "mig", handle, now, next);
}
API int nvmlDeviceGetDriverModel(const void *handle, unsigned *now, unsigned *next) {
    return pair_of("nvmlDeviceGetDriverModel", "model", handle, now, next);
}
#ifndef NO_V2
API int nvmlDeviceGetDriverModel_v2(const void *handle, unsigned *now, unsigned *next) {
    return pair_of("nvmlDeviceGetDriverModel_v2", "model", handle, now, next);
}
#endif

/* One line of `processes`: its fields, with the name as what is left. 0 when there is none of that number. */
static int process_of(const answers *from, int card, int number, process_info *into, char *kind, char *name) {
    char value[512], used[32] = "";
    int named = 0;
    if (!get(from->text, value, sizeof value, "%d.process.%d", card, number)) return 0;
    memset(into, 0, sizeof *into);
    into->gpu_instance = into->compute_instance = 0xFFFFFFFFu;
    kind[0] = 0;
    if (sscanf(value, "%u,%7[CG],%31[^,],%n", &into->pid, kind, used, &named) < 3) return 0;
    into->used = strcmp(used, "-") ? strtoull(used, NULL, 10) : ~0ULL;
    if (card_number(from, card, "model", 1) == 0) into->used = ~0ULL; /* Windows manages the memory, not this driver */
    strcpy(name, value + named);
    return 1;
}

#ifndef NO_V2 /* version 1 is another structure, and no binding calls it */
static int processes_of(const char *function, char wanted, const void *handle, unsigned *count, process_info *into) {
    answers from;
    process_info one;
    char kind[8], name[512];
    unsigned found = 0;
    int card, error = begin_card(function, &from, handle, &card);
    if (error) return error;
    for (int number = 0; process_of(&from, card, number, &one, kind, name); number++) {
        if (!strchr(kind, wanted)) continue;
        if (into && found < *count) into[found] = one;
        found++;
    }
    error = found > (into ? *count : 0) ? TOO_SMALL : OK;
    *count = found;
    return error;
}
#define PROCESSES(name, kind)                                                                \
    API int name(const void *handle, unsigned *count, process_info *into) {                  \
        return processes_of(#name, kind, handle, count, into);                               \
    }
#ifndef NO_V3
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, 'C')
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, 'G')
#endif
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, 'C')
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, 'G')
#endif

API int nvmlSystemGetProcessName(unsigned pid, char *into, unsigned size) {
    answers from;
    process_info one;
    char kind[8], name[512];
    int error = begin("nvmlSystemGetProcessName", &from, 1);
    if (error) return error;
    for (int card = 0; card < MOST_CARDS; card++)
        for (int number = 0; process_of(&from, card, number, &one, kind, name); number++)
            if (one.pid == pid) return *name ? give(name, into, size) : NO_PERMISSION;
    return NOT_FOUND;
}
