/* Paths of temporaries that a signal must not leave behind. Static storage, so that a signal handler may walk it. */
#include "lib/base/base.h"
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

void vp_temporaries_unlink(void) {
    for (int i = 0; i < SLOTS; i++)
        if (atomic_load(&slots[i].state) == USED) unlink(slots[i].path);
    for (int i = 0; i < SLOTS; i++) /* folders, now empty */
        if (atomic_load(&slots[i].state) == USED) rmdir(slots[i].path);
}
