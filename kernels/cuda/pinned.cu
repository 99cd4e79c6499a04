/* Pinned memory of the host: the table's host_alloc and host_free. To pin memory takes far longer than to copy it, and
 * to give it back waits for the device, so that what is freed is kept for the next who needs as much. */
#include "kernels/cuda/device.h"
#include <mutex>
#include <vector>

static const size_t LEAST = (size_t)64 << 10, KEPT = (size_t)512 << 20; /* a piece; all that nobody uses */

struct piece {
    char *data;
    size_t bytes;
    bool used;
};
struct vp_pinned { /* of a device; threads share it */
    std::mutex lock;
    std::vector<piece> all;
};

/* The smallest piece that nobody uses, of at least and at most so many bytes; all.size(): none. */
static size_t find_free(const vp_pinned *p, size_t least, size_t most) {
    size_t best = p->all.size();
    for (size_t i = 0; i < p->all.size(); i++) {
        const piece &x = p->all[i];
        if (x.used || x.bytes < least || x.bytes > most) continue;
        if (best == p->all.size() || x.bytes < p->all[best].bytes) best = i;
    }
    return best;
}

/* Give back the smallest pieces that nobody uses, until those that are left have `most` bytes together. */
static void shrink(vp_pinned *p, size_t most) {
    size_t sum = 0;
    for (const piece &x : p->all) sum += x.used ? 0 : x.bytes;
    while (sum > most) {
        const size_t i = find_free(p, 0, SIZE_MAX);
        sum -= p->all[i].bytes;
        vp_device_unpin(p->all[i].data);
        p->all.erase(p->all.begin() + (ptrdiff_t)i);
    }
}

void vp_pinned_open(vp_device *d) {
    d->pinned = new vp_pinned;
}

void vp_pinned_close(vp_device *d) {
    if (!d->pinned) return;
    for (const piece &x : d->pinned->all) vp_device_unpin(x.data);
    delete d->pinned;
}

/* A piece four times too large is left to those who need it. */
static void *take(vp_pinned *p, size_t bytes) {
    const size_t i = find_free(p, bytes, bytes > SIZE_MAX / 4 ? SIZE_MAX : 4 * bytes);
    if (i < p->all.size()) {
        p->all[i].used = true;
        return p->all[i].data;
    }
    char *data = (char *)vp_device_pin(bytes);
    if (!data) { /* not beside what is kept */
        shrink(p, 0);
        data = (char *)vp_device_pin(bytes);
    }
    if (data) p->all.push_back({data, bytes, true});
    return data;
}

void *vp_cuda_host_alloc(vp_device *d, size_t bytes) {
    const std::lock_guard<std::mutex> hold(d->pinned->lock);
    void *data = take(d->pinned, bytes < LEAST ? LEAST : bytes);
#ifdef VP_SHIM
    if (data) memset(data, 0xff, bytes); /* no number: nobody may count on what lies there */
#endif
    return data;
}

void vp_cuda_host_free(vp_device *d, void *data) {
    vp_pinned *p = d->pinned;
    const std::lock_guard<std::mutex> hold(p->lock);
    for (piece &x : p->all)
        if (x.data == data) x.used = false;
    shrink(p, KEPT);
}
