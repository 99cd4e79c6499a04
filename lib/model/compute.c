/* Opening the device that a model computes on, and getting numbers there and back: compute.h. */
#include "lib/model/compute.h"
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    vp_dtype type;
    bool tf32;
} types[] = {{"f32", VP_F32, false},
             {"tf32", VP_F32, true},
             {"bf16", VP_BF16, false},
             {"i8", VP_I8, false},
             {"fp8", VP_F8, false}};

const char *vp_compute_name(const vp_compute *c) {
    size_t i = 0;
    while (types[i].type != c->type || types[i].tf32 != c->tf32) i++;
    return types[i].name;
}

static int allow_tf32(const vp_compute *c, const vp_caps *caps, vp_error *err) {
    if (c->rows) return vp_fail(err, VP_USAGE, "compute type tf32 is not for generation");
    if (caps->tf32) return VP_OK;
    return vp_fail(err, VP_USAGE, "compute type tf32: the device (%s %s) has no such products, GPUs have", c->ops->name,
                   caps->isa);
}

static int allow_f8(const vp_compute *c, const vp_caps *caps, vp_error *err) {
    if (!c->embeds) return vp_fail(err, VP_USAGE, "compute type fp8 is for embedding, not for training or generation");
    if (caps->fp8) return VP_OK;
    return vp_fail(err, VP_USAGE, "compute type fp8: the device (%s %s) has no such products, GPUs of sm_90 have",
                   c->ops->name, caps->isa);
}

static int choose_type(vp_compute *c, const vp_caps *caps, const char *name, vp_error *err) {
    const size_t n = sizeof types / sizeof *types;
    size_t i = 0;
    while (name && i < n && strcmp(name, types[i].name) != 0) i++;
    if (!name || !strcmp(name, "auto")) i = 0;
    if (i == n || (types[i].type == VP_I8 && !c->rows))
        return vp_fail(err, VP_USAGE, "compute type '%s': the %s backend does not have it", name, c->ops->name);
    c->type = types[i].type;
    c->tf32 = types[i].tf32;
    if (c->tf32) return allow_tf32(c, caps, err);
    if (c->type == VP_F8) return allow_f8(c, caps, err);
    if (c->type == VP_F32 || c->rows || caps->bf16) return VP_OK;
    return vp_fail(err, VP_USAGE,
                   "compute type bf16: this processor has no instructions for it (AVX512-BF16 and VBMI)");
}

int vp_compute_open(vp_compute *c, const char *device, int threads, const char *compute, vp_error *err) {
    vp_device_options options = {.threads = threads, .tf32 = compute && !strcmp(compute, "tf32")};
    vp_caps caps;
    VP_TRY(vp_backend_open(device, &options, &c->ops, &c->device, &c->queue, err));
    c->ops->caps(c->device, &caps);
    c->separate = caps.separate;
    VP_TRY(choose_type(c, &caps, compute, err));
    const bool narrow = c->type == VP_BF16 || c->type == VP_F8;
    c->state = narrow && caps.bf16_states && !c->rows ? VP_BF16 : VP_F32;
    return VP_OK;
}

void vp_compute_close(vp_compute *c) {
    if (c->queue) c->ops->queue_close(c->queue);
    if (c->device) c->ops->close(c->device);
    *c = (vp_compute){0};
}

void vp_compute_describe(const vp_compute *c, char out[40]) {
    vp_caps caps;
    c->ops->caps(c->device, &caps);
    snprintf(out, 40, "%s %s", c->ops->name, caps.isa);
}

const char *vp_compute_note(const vp_compute *c, int i) {
    return c->ops->note ? c->ops->note(c->device, i) : NULL;
}

int vp_compute_check(const vp_compute *c, int status, vp_error *err) {
    return status ? vp_fail(err, status, "%s", c->ops->why(c->queue)) : VP_OK;
}

/* ---- memory ---- */

void *vp_compute_take(const vp_compute *c, const char *what, size_t bytes, vp_error *err) {
    void *p = c->ops->arena_alloc(c->queue, bytes);
    if (!p) vp_fail_memory(err, what, bytes);
    return p;
}

int vp_compute_move(const vp_compute *c, void *to, const void *from, size_t bytes, vp_error *err) {
    if (to && to != from) VP_TRY(vp_compute_check(c, c->ops->copy(c->queue, to, from, bytes), err));
    return c->ops->queue_wait(c->queue, err);
}

/* ---- results ---- */

void *vp_compute_host(const vp_compute *c, const char *what, size_t bytes, vp_error *err) {
    void *p = c->ops->host_alloc(c->device, bytes);
    if (!p) vp_fail_memory(err, what, bytes);
    return p;
}

void vp_compute_host_free(const vp_compute *c, void *p) {
    if (p) c->ops->host_free(c->device, p);
}

/* ring: two pieces of this size */
static int fetch(const vp_compute *c, char *ring, size_t piece, char *to, const char *from, size_t bytes,
                 vp_error *err) {
    VP_TRY(vp_compute_check(c, c->ops->copy(c->queue, ring, from, piece), err));
    for (size_t at = 0, n = piece, next; at < bytes; at += n, n = next) {
        char *const here = ring + at / piece % 2 * piece, *const other = ring + (at / piece + 1) % 2 * piece;
        VP_TRY(c->ops->queue_wait(c->queue, err));
        next = bytes - at - n < piece ? bytes - at - n : piece;
        if (next) VP_TRY(vp_compute_check(c, c->ops->copy(c->queue, other, from + at + n, next), err));
        memcpy(to + at, here, n);
    }
    return VP_OK;
}

int vp_compute_fetch(const vp_compute *c, void *to, const void *from, size_t bytes, vp_error *err) {
    const size_t most = (size_t)4 << 20, piece = bytes < most ? bytes : most;
    const bool here = !c->separate || !c->ops->host_alloc; /* a queue that plans has none, and copies nothing */
    if (here || !to || to == from || !bytes) return vp_compute_move(c, to, from, bytes, err);
    char *ring = vp_compute_host(c, "results", 2 * piece, err);
    const int status = ring ? fetch(c, ring, piece, to, from, bytes, err) : VP_MEMORY;
    if (status && ring) c->ops->queue_wait(c->queue, &(vp_error){0}); /* a copy may be on its way */
    vp_compute_host_free(c, ring);
    return status;
}

/* ---- an operation's arguments ---- */

vp_transfer vp_transfer_begin(const vp_compute *c, const char *what, vp_error *err) {
    return (vp_transfer){.c = c, .what = what, .err = err, .mark = c->ops->arena_mark(c->queue)};
}

void *vp_transfer_room(vp_transfer *t, void *host, int64_t n, size_t size) {
    if (!host || t->status || !t->c->separate) return host;
    void *device = vp_compute_take(t->c, t->what, (size_t)n * size, t->err);
    if (!device) t->status = VP_MEMORY;
    return device;
}

const void *vp_transfer_put(vp_transfer *t, const void *host, int64_t n, size_t size) {
    void *device = vp_transfer_room(t, (void *)(uintptr_t)host, n, size);
    if (host && !t->status) t->status = vp_compute_move(t->c, device, host, (size_t)n * size, t->err);
    return device;
}

vp_mat vp_transfer_put_mat(vp_transfer *t, const vp_mat *host) {
    vp_mat m = *host;
    m.ptr = (void *)(uintptr_t)vp_transfer_put(t, host->ptr, host->rows * host->ld, vp_dtype_size(host->dtype));
    return m;
}

vp_mat vp_transfer_room_mat(vp_transfer *t, const vp_mat *host) {
    vp_mat m = *host;
    m.ptr = vp_transfer_room(t, host->ptr, host->rows * host->ld, vp_dtype_size(host->dtype));
    return m;
}

void vp_transfer_done(vp_transfer *t, int status) {
    if (!t->status) t->status = vp_compute_check(t->c, status, t->err);
}

void vp_transfer_get(vp_transfer *t, void *host, const void *device, int64_t n, size_t size) {
    if (!t->status) t->status = vp_compute_fetch(t->c, host, device, (size_t)n * size, t->err);
}

void vp_transfer_get_mat(vp_transfer *t, const vp_mat *host, const vp_mat *device) {
    vp_transfer_get(t, host->ptr, device->ptr, host->rows * host->ld, vp_dtype_size(host->dtype));
}

int vp_transfer_end(vp_transfer *t) {
    t->c->ops->arena_release(t->c->queue, t->mark);
    return t->status;
}
