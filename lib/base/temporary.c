/* Paths of temporaries that a signal must not leave behind. Static storage, so that a signal handler may walk it. */
#include "lib/base/base.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { SLOTS = 16 };
enum { FREE, FILLING, USED };

static struct {
    atomic_int state;
    char path[PATH_MAX];
} slots[SLOTS];

int vp_temporary_add(const char *path) {
    size_t n = strlen(path);
    if (n >= PATH_MAX) return 0;
    for (int i = 0; i < SLOTS; i++) {
        int expected = FREE;
        if (!atomic_compare_exchange_strong(&slots[i].state, &expected, FILLING)) continue;
        memcpy(slots[i].path, path, n + 1);
        atomic_store(&slots[i].state, USED);
        return i + 1;
    }
    return 0;
}

void vp_temporary_remove(int slot) {
    if (slot >= 1 && slot <= SLOTS) atomic_store(&slots[slot - 1].state, FREE);
}

/* A folder's files, and folders of one more level: with system calls only, for opendir allocates. */
static void clear_folder(int parent, const char *name, int depth) {
    char entries[4096] __attribute__((aligned(8)));
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    for (ssize_t n; fd >= 0 && (n = getdents64(fd, entries, sizeof entries)) > 0;)
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *e = (const struct dirent64 *)(entries + at);
            at += e->d_reclen;
            if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && unlinkat(fd, e->d_name, 0) != 0 &&
                depth > 0)
                clear_folder(fd, e->d_name, depth - 1);
        }
    if (fd >= 0) close(fd);
    unlinkat(parent, name, AT_REMOVEDIR);
}

void vp_temporaries_unlink(void) {
    for (int i = 0; i < SLOTS; i++)
        if (atomic_load(&slots[i].state) == USED && unlink(slots[i].path) != 0)
            clear_folder(AT_FDCWD, slots[i].path, 1);
}
