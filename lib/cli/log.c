/* --log FILE: events as JSON lines, appended; each line is one write, so that programs of a pipe can share a file. */
#include "lib/cli/internal.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct vp_log {
    int fd;
    char *path;
    vp_error failed; /* the first failed write, for vp_log_close */
};

int vp_log_open(vp_log **log, const char *path, vp_error *err) {
    *log = NULL;
    if (!path) return VP_OK;
    vp_log *l = vp_calloc(1, sizeof *l);
    if (!l || !(l->path = vp_strndup(path, strlen(path)))) {
        free(l);
        return vp_fail_memory(err, "a log", sizeof *l);
    }
    l->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (l->fd < 0) {
        int status = vp_fail_errno(err, "cannot open '%s'", path);
        free(l->path);
        free(l);
        return status;
    }
    *log = l;
    return VP_OK;
}

void vp_log_event(vp_log *log, const char *event, const char *json_members) {
    if (!log || log->failed.code) return;
    struct timespec t;
    struct tm utc;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &utc);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    bool more = json_members && *json_members;
    vp_buf line = {0};
    int status =
        vp_buf_printf(&line, &log->failed, "{\"time\":\"%s.%03ldZ\",\"program\":\"%s\",\"event\":\"%s\"%s%s}\n", stamp,
                      t.tv_nsec / 1000000, vp_cli_program(), event, more ? "," : "", more ? json_members : "");
    if (!status) vp_write_all(log->fd, line.data, line.len, log->path, &log->failed);
    vp_buf_free(&line);
}

int vp_log_close(vp_log *log, vp_error *err) {
    if (!log) return VP_OK;
    int status = log->failed.code ? vp_fail(err, log->failed.code, "%s", log->failed.text) : VP_OK;
    if (close(log->fd) != 0 && !status) status = vp_fail_errno(err, "cannot write %s", log->path);
    free(log->path);
    free(log);
    return status;
}
