/* The readers of run/live (live.h). Only the head page is mapped; weights are read, so that a file that shrinks is an
 * error and no signal. */
#include "lib/train/live.h"
#include "lib/train/live_file.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { POLL_MS = 50, WAIT_MS = 200 };

struct vp_follow {
    int fd, output;
    char *path;
    vp_live_head *head; /* mapped read-only */
    size_t bytes;
};

/* VP_IO with broken_pipe when nobody reads our output; waits timeout_ms for that. */
static int check_output(const vp_follow *f, int timeout_ms, vp_error *err) {
    bool ready;
    return vp_wait_input(-1, f->output, timeout_ms, &ready, err);
}

static int is_alive(const vp_follow *f, bool *alive, vp_error *err) {
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET}; /* what a writer's lock would refuse */
    if (fcntl(f->fd, F_OFD_GETLK, &lock) != 0) return vp_fail_errno(err, "cannot look at the lock of '%s'", f->path);
    *alive = lock.l_type != F_UNLCK;
    return VP_OK;
}

static void let_go(vp_follow *f) {
    if (f->head) munmap(f->head, VP_LIVE_PAGE);
    if (f->fd >= 0) close(f->fd);
    f->head = NULL;
    f->fd = -1;
}

static int map_head(vp_follow *f, vp_error *err) {
    struct stat st;
    if (fstat(f->fd, &st) != 0) return vp_fail_errno(err, "cannot read '%s'", f->path);
    if (!S_ISREG(st.st_mode) || st.st_size < VP_LIVE_PAGE)
        return vp_fail(err, VP_DATA, "'%s': not the live file of a run", f->path);
    void *head = mmap(NULL, VP_LIVE_PAGE, PROT_READ, MAP_SHARED, f->fd, 0);
    if (head == MAP_FAILED) return vp_fail_errno(err, "cannot map '%s'", f->path);
    f->head = head;
    if (memcmp(f->head->magic, VP_LIVE_MAGIC, sizeof f->head->magic) != 0 || f->head->layout != VP_LIVE_LAYOUT)
        return vp_fail(err, VP_DATA, "'%s': not the live file of a run, or of another version", f->path);
    const uint64_t bytes = f->head->bytes;
    if (bytes > INT64_MAX / 4 || VP_LIVE_PAGE + 2 * bytes != (uint64_t)st.st_size)
        return vp_fail(err, VP_DATA, "'%s': its size is not the one that it says", f->path);
    f->bytes = (size_t)bytes;
    return VP_OK;
}

/* The file that has the name now, if its writer lives: a dead run's stays where it is until the next one replaces it.
 */
static int try_open(vp_follow *f, bool *alive, vp_error *err) {
    *alive = false;
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0) return errno == ENOENT ? VP_OK : vp_fail_errno(err, "cannot open '%s'", f->path);
    VP_TRY(is_alive(f, alive, err));
    if (*alive) return map_head(f, err);
    let_go(f);
    return VP_OK;
}

int vp_follow_open(vp_follow **out, const char *folder, int output, vp_error *err) {
    *out = NULL;
    vp_follow *f = vp_calloc(1, sizeof *f);
    vp_buf path = {0};
    if (!f) return vp_fail_memory(err, "a live file", sizeof *f);
    f->fd = -1;
    f->output = vp_watched(output);
    int status = vp_buf_printf(&path, err, "%s/live", folder);
    f->path = path.data;
    for (bool alive = false; !status && !alive;) {
        status = try_open(f, &alive, err);
        if (!status && !alive) status = check_output(f, POLL_MS, err);
    }
    if (status) {
        vp_follow_close(f);
        return status;
    }
    *out = f;
    return VP_OK;
}

size_t vp_follow_bytes(const vp_follow *f) {
    return f->bytes;
}

static int read_slot(const vp_follow *f, int slot, void *data, vp_error *err) {
    char *p = data;
    for (size_t got = 0; got < f->bytes;) {
        const off_t at = VP_LIVE_PAGE + (off_t)slot * (off_t)f->bytes + (off_t)got;
        const ssize_t n = pread(f->fd, p + got, f->bytes - got, at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return vp_fail_errno(err, "cannot read '%s'", f->path);
        if (n == 0) return vp_fail(err, VP_DATA, "'%s': cut short", f->path);
        got += (size_t)n;
    }
    return VP_OK;
}

/* Copy `version` where a slot holds it, and still holds it after the copy. */
static int try_copy(const vp_follow *f, int64_t version, void *data, bool *done, vp_error *err) {
    int64_t newest = -1;
    *done = false;
    for (int i = 0; i < 2 && !*done; i++) {
        vp_live_slot *s = &f->head->slot[i];
        const int64_t held = atomic_load_explicit(&s->version, memory_order_acquire);
        if (held > newest) newest = held;
        if (held != version) continue;
        const uint64_t hash = atomic_load(&s->hash);
        VP_TRY(read_slot(f, i, data, err));
        *done = hash == vp_hash64(data, f->bytes);
        if (!*done && atomic_load(&s->version) == version) /* nobody wrote meanwhile */
            return vp_fail(err, VP_DATA, "'%s': step %lld is damaged", f->path, (long long)version);
    }
    if (!*done && newest > version)
        return vp_fail(err, VP_DATA, "'%s': the run is at step %lld, past step %lld, which is asked for", f->path,
                       (long long)newest, (long long)version);
    return VP_OK;
}

int vp_follow_wait(vp_follow *f, int64_t version, void *data, vp_error *err) {
    const struct timespec limit = {.tv_nsec = WAIT_MS * 1000000L};
    for (;;) {
        bool alive = false, done = false;
        const uint32_t turn = atomic_load(&f->head->turn);
        VP_TRY(is_alive(f, &alive, err)); /* first: what a writer published before it died counts */
        VP_TRY(try_copy(f, version, data, &done, err));
        if (done) return VP_OK;
        if (!alive)
            return vp_fail(err, VP_UPSTREAM, "'%s': the training program died before step %lld", f->path,
                           (long long)version);
        VP_TRY(check_output(f, 0, err));
        syscall(SYS_futex, &f->head->turn, FUTEX_WAIT, turn, &limit, NULL, 0);
    }
}

void vp_follow_close(vp_follow *f) {
    if (!f) return;
    let_go(f);
    free(f->path);
    free(f);
}
