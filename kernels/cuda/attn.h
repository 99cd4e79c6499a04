/* What the kernels of attention share: who sees whom, and where blocks of rows lie. Legend: q, out, dq [T, H d]; k, v,
 * dk, dv [T, G d]. A block of a kernel owns rows of one sequence, cut at multiples of the kernel's height from the
 * sequence's start, so that a row's company depends on its sequence alone; it finds them from `cu` by its number. */
#ifndef VP_CUDA_ATTN_H
#define VP_CUDA_ATTN_H
#include "kernels/cuda/drop.h"
#include "kernels/log.h"

/* What the backward needs of a query in a head; of a sequence from an even index on, so that two are 16 bytes. */
struct vp_attn_saved {
    float lse;   /* F32: as the forward left it; BF16: times log2 e */
    float delta; /* sum of dO O */
};

struct vp_attn_job {        /* given to kernels by value */
    const int32_t *cu;      /* [B + 1] */
    const int32_t *prefix;  /* [B] or NULL */
    const uint8_t *seg;     /* [T] or NULL */
    int B, heads, share, d; /* share: query heads of a group */
    int least, most;        /* tokens of the sequences that are looked at */
    int window;             /* 0: none */
    bool causal;
    float scale, softcap, uncap; /* uncap: 1 / softcap; softcap 0: none */
    vp_dropper drop;
    float *lse;           /* [T, H]; NULL: not wanted */
    vp_attn_saved *saved; /* backward: [H, saved_each] */
    int64_t saved_each;
};

VP_DEVICE int vp_smaller(int a, int b) {
    return a < b ? a : b;
}
VP_DEVICE int vp_larger(int a, int b) {
    return a > b ? a : b;
}

/* ---- blocks ---- */
struct vp_attn_place {
    int sequence, base, n, prefix; /* n tokens that start at row `base` */
    int first;                     /* of the block's rows, within the sequence */
    uint32_t row;                  /* ordinal, for dropout */
};

/* How many blocks of `height` rows there are at most: sequence b's are numbered from cu[b] / height + b on, in order,
 * and up to one number a sequence has no rows. */
static inline unsigned vp_attn_blocks(int64_t T, int64_t B, int height) {
    return (unsigned)(T / height + B);
}

/* Block `number`; false where it has no rows, or its sequence is not looked at. The whole warp calls. */
VP_DEVICE bool vp_attn_find(const vp_attn_job &job, int height, int number, vp_attn_place *at) {
    const int lane = (int)(threadIdx.x % 32);
    int low = 0, high = job.B; /* the last sequence whose blocks begin at or before `number` */
    while (high - low > 1) {
        const int step = (high - low + 31) / 32, b = low + lane * step;
        uint32_t before = vp_ballot(b < high && job.cu[b] / height + b <= number);
        int count = 0; /* at least lane 0's */
        for (; before; before &= before - 1) count++;
        low += (count - 1) * step;
        high = vp_smaller(high, low + step);
    }
    at->sequence = low;
    at->base = job.cu[low];
    at->n = job.cu[low + 1] - at->base;
    at->prefix = job.prefix ? job.prefix[low] : 0;
    at->row = job.drop.on ? (uint32_t)job.drop.row[low] : 0;
    at->first = (number - at->base / height - low) * height;
    return at->first < at->n && at->n >= job.least && at->n <= job.most;
}

VP_DEVICE int64_t vp_attn_saved_at(const vp_attn_job &job, const vp_attn_place &at, int head) {
    return head * job.saved_each + (at.base + at.sequence) / 2 * 2;
}

/* ---- masks ---- */
/* Query i sees keys [low, high), less those of other segments. Neither falls as i grows. */
VP_DEVICE int vp_attn_low(const vp_attn_job &job, int i) {
    return job.window ? vp_larger(0, i - job.window + 1) : 0;
}
VP_DEVICE int vp_attn_high(const vp_attn_job &job, const vp_attn_place &at, int i) {
    int high = job.causal ? vp_larger(i + 1, at.prefix) : i < at.prefix ? i + 1 : at.n;
    high = vp_smaller(high, at.n);
    return job.window ? vp_smaller(high, i + job.window) : high;
}
VP_DEVICE bool vp_attn_sees(const vp_attn_job &job, const vp_attn_place &at, int i, int j) {
    if (i >= at.n || j < vp_attn_low(job, i) || j >= vp_attn_high(job, at, i)) return false;
    if (!job.seg) return true;
    const uint8_t other = job.seg[at.base + j];
    return other == 0 || other == job.seg[at.base + i];
}

/* What is to do for queries [i0, i1) and keys [j0, j1), i0 < n: nothing, all, or to ask for each pair. */
enum vp_attn_class { VP_ATTN_NONE, VP_ATTN_SOME, VP_ATTN_ALL };
VP_DEVICE vp_attn_class vp_attn_sort(const vp_attn_job &job, const vp_attn_place &at, int i0, int i1, int j0, int j1) {
    const int last = vp_smaller(i1, at.n) - 1;
    if (j1 <= vp_attn_low(job, i0) || j0 >= vp_attn_high(job, at, last)) return VP_ATTN_NONE;
    const bool all = i1 <= at.n && !job.seg && j1 <= vp_attn_high(job, at, i0) && j0 >= vp_attn_low(job, last);
    return all ? VP_ATTN_ALL : VP_ATTN_SOME;
}

/* Blocks [from, past) of `height` keys that queries [i0, i1) see some of; of `height` queries that see some of keys
 * [j0, j1). */
struct vp_attn_range {
    int from, past;
};
VP_DEVICE vp_attn_range vp_attn_key_blocks(const vp_attn_job &job, const vp_attn_place &at, int i0, int i1,
                                           int height) {
    const int past = vp_attn_high(job, at, vp_smaller(i1, at.n) - 1);
    return {vp_attn_low(job, i0) / height, (past + height - 1) / height};
}
VP_DEVICE vp_attn_range vp_attn_query_blocks(const vp_attn_job &job, const vp_attn_place &at, int j0, int j1,
                                             int height) {
    int from = job.causal ? (j0 >= at.prefix ? j0 : 0) : vp_smaller(j0, at.prefix), past = at.n;
    if (job.window) {
        from = vp_larger(from, j0 - job.window + 1);
        past = vp_smaller(past, vp_smaller(j1, at.n) - 1 + job.window);
    }
    return {from / height, (past + height - 1) / height};
}

/* ---- launches, by compute type: attn_f32*.cu, attn_bf16*.cu, attn_group*.cu. The width is the job's. In bf16 it is a
 * multiple of 8, and rows begin at multiples of 16 bytes ---- */
int vp_attn_f32(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op);
int vp_attn_bf16(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op);
int vp_attn_f32_bwd(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op);
int vp_attn_bf16_bwd(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op);
/* The same by products of warp groups: sm_90, heads of at most 128. */
int vp_attn_group(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op);
int vp_attn_group_bwd(vp_queue *q, const vp_attn_job *job, const vp_attn_op *op);

/* Heads of width d as bf16's kernels take them: `to` is `m` where that will do, else scratch with heads of the next
 * multiple of 8; what m holds is copied to it where `filled`. And back. */
int vp_attn_pack(vp_queue *q, const vp_mat *m, int d, bool filled, vp_mat *to);
int vp_attn_unpack(vp_queue *q, const vp_mat *from, int d, const vp_mat *m);

#endif
