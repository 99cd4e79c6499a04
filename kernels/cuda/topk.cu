/* topk: exact search over one block of rows, a chunk of them at a time. One kernel scores tiles of queries and rows and
 * keeps what reaches the running lists' last entries; another merges that into the lists. The order (score, then lower
 * row) is total, so neither the chunks nor who came first can be seen. Queries are three bf16 parts (parts.h), so a
 * score is an f32 sum in an order that depends on D alone. Of many queries a tile is first multiplied by the first part
 * alone: where no score can reach its list then, by Cauchy's bound on what was left out, the other two thirds of the
 * work are saved. Legend: queries [Q, D], rows [N, D], a list of k hits. */
#include "kernels/cuda/parts.h"
#include "kernels/cuda/cuda.h"
#include <math.h>

static constexpr int THREADS = 256, ROWS = 128, OCTETS = VP_OCTET_STEP / VP_OCTET, WORDS = ROWS / 32;
static constexpr int QUERY_WARPS = 2, WARP_ROWS = 32, ROW_TILES = WARP_ROWS / 8, PITCH = ROWS + 4;
/* Lists begin empty, when everything is kept: chunks grow from few rows to what scratch memory holds. */
static constexpr int64_t FIRST = 8 * ROWS, MOST = (int64_t)1 << 20, SCORES = (int64_t)64 << 20;

namespace {
struct topk_args {
    const vp_wide *queries; /* [3, padded, octets] parts of queries */
    int64_t padded, octets, Q;
    const char *rows; /* of the chunk */
    int64_t stride, N;
    int D;
    const float *scale;
    const uint8_t *live; /* first bit: the chunk's first row; or NULL */
    int64_t base;        /* number of the chunk's first row */
    int k;
    vp_hit *best;
    int32_t *found;
    float *scores; /* [Q, pitch] of those kept */
    int64_t pitch;
    vp_wide *kept; /* [Q, pitch / 128] bits */
    float *rest;   /* [Q] times a row's length: what the first parts' score may be off at most */
    float *length; /* [pitch] of rows, their scales included, rounded up */
};

/* MT: sixteens of queries a warp has. Queries and rows of one step over 32 columns make a stage. */
template <class R, int MT> struct shape {
    static constexpr int parts = vp_parts<R>, queries = 16 * MT * QUERY_WARPS, query_items = 3 * queries * OCTETS,
                         row_items = parts * ROWS * OCTETS, stages = parts == 1 ? 3 : 2,
                         staged = stages * (query_items + row_items) * (int)sizeof(vp_wide),
                         scored = queries * PITCH * (int)sizeof(float), bytes = staged > scored ? staged : scored;
};

} // namespace

/* ---- queries as parts, zeros past their end ---- */
VP_KERNEL(THREADS)
split_kernel(vp_rows_of<const float> queries, int64_t Q, int D, vp_wide *to, int64_t padded, int64_t octets) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = i / octets, at = i % octets * VP_OCTET;
    if (row >= padded) return;
    vp_raw<float> raw;
    vp_octet<3> x;
    vp_fetch<false>(raw, queries.p + (row < Q ? row * queries.ld + at : 0), row < Q ? (int)(D - at) : 0);
    vp_expand(x, raw);
    for (int p = 0; p < 3; p++) to[p * padded * octets + i] = x.part[p];
}

/* ---- what the first parts leave out ---- */
/* A warp has a row: its length, an f32 sum, a little more for its rounding. */
template <class R> VP_KERNEL(THREADS) length_kernel(topk_args a) {
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= a.N) return;
    float sum = 0.0f;
    for (int col = threadIdx.x % 32 * VP_OCTET; col < a.D; col += 32 * VP_OCTET) {
        vp_raw<R> raw;
        vp_octet<vp_parts<R>> x;
        vp_fetch<true>(raw, a.rows + row * a.stride + col * sizeof(R), a.D - col);
        vp_expand(x, raw);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float low = 0.0f, high = 0.0f;
#pragma unroll
            for (int p = vp_parts<R> - 1; p >= 0; p--) {
                low += vp_float_of(x.part[p].w[i] << 16);
                high += vp_float_of(x.part[p].w[i] & 0xffff0000u);
            }
            sum = fmaf(low, low, fmaf(high, high, sum));
        }
    }
    sum = vp_warp_sum(sum);
    if (threadIdx.x % 32 == 0) a.length[row] = sqrtf(sum) * 1.001f * (a.scale ? fabsf(a.scale[row]) : 1.0f);
}

/* A warp has a query. A score of the first parts is off by what they leave of the query; and by the rounding of its sum
 * of D terms and of the whole one's 3 D, 2^-24 of at most the product of the lengths each. */
VP_KERNEL(THREADS) rest_kernel(vp_rows_of<const float> queries, topk_args a) {
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= a.Q) return;
    float all = 0.0f, left = 0.0f;
    for (int col = threadIdx.x % 32; col < a.D; col += 32) {
        const float x = queries.p[row * queries.ld + col], y = x - vp_float(vp_round<vp_bf16>(x));
        all = fmaf(x, x, all);
        left = fmaf(y, y, left);
    }
    all = sqrtf(vp_warp_sum(all));
    left = sqrtf(vp_warp_sum(left));
    if (threadIdx.x % 32 == 0) a.rest[row] = 1.001f * (left + (float)a.D * 0x1p-22f * all);
}

/* ---- scores ---- */
namespace {
template <class R, int MT, bool WIDE> struct loader {
    using S = shape<R, MT>;
    static constexpr bool async = WIDE && sizeof(R) == 2;
    static constexpr int each = ROWS * OCTETS / THREADS; /* octets of rows that a thread brings */
    const topk_args &a;
    vp_shared<vp_wide> stage;
    vp_raw<R> raw[each];

    VP_INLINE vp_shared<vp_wide> queries_of(int step) const {
        return stage + step % S::stages * (S::query_items + S::row_items);
    }
    VP_INLINE vp_shared<vp_wide> rows_of(int step) const { return queries_of(step) + S::query_items; }
    /* Begins a stage; what is not asynchronous waits in registers for `finish`. */
    template <int PARTS> VP_INLINE void begin(int step) {
        const vp_shared<vp_wide> to = queries_of(step);
#pragma unroll
        for (int i = threadIdx.x; i < PARTS * S::queries * OCTETS; i += THREADS) {
            const int part = i / (S::queries * OCTETS), query = i / OCTETS % S::queries;
            const int64_t row = part * a.padded + (int64_t)blockIdx.x * S::queries + query;
            vp_copy16(to + i, a.queries + row * a.octets + step * OCTETS + i % OCTETS, true);
        }
#pragma unroll
        for (int i = 0; i < each; i++) {
            const int item = threadIdx.x + i * THREADS, col = step * VP_OCTET_STEP + item % OCTETS * VP_OCTET;
            const int64_t row = (int64_t)blockIdx.y * ROWS + item / OCTETS;
            const char *from = a.rows + (row < a.N ? row : 0) * a.stride;
            if constexpr (async)
                vp_copy16(rows_of(step) + item, (const vp_wide *)(from + (col < a.D ? col : 0) * sizeof(R)),
                          row < a.N && col < a.D);
            else
                vp_fetch<WIDE>(raw[i], from + col * sizeof(R), row < a.N ? a.D - col : 0);
        }
    }
    VP_INLINE void finish(int step) {
        if constexpr (!async)
#pragma unroll
            for (int i = 0; i < each; i++) {
                vp_octet<S::parts> x;
                vp_expand(x, raw[i]);
#pragma unroll
                for (int p = 0; p < S::parts; p++)
                    rows_of(step)[p * ROWS * OCTETS + threadIdx.x + i * THREADS] = x.part[p];
            }
        vp_copy_commit();
    }
};

} // namespace

/* d += this warp's tile over the stage's 32 columns, of so many parts of the queries. */
template <int PARTS, class R, int MT>
VP_DEVICE void multiply(float d[MT][ROW_TILES][4], vp_shared<vp_wide> queries, vp_shared<vp_wide> rows) {
    using S = shape<R, MT>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int query = warp % QUERY_WARPS * 16 * MT, row = warp / QUERY_WARPS * WARP_ROWS;
    vp_octet<S::parts> b[ROW_TILES];
#pragma unroll
    for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
        for (int p = 0; p < S::parts; p++) b[n].part[p] = rows[(p * ROWS + row + 8 * n) * OCTETS + lane];
#pragma unroll
    for (int m = 0; m < MT; m++) {
        vp_octet<PARTS> low, high;
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            low.part[p] = queries[(p * S::queries + query + 16 * m) * OCTETS + lane];
            high.part[p] = queries[(p * S::queries + query + 16 * m + 8) * OCTETS + lane];
        }
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++) vp_octet_mma(d[m][n], low, high, b[n]);
    }
}

/* d = the block's tile. */
template <int PARTS, class R, int MT, bool WIDE>
VP_DEVICE void multiply_all(float d[MT][ROW_TILES][4], loader<R, MT, WIDE> &load) {
    using S = shape<R, MT>;
    const int steps = (int)(load.a.octets / OCTETS);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) d[m][n][i] = 0.0f;
    for (int step = 0; step < S::stages - 1; step++) {
        if (step < steps) load.template begin<PARTS>(step);
        if (step < steps)
            load.finish(step);
        else
            vp_copy_commit();
    }
    for (int step = 0; step < steps; step++) {
        const int then = step + S::stages - 1;
        vp_copy_wait<S::stages - 2>();
        vp_barrier();
        if (then < steps) load.template begin<PARTS>(then);
        multiply<PARTS, R, MT>(d, load.queries_of(step), load.rows_of(step));
        if (then < steps)
            load.finish(then);
        else
            vp_copy_commit();
    }
    vp_copy_wait<0>();
    vp_barrier();
}

/* The score from which a query's list takes hits. */
VP_DEVICE float bar_of(const topk_args &a, int64_t query) {
    return a.found[query] == a.k ? a.best[(query + 1) * a.k - 1].score : -INFINITY;
}

/* Whether a score of the block's tile may reach its query's list; d: of the first parts. The same for all threads. */
template <int MT> VP_DEVICE bool promises(const topk_args &a, const float d[MT][ROW_TILES][4], vp_shared<int> some) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t query = ((int64_t)blockIdx.x * QUERY_WARPS + warp % QUERY_WARPS) * 16 * MT + lane / 4;
    const int64_t row = (int64_t)blockIdx.y * ROWS + warp / QUERY_WARPS * WARP_ROWS + lane % 4 * 2;
    bool yes = false;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int64_t q = query + 16 * m + 8 * half;
            if (q >= a.Q) continue;
            const float bar = bar_of(a, q), rest = a.rest[q];
#pragma unroll
            for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int64_t r = row + 8 * n + i;
                    if (r >= a.N) continue;
                    const float score = d[m][n][2 * half + i] * (a.scale ? a.scale[r] : 1.0f);
                    yes |= !(fmaf(rest, a.length[r], score) < bar); /* nor where one is no number */
                }
        }
    const uint32_t bits = vp_ballot(yes);
    if (lane == 0) some[warp] = bits != 0;
    vp_barrier();
    int all = 0;
    for (int i = 0; i < THREADS / 32; i++) all |= some[i];
    vp_barrier();
    return all;
}

/* The sums of a block's tile, in shared memory [queries, PITCH]. */
template <int MT> VP_DEVICE void spread(const float d[MT][ROW_TILES][4], vp_shared<float> tile) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int query = warp % QUERY_WARPS * 16 * MT + lane / 4;
    const int row = warp / QUERY_WARPS * WARP_ROWS + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) tile[(query + 16 * m + i / 2 * 8) * PITCH + row + 8 * n + i % 2] = d[m][n][i];
}

/* Scores that could become hits of `query`, whose sums are at `tile`, and the bits that say which they are. */
VP_DEVICE void keep(const topk_args &a, int64_t query, vp_shared<float> tile) {
    const int lane = threadIdx.x % 32;
    const float bar = bar_of(a, query);
    uint32_t mine = 0;
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        const int64_t row = (int64_t)blockIdx.y * ROWS + 32 * i + lane;
        float score = tile[32 * i + lane];
        bool yes = row < a.N;
        if (yes && a.scale) score *= a.scale[row];
        yes = yes && score >= bar && (!a.live || (a.live[row >> 3] >> (row & 7) & 1));
        const uint32_t bits = vp_ballot(yes);
        if (lane == i) mine = bits;
        if (yes) a.scores[query * a.pitch + row] = score;
    }
    if (lane < WORDS) ((uint32_t *)a.kept)[(query * (a.pitch / ROWS) + blockIdx.y) * WORDS + lane] = mine;
}

template <class R, int MT, bool WIDE> VP_KERNEL(THREADS) scores_kernel(topk_args a) {
    using S = shape<R, MT>;
    vp_cutter cut, again;
    loader<R, MT, WIDE> load = {a, cut.take<vp_wide>(S::stages * (S::query_items + S::row_items)), {}};
    float d[MT][ROW_TILES][4];
    if (MT > 1) {
        multiply_all<1, R, MT, WIDE>(d, load);
        if (!promises<MT>(a, d, again.take<int>(THREADS / 32))) {
            for (int i = threadIdx.x; i < S::queries; i += THREADS) {
                const int64_t query = (int64_t)blockIdx.x * S::queries + i;
                if (query < a.Q) a.kept[query * (a.pitch / ROWS) + blockIdx.y] = vp_wide{};
            }
            return;
        }
    }
    multiply_all<3, R, MT, WIDE>(d, load);
    vp_cutter over;
    const vp_shared<float> tile = over.take<float>(S::queries * PITCH);
    spread<MT>(d, tile);
    vp_barrier();
    for (int i = threadIdx.x / 32; i < S::queries; i += THREADS / 32) {
        const int64_t query = (int64_t)blockIdx.x * S::queries + i;
        if (query < a.Q) keep(a, query, tile + i * PITCH);
    }
}

/* ---- lists. A warp has one; all its lanes have the same `n` and `worst` ---- */
namespace {
struct list {
    vp_hit *hit;
    int n, k;
    vp_hit worst; /* of k */
    VP_INLINE static bool before(float score, int64_t row, const vp_hit &h) {
        return score > h.score || (score == h.score && row < h.row);
    }
    VP_INLINE bool takes(float score, int64_t row) const { return n < k || before(score, row, worst); }
    VP_INLINE void insert(float score, int64_t row) {
        const int lane = threadIdx.x % 32;
        int ahead = 0;
        for (int i = lane; i < n; i += 32) ahead += !before(score, row, hit[i]);
        for (int lanes = 16; lanes; lanes /= 2) ahead += vp_shuffle_xor(ahead, lanes);
        if (n < k) n++;
        for (int top = n - 1; top > ahead; top -= 32) { /* those behind go one on, the last ones first */
            const int to = top - lane;
            vp_hit moved = {};
            if (to > ahead) moved = hit[to - 1];
            vp_warp_barrier();
            if (to > ahead) hit[to] = moved;
            vp_warp_barrier();
        }
        if (lane == 0) hit[ahead] = vp_hit{score, row};
        vp_warp_barrier();
        if (n == k) worst = hit[k - 1];
    }
};

} // namespace

/* The kept ones of 128 rows from `row`, whose bits are `kept`. */
VP_DEVICE void merge_tile(const topk_args &a, list &to, const float *scores, int64_t row, const vp_wide &kept) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        const bool mine = kept.w[i] >> lane & 1;
        const int64_t at = row + 32 * i + lane;
        const float score = mine ? scores[at] : 0.0f;
        for (uint32_t left = vp_ballot(mine && to.takes(score, a.base + at)); left;) {
            const int lane_of = vp_lowest(left);
            to.insert(vp_shuffle(score, lane_of), a.base + row + 32 * i + lane_of);
            left &= left - 1;
            left &= vp_ballot(to.takes(score, a.base + at));
        }
    }
}

VP_KERNEL(THREADS) merge_kernel(topk_args a) {
    vp_cutter cut;
    vp_shared<vp_wide> kept = cut.take<vp_wide>(THREADS);
    const int64_t query = blockIdx.x, tiles = (a.N + ROWS - 1) / ROWS;
    list to = {a.best + query * a.k, a.found[query], a.k, {}};
    if (to.n == to.k) to.worst = to.hit[to.k - 1];
    for (int64_t first = 0; first < tiles; first += THREADS) {
        const int64_t mine = first + threadIdx.x;
        kept[threadIdx.x] = mine < tiles ? a.kept[query * (a.pitch / ROWS) + mine] : vp_wide{};
        vp_barrier();
        for (int i = 0; i < THREADS && threadIdx.x < 32; i += 32) {
            const vp_wide w = kept[i + threadIdx.x];
            for (uint32_t some = vp_ballot(w.w[0] | w.w[1] | w.w[2] | w.w[3]); some; some &= some - 1) {
                const int at = i + vp_lowest(some);
                merge_tile(a, to, a.scores + query * a.pitch, (first + at) * ROWS, kept[at]);
            }
        }
        vp_barrier();
    }
    if (threadIdx.x == 0) a.found[query] = to.n;
}

/* ---- host ---- */
template <class R, int MT, bool WIDE> static int score_chunk(vp_queue *q, const topk_args &a) {
    using S = shape<R, MT>;
    const dim3 grid(vp_blocks(a.Q, S::queries), vp_blocks(a.N, ROWS));
    return vp_launch(q, "topk scores", scores_kernel<R, MT, WIDE>, grid, THREADS, S::bytes, a);
}

template <class R> static int run_chunk(vp_queue *q, const topk_args &a) {
    const bool wide = (uintptr_t)a.rows % 16 == 0 && a.stride % 16 == 0 && a.D % VP_OCTET == 0;
    const bool few = a.Q <= shape<R, 1>::queries;
    const unsigned each = THREADS / 32;
    int status;
    if (wide && !few) VP_TRY(vp_launch(q, "topk lengths", length_kernel<R>, vp_blocks(a.N, each), THREADS, 0, a));
    if (!wide)
        status = score_chunk<R, 1, false>(q, a);
    else if (few)
        status = score_chunk<R, 1, true>(q, a);
    else
        status = score_chunk<R, 4, true>(q, a);
    VP_TRY(status);
    return vp_launch(q, "topk merge", merge_kernel, dim3((unsigned)a.Q), THREADS, THREADS * sizeof(vp_wide), a);
}

static int topk_run(vp_queue *q, const vp_topk_op *op) {
    const int64_t Q = op->queries.rows, N = op->rows.rows, align = shape<float, 4>::queries;
    const int64_t padded = (Q + align - 1) / align * align, octets = vp_blocks(op->rows.cols, VP_OCTET_STEP) * OCTETS;
    int64_t most = SCORES / Q / ROWS * ROWS;
    most = most < ROWS ? ROWS : most < MOST ? most : MOST;
    topk_args a = {};
    a.padded = padded;
    a.octets = octets;
    a.Q = Q;
    a.D = (int)op->rows.cols;
    a.k = op->k;
    a.best = op->best;
    a.found = op->found;
    a.pitch = N < most ? (N + ROWS - 1) / ROWS * ROWS : most;
    a.stride = op->rows.ld * (int64_t)vp_dtype_size(op->rows.dtype);
    vp_wide *parts = (vp_wide *)vp_queue_take(q, "topk", (size_t)(3 * padded * octets) * sizeof *parts);
    a.scores = (float *)vp_queue_take(q, "topk", (size_t)(Q * a.pitch) * sizeof *a.scores);
    a.kept = (vp_wide *)vp_queue_take(q, "topk", (size_t)(Q * a.pitch / ROWS) * sizeof *a.kept);
    a.rest = (float *)vp_queue_take(q, "topk", (size_t)Q * sizeof *a.rest);
    a.length = (float *)vp_queue_take(q, "topk", (size_t)a.pitch * sizeof *a.length);
    if (!parts || !a.scores || !a.kept || !a.rest || !a.length) return VP_MEMORY;
    a.queries = parts;
    VP_TRY(vp_launch(q, "topk queries", split_kernel, vp_blocks(padded * octets, THREADS), THREADS, 0, op->queries, Q,
                     a.D, parts, padded, octets));
    VP_TRY(vp_launch(q, "topk rests", rest_kernel, vp_blocks(Q, THREADS / 32), THREADS, 0, op->queries, a));
    for (int64_t first = 0, each = FIRST; first < N; first += a.N, each *= 4) {
        each = each < a.pitch ? each : a.pitch;
        a.N = N - first < each ? N - first : each;
        a.rows = (const char *)op->rows.ptr + first * a.stride;
        a.scale = op->rows.scale ? op->rows.scale + first : NULL;
        a.live = op->live ? op->live + first / 8 : NULL;
        a.base = op->base + first;
        VP_TRY(op->rows.dtype == VP_I8     ? run_chunk<int8_t>(q, a)
               : op->rows.dtype == VP_BF16 ? run_chunk<vp_bf16>(q, a)
                                           : run_chunk<float>(q, a));
    }
    return VP_OK;
}

static int topk_check(vp_queue *q, const vp_topk_op *op) {
    const vp_dtype type = op->rows.dtype;
    if (type != VP_F32 && type != VP_BF16 && type != VP_I8)
        return vp_queue_fail(q, VP_BUG, "topk.rows: is %s", vp_dtype_name(type));
    vp_mat rows = op->rows; /* of a type that vp_check_mat knows */
    rows.dtype = VP_F32;
    VP_TRY(vp_check_mat(q, "topk.queries", &op->queries, false, op->queries.rows, op->rows.cols));
    VP_TRY(vp_check_mat(q, "topk.rows", &rows, false, op->rows.rows, op->queries.cols));
    if (op->k < 1 || (op->queries.rows > 0 && (!op->best || !op->found)))
        return vp_queue_fail(q, VP_BUG, "topk: k is %d, or no lists", (int)op->k);
    return VP_OK;
}

int vp_cuda_topk(vp_queue *q, const vp_topk_op *op) {
    VP_TRY(topk_check(q, op));
    if (op->queries.rows == 0 || op->rows.rows == 0) return VP_OK;
    const size_t mark = vp_arena_top(&q->arena);
    const int status = topk_run(q, op);
    vp_arena_back(&q->arena, mark);
    return status;
}
