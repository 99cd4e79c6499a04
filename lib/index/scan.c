/* Exact search of all segments by a backend: what topk is given, block by block. A device with memory of its own gets
 * the rows once for as long as the snapshot is the same, where they fit; else in blocks, for every call. */
#include "kernels/load.h"
#include "lib/index/rank.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t BLOCK_BYTES = (size_t)256 << 20; /* of rows that do not stay on the device */

/* Copying an index to a GPU pays for large batches of queries: it is asked for. */
static const char *device_name(const char *name) {
    if (!name || !*name) name = getenv("VP_DEVICE");
    return name && *name && strcmp(name, "auto") != 0 ? name : "cpu";
}

int vp_scan_open(vp_scan *c, const char *device, int threads, vp_error *err) {
    vp_device_options options = {.threads = threads};
    vp_caps caps;
    if (c->queue) return VP_OK;
    VP_TRY(vp_backend_open(device_name(device), &options, &c->ops, &c->device, &c->queue, err));
    if (!c->ops->topk) return vp_fail(err, VP_MEMORY, "the %s backend does not have the operation topk", c->ops->name);
    c->ops->caps(c->device, &caps);
    c->separate = caps.separate;
    const size_t left = c->ops->memory_free(c->device);
    c->room = (left ? left : caps.memory) / 4 * 3;
    return caps.separate ? c->ops->queue_open(&c->memory, c->device, err) : VP_OK;
}

void vp_scan_close(vp_scan *c) {
    if (c->memory) c->ops->queue_close(c->memory);
    if (c->queue) c->ops->queue_close(c->queue);
    if (c->device) c->ops->close(c->device);
    *c = (vp_scan){0};
}

void vp_scan_device(const vp_scan *c, char out[40]) {
    vp_caps caps;
    out[0] = '\0';
    if (!c->queue) return;
    c->ops->caps(c->device, &caps);
    snprintf(out, 40, "%s %s", c->ops->name, caps.isa);
}

static int check(const vp_scan *c, int status, vp_error *err) {
    return status ? vp_fail(err, status, "search: %s", c->ops->why(c->queue)) : VP_OK;
}

static size_t row_bytes(const vp_index *x) {
    return (size_t)x->dims * vp_dtype_size(x->dtype);
}

/* bytes on the device: of the host's, or anything */
static int take(vp_scan *c, const void *host, size_t bytes, void **out, vp_error *err) {
    if (!(*out = c->ops->arena_alloc(c->queue, bytes))) return vp_fail_memory(err, "a search on the device", bytes);
    return host ? check(c, c->ops->copy(c->queue, *out, host, bytes), err) : VP_OK;
}

/* All segments' rows behind each other on the device, c->rows; NULL: they do not fit. */
static int keep_rows(vp_scan *c, const vp_index *x, const vp_snapshot *s, vp_error *err) {
    size_t bytes = 0;
    if (c->loaded && c->generation == s->generation) return VP_OK;
    for (size_t i = 0; i < s->segments.n; i++) bytes += (size_t)s->segments.item[i].slots * row_bytes(x);
    VP_TRY(c->ops->queue_wait(c->queue, err));
    c->ops->arena_release(c->memory, 0);
    c->loaded = true;
    c->generation = s->generation;
    char *to = c->rows = bytes <= c->room ? c->ops->arena_alloc(c->memory, bytes) : NULL;
    for (size_t i = 0; to && i < s->segments.n; i++) {
        const size_t n = (size_t)s->segments.item[i].slots * row_bytes(x);
        VP_TRY(check(c, c->ops->copy(c->queue, to, s->map[i].data, n), err));
        to += n;
    }
    return VP_OK;
}

/* Rows [first, first + n) of segment i, at `rows` on the device. */
static int scan_block(vp_scan *c, const vp_index *x, const vp_snapshot *s, size_t i, int64_t first, int64_t n,
                      const void *rows, vp_topk_op *op, vp_error *err) {
    const vp_segment *g = &s->segments.item[i];
    op->base = (int64_t)i * VP_SEGMENT_SLOTS + first;
    op->rows = (vp_mat){.ptr = (void *)(uintptr_t)rows, .dtype = x->dtype, .rows = n, .cols = x->dims, .ld = x->dims};
    op->live = g->bitmap + first / 8;
    if (!c->separate) return check(c, c->ops->topk(c->queue, op), err);
    const size_t mark = c->ops->arena_mark(c->queue);
    void *live = NULL, *copy = op->rows.ptr;
    int status = take(c, op->live, (size_t)(n + 7) / 8, &live, err);
    if (!status && !rows)
        status = take(c, s->map[i].data + (size_t)first * row_bytes(x), (size_t)n * row_bytes(x), &copy, err);
    op->rows.ptr = copy;
    op->live = live;
    if (!status) status = check(c, c->ops->topk(c->queue, op), err);
    c->ops->arena_release(c->queue, mark);
    return status;
}

static int scan_all(vp_scan *c, const vp_index *x, const vp_snapshot *s, vp_topk_op *op, vp_error *err) {
    const char *kept = c->rows;
    const int64_t most = (int64_t)(BLOCK_BYTES / row_bytes(x)) / 8 * 8 + 8; /* blocks begin with a byte of `live` */
    for (size_t i = 0; i < s->segments.n; i++) {
        const vp_segment *g = &s->segments.item[i];
        const bool whole = kept || !c->separate;
        const int64_t each = whole ? g->slots : most;
        for (int64_t first = 0; g->live && first < g->slots; first += each) {
            const int64_t n = g->slots - first < each ? g->slots - first : each;
            const void *rows = c->separate ? (const void *)kept : s->map[i].data;
            VP_TRY(scan_block(c, x, s, i, first, n, rows, op, err));
        }
        if (kept) kept += (size_t)g->slots * row_bytes(x);
    }
    return VP_OK;
}

/* The same with queries and results on the device. */
static int scan_apart(vp_scan *c, const vp_index *x, const vp_snapshot *s, const vp_topk_op *host, vp_error *err) {
    const int64_t Q = host->queries.rows;
    const size_t best = (size_t)(Q * host->k) * sizeof *host->best, found = (size_t)Q * sizeof *host->found;
    void *to_best, *to_found;
    vp_topk_op op = *host;
    VP_TRY(keep_rows(c, x, s, err));
    VP_TRY(take(c, host->queries.ptr, (size_t)(Q * x->dims) * sizeof(float), &op.queries.ptr, err));
    VP_TRY(take(c, host->best, best, &to_best, err));
    VP_TRY(take(c, host->found, found, &to_found, err));
    op.best = to_best;
    op.found = to_found;
    VP_TRY(scan_all(c, x, s, &op, err));
    VP_TRY(check(c, c->ops->copy(c->queue, host->best, to_best, best), err));
    return check(c, c->ops->copy(c->queue, host->found, to_found, found), err);
}

int vp_scan_run(vp_scan *c, const vp_index *x, const vp_snapshot *s, const vp_scan_job *j, vp_error *err) {
    vp_topk_op op = {.k = (int32_t)j->width, .best = j->best, .found = j->found};
    op.queries = (vp_mat){.ptr = (void *)(uintptr_t)j->queries, .dtype = VP_F32, .rows = j->count};
    op.queries.cols = op.queries.ld = x->dims;
    const size_t mark = c->ops->arena_mark(c->queue);
    int status = c->separate ? scan_apart(c, x, s, &op, err) : scan_all(c, x, s, &op, err);
    if (!status) status = c->ops->queue_wait(c->queue, err);
    c->ops->arena_release(c->queue, mark);
    return status;
}
