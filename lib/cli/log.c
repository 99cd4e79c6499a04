/* --log FILE: events as JSON lines, appended; each line is one write, so that programs of a pipe can share a file. */
#include "lib/cli/internal.h"
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct {
    const char *path; /* NULL: no log */
    int fd;
    vp_error failed; /* the first failed write */
} journal;

int vp_cli_log_open(const char *path, vp_error *err) {
    journal.path = NULL;
    journal.failed = (vp_error){0};
    if (!path) return VP_OK;
    journal.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (journal.fd < 0) return vp_fail_errno(err, "cannot open '%s'", path);
    journal.path = path;
    return VP_OK;
}

void vp_cli_log(const char *event, const char *json_members) {
    if (!journal.path || journal.failed.code) return;
    struct timespec t;
    struct tm utc;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &utc);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    bool more = json_members && *json_members;
    vp_buf line = {0};
    int status =
        vp_buf_printf(&line, &journal.failed, "{\"time\":\"%s.%03ldZ\",\"program\":\"%s\",\"event\":\"%s\"%s%s}\n",
                      stamp, t.tv_nsec / 1000000, vp_cli_program(), event, more ? "," : "", more ? json_members : "");
    if (!status) vp_write_all(journal.fd, line.data, line.len, journal.path, &journal.failed);
    vp_buf_free(&line);
}

int vp_cli_log_close(int status, vp_error *err) {
    if (!journal.path) return status;
    char escaped[2 * sizeof err->text], members[5 * sizeof err->text];
    vp_escape(escaped, sizeof escaped, err->text, strlen(err->text));
    json_t *text = json_string(escaped);
    char *quoted = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
    snprintf(members, sizeof members, "\"status\":%d%s%s", status, status && quoted ? ",\"error\":" : "",
             status && quoted ? quoted : "");
    free(quoted);
    json_decref(text);
    vp_cli_log("end", members);
    close(journal.fd);
    journal.path = NULL;
    if (status || !journal.failed.code) return status;
    return vp_fail(err, journal.failed.code, "%s", journal.failed.text);
}
