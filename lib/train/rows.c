/* A step's frames to arrays in `row` order, and back; rows of text to be generated are not among them. */
#include "lib/train/objective.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Columns of rows beside emb; [B] or, when width is not 1, [B, width]. */
static const struct carried {
    const char *name;
    vp_dtype dtype;
    int64_t width;
    size_t at; /* of the pointer in vp_rows */
} carried[] = {
    {"group", VP_I32, 1, offsetof(vp_rows, group)},
    {"role", VP_U8, 1, offsetof(vp_rows, role)},
    {"view", VP_U8, 1, offsetof(vp_rows, view)},
    {"score", VP_F32, 1, offsetof(vp_rows, score)},
    {"reference", VP_F32, 1, offsetof(vp_rows, reference)},
    {"hash", VP_U8, 16, offsetof(vp_rows, hash)},
};
enum { CARRIED = sizeof carried / sizeof *carried };

/* In all frames that have rows, or in none. */
static int is_there(const vp_step *s, const struct carried *c, bool *there, vp_error *err) {
    int64_t with = 0, frames = 0;
    for (size_t i = s->generative_frames; i < s->frames; i++) {
        const vp_frame *f = s->frame[i];
        const vp_column *column = vp_frame_find(f, c->name);
        frames += f->B > 0;
        with += f->B > 0 && column;
        if (f->B && with && with != frames)
            return vp_frame_fail(f, VP_DATA, err, "column '%s' is in some frames of step %lld only", c->name,
                                 (long long)s->step);
        const int64_t shape[] = {f->B, c->width};
        if (f->B && column) VP_TRY(vp_frame_need(f, c->name, c->dtype, c->width == 1 ? 1 : 2, shape, &column, err));
    }
    *there = with > 0;
    return VP_OK;
}

static void take_column(const vp_step *s, const char *name, size_t size, uint8_t *to) {
    for (int64_t k = 0; k < s->B - s->generative; k++) {
        const vp_column *c = vp_frame_find(s->frame[s->order[k].at.frame], name);
        memcpy(to + (size_t)k * size, c->data + (size_t)s->order[k].at.b * size, size);
    }
}

/* emb of each frame as floats, which the caller frees; D of the first that has rows. */
static int read_emb(const vp_step *s, float **emb, int64_t *D, vp_error *err) {
    for (size_t i = s->generative_frames; i < s->frames; i++) {
        const vp_frame *f = s->frame[i];
        const vp_column *c = vp_frame_find(f, "emb");
        if (!f->B && !c) continue;
        if (!c || c->ndim != 2 || (*D && c->shape[1] != *D))
            return vp_frame_fail(f, VP_DATA, err,
                                 c ? "column 'emb' has another width than before" : "no column 'emb': pool makes it");
        *D = c->shape[1];
        VP_TRY(vp_frame_floats(f, "emb", &emb[i], NULL, err));
    }
    return VP_OK;
}

static size_t aligned(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static int fill(vp_rows *r, const vp_step *s, const float *const *emb, vp_error *err) {
    const size_t B = (size_t)r->B, width = (size_t)r->D * sizeof(float);
    bool there[CARRIED];
    size_t bytes = aligned(B * width) + aligned(B * sizeof *r->row);
    for (int i = 0; i < CARRIED; i++) {
        VP_TRY(is_there(s, &carried[i], &there[i], err));
        bytes += aligned(B * (size_t)carried[i].width * vp_dtype_size(carried[i].dtype));
    }
    uint8_t *at = r->owned = vp_calloc(bytes + 1, 1);
    if (!at) return vp_fail_memory(err, "the rows of a step", bytes);
    r->emb = (const float *)(const void *)at;
    for (size_t k = 0; k < B; k++) memcpy(at + k * width, emb[s->order[k].at.frame] + s->order[k].at.b * r->D, width);
    at += aligned(B * width);
    r->row = (const int64_t *)(const void *)at;
    for (size_t k = 0; k < B; k++) memcpy(at + k * sizeof *r->row, &s->order[k].row, sizeof *r->row);
    at += aligned(B * sizeof *r->row);
    for (int i = 0; i < CARRIED; i++) {
        const size_t size = (size_t)carried[i].width * vp_dtype_size(carried[i].dtype);
        if (!there[i]) continue;
        take_column(s, carried[i].name, size, at);
        memcpy((uint8_t *)r + carried[i].at, &at, sizeof at);
        at += aligned(B * size);
    }
    return VP_OK;
}

int vp_rows_gather(vp_rows *r, const vp_step *s, const float *const *emb, int64_t D, vp_error *err) {
    *r = (vp_rows){.B = s->B - s->generative, .D = emb ? D : 0};
    float **own = emb ? NULL : vp_calloc(s->frames, sizeof *own);
    if (!emb && !own) return vp_fail_memory(err, "the rows of a step", s->frames * sizeof *own);
    int status = emb ? VP_OK : read_emb(s, own, &r->D, err);
    if (!status) status = fill(r, s, emb ? emb : (const float *const *)own, err);
    for (size_t i = 0; own && i < s->frames; i++) free(own[i]);
    free(own);
    if (status) vp_rows_free(r);
    return status;
}

void vp_rows_free(vp_rows *r) {
    free(r->owned);
    *r = (vp_rows){0};
}

void vp_rows_scatter(const vp_step *s, int64_t width, const float *from, float *const *to) {
    for (int64_t k = 0; k < s->B - s->generative; k++)
        memcpy(to[s->order[k].at.frame] + s->order[k].at.b * width, from + k * width, (size_t)width * sizeof *from);
}
