/* Data sets in memory maps: spooling what cannot be mapped, finding the lines, checking a record when it is asked for.
 */
#include "lib/train/lines.h"
#include "lib/stream/input.h"
#include "lib/stream/json.h"
#include "lib/text/json_text.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_LINE ((size_t)64 << 20)
#define CHUNK    ((size_t)1 << 18)

typedef struct span {
    const char *s;
    size_t n;
} span;

/* ---- opening ---- */
/* A file without a name in $TMPDIR, gone with its last descriptor or map. */
static int open_temporary(int *fd, vp_error *err) {
    const char *folder = getenv("TMPDIR");
    vp_buf path = {0};
    int status = vp_buf_printf(&path, err, "%s/vecpipe-XXXXXX", folder && *folder ? folder : "/tmp");
    *fd = status ? -1 : mkostemp(path.data, O_CLOEXEC);
    if (!status && *fd < 0) status = vp_fail_errno(err, "cannot create '%s'", path.data);
    if (!status) unlink(path.data);
    vp_buf_free(&path);
    return status;
}

static int copy_all(vp_input *in, int to, vp_error *err) {
    vp_buf chunk = {0};
    size_t got = 1;
    int status = vp_buf_reserve(&chunk, CHUNK, err);
    while (!status && got) {
        status = vp_input_read(in, chunk.data, CHUNK, &got, err);
        if (!status) status = vp_write_all(to, chunk.data, got, "a temporary file", err);
    }
    vp_buf_free(&chunk);
    return status;
}

/* What comes from fd, decompressed if need be, mapped from a temporary. */
static int spool(vp_lines *l, int fd, vp_error *err) {
    vp_input *in = NULL;
    int temporary = -1;
    char path[40];
    int status = vp_input_open(&in, fd, l->name, err);
    if (!status) status = open_temporary(&temporary, err);
    if (!status) status = copy_all(in, temporary, err);
    if (!status) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", temporary);
        status = vp_map_open(&l->map, path, err);
    }
    if (temporary >= 0) close(temporary);
    vp_input_close(in);
    return status;
}

static bool is_zstd(const vp_map_file *m) {
    return m->size >= 4 && memcmp(m->data, "\x28\xb5\x2f\xfd", 4) == 0;
}

static int load(vp_lines *l, const char *path, vp_error *err) {
    struct stat st;
    if (!path) return spool(l, STDIN_FILENO, err);
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
        VP_TRY(vp_map_open(&l->map, path, err));
        if (!is_zstd(&l->map)) return VP_OK;
        vp_map_close(&l->map);
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return vp_fail_errno(err, "cannot open '%s'", path);
    int status = spool(l, fd, err);
    close(fd);
    return status;
}

/* ---- lines ---- */
static bool is_blank(span line) {
    for (; line.n; line.s++, line.n--)
        if (*line.s != ' ' && *line.s != '\t' && *line.s != '\r') return false;
    return true;
}

/* From `at` to the end of its line, without "\n" or "\r\n"; *next: where the following line begins. */
static span line_at(const vp_map_file *m, size_t at, size_t *next) {
    const char *s = (const char *)m->data + at;
    const char *newline = memchr(s, '\n', m->size - at);
    size_t n = newline ? (size_t)(newline - s) : m->size - at;
    *next = at + n + (newline != NULL);
    if (n && s[n - 1] == '\r') n--;
    return (span){s, n};
}

static size_t after_byte_order_mark(const vp_map_file *m) {
    return m->size >= 3 && memcmp(m->data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
}

static bool looks_like_json(const vp_lines *l) {
    static const char *const ending[] = {".jsonl", ".ndjson", ".json"};
    size_t n = strlen(l->name);
    if (n > 4 && strcmp(l->name + n - 4, ".zst") == 0) n -= 4;
    for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) {
        size_t len = strlen(ending[i]);
        if (n > len && memcmp(l->name + n - len, ending[i], len) == 0) return true;
    }
    size_t at = after_byte_order_mark(&l->map);
    while (at < l->map.size && memchr(" \t\r\n", l->map.data[at], 4)) at++;
    return at < l->map.size && l->map.data[at] == '{';
}

static int find_lines(vp_lines *l, vp_error *err) {
    size_t cap = 0, blank_cap = 0, next;
    for (size_t at = after_byte_order_mark(&l->map); at < l->map.size; at = next) {
        const span line = line_at(&l->map, at, &next);
        if (is_blank(line)) {
            VP_TRY(vp_grow(&l->blank, &blank_cap, l->blanks, sizeof *l->blank, "the blank lines", err));
            l->blank[l->blanks++] = l->n;
            continue;
        }
        if (line.n > MAX_LINE)
            return vp_fail(err, VP_DATA, "%s:%zu: a line longer than %zu bytes", l->name, l->n + l->blanks + 1,
                           MAX_LINE);
        VP_TRY(vp_grow(&l->start, &cap, l->n, sizeof *l->start, "the lines of a file", err));
        l->start[l->n++] = at;
    }
    return VP_OK;
}

/* The line number, from 1, of entry i of start: the blank lines before it are those counted at or below i. */
static int64_t number_of(const vp_lines *l, size_t i) {
    size_t low = 0, high = l->blanks;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (l->blank[middle] <= i)
            low = middle + 1;
        else
            high = middle;
    }
    return (int64_t)(i + low + 1);
}

static span entry(const vp_lines *l, size_t i) {
    size_t next;
    return line_at(&l->map, l->start[i], &next);
}

static int parse(const vp_lines *l, size_t i, json_t **object, vp_error *err) {
    const span line = entry(l, i);
    return vp_line_parse(line.s, line.n, l->jsonl ? object : NULL, l->name, number_of(l, i), err);
}

/* Files that our programs wrote frame their records by _vp lines, which are no records. */
static int drop_control_lines(vp_lines *l, vp_error *err) {
    json_t *head = NULL, *end = NULL;
    if (!l->n || !memmem(entry(l, 0).s, entry(l, 0).n, "\"_vp\"", 5)) return VP_OK;
    VP_TRY(parse(l, 0, &head, err));
    bool framed = json_number_value(json_object_get(json_object_get(head, "_vp"), "jsonl")) == 1;
    json_decref(head);
    if (!framed) return VP_OK;
    vp_error ignored = {0};
    if (l->n > 1 && parse(l, l->n - 1, &end, &ignored)) end = NULL;
    const json_t *vp = json_object_get(end, "_vp");
    const double rows = json_number_value(json_object_get(vp, "rows"));
    bool whole = json_is_true(json_object_get(vp, "end")) && rows == (double)l->n - 2;
    json_decref(end);
    if (!whole)
        return vp_fail(err, VP_UPSTREAM, "%s: no closing _vp line that counts its rows: the program that wrote it died",
                       l->name);
    l->skip = 1;
    l->n -= 2;
    return VP_OK;
}

int vp_lines_open(vp_lines *l, const char *path, vp_mix_lines format, vp_error *err) {
    const char *file = path && strcmp(path, "-") != 0 ? path : NULL, *name = file ? file : "standard input";
    *l = (vp_lines){.name = vp_strndup(name, strlen(name))};
    if (!l->name) return vp_fail_memory(err, "a name", strlen(name));
    VP_TRY(load(l, file, err));
    l->jsonl = format == VP_MIX_LINES_NO || (format == VP_MIX_LINES_AUTO && looks_like_json(l));
    VP_TRY(find_lines(l, err));
    return l->jsonl ? drop_control_lines(l, err) : VP_OK;
}

void vp_lines_close(vp_lines *l) {
    vp_map_close(&l->map);
    free(l->name);
    free(l->start);
    free(l->blank);
    *l = (vp_lines){0};
}

/* ---- records ---- */
int vp_lines_append(const vp_lines *l, size_t i, size_t set, vp_buf *out, vp_error *err) {
    json_t *object = NULL;
    i += l->skip;
    const span line = entry(l, i);
    VP_TRY(parse(l, i, &object, err));
    bool control = json_object_get(object, "_vp") != NULL;
    json_decref(object);
    if (control)
        return vp_fail(err, VP_DATA, "%s:%lld: a _vp line among the records", l->name, (long long)number_of(l, i));
    if (l->jsonl) {
        VP_TRY(vp_buf_add(out, line.s, line.n, err));
        return vp_buf_add(out, "\n", 1, err);
    }
    VP_TRY(vp_buf_printf(out, err, "{\"id\":\"%zu:%lld\",\"text\":", set + 1, (long long)number_of(l, i)));
    VP_TRY(vp_json_quote(out, line.s, line.n, err));
    return vp_buf_add(out, "}\n", 2, err);
}
