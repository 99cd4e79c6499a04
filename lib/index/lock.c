/* Locks of an index: OFD locks, which belong to the open file, not to the process, and which a killed program cannot
 * leave behind. */
#include "lib/index/store.h"
#include <errno.h>
#include <fcntl.h>
#include <time.h>

enum { WAIT_SECONDS = 60 }; /* changes last as long as a transaction or a compaction, not longer */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int vp_lock_take(const vp_lock_request *r, vp_error *err) {
    double began = seconds();
    long pause = 1000000; /* ns, doubled up to 50 ms */
    for (;;) {
        struct flock l = {
            .l_type = r->exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET, .l_start = r->byte, .l_len = 1};
        if (fcntl(r->fd, F_OFD_SETLK, &l) == 0) return VP_OK;
        if (errno != EAGAIN && errno != EACCES && errno != EINTR)
            return vp_fail_errno(err, "cannot lock '%s'", r->path);
        if (!r->wait || (!r->forever && seconds() - began > WAIT_SECONDS))
            return vp_fail(err, VP_LOCKED, "'%s': locked: %s", r->path, r->what);
        nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
        if (pause < 50000000) pause *= 2;
    }
}

void vp_lock_release(int fd, int byte) {
    struct flock l = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    fcntl(fd, F_OFD_SETLK, &l);
}
