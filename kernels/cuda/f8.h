/* Rows that leave a kernel in FP8 (ops.h): first the largest magnitude of a row, then its codes. */
#ifndef VP_CUDA_F8_H
#define VP_CUDA_F8_H
#include "kernels/cuda/rows.h"

struct vp_f8 {}; /* as the type of a matrix's elements */
struct vp_f8_rows {
    uint8_t *p;
    float *scale;
    int64_t ld;
    vp_f8_rows(const vp_mat &m) : p((uint8_t *)m.ptr), scale(m.scale), ld(m.ld) {}

    /* Store the row's scale, given the largest magnitude of each thread's part of it; what its numbers are multiplied
     * by to become codes. */
    template <class R> VP_INLINE float begin(const R &r, float most) const {
        const vp_f8_scale s = vp_f8_scale_of(r.reduce(most, [](float a, float b) { return vp_max(a, b); }));
        if (r.live && r.lane == 0) scale[r.row] = s.scale;
        return s.by;
    }
    /* Codes of v[0 .. n) at column c, and zeros beyond, up to the next multiple of 16 bytes of the row's end. */
    template <class R> VP_INLINE void store(const R &r, int c, int n, const float v[VP_CELLS], float by) const {
        struct alignas(8) pair {
            uint32_t low, high;
        } codes;
        float x[VP_CELLS];
        if (!r.live || c >= (r.n + 15) / 16 * 16) return;
        for (int i = 0; i < VP_CELLS; i++) x[i] = i < n ? v[i] * by : 0.0f;
        codes.low = vp_f8_pack(x);
        codes.high = vp_f8_pack(x + 4);
        *(pair *)(p + r.row * ld + c) = codes;
    }
};

/* The largest of `most` and the magnitudes of v[0 .. n); NaN where one is. */
VP_DEVICE float vp_f8_most(float most, int n, const float v[VP_CELLS]) {
    for (int i = 0; i < VP_CELLS; i++) most = i < n ? vp_max(most, fabsf(v[i])) : most;
    return most;
}

/* Rows that a struct F computes, 8 neighbours at a time, by
 *     template <bool WIDE> VP_INLINE void get(int64_t row, int col, int n, float (&v)[VP_CELLS]) const
 * A thread holds what it has computed, up to 16,384 columns; beyond, it computes it twice. */
template <class F, bool WIDE> struct vp_f8_map {
    static constexpr bool LONG = true;
    F f;
    vp_f8_rows out;
    template <int LANES, int SLOTS> VP_INLINE void run(const vp_row<LANES, SLOTS> &r) const {
        float v[vp_row<LANES, SLOTS>::HELD][VP_CELLS], most = 0.0f;
        r.each([&](int s, int c, int n) {
            if (n > 0) f.template get<WIDE>(r.row, c, n, v[s]);
            most = vp_f8_most(most, n, v[s]);
        });
        const float by = out.begin(r, most);
        r.each([&](int s, int c, int n) {
            if (!SLOTS && n > 0) f.template get<WIDE>(r.row, c, n, v[s]);
            out.store(r, c, n, v[s], by);
        });
    }
};
template <class F> int vp_f8_run(vp_queue *q, const char *name, bool wide, const F &f, const vp_mat &out) {
    return wide ? vp_row_map(q, name, vp_f8_map<F, true>{f, out}, out.rows, out.cols)
                : vp_row_map(q, name, vp_f8_map<F, false>{f, out}, out.rows, out.cols);
}

#endif
