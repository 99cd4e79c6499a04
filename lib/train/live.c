/* The writer of run/live (live.h). */
#include "lib/train/live.h"
#include "lib/train/live_file.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct vp_live {
    int fd, folder; /* each with its lock */
    char *path;
    vp_live_head *head; /* mapped */
    size_t bytes;
};

static int write_at(const vp_live *l, const void *data, size_t n, off_t at, vp_error *err) {
    const char *p = data;
    while (n) {
        const ssize_t done = pwrite(l->fd, p, n, at);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return vp_fail_errno(err, "cannot write '%s'", l->path);
        p += done;
        n -= (size_t)done;
        at += done;
    }
    return VP_OK;
}

/* Between the two stores of its version the slot is nobody's. A reader that began before finds another hash. */
static int fill(vp_live *l, int slot, int64_t version, const void *data, vp_error *err) {
    vp_live_slot *s = &l->head->slot[slot];
    atomic_store(&s->version, -1);
    VP_TRY(write_at(l, data, l->bytes, VP_LIVE_PAGE + (off_t)slot * (off_t)l->bytes, err));
    atomic_store(&s->hash, vp_hash64(data, l->bytes));
    atomic_store_explicit(&s->version, version, memory_order_release);
    return VP_OK;
}

/* Disk space is taken now, so that no later write finds the disk full. */
static int lay_out(vp_live *l, int64_t version, const void *data, vp_error *err) {
    const off_t size = VP_LIVE_PAGE + 2 * (off_t)l->bytes;
    const struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(l->fd, F_OFD_SETLK, &lock) != 0) return vp_fail_errno(err, "cannot lock '%s'", l->path);
    errno = posix_fallocate(l->fd, 0, size);
    if (errno) return vp_fail_errno(err, "cannot write '%s'", l->path);
    void *head = mmap(NULL, VP_LIVE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
    if (head == MAP_FAILED) return vp_fail_errno(err, "cannot map '%s'", l->path);
    l->head = head;
    memcpy(l->head->magic, VP_LIVE_MAGIC, sizeof l->head->magic);
    l->head->layout = VP_LIVE_LAYOUT;
    l->head->bytes = l->bytes;
    atomic_store(&l->head->slot[1].version, -1);
    return fill(l, 0, version, data, err);
}

static int open_folder(vp_live *l, const char *folder, vp_error *err) {
    l->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (l->folder < 0) return vp_fail_errno(err, "cannot open '%s'", folder);
    if (flock(l->folder, LOCK_EX | LOCK_NB) == 0) return VP_OK;
    if (errno == EWOULDBLOCK) return vp_fail(err, VP_LOCKED, "'%s': another process trains there", folder);
    return vp_fail_errno(err, "cannot lock '%s'", folder);
}

static int create(vp_live *l, int64_t version, const void *data, vp_error *err) {
    vp_publish p;
    VP_TRY(vp_publish_open(&p, l->path, err));
    l->fd = fcntl(p.fd, F_DUPFD_CLOEXEC, 0); /* the same open file, whose lock lives on */
    int status = l->fd < 0 ? vp_fail_errno(err, "cannot open '%s'", l->path) : lay_out(l, version, data, err);
    return vp_publish_end(&p, status, err);
}

int vp_live_lock(vp_live **out, const char *folder, vp_error *err) {
    *out = NULL;
    vp_live *l = vp_calloc(1, sizeof *l);
    vp_buf path = {0};
    if (!l) return vp_fail_memory(err, "a live file", sizeof *l);
    l->fd = l->folder = -1;
    int status = open_folder(l, folder, err);
    if (!status) status = vp_buf_printf(&path, err, "%s/live", folder);
    l->path = path.data;
    if (status) {
        vp_live_close(l);
        return status;
    }
    *out = l;
    return VP_OK;
}

int vp_live_begin(vp_live *l, int64_t version, const void *data, size_t bytes, vp_error *err) {
    if (version < 0 || bytes > INT64_MAX / 4 || l->head)
        return vp_fail(err, VP_BUG, "live: version %lld", (long long)version);
    l->bytes = bytes;
    return create(l, version, data, err);
}

int vp_live_publish(vp_live *l, int64_t version, const void *data, vp_error *err) {
    const int64_t have[] = {atomic_load(&l->head->slot[0].version), atomic_load(&l->head->slot[1].version)};
    const int older = have[1] < have[0];
    if (version <= have[!older])
        return vp_fail(err, VP_BUG, "live: version %lld after %lld", (long long)version, (long long)have[!older]);
    VP_TRY(fill(l, older, version, data, err));
    atomic_fetch_add(&l->head->turn, 1);
    syscall(SYS_futex, &l->head->turn, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    return VP_OK;
}

void vp_live_close(vp_live *l) {
    if (!l) return;
    if (l->head) munmap(l->head, VP_LIVE_PAGE);
    if (l->fd >= 0) close(l->fd);
    if (l->folder >= 0) close(l->folder);
    free(l->path);
    free(l);
}
