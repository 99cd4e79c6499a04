/* The layout of run/live, which its writer and its readers map: this page, then the data of slot 0 and of slot 1. */
#ifndef VP_TRAIN_LIVE_FILE_H
#define VP_TRAIN_LIVE_FILE_H
#include <stdatomic.h>
#include <stdint.h>

enum { VP_LIVE_LAYOUT = 1, VP_LIVE_PAGE = 4096 };
#define VP_LIVE_MAGIC "vplive\r\n"

typedef struct vp_live_slot {
    _Atomic int64_t version; /* -1: being written. Stored last (release): what is below belongs to it */
    _Atomic uint64_t hash;   /* XXH3-64 of the data */
} vp_live_slot;

typedef struct vp_live_head {
    char magic[8];
    uint32_t layout;
    _Atomic uint32_t turn; /* futex: changes with every publication */
    uint64_t bytes;        /* of a slot's data, which begins at VP_LIVE_PAGE + slot * bytes */
    vp_live_slot slot[2];
} vp_live_head;

_Static_assert(sizeof(vp_live_head) <= VP_LIVE_PAGE, "the head fits its page");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "processes share these");

#endif
