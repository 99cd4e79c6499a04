/* Rotary embedding of heads, in place, and the shift of keys that have it. */
#include "kernels/cuda/map.h"

/* A row is heads x (rotary / 2) pairs, 8 of a head a thread: elements i and i + rotary / 2, or 2i and 2i + 1.
 * (a, b) -> (a c - b s, b c + a s), c and s of the row's position. */
struct rope_map {
    vp_cells x, cosines, sines; /* tables [positions, rotary / 2] */
    const int32_t *pos;         /* NULL: 0 */
    int d, half, across;        /* across: threads a head */
    bool interleaved;
    float sign;

    /* 8 pairs are a run of 16 elements */
    template <bool WIDE> VP_INLINE void pairs(int64_t i, int col, int n, const float *c, const float *s) const {
        float v[2 * VP_CELLS];
        const int low = 2 * n < VP_CELLS ? 2 * n : VP_CELLS, high = 2 * n - low;
        vp_load8<vp_either, WIDE>(x, i, col, low, v);
        if (high) vp_load8<vp_either, WIDE>(x, i, col + VP_CELLS, high, v + VP_CELLS);
        for (int k = 0; k < VP_CELLS; k++) {
            const float a = v[2 * k], b = v[2 * k + 1], t = sign * s[k];
            v[2 * k] = a * c[k] - b * t;
            v[2 * k + 1] = b * c[k] + a * t;
        }
        vp_store8<vp_either, WIDE>(x, i, col, low, v);
        if (high) vp_store8<vp_either, WIDE>(x, i, col + VP_CELLS, high, v + VP_CELLS);
    }

    template <bool WIDE> VP_INLINE void halves(int64_t i, int col, int n, const float *c, const float *s) const {
        float v[VP_CELLS], w[VP_CELLS];
        vp_load8<vp_either, WIDE>(x, i, col, n, v);
        vp_load8<vp_either, WIDE>(x, i, col + half, n, w);
        for (int k = 0; k < VP_CELLS; k++) {
            const float a = v[k], b = w[k], t = sign * s[k];
            v[k] = a * c[k] - b * t;
            w[k] = fmaf(b, c[k], a * t);
        }
        vp_store8<vp_either, WIDE>(x, i, col, n, v);
        vp_store8<vp_either, WIDE>(x, i, col + half, n, w);
    }

    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int) const {
        const int item = j / VP_CELLS, head = item / across, at = item % across * VP_CELLS;
        const int n = half - at < VP_CELLS ? half - at : VP_CELLS;
        const int64_t position = pos ? pos[i] : 0;
        float c[VP_CELLS], s[VP_CELLS];
        vp_load8<float, WIDE>(cosines, position, at, n, c);
        vp_load8<float, WIDE>(sines, position, at, n, s);
        if (interleaved)
            pairs<WIDE>(i, head * d + 2 * at, n, c, s);
        else
            halves<WIDE>(i, head * d + at, n, c, s);
    }
};

static int check_rotation(vp_queue *q, int32_t heads, int32_t d, int32_t rotary) {
    if (heads >= 1 && d >= 1 && rotary >= 0 && rotary <= d && rotary % 2 == 0) return VP_OK;
    return vp_queue_fail(q, VP_BUG, "rope: %d heads of width %d, %d rotated", (int)heads, (int)d, (int)rotary);
}

static int rotate(vp_queue *q, const char *name, const vp_rope_op *op, const int32_t *pos) {
    rope_map f = {op->x, op->cos, op->sin, pos, op->d, op->rotary / 2, 0, op->interleaved, op->sign < 0 ? -1.0f : 1.0f};
    f.cosines.ld = f.sines.ld = f.half;
    f.across = (f.half + VP_CELLS - 1) / VP_CELLS;
    const bool wide =
        f.half % VP_CELLS == 0 && f.d % VP_CELLS == 0 && vp_wide(op->x) && vp_wide(op->cos) && vp_wide(op->sin);
    return vp_map(q, name, wide, f, op->x.rows, (int64_t)op->heads * f.across * VP_CELLS);
}

int vp_cuda_rope(vp_queue *q, const vp_rope_op *op) {
    if (!op->batch || !op->cos || !op->sin || (op->batch->T > 0 && !op->batch->pos))
        return vp_queue_fail(q, VP_BUG, "rope: no positions or no table");
    VP_TRY(check_rotation(q, op->heads, op->d, op->rotary));
    VP_TRY(vp_check_mat(q, "rope.x", &op->x, true, op->batch->T, (int64_t)op->heads * op->d));
    return rotate(q, "rope", op, op->batch->pos);
}

/* Rotations add up: one more by the angle of `s` positions. */
int vp_cuda_rope_shift(vp_queue *q, const vp_rope_shift_op *op) {
    vp_rope_op all = {};
    if (!op->cos || !op->sin) return vp_queue_fail(q, VP_BUG, "rope_shift: no angles");
    VP_TRY(check_rotation(q, op->heads, op->d, op->rotary));
    VP_TRY(vp_check_mat(q, "rope_shift.k", &op->k, true, op->k.rows, (int64_t)op->heads * op->d));
    all.x = op->k;
    all.heads = op->heads;
    all.d = op->d;
    all.rotary = op->rotary;
    all.interleaved = op->interleaved;
    all.cos = op->cos;
    all.sin = op->sin;
    all.sign = 1;
    return rotate(q, "rope_shift", &all, NULL);
}
