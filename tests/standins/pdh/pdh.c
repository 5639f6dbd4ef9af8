/* Answers as Windows' library of performance counters does, from a text file that is read again at every call.
 *
 * The file is named by PDH_STANDIN_FILE; one "key=value" a line, the first line of a key counts (every `item`):
 *   item=PATH|INSTANCE|VALUE|STATUS    a value of the counter with this English path; the status in hex, 0 is valid
 *   missing.PATH=0xC0000BB8            this counter cannot be added
 *   error.PdhCollectQueryData=0xC0000BBC   this function answers this error, and does nothing
 *   array.PATH=0xC0000BC6              this counter's array cannot be had
 *   more=2                             a buffer of the size that was asked for is too small, so many times in a row
 *   small=0xC0000BBD                   what is answered then instead of PDH_MORE_DATA, as some releases do
 *   frozen=1                           a counter answers for those instances only that were there when it was added
 *   log=C:\calls                       the name of each function called is appended there
 * As on a Windows of another language, PdhAddCounterW finds no counter by its English path. What is read is what was
 * there at the last PdhCollectQueryData. PdhStandinOpen tells how many queries and counters are open,
 * PdhStandinCloseAll closes them.
 * -DNO_ENGLISH leaves PdhAddEnglishCounterW out. Build: x86_64-w64-mingw32-gcc -shared pdh.c -o pdh.dll */
#include "../answers.h"
#include <pdh.h>
#include <pdhmsg.h>

#define API __declspec(dllexport)
enum { MOST_TEXT = 1 << 16, MOST_NAME = 256 };

typedef struct query {
    char *data; /* what was read at the last collection; NULL before */
    struct query *next;
} query;

typedef struct counter {
    char path[MOST_NAME];
    char *added; /* what was read when it was added */
    int refused; /* buffers called too small in a row */
    query *of;
    struct counter *next;
} counter;

static query *queries = NULL; /* those that are open: a handle is an address in one of these lists */
static counter *counters = NULL;

static char *read_file(void) {
    char path[1024], *text = calloc(1, MOST_TEXT);
    read_all(answer_file("PDH_STANDIN_FILE", path, sizeof path), text, MOST_TEXT);
    return text;
}

static PDH_STATUS status_of(const char *text, const char *kind, const char *name) {
    char value[32];
    return get(text, value, sizeof value, "%s.%s", kind, name) ? (PDH_STATUS)strtoul(value, NULL, 16) : ERROR_SUCCESS;
}

/* What every function does first: log, and fail as told. */
static PDH_STATUS begin(const char *function, const char *text) {
    char path[1024];
    if (get(text, path, sizeof path, "log")) append_line(path, function);
    return status_of(text, "error", function);
}

static int is_open(const query *handle) {
    for (const query *one = queries; one; one = one->next)
        if (one == handle) return 1;
    return 0;
}

/* One part of an item, the parts being divided by '|': 0 is the path. */
static void part_of(const char *item, int index, char *into, size_t size) {
    for (; index > 0; index--) item += strcspn(item, "|\r\n"), item += *item == '|';
    snprintf(into, size, "%.*s", (int)strcspn(item, "|\r\n"), item);
}

/* The next item of a counter at or after `line`; NULL after the last one. */
static const char *next_item(const char *line, const char *path) {
    char found[MOST_NAME];
    for (; line && *line; line = (line = strchr(line, '\n')) ? line + 1 : NULL) {
        if (strncmp(line, "item=", 5) != 0) continue;
        part_of(line + 5, 0, found, sizeof found);
        if (strcmp(found, path) == 0) return line;
    }
    return NULL;
}

static int has_instance(const char *text, const char *path, const char *name) {
    char found[MOST_NAME];
    for (const char *line = next_item(text, path); line; line = next_item(line + 1, path)) {
        part_of(line + 5, 1, found, sizeof found);
        if (strcmp(found, name) == 0) return 1;
    }
    return 0;
}

API PDH_STATUS WINAPI PdhOpenQueryW(LPCWSTR source, DWORD_PTR user, PDH_HQUERY *into) {
    char *text = read_file();
    PDH_STATUS status = begin("PdhOpenQueryW", text);
    (void)user;
    free(text);
    if (!status && (source || !into)) status = PDH_INVALID_ARGUMENT;
    if (status) return status;
    query *made = calloc(1, sizeof *made);
    made->next = queries;
    queries = made;
    *into = made;
    return ERROR_SUCCESS;
}

static PDH_STATUS add(const char *function, PDH_HQUERY handle, LPCWSTR path, PDH_HCOUNTER *into, int english) {
    char *text = read_file(), name[MOST_NAME] = "";
    PDH_STATUS status = begin(function, text);
    if (!status && !is_open(handle)) status = PDH_INVALID_HANDLE;
    if (!status && !into) status = PDH_INVALID_ARGUMENT;
    if (!status && !WideCharToMultiByte(CP_UTF8, 0, path, -1, name, sizeof name, NULL, NULL)) status = PDH_INVALID_PATH;
    if (!status && !english) status = PDH_CSTATUS_NO_OBJECT;
    if (!status) status = status_of(text, "missing", name);
    if (status) {
        free(text);
        return status;
    }
    counter *made = calloc(1, sizeof *made);
    strcpy(made->path, name);
    made->added = text;
    made->of = handle;
    made->next = counters;
    counters = made;
    *into = made;
    return ERROR_SUCCESS;
}
API PDH_STATUS WINAPI PdhAddCounterW(PDH_HQUERY handle, LPCWSTR path, DWORD_PTR user, PDH_HCOUNTER *into) {
    (void)user;
    return add("PdhAddCounterW", handle, path, into, 0);
}
#ifndef NO_ENGLISH
API PDH_STATUS WINAPI PdhAddEnglishCounterW(PDH_HQUERY handle, LPCWSTR path, DWORD_PTR user, PDH_HCOUNTER *into) {
    (void)user;
    return add("PdhAddEnglishCounterW", handle, path, into, 1);
}
#endif

API PDH_STATUS WINAPI PdhCollectQueryData(PDH_HQUERY handle) {
    char *text = read_file();
    PDH_STATUS status = begin("PdhCollectQueryData", text);
    if (!status && !is_open(handle)) status = PDH_INVALID_HANDLE;
    if (status) {
        free(text);
        return status;
    }
    query *of = handle;
    free(of->data);
    of->data = text;
    return ERROR_SUCCESS;
}

/* Lay the items out as PDH does: the structures first, their names behind them. Returns the bytes that takes. */
static DWORD lay_out(const counter *of, int frozen, PDH_FMT_COUNTERVALUE_ITEM_W *into, DWORD *count) {
    char name[MOST_NAME], value[MOST_NAME];
    DWORD index = 0, names = 0;
    for (int writes = 0; writes < 2; writes++) {
        WCHAR *at = into ? (WCHAR *)(into + index) : NULL;
        index = names = 0;
        for (const char *line = next_item(of->of->data, of->path); line; line = next_item(line + 1, of->path)) {
            part_of(line + 5, 1, name, sizeof name);
            if (frozen && !has_instance(of->added, of->path, name)) continue;
            int length = MultiByteToWideChar(CP_UTF8, 0, name, -1, NULL, 0);
            if (writes && into) {
                MultiByteToWideChar(CP_UTF8, 0, name, -1, at, length);
                into[index].szName = at;
                at += length;
                part_of(line + 5, 2, value, sizeof value);
                into[index].FmtValue.largeValue = strtoll(value, NULL, 10);
                part_of(line + 5, 3, value, sizeof value);
                into[index].FmtValue.CStatus = strtoul(value, NULL, 16);
            }
            names += (DWORD)length * sizeof(WCHAR);
            index++;
        }
    }
    *count = index;
    return index * (DWORD)sizeof *into + names;
}

API PDH_STATUS WINAPI PdhGetFormattedCounterArrayW(PDH_HCOUNTER handle, DWORD format, LPDWORD size, LPDWORD count,
                                                   PPDH_FMT_COUNTERVALUE_ITEM_W into) {
    char *text = read_file(), value[32];
    PDH_STATUS status = begin("PdhGetFormattedCounterArrayW", text);
    counter *of = counters;
    while (of && of != handle) of = of->next;
    if (!status && !of) status = PDH_INVALID_HANDLE;
    if (!status && (format & ~PDH_FMT_NOSCALE) != PDH_FMT_LARGE) status = PDH_INVALID_ARGUMENT;
    if (!status && (!into) != (*size == 0)) status = PDH_INVALID_ARGUMENT;
    if (!status) status = status_of(text, "array", of->path);
    if (!status && !of->of->data) status = PDH_NO_DATA;
    if (!status) {
        int frozen = get(text, value, sizeof value, "frozen");
        DWORD needed = lay_out(of, frozen, NULL, count);
        int more = get(text, value, sizeof value, "more") ? atoi(value) : 0;
        if (*count == 0)
            *size = 0;
        else if (!into) {
            *size = needed;
            status = PDH_MORE_DATA;
        } else if (*size < needed || of->refused < more) {
            of->refused++;
            *size = 1; /* not to be relied on, says the documentation */
            status = get(text, value, sizeof value, "small") ? (PDH_STATUS)strtoul(value, NULL, 16)
                                                               : (PDH_STATUS)PDH_MORE_DATA;
        } else {
            of->refused = 0;
            *size = lay_out(of, frozen, into, count);
        }
    }
    free(text);
    return status;
}

static void close_one(query *handle) {
    for (counter **at = &counters; *at;) {
        counter *one = *at;
        if (one->of != handle) {
            at = &one->next;
            continue;
        }
        *at = one->next;
        free(one->added);
        free(one);
    }
    query **at = &queries;
    while (*at != handle) at = &(*at)->next;
    *at = handle->next;
    free(handle->data);
    free(handle);
}

API PDH_STATUS WINAPI PdhCloseQuery(PDH_HQUERY handle) {
    char *text = read_file();
    PDH_STATUS status = begin("PdhCloseQuery", text);
    free(text);
    if (!status && !is_open(handle)) status = PDH_INVALID_HANDLE;
    if (!status) close_one(handle);
    return status;
}

API void WINAPI PdhStandinCloseAll(void) {
    while (queries) close_one(queries);
}

API void WINAPI PdhStandinOpen(int *open_queries, int *open_counters) {
    *open_queries = *open_counters = 0;
    for (const query *one = queries; one; one = one->next) ++*open_queries;
    for (const counter *one = counters; one; one = one->next) ++*open_counters;
}
