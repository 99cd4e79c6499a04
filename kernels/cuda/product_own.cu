/* Products by kernels of our own, for any shape, and the choice between them and the library (product.h). BF16 goes
 * through tensor cores, F32 does not. A block owns a tile of D and walks K from its start, so that an element's sum has
 * one order; with units it adds one sum a unit to what D holds. */
#include "kernels/cuda/map.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/refused.h"
#include "kernels/cuda/units.h"

struct product_args {
    const void *a, *b;
    const float *scale_a, *scale_b; /* of FP8 */
    int64_t lda, ldb, plane_a, plane_b, stride_a, stride_b, stride_d;
    int planes;
    int64_t M, N, K;
    float alpha;
    void *d;
    int64_t ldd;
    vp_dtype d_type;
    bool add, fast_a, fast_b; /* fast: rows and their ends lie at multiples of 16 bytes */
    vp_units units;           /* of K */
    unsigned across;          /* tiles along N */
    vp_routing group;         /* in kernels of experts */
};

/* A block's tile of D, its rows below M; b: where B begins. */
struct product_place {
    int64_t m0, n0, M, b;
};
/* Rows of experts are cut into tiles one expert after the other. The host does not know how many there are, and
 * launches as many blocks as could be: those left over get m0 = M. */
template <bool rows_of_experts> VP_DEVICE product_place find_place(const product_args &p, int tile) {
    product_place at = {(int64_t)(blockIdx.x / p.across) * tile, (int64_t)(blockIdx.x % p.across) * tile, p.M,
                        blockIdx.y * p.stride_b};
    if (!rows_of_experts) return at;
    int index = (int)(blockIdx.x / p.across);
    at.m0 = at.M;
    for (int e = 0; e < p.group.experts; e++) {
        const int first = p.group.offset[e], past = p.group.offset[e + 1], tiles = (past - first + tile - 1) / tile;
        if (index < tiles) return {first + (int64_t)index * tile, at.n0, past, e * p.stride_b};
        index -= tiles;
    }
    return at;
}

/* body(first, past) for the runs of K that are summed by themselves */
template <bool sums_of_experts, class F> VP_DEVICE void walk(const product_args &p, F body) {
    if constexpr (sums_of_experts)
        vp_units_walk_expert(p.units, p.group, (int)blockIdx.y, body);
    else
        vp_units_walk(p.units, body);
}

template <bool f8 = false> VP_DEVICE void store(const product_args &p, int64_t M, int64_t i, int64_t j, float sum) {
    if (i >= M || j >= p.N) return;
    if constexpr (f8) sum = sum * p.scale_a[i] * p.scale_b[j];
    const int64_t at = blockIdx.y * p.stride_d + i * p.ldd + j;
    if (p.d_type == VP_BF16)
        ((vp_bf16 *)p.d)[at] = vp_round<vp_bf16>(p.alpha * sum);
    else
        ((float *)p.d)[at] = p.add ? sum : p.alpha * sum;
}

/* What D holds to begin with. */
VP_DEVICE float start(const product_args &p, int64_t i, int64_t j) {
    return p.add && i < p.M && j < p.N ? ((const float *)p.d)[blockIdx.y * p.stride_d + i * p.ldd + j] : 0.0f;
}

/* ---- BF16: tiles of 64 x 64, 64 of K at a time, four warps of 32 x 32. Products of adapters have few tiles and a long
 * K: two stages of that under way hide the latency of memory even where a multiprocessor has one block. FP8 is the same
 * with pairs of numbers in the place of numbers: a tile of bf16 is one of FP8 that is twice as deep ---- */
constexpr int TILE = 64, DEPTH = 64, STAGES = 3, MMA_THREADS = 128;
/* A tile in shared memory is as its operand is stored: [TILE][DEPTH] or, `turned`, [DEPTH][TILE]; rows of an odd number
 * of 16 bytes, so that the eight rows of a matrix lie in different banks. */
template <bool turned> struct product_tile {
    static constexpr int ROWS = turned ? DEPTH : TILE, COLS = turned ? TILE : DEPTH, STRIDE = COLS + 8,
                         SIZE = ROWS * STRIDE;

    /* Rows (of M or N) from r, below `rows`, and of K from k, below `past`; zeros beyond. */
    static VP_INLINE void load(vp_shared<vp_bf16> to, const vp_bf16 *from, int64_t ld, int64_t r, int64_t rows,
                               int64_t k, int64_t past, bool fast) {
        for (int c = (int)threadIdx.x; c < ROWS * COLS / 8; c += MMA_THREADS) {
            const int row = c / (COLS / 8), col = c % (COLS / 8) * 8;
            const int64_t i = (turned ? k : r) + row, j = (turned ? r : k) + col;
            const bool in = i < (turned ? past : rows);
            const int64_t left = in ? (turned ? rows : past) - j : 0;
            if (fast) {
                vp_copy16(to + (row * STRIDE + col), from + (left > 0 ? i * ld + j : 0), left > 0);
            } else {
                for (int e = 0; e < 8; e++) to[row * STRIDE + col + e] = e < left ? from[i * ld + j + e] : vp_bf16{0};
            }
        }
    }

    /* Four 8 x 8 matrices of the 16 x 16 at (r, k): matrix i is rows 8 (i & in_rows) on, K 8 (i / 2 or i & 1) on. */
    static VP_INLINE void fragment(uint32_t f[4], vp_shared<vp_bf16> tile, int r, int k, bool rows_first) {
        const int lane = (int)threadIdx.x & 31, i = lane / 8, low = i & 1, high = i >> 1;
        const int row = r + 8 * (rows_first ? low : high), depth = k + 8 * (rows_first ? high : low);
        if (turned)
            vp_load_matrix4_t(f, tile + ((depth + lane % 8) * STRIDE + row));
        else
            vp_load_matrix4(f, tile + ((row + lane % 8) * STRIDE + depth));
    }
};

template <bool f8> VP_DEVICE void multiply(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    if constexpr (f8)
        vp_mma_f8(d, a, b);
    else
        vp_mma(d, a, b);
}

/* Of a warp's sums: [16 rows][8 columns][what a lane holds of them]. */
template <class F> VP_DEVICE void mma_each(F f) {
    VP_UNROLL for (int i = 0; i < 2; i++) {
        VP_UNROLL for (int j = 0; j < 4; j++) {
            VP_UNROLL for (int e = 0; e < 4; e++) f(i, j, e);
        }
    }
}

template <bool turned_a, bool turned_b, bool experts, bool f8> VP_KERNEL(MMA_THREADS) mma_kernel(product_args p) {
    using A = product_tile<turned_a>;
    using B = product_tile<turned_b>;
    vp_cutter cut;
    const vp_shared<vp_bf16> tile_a = cut.take<vp_bf16>(STAGES * A::SIZE), tile_b = cut.take<vp_bf16>(STAGES * B::SIZE);
    const product_place place = find_place < experts && !turned_a > (p, TILE);
    const int64_t m0 = place.m0, n0 = place.n0, M = place.M;
    if (m0 >= M) return;
    const vp_bf16 *a = (const vp_bf16 *)p.a + blockIdx.y * p.stride_a, *b = (const vp_bf16 *)p.b + place.b;
    const int warp = (int)threadIdx.x / 32, wm = warp / 2 * 32, wn = warp % 2 * 32;
    const int lane = (int)threadIdx.x & 31;
    const int64_t row = m0 + wm + lane / 4, col = n0 + wn + 2 * (lane % 4);
    float total[2][4][4];
    mma_each([&](int i, int j, int e) { total[i][j][e] = start(p, row + 16 * i + 8 * (e / 2), col + 8 * j + e % 2); });
    walk<experts && turned_a>(p, [&](int64_t first, int64_t past) {
        const int64_t depth = (past - first + DEPTH - 1) / DEPTH, steps = depth * p.planes;
        auto load = [&](int64_t s) {
            if (s < steps) {
                const int64_t plane = s / depth, k = first + s % depth * DEPTH;
                const int stage = (int)(s % STAGES);
                A::load(tile_a + stage * A::SIZE, a + plane * p.plane_a, p.lda, m0, M, k, past, p.fast_a);
                B::load(tile_b + stage * B::SIZE, b + plane * p.plane_b, p.ldb, n0, p.N, k, past, p.fast_b);
            }
            vp_copy_commit();
        };
        float sum[2][4][4] = {};
        for (int s = 0; s < STAGES - 1; s++) load(s);
        for (int64_t s = 0; s < steps; s++) {
            vp_copy_wait<STAGES - 2>();
            vp_barrier(); /* step s is there for all, and all are done with the stage that is filled next */
            load(s + STAGES - 1);
            const vp_shared<vp_bf16> at = tile_a + (int)(s % STAGES) * A::SIZE,
                                     bt = tile_b + (int)(s % STAGES) * B::SIZE;
            VP_UNROLL for (int k = 0; k < DEPTH; k += 16) {
                uint32_t fa[2][4], fb[2][4];
                VP_UNROLL for (int i = 0; i < 2; i++) A::fragment(fa[i], at, wm + 16 * i, k, true);
                VP_UNROLL for (int j = 0; j < 2; j++) B::fragment(fb[j], bt, wn + 16 * j, k, false);
                VP_UNROLL for (int i = 0; i < 2; i++) VP_UNROLL for (int j = 0; j < 4; j++)
                    multiply<f8>(sum[i][j], fa[i], fb[j / 2] + 2 * (j % 2));
            }
        }
        vp_copy_wait<0>();
        vp_barrier(); /* the next unit fills the first stages */
        mma_each([&](int i, int j, int e) { total[i][j][e] += sum[i][j][e]; });
    });
    mma_each(
        [&](int i, int j, int e) { store<f8>(p, M, row + 16 * i + 8 * (e / 2), col + 8 * j + e % 2, total[i][j][e]); });
}

/* ---- F32: tiles of 64 x 64, 16 of K at a time, 4 x 4 a thread, one chain of fused products an element ---- */
constexpr int FMA_DEPTH = 16, FMA_THREADS = 256, FMA_STRIDE = TILE + 4, FMA_EACH = TILE * FMA_DEPTH / FMA_THREADS;
/* A thread's elements of a tile, on their way from memory to shared memory, which is [FMA_DEPTH][TILE]. */
template <bool turned> struct product_fma_tile {
    float x[FMA_EACH];
    static VP_INLINE int row(int i) {
        const int e = (int)threadIdx.x + i * FMA_THREADS;
        return turned ? e % TILE : e / FMA_DEPTH;
    }
    static VP_INLINE int depth(int i) {
        const int e = (int)threadIdx.x + i * FMA_THREADS;
        return turned ? e / TILE : e % FMA_DEPTH;
    }
    VP_INLINE void load(const float *from, int64_t ld, int64_t r, int64_t rows, int64_t k, int64_t past) {
        VP_UNROLL for (int i = 0; i < FMA_EACH; i++) {
            const int64_t at = r + row(i), deep = k + depth(i);
            x[i] = at < rows && deep < past ? from[turned ? deep * ld + at : at * ld + deep] : 0.0f;
        }
    }
    VP_INLINE void put(vp_shared<float> to) const {
        VP_UNROLL for (int i = 0; i < FMA_EACH; i++) to[depth(i) * FMA_STRIDE + row(i)] = x[i];
    }
};

template <class F> VP_DEVICE void fma_each(F f) {
    VP_UNROLL for (int i = 0; i < 4; i++) {
        VP_UNROLL for (int j = 0; j < 4; j++) f(i, j);
    }
}

template <bool turned_a, bool turned_b, bool experts> VP_KERNEL(FMA_THREADS) fma_kernel(product_args p) {
    vp_cutter cut;
    const vp_shared<float> tile_a = cut.take<float>(FMA_DEPTH * FMA_STRIDE),
                           tile_b = cut.take<float>(FMA_DEPTH * FMA_STRIDE);
    const product_place place = find_place < experts && !turned_a > (p, TILE);
    const int64_t m0 = place.m0, n0 = place.n0, M = place.M;
    if (m0 >= M) return;
    const float *a = (const float *)p.a + blockIdx.y * p.stride_a, *b = (const float *)p.b + place.b;
    const int tm = (int)threadIdx.x / 16 * 4, tn = (int)threadIdx.x % 16 * 4;
    float total[4][4];
    fma_each([&](int i, int j) { total[i][j] = start(p, m0 + tm + i, n0 + tn + j); });
    walk<experts && turned_a>(p, [&](int64_t first, int64_t past) {
        product_fma_tile<turned_a> next_a;
        product_fma_tile<turned_b> next_b;
        float sum[4][4] = {};
        next_a.load(a, p.lda, m0, M, first, past);
        next_b.load(b, p.ldb, n0, p.N, first, past);
        for (int64_t k = first; k < past; k += FMA_DEPTH) {
            next_a.put(tile_a);
            next_b.put(tile_b);
            vp_barrier();
            next_a.load(a, p.lda, m0, M, k + FMA_DEPTH, past);
            next_b.load(b, p.ldb, n0, p.N, k + FMA_DEPTH, past);
            VP_UNROLL for (int d = 0; d < FMA_DEPTH; d++) {
                float x[4], y[4];
                VP_UNROLL for (int i = 0; i < 4; i++) {
                    x[i] = tile_a[d * FMA_STRIDE + tm + i];
                    y[i] = tile_b[d * FMA_STRIDE + tn + i];
                }
                fma_each([&](int i, int j) { sum[i][j] = fmaf(x[i], y[j], sum[i][j]); });
            }
            vp_barrier();
        }
        fma_each([&](int i, int j) { total[i][j] += sum[i][j]; });
    });
    fma_each([&](int i, int j) { store(p, M, m0 + tm + i, n0 + tn + j, total[i][j]); });
}

/* ---- launching ---- */
static bool lies_at_16(const void *p, int64_t ld, int64_t plane, int64_t stride) {
    const int64_t each = 16 / (int64_t)sizeof(vp_bf16);
    return (uintptr_t)p % 16 == 0 && ld % each == 0 && plane % each == 0 && stride % each == 0;
}

static product_args product_args_of(const vp_product_op *op) {
    product_args p = {};
    const bool turned_a = op->kind == VP_PRODUCT_TN, turned_b = op->kind != VP_PRODUCT_NT;
    p.a = op->a, p.b = op->b, p.d = op->d;
    p.lda = op->lda, p.ldb = op->ldb, p.ldd = op->ldd;
    p.planes = op->planes ? op->planes : 1;
    p.plane_a = op->plane_a, p.plane_b = op->plane_b;
    p.stride_a = op->stride_a, p.stride_b = op->stride_b, p.stride_d = op->stride_d;
    p.M = op->M, p.N = op->N, p.K = op->K;
    p.scale_a = op->scale_a, p.scale_b = op->scale_b;
    if (op->type == VP_F8) p.lda /= 2, p.ldb /= 2, p.K /= 2; /* pairs */
    p.alpha = op->alpha ? *op->alpha : 1.0f;
    p.d_type = op->d_type;
    p.add = op->add;
    p.fast_a = (turned_a ? p.M : p.K) % 8 == 0 && lies_at_16(p.a, p.lda, p.plane_a, p.stride_a);
    p.fast_b = (turned_b ? p.N : p.K) % 8 == 0 && lies_at_16(p.b, p.ldb, p.plane_b, p.stride_b);
    p.across = vp_blocks(p.N, TILE);
    if (op->group) p.group = *op->group;
    return p;
}

template <bool turned_a, bool turned_b, bool experts>
static int launch_as(vp_queue *q, const char *what, vp_dtype type, const product_args &p, dim3 grid) {
    if (type == VP_F32) {
        const size_t bytes = 2 * FMA_DEPTH * FMA_STRIDE * sizeof(float);
        return vp_launch(q, what, fma_kernel<turned_a, turned_b, experts>, grid, FMA_THREADS, bytes, p);
    }
    const size_t bytes = STAGES * (product_tile<turned_a>::SIZE + product_tile<turned_b>::SIZE) * sizeof(vp_bf16);
    if constexpr (!turned_a && !turned_b && !experts)
        if (type == VP_F8)
            return vp_launch(q, what, mma_kernel<false, false, false, true>, grid, MMA_THREADS, bytes, p);
    return vp_launch(q, what, mma_kernel<turned_a, turned_b, experts, false>, grid, MMA_THREADS, bytes, p);
}

template <bool turned_a, bool turned_b>
static int launch(vp_queue *q, const char *what, vp_dtype type, const product_args &p, dim3 grid) {
    return p.group.experts ? launch_as<turned_a, turned_b, true>(q, what, type, p, grid)
                           : launch_as<turned_a, turned_b, false>(q, what, type, p, grid);
}

static int launch_kind(vp_queue *q, const char *what, const vp_product_op *op, const product_args &p, dim3 grid) {
    if (op->kind == VP_PRODUCT_NT) return launch<false, false>(q, what, op->type, p, grid);
    if (op->kind == VP_PRODUCT_NN) return launch<false, true>(q, what, op->type, p, grid);
    return launch<true, true>(q, what, op->type, p, grid);
}

/* At most one tile of an expert is not full. */
static int run_experts(vp_queue *q, const char *what, const vp_product_op *op, product_args *p) {
    const unsigned experts = (unsigned)op->group->experts, tiles = vp_blocks(op->M, TILE);
    if (op->kind != VP_PRODUCT_TN) return launch_kind(q, what, op, *p, dim3((tiles + experts) * p->across));
    VP_TRY(vp_units_make(q, what, op->units, op->K / op->group->top_k, &p->units));
    return launch_kind(q, what, op, *p, dim3(tiles * p->across, experts));
}

int vp_product_own(vp_queue *q, const char *what, const vp_product_op *op) {
    const int64_t count = op->count ? op->count : 1, most = 65535;
    product_args p = product_args_of(op);
    if (op->M <= 0 || op->N <= 0) return VP_OK;
    VP_TRY(vp_units_make(q, what, op->group ? NULL : op->units, p.K, &p.units));
    if (op->group) return run_experts(q, what, op, &p);
    const size_t size = vp_dtype_size(op->type), d_size = vp_dtype_size(op->d_type);
    for (int64_t first = 0; first < count; first += most) {
        const dim3 grid(vp_blocks(p.M, TILE) * p.across, (unsigned)(count - first < most ? count - first : most));
        p.a = (const char *)op->a + first * p.stride_a * (int64_t)size;
        p.b = (const char *)op->b + first * p.stride_b * (int64_t)size;
        p.d = (char *)op->d + first * p.stride_d * (int64_t)d_size;
        VP_TRY(launch_kind(q, what, op, p, grid));
    }
    return VP_OK;
}

/* ---- copies of operands: of another type, at another alignment, in two planes ---- */
struct product_copy_map {
    vp_cells from, to;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS];
        vp_load8<vp_either, WIDE>(from, i, j, n, v);
        vp_store8<vp_either, WIDE>(to, i, j, n, v);
    }
};

static int copy_mat(vp_queue *q, const char *what, const vp_mat *from, const vp_mat *to) {
    return vp_map(q, what, vp_wide(*from, *to), product_copy_map{*from, *to}, from->rows, from->cols);
}

/* A matrix of this type and m's shape whose rows lie at multiples of 16 bytes. */
static int take_like(vp_queue *q, const char *what, const vp_mat *m, vp_dtype type, vp_mat *out) {
    *out = *m;
    out->dtype = type;
    out->ld = (m->cols + 7) / 8 * 8;
    out->ptr = vp_queue_take(q, what, (size_t)(m->rows * out->ld) * vp_dtype_size(type));
    return out->ptr ? VP_OK : VP_MEMORY;
}

int vp_product_typed(vp_queue *q, const char *what, const vp_mat *m, vp_dtype type, vp_mat *out) {
    *out = *m;
    if (m->dtype == type) return VP_OK;
    VP_TRY(take_like(q, what, m, type, out));
    return copy_mat(q, what, m, out);
}

struct product_split_map {
    vp_cells from, high, low;
    template <bool WIDE> VP_INLINE void run(int64_t i, int j, int n) const {
        float v[VP_CELLS];
        vp_load8<float, WIDE>(from, i, j, n, v);
        vp_store8<vp_bf16, WIDE>(high, i, j, n, v);
        for (int k = 0; k < VP_CELLS; k++) v[k] -= vp_float(vp_round<vp_bf16>(v[k]));
        vp_store8<vp_bf16, WIDE>(low, i, j, n, v);
    }
};

int vp_product_factor(vp_queue *q, const char *what, const vp_mat *x, vp_dtype type, void *to, int64_t from,
                      int64_t of) {
    vp_mat high = {NULL, type, x->rows, x->cols, x->cols, NULL};
    high.ptr = (char *)to + (size_t)(from * x->cols) * vp_dtype_size(type);
    if (type == VP_F32) return copy_mat(q, what, x, &high);
    vp_mat low = high;
    low.ptr = (vp_bf16 *)high.ptr + of * x->cols;
    return vp_map(q, what, vp_wide(*x, high, low), product_split_map{*x, high, low}, x->rows, x->cols);
}

/* ---- the choice ---- */
static bool aligned(const vp_mat *m) {
    return (uintptr_t)m->ptr % 16 == 0 && (size_t)m->ld * vp_dtype_size(m->dtype) % 16 == 0;
}

static vp_mat rows_from(const vp_mat *m, int64_t first) {
    vp_mat part = *m;
    part.ptr = (char *)m->ptr + (size_t)(first * m->ld) * vp_dtype_size(m->dtype);
    return part;
}

/* In pieces of at most `most` rows. */
static int run_library(vp_queue *q, const char *what, const vp_product_op *op, int64_t most) {
    const vp_mat a = {(void *)op->a, op->type, op->M, op->K, op->lda, NULL},
                 d = {op->d, op->d_type, op->M, op->N, op->ldd, NULL};
    vp_mat a_at = a, d_at = d;
    if (!aligned(&a)) {
        VP_TRY(take_like(q, what, &a, a.dtype, &a_at));
        VP_TRY(copy_mat(q, what, &a, &a_at));
    }
    if (!aligned(&d)) VP_TRY(take_like(q, what, &d, d.dtype, &d_at));
    for (int64_t first = 0; first < op->M; first += most) {
        vp_product_op part = *op;
        part.M = op->M - first < most ? op->M - first : most;
        part.a = rows_from(&a_at, first).ptr, part.lda = a_at.ld;
        part.d = rows_from(&d_at, first).ptr, part.ldd = d_at.ld;
        if (op->scale_a) part.scale_a = op->scale_a + first;
        VP_TRY(vp_product_library(q, what, &part));
    }
    return d_at.ptr == d.ptr ? VP_OK : copy_mat(q, what, &d_at, &d);
}

int vp_product_run(vp_queue *q, const char *what, const vp_product_op *op) {
    const int64_t rows = op->group ? 0 : vp_product_rows(q->device, op);
    if (op->M <= 0 || op->N <= 0) return VP_OK;
    if (rows == 0) {
        if (!q->plans && !op->group) vp_refused_ran(q->device, op);
        return vp_product_own(q, what, op);
    }
    const size_t mark = vp_arena_top(&q->arena);
    const int status = run_library(q, what, op, rows);
    vp_arena_back(&q->arena, mark);
    return status;
}
