/* Cutting a step into micro-batches: at the borders of gradient units, so that however many units are computed at once,
 * their sums are made one by one. */
#include "lib/train/micro.h"
#include <stdio.h>
#include <stdlib.h>

static const char *const gradients[] = {"grad.emb", "grad.picked"}; /* by vp_pooler_picks_of */

/* ---- what came with the stream ---- */

static int take_given(vp_micros *m, const vp_step *s, size_t i, const vp_pooler *pooler, vp_error *err) {
    vp_frame *f = s->frame[i];
    int64_t n = 0, rows = 0;
    bool picks;
    VP_TRY(vp_pooler_picks_of(pooler, f, &picks, err));
    const vp_column *other = vp_frame_find(f, gradients[!picks]);
    if (other)
        return vp_frame_fail(f, VP_DATA, err, "column %s does not fit the pooling: it needs %s", other->name,
                             gradients[picks]);
    VP_TRY(vp_frame_floats(f, gradients[picks], &m->given[i], &n, err));
    m->size[i] = n;
    const bool here = m->given[i] != NULL;
    if (i && here != m->gradients) return vp_frame_fail(f, VP_DATA, err, "gradients are in some frames only");
    m->gradients = here;
    if (here) VP_TRY(vp_frame_floats(f, "loss", &m->loss[i], &rows, err));
    if (here && (!m->loss[i] || rows != f->B))
        return vp_frame_fail(f, VP_DATA, err, "gradients without column loss [B]");
    if (!here && !(m->loss[i] = vp_calloc((size_t)f->B, sizeof(float))))
        return vp_fail_memory(err, "losses", (size_t)f->B * sizeof(float));
    static const char *const gone[] = {"grad.emb", "grad.picked", "loss", "emb", "picked", "hidden", "text", "meta"};
    for (size_t k = 0; k < sizeof gone / sizeof *gone; k++) vp_frame_drop(f, gone[k]);
    return VP_OK;
}

/* ---- cutting ---- */

/* The end of the micro-batch that begins at row b: whole units, as many as the tokens allow, at least one. */
static int64_t end_of(const int32_t *cu, const int32_t *unit, int64_t B, int64_t b, int64_t tokens) {
    int64_t end = b;
    while (end < B) {
        int64_t next = end + 1;
        while (next < B && unit[next] == unit[end]) next++;
        if (end > b && cu[next] - cu[b] > tokens) break;
        end = next;
    }
    return end;
}

static int add(vp_micros *m, const vp_step *s, size_t frame, int64_t b0, int64_t b1, vp_error *err) {
    vp_micro *micro = &m->item[m->n];
    *micro = (vp_micro){.frame = frame, .b0 = b0};
    VP_TRY(vp_frame_slice(s->frame[frame], b0, b1, &micro->f, err));
    m->n++;
    return VP_OK;
}

static int cut(vp_micros *m, const vp_step *s, size_t frame, int64_t tokens, vp_error *err) {
    const vp_frame *f = s->frame[frame];
    int32_t *cu = NULL, *unit = NULL;
    int64_t offsets = 0, units = 0;
    int status = vp_frame_ints(f, "cu", &cu, &offsets, err);
    if (!status) status = vp_frame_ints(f, "unit", &unit, &units, err);
    if (!status && (!cu || !unit || offsets != f->B + 1 || units != f->B))
        status = vp_frame_fail(f, VP_DATA, err, "no column %s: tok --batch makes steps", cu ? "unit" : "cu");
    for (int64_t b = 0, end; !status && b < f->B; b = end) {
        end = end_of(cu, unit, f->B, b, tokens);
        status = add(m, s, frame, b, end, err);
    }
    free(cu);
    free(unit);
    return status;
}

/* Which vectors of the frame's gradient belong to which micro-batch. */
static int share_given(vp_micros *m, const vp_step *s, const vp_pooler *pooler, int64_t width, vp_error *err) {
    int64_t at = 0;
    bool picks;
    for (size_t i = 0; i < m->n; i++) {
        vp_micro *micro = &m->item[i];
        if (!micro->b0) at = 0;
        VP_TRY(vp_pooler_picks_of(pooler, micro->f, &picks, err));
        const int64_t dims = picks ? width : vp_pooler_dims(pooler, width);
        VP_TRY(vp_pooler_vectors(pooler, micro->f, &micro->vectors, err));
        micro->given = m->given[micro->frame] + at * dims;
        at += micro->vectors;
        const bool last = i + 1 == m->n || m->item[i + 1].frame != micro->frame;
        if (last && at * dims != m->size[micro->frame])
            return vp_frame_fail(s->frame[micro->frame], VP_DATA, err,
                                 "%s has %lld numbers, there are %lld vectors of %lld", gradients[picks],
                                 (long long)m->size[micro->frame], (long long)at, (long long)dims);
    }
    return VP_OK;
}

int vp_micros_open(vp_micros *m, const vp_step *s, const vp_pooler *pooler, int64_t width, int64_t batch_tokens,
                   vp_error *err) {
    *m = (vp_micros){.frames = s->frames};
    m->item = vp_calloc((size_t)s->B + 1, sizeof *m->item);
    m->given = vp_calloc(s->frames, sizeof *m->given);
    m->loss = vp_calloc(s->frames, sizeof *m->loss);
    m->size = vp_calloc(s->frames, sizeof *m->size);
    if (!m->item || !m->given || !m->loss || !m->size)
        return vp_fail_memory(err, "micro-batches", (size_t)s->B * sizeof *m->item);
    for (size_t i = 0; i < s->frames; i++) VP_TRY(take_given(m, s, i, pooler, err));
    for (size_t i = 0; i < s->frames; i++) {
        if (i == s->generative_frames) m->generative = m->n;
        VP_TRY(cut(m, s, i, batch_tokens, err));
    }
    if (s->frames == s->generative_frames) m->generative = m->n;
    return m->gradients ? share_given(m, s, pooler, width, err) : VP_OK;
}

void vp_micros_close(vp_micros *m, const vp_compute *on) {
    for (size_t i = 0; i < m->n; i++) {
        vp_frame_free(m->item[i].f);
        vp_tape_free(m->item[i].tape);
        vp_compute_host_free(on, m->item[i].hidden);
    }
    for (size_t i = 0; i < m->frames; i++) {
        if (m->given) free(m->given[i]);
        if (m->loss) free(m->loss[i]);
    }
    free(m->item);
    free(m->given);
    free(m->loss);
    free(m->size);
    *m = (vp_micros){0};
}
