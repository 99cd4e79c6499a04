/* run/live: the weights of a run as it goes, from the one program that trains (the writer) to those that embed for it
 * (readers). A file of a head page and two slots, each with its version, length and XXH3-64; the writer fills the older
 * slot and holds an OFD write lock for as long as it lives. Version v: every batch with `step` < v was consumed. */
#ifndef VP_TRAIN_LIVE_H
#define VP_TRAIN_LIVE_H
#include "lib/base/base.h"

/* ---- the writer ---- */
typedef struct vp_live vp_live;
/* The folder, which exists, stays locked (flock) until close. VP_LOCKED: another process trains there. */
int vp_live_lock(vp_live **live, const char *folder, vp_error *err);
/* FOLDER/live with `bytes` of starting weights as `version`: made under a temporary name, locked, renamed. Once. A live
 * file of a dead run is replaced. */
int vp_live_begin(vp_live *live, int64_t version, const void *data, size_t bytes, vp_error *err);
/* Newer weights, of the size that begin was given, copied to the file before it returns; `version` above the last one.
 * Wakes the readers. */
int vp_live_publish(vp_live *live, int64_t version, const void *data, vp_error *err);
void vp_live_close(vp_live *live); /* lets the locks go; the file stays. NULL is fine */

/* ---- a reader ---- */
typedef struct vp_follow vp_follow;
/* Waits until FOLDER/live exists and its writer lives. `output` is what the caller writes to: when it is a pipe that
 * nobody reads any more, every wait ends with VP_IO and broken_pipe. VP_DATA: not such a file. */
int vp_follow_open(vp_follow **follow, const char *folder, int output, vp_error *err);
size_t vp_follow_bytes(const vp_follow *follow); /* of the weights */
/* Waits for exactly this version and copies its weights to `data`, whole: a slot that was written meanwhile is read
 * again. VP_UPSTREAM: the writer died before (noticed within 200 ms). VP_DATA: the run is past this version. */
int vp_follow_wait(vp_follow *follow, int64_t version, void *data, vp_error *err);
void vp_follow_close(vp_follow *follow); /* NULL is fine */

#endif
