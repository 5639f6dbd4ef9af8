/* What the stand-ins share: answers, from a text file with one "key=value" a line, read again at every call; and a log.
 *
 * On Windows the variable and the paths are Unicode, and a file can be put in the place of one that is being read. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <windows.h>

static HANDLE open_file(const char *path, DWORD access, DWORD disposition) {
    wchar_t wide[1024];
    HANDLE file = INVALID_HANDLE_VALUE;
    if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 1024)) return file;
    for (int trial = 0; trial < 20000; trial++) { /* the moment of such a replacement is an error here: wait it out */
        file = CreateFileW(wide, access, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, disposition,
                           FILE_ATTRIBUTE_NORMAL, NULL);
        DWORD error = GetLastError();
        if (file != INVALID_HANDLE_VALUE || (error != ERROR_SHARING_VIOLATION && error != ERROR_ACCESS_DENIED)) break;
        Sleep(1);
    }
    return file;
}

static int read_all(const char *path, char *into, size_t size) {
    DWORD length = 0;
    HANDLE file = path ? open_file(path, GENERIC_READ, OPEN_EXISTING) : INVALID_HANDLE_VALUE;
    if (file != INVALID_HANDLE_VALUE) ReadFile(file, into, (DWORD)size - 1, &length, NULL);
    if (file != INVALID_HANDLE_VALUE) CloseHandle(file);
    into[length] = 0;
    return file != INVALID_HANDLE_VALUE;
}

static void append_line(const char *path, const char *line) {
    char text[256];
    DWORD written;
    HANDLE file = open_file(path, FILE_APPEND_DATA, OPEN_ALWAYS);
    if (file == INVALID_HANDLE_VALUE) return;
    WriteFile(file, text, (DWORD)snprintf(text, sizeof text, "%s\n", line), &written, NULL);
    CloseHandle(file);
}

/* The path that the environment's variable names, in UTF-8; NULL when it names none. */
static const char *answer_file(const char *variable, char *into, size_t size) {
    wchar_t name[64], wide[1024];
    if (!MultiByteToWideChar(CP_UTF8, 0, variable, -1, name, 64)) return NULL;
    DWORD length = GetEnvironmentVariableW(name, wide, 1024);
    if (length == 0 || length >= 1024) return NULL;
    return WideCharToMultiByte(CP_UTF8, 0, wide, -1, into, (int)size, NULL, NULL) ? into : NULL;
}
#else
static int read_all(const char *path, char *into, size_t size) {
    FILE *file = path ? fopen(path, "rb") : NULL;
    size_t length = 0;
    if (file) length = fread(into, 1, size - 1, file);
    if (file) fclose(file);
    into[length] = 0;
    return file != NULL;
}

static void append_line(const char *path, const char *line) {
    FILE *file = fopen(path, "ab");
    if (file) fprintf(file, "%s\n", line);
    if (file) fclose(file);
}

static const char *answer_file(const char *variable, char *into, size_t size) {
    (void)into;
    (void)size;
    return getenv(variable);
}
#endif

/* The value of a key, made as printf makes it and copied to `into`; 0 when there is none. */
static int get(const char *text, char *into, size_t size, const char *format, ...) {
    char key[512];
    va_list rest;
    va_start(rest, format);
    size_t length = (size_t)vsnprintf(key, sizeof key, format, rest);
    va_end(rest);
    for (const char *line = text; line && *line; line = (line = strchr(line, '\n')) ? line + 1 : NULL) {
        size_t whole = strcspn(line, "\r\n");
        if (whole > length && strncmp(line, key, length) == 0 && line[length] == '=') {
            snprintf(into, size, "%.*s", (int)(whole - length - 1), line + length + 1);
            return 1;
        }
    }
    return 0;
}
