/* Whole files: mapping, reading, writing, and publishing under a name in one step. */
#include "lib/base/base.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A regular file only: opening a named pipe must not wait for a writer, nor reading it for an end. */
static int open_regular(int *fd, struct stat *st, const char *path, vp_error *err) {
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return vp_fail_errno(err, "cannot open '%s'", path);
    int status = VP_OK;
    if (fstat(*fd, st) != 0)
        status = vp_fail_errno(err, "cannot read '%s'", path);
    else if (!S_ISREG(st->st_mode))
        status = vp_fail(err, VP_IO, "'%s': not a regular file", path);
    if (status) close(*fd);
    return status;
}

int vp_map_open(vp_map_file *m, const char *path, vp_error *err) {
    *m = (vp_map_file){.data = (const uint8_t *)"", .size = 0};
    int fd, status = VP_OK;
    struct stat st;
    VP_TRY(open_regular(&fd, &st, path, err));
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            status = vp_fail_errno(err, "cannot map '%s'", path);
        else
            *m = (vp_map_file){.data = p, .size = (size_t)st.st_size};
    }
    close(fd);
    return status;
}

int vp_open_input(const char *file, int *fd, const char **name, vp_error *err) {
    const bool standard = !file || strcmp(file, "-") == 0;
    *name = standard ? "standard input" : file;
    *fd = standard ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
    return *fd < 0 ? vp_fail_errno(err, "cannot open '%s'", file) : VP_OK;
}

void vp_map_close(vp_map_file *m) {
    if (m->size) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (vp_map_file){0};
}

void vp_map_forget(const vp_map_file *m) {
    if (m->size) madvise((void *)(uintptr_t)m->data, m->size, MADV_DONTNEED); /* advice: may be refused */
}

int vp_read_file(const char *path, size_t limit, vp_buf *out, vp_error *err) {
    int fd, status = VP_OK;
    struct stat st;
    VP_TRY(open_regular(&fd, &st, path, err));
    out->len = 0;
    for (;;) {
        status = vp_buf_reserve(out, out->len + 65536 + 1, err);
        if (status) break;
        ssize_t n = read(fd, out->data + out->len, 65536);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) status = vp_fail_errno(err, "cannot read '%s'", path);
        if (n <= 0) break;
        out->len += (size_t)n;
        if (out->len > limit) status = vp_fail(err, VP_DATA, "'%s': larger than %zu bytes", path, limit);
        if (status) break;
    }
    close(fd);
    if (!status) out->data[out->len] = '\0';
    return status;
}

int vp_write_all(int fd, const void *data, size_t n, const char *name, vp_error *err) {
    const char *p = data;
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return vp_fail_errno(err, "cannot write %s", name);
        p += done;
        n -= (size_t)done;
    }
    return VP_OK;
}

int vp_watched(int fd) {
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) ? fd : -1;
}

int vp_wait_input(int in, int output, int timeout_ms, bool *ready, vp_error *err) {
    struct pollfd p[2] = {{.fd = in, .events = POLLIN}, {.fd = output}}; /* poll skips what is below 0 */
    *ready = false;
    while (poll(p, 2, timeout_ms) < 0)
        if (errno != EINTR) return vp_fail_errno(err, "cannot wait for input");
    if (p[1].revents) {
        errno = EPIPE;
        return vp_fail_errno(err, "cannot write standard output");
    }
    *ready = p[0].revents != 0;
    return VP_OK;
}

static void close_publish(vp_publish *p) {
    if (p->temporary && p->fd >= 0) unlink(p->temporary);
    if (p->fd >= 0) close(p->fd);
    vp_temporary_remove(p->slot);
    free(p->path);
    free(p->temporary);
    *p = (vp_publish){.fd = -1};
}

int vp_publish_open(vp_publish *p, const char *path, vp_error *err) {
    struct stat st;
    *p = (vp_publish){.fd = -1};
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) /* never rename over /dev/null */
        return vp_fail(err, VP_IO, "cannot write '%s': not a regular file", path);
    vp_temporaries_sweep(path);
    p->path = vp_strndup(path, strlen(path));
    p->temporary = malloc(strlen(path) + 16);
    if (!p->path || !p->temporary) {
        close_publish(p);
        return vp_fail_memory(err, "a path", strlen(path));
    }
    snprintf(p->temporary, strlen(path) + 16, "%s.tmp-XXXXXX", path);
    p->fd = mkostemp(p->temporary, O_CLOEXEC);
    if (p->fd < 0) {
        int status = vp_fail_errno(err, "cannot create '%s'", p->temporary);
        close_publish(p);
        return status;
    }
    p->slot = vp_temporary_add(p->temporary);
    mode_t mask = umask(0);
    umask(mask);
    if (flock(p->fd, LOCK_EX | LOCK_NB) != 0 || fchmod(p->fd, 0666 & ~mask) != 0) {
        int status = vp_fail_errno(err, "cannot lock '%s'", p->temporary);
        close_publish(p);
        return status;
    }
    return VP_OK;
}

int vp_sync_folder_of(const char *path, vp_error *err) {
    char *folder = vp_strndup(path, strlen(path));
    if (!folder) return vp_fail_memory(err, "a path", strlen(path));
    char *slash = strrchr(folder, '/');
    if (slash == folder)
        slash[1] = '\0';
    else if (slash)
        *slash = '\0';
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int status = VP_OK;
    if (fd < 0 || fsync(fd) != 0) status = vp_fail_errno(err, "cannot sync the folder of '%s'", path);
    if (fd >= 0) close(fd);
    free(folder);
    return status;
}

int vp_publish_end(vp_publish *p, int status, vp_error *err) {
    if (!status && fsync(p->fd) != 0) status = vp_fail_errno(err, "cannot sync '%s'", p->temporary);
    if (!status && rename(p->temporary, p->path) != 0)
        status = vp_fail_errno(err, "cannot rename '%s' to '%s'", p->temporary, p->path);
    if (!status) {
        free(p->temporary);
        p->temporary = NULL;
        status = vp_sync_folder_of(p->path, err);
    }
    close_publish(p);
    return status;
}

int vp_publish_file(const char *folder, const char *name, const void *data, size_t n, vp_error *err) {
    vp_buf path = {0};
    vp_publish p;
    VP_TRY(vp_buf_printf(&path, err, "%s/%s", folder, name));
    int status = vp_publish_open(&p, path.data, err);
    if (!status) status = vp_publish_end(&p, vp_write_all(p.fd, data, n, path.data, err), err);
    vp_buf_free(&path);
    return status;
}
