/* Dropout: what an operation's request becomes for kernels. */
#include "kernels/cuda/drop.h"

int vp_dropper_make(vp_queue *q, const char *what, const vp_drop *drop, const vp_batch *batch, int64_t tokens,
                    vp_dropper *d) {
    *d = vp_dropper{};
    if (drop->p == 0.0f) return VP_OK;
    if (!(drop->p > 0.0f && drop->p < 1.0f) || vp_drop_threshold(drop->p) > 0xffff)
        return vp_queue_fail(q, VP_BUG, "%s: dropout of %g", what, (double)drop->p);
    if (drop->site >= VP_DROP_SITES || drop->layer >= VP_DROP_LAYERS)
        return vp_queue_fail(q, VP_BUG, "%s: dropout at site %u of layer %u", what, drop->site, drop->layer);
    if (!batch || !batch->row || !batch->cu_q || (batch->B < 1 && tokens) || batch->T != tokens)
        return vp_queue_fail(q, VP_BUG, "%s: dropout needs the rows of sequences that span the tokens", what);
    if (batch->longest > VP_DROP_QUERIES)
        return vp_queue_fail(q, VP_BUG, "%s: dropout of a sequence of %lld tokens", what, (long long)batch->longest);
    d->on = true;
    d->seed = drop->seed;
    d->step = drop->step;
    d->place = vp_drop_place(drop->layer, drop->site, 0);
    d->threshold = vp_drop_threshold(drop->p);
    d->scale = vp_drop_scale(d->threshold);
    d->row = batch->row;
    d->cu = batch->cu_q;
    d->B = batch->B;
    return VP_OK;
}
