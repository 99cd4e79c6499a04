/* Attention of fresh tokens over a cache of keys and values. A sequence's keys, those of its spans and then the fresh
 * ones, are one row of numbers 0, 1, 2, ..., cut at multiples of KEYS. One block has some queries and one piece of
 * keys: maximum, sum and weighted values, every sum in an order that d alone decides. A second kernel merges the pieces
 * in ascending order. So a query's bytes depend on its keys alone: not on the spans, on the queries beside it, or on
 * whether it is a prompt's or a single one. Legend: q [T, H d], a span [n, G d], out [T, H d]. */
#include "kernels/cuda/attn_cached.h"
#include "kernels/cuda/vec.h"

static constexpr int KEYS = 256, THREADS = 256, COLUMNS = 4, WIDEST = KEYS * COLUMNS;
static constexpr size_t PARTS = (size_t)256 << 20; /* bytes of pieces at a time */

namespace {
struct cached_args {
    const int32_t *cu_q, *cu_k, *q_off, *prefix;
    const vp_tile *tiles;
    const vp_span *const *spans;
    const int32_t *nspans;
    bool bi;
    int window, share, d, first_group, groups; /* groups of this launch, from the first one on */
    float scale, softcap;
    vp_mat q, k, v, out;
    int64_t pieces;
    float *parts; /* [T, groups share, pieces, d] */
    float *tops;  /* [T, groups share, pieces, 2]: maximum and sum */
};

struct quad {
    alignas(16) float x[4];
};

/* ---- what a query sees ---- */
struct sight { /* keys [lo, hi) */
    int lo, hi;
};
} // namespace

VP_DEVICE int count_keys(const cached_args &a, int sequence) {
    int n = a.cu_k[sequence + 1] - a.cu_k[sequence];
    for (int i = 0; i < a.nspans[sequence]; i++) n += a.spans[sequence][i].length;
    return n;
}

VP_DEVICE sight sees(const cached_args &a, int sequence, int at, int keys) {
    const int prefix = a.prefix ? a.prefix[sequence] : 0;
    int end = at + 1 > prefix ? at + 1 : prefix;
    if (a.bi) end = at < prefix ? at + 1 : keys;
    sight s = {0, end > keys ? keys : end};
    if (a.window > 0) {
        s.lo = at - a.window + 1 > 0 ? at - a.window + 1 : 0;
        s.hi = at + a.window < s.hi ? at + a.window : s.hi;
    }
    return s;
}

/* ---- numbers of either type ---- */
/* How keys and values of a piece lie in memory: anyhow, or all of one type with every row at a multiple of 16 bytes and
 * d a multiple of 8. */
enum kind { ANY, WHOLE_BF16, WHOLE_F32 };

/* n (others: 0; all, but where ANY) of N neighbours at p. */
template <int N, kind KIND> VP_DEVICE void read(float x[N], const char *p, bool bf16, int n) {
    if constexpr (KIND == WHOLE_BF16) {
        struct alignas(2 * N) piece {
            uint32_t w[N / 2];
        };
        const piece all = *(const piece *)p;
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = vp_float_of(i % 2 ? all.w[i / 2] & 0xffff0000u : all.w[i / 2] << 16);
    } else if constexpr (KIND == WHOLE_F32) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const quad four = *(const quad *)(p + 4 * i);
#pragma unroll
            for (int k = 0; k < 4; k++) x[i + k] = four.x[k];
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            x[i] = i >= n ? 0.0f : bf16 ? vp_float(((const vp_bf16 *)p)[i]) : ((const float *)p)[i];
    }
}

VP_DEVICE const char *element(const vp_mat &m, int64_t row, int64_t col) {
    return (const char *)m.ptr + (row * m.ld + col) * (m.dtype == VP_BF16 ? 2 : 4);
}

namespace {
struct key_place { /* of one key, in its head's columns */
    const char *k, *v;
    bool bf16;
};
} // namespace

VP_DEVICE key_place find_key(const cached_args &a, int sequence, int group, int key) {
    const int64_t col = (int64_t)group * a.d;
    for (int i = 0; i < a.nspans[sequence]; i++) {
        const vp_span s = a.spans[sequence][i];
        if (key < s.length) {
            const int64_t at = (key * s.ld + col) * (s.dtype == VP_BF16 ? 2 : 4);
            return {(const char *)s.k + at, (const char *)s.v + at, s.dtype == VP_BF16};
        }
        key -= s.length;
    }
    const int64_t row = (int64_t)a.cu_k[sequence] + key;
    return {element(a.k, row, col), element(a.v, row, col), a.k.dtype == VP_BF16};
}

/* ---- one block: R rows (query, head of a group) over one piece ---- */
namespace {
template <int R> struct room {     /* shared memory */
    vp_shared<quad> queries;       /* [R, quads] */
    vp_shared<float> scores;       /* [R, KEYS] */
    vp_shared<const char *> value; /* [KEYS] */
    vp_shared<int> bf16;           /* [KEYS] */
    vp_shared<int> kinds;          /* a warp's keys */
    vp_shared<quad> sums;          /* [THREADS, R] */
    VP_INLINE room(int quads) {
        vp_cutter cut;
        queries = cut.take<quad>(R * quads);
        scores = cut.take<float>(R * KEYS);
        value = cut.take<const char *>(KEYS);
        bf16 = cut.take<int>(KEYS);
        kinds = cut.take<int>(THREADS / 32);
        sums = cut.take<quad>(THREADS * R);
    }
    static size_t bytes(int quads) {
        return (size_t)R * (quads * sizeof(quad) + KEYS * sizeof(float) + THREADS * sizeof(quad)) +
               KEYS * (sizeof(char *) + sizeof(int)) + THREADS / 32 * sizeof(int);
    }
};
struct work { /* of a block: rows from `row` on of a tile, keys [key0, key0 + n) of `keys` */
    int sequence, group, row, rows, at, keys, key0, n; /* at: of the tile's first query among the keys */
    int64_t token;                                     /* of it in the batch */
};
} // namespace

template <int R> VP_DEVICE void load_queries(const cached_args &a, const work &w, const room<R> &m, int quads) {
    for (int i = threadIdx.x; i < R * quads; i += THREADS) {
        const int row = w.row + i / quads, col = i % quads * 4;
        quad x = {};
        if (row < w.rows)
            read<4, ANY>(
                x.x, element(a.q, w.token + row / a.share, (int64_t)(w.group * a.share + row % a.share) * a.d + col),
                a.q.dtype == VP_BF16, a.d - col);
        m.queries[i] = x;
    }
}

/* A thread has a key: where it lies, and what kind the piece is. */
template <int R> VP_DEVICE key_place place_keys(const cached_args &a, const work &w, const room<R> &m) {
    const int j = threadIdx.x;
    const key_place p = find_key(a, w.sequence, w.group, w.key0 + (j < w.n ? j : w.n - 1));
    const bool whole = a.d % 8 == 0 && ((uintptr_t)p.k | (uintptr_t)p.v) % 16 == 0;
    const uint32_t half = vp_ballot(whole && p.bf16), full = vp_ballot(whole && !p.bf16);
    m.value[j] = p.v;
    m.bf16[j] = p.bf16;
    if (j % 32 == 0) m.kinds[j / 32] = half == 0xffffffffu ? WHOLE_BF16 : full == 0xffffffffu ? WHOLE_F32 : ANY;
    return p;
}
template <int R> VP_DEVICE kind kind_of(const room<R> &m) {
    const int first = m.kinds[0];
    for (int i = 1; i < THREADS / 32; i++)
        if (m.kinds[i] != first) return ANY;
    return (kind)first;
}

/* A thread has a key. A product is two chains over the columns, of their octets' halves. */
template <int R, kind KIND>
VP_DEVICE void score(const cached_args &a, const key_place &p, const room<R> &m, int quads) {
    float low[R], high[R];
#pragma unroll
    for (int r = 0; r < R; r++) low[r] = high[r] = 0.0f;
#pragma unroll 2
    for (int i = 0; i < quads; i += 2) {
        float k[8];
        read<8, KIND>(k, p.k + i * 4 * (p.bf16 ? 2 : 4), p.bf16, a.d - i * 4);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const quad x = m.queries[r * quads + i], y = m.queries[r * quads + i + 1];
#pragma unroll
            for (int c = 0; c < 4; c++) {
                low[r] = fmaf(x.x[c], k[c], low[r]);
                high[r] = fmaf(y.x[c], k[4 + c], high[r]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++) m.scores[r * KEYS + threadIdx.x] = low[r] + high[r];
}

/* A warp has a row: scores become e^(score - maximum), rounded to q's type; maximum and sum are written. */
template <int R> VP_DEVICE void soften(const cached_args &a, const work &w, const room<R> &m) {
    const bool bf16 = a.q.dtype == VP_BF16;
    const int lane = threadIdx.x % 32;
    for (int r = threadIdx.x / 32; r < R && w.row + r < w.rows; r += THREADS / 32) {
        const sight see = sees(a, w.sequence, w.at + (w.row + r) / a.share, w.keys);
        float s[KEYS / 32], top = -INFINITY, sum = 0.0f;
#pragma unroll
        for (int i = 0; i < KEYS / 32; i++) {
            const int key = w.key0 + 32 * i + lane;
            s[i] = m.scores[r * KEYS + 32 * i + lane] * a.scale;
            if (a.softcap > 0.0f) s[i] = a.softcap * v_tanh(s[i] / a.softcap);
            if (key < see.lo || key >= see.hi) s[i] = -INFINITY;
            top = s[i] > top ? s[i] : top;
        }
        top = vp_warp_max(top);
#pragma unroll
        for (int i = 0; i < KEYS / 32; i++) {
            const float p = top > -INFINITY ? v_exp(s[i] - top) : 0.0f;
            sum += p;
            m.scores[r * KEYS + 32 * i + lane] = bf16 ? vp_float(vp_round<vp_bf16>(p)) : p;
        }
        sum = vp_warp_sum(sum);
        const int64_t at =
            ((w.token + (w.row + r) / a.share) * a.groups + w.group - a.first_group) * a.share + (w.row + r) % a.share;
        if (lane == 0) {
            a.tops[2 * (at * a.pieces + w.key0 / KEYS)] = top;
            a.tops[2 * (at * a.pieces + w.key0 / KEYS) + 1] = sum;
        }
    }
}

/* A thread has four columns and every so many keys, some at a time. */
template <int R, kind KIND>
VP_DEVICE void mix(const cached_args &a, const work &w, const room<R> &m, int col, int set, int sets, quad sum[R]) {
    constexpr int AHEAD = R == 8 ? 4 : 2;
    for (int first = set; first < w.n; first += AHEAD * sets) {
        float v[AHEAD][COLUMNS];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int at = first + i * sets, j = at < w.n ? at : first;
            const bool bf16 = KIND == ANY ? m.bf16[j] != 0 : KIND == WHOLE_BF16;
            read<COLUMNS, KIND>(v[i], m.value[j] + col * (bf16 ? 2 : 4), bf16, a.d - col);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int j = first + i * sets;
            if (j >= w.n) continue;
#pragma unroll
            for (int r = 0; r < R; r++) {
                const float p = m.scores[r * KEYS + j];
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) sum[r].x[c] = fmaf(p, v[i][c], sum[r].x[c]);
            }
        }
    }
}

/* out = sum p v of the piece: the threads' sums, those of the same columns added in order. */
template <int R> VP_DEVICE void mix_all(const cached_args &a, const work &w, const room<R> &m, kind k) {
    const int fours = (a.d + COLUMNS - 1) / COLUMNS, sets = THREADS / fours;
    const int col = threadIdx.x % fours * COLUMNS, set = threadIdx.x / fours;
    quad sum[R] = {};
    if (set < sets && k == WHOLE_BF16) mix<R, WHOLE_BF16>(a, w, m, col, set, sets, sum);
    if (set < sets && k == WHOLE_F32) mix<R, WHOLE_F32>(a, w, m, col, set, sets, sum);
    if (set < sets && k == ANY) mix<R, ANY>(a, w, m, col, set, sets, sum);
#pragma unroll
    for (int r = 0; r < R; r++) m.sums[r * THREADS + threadIdx.x] = sum[r];
    vp_barrier();
    for (int i = threadIdx.x; i < R * fours; i += THREADS) {
        const int row = w.row + i / fours, at = i % fours;
        if (row >= w.rows) continue;
        quad all = m.sums[i / fours * THREADS + at];
        for (int s = 1; s < sets; s++) {
            const quad more = m.sums[i / fours * THREADS + s * fours + at];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) all.x[c] += more.x[c];
        }
        const int64_t query = (w.token + row / a.share) * a.groups + w.group - a.first_group;
        float *to = a.parts + ((query * a.share + row % a.share) * a.pieces + w.key0 / KEYS) * a.d + at * COLUMNS;
        for (int c = 0; c < COLUMNS && at * COLUMNS + c < a.d; c++) to[c] = all.x[c];
    }
}

/* Grid: (tile, group), rows in steps of R, pieces. A piece that a block's rows do not see has the sum 0. */
template <int R> VP_KERNEL(THREADS, R < 16 ? 2 : 1) piece_kernel(cached_args a) {
    const int quads = (a.d + 7) / 8 * 2;
    const vp_tile tile = a.tiles[blockIdx.x / a.groups];
    room<R> m(quads);
    work w = {};
    w.sequence = tile.sequence;
    w.group = a.first_group + (int)(blockIdx.x % a.groups);
    w.rows = tile.count * a.share;
    w.at = (a.q_off ? a.q_off[tile.sequence] : 0) + tile.first;
    w.keys = count_keys(a, tile.sequence);
    w.key0 = (int)blockIdx.z * KEYS;
    w.n = w.keys - w.key0 < KEYS ? w.keys - w.key0 : KEYS;
    w.token = a.cu_q[tile.sequence] + tile.first;
    for (w.row = (int)blockIdx.y * R; w.row < w.rows; w.row += (int)gridDim.y * R) {
        const int last = w.row + R < w.rows ? w.row + R - 1 : w.rows - 1;
        const sight from = sees(a, w.sequence, w.at + w.row / a.share, w.keys);
        const sight to = sees(a, w.sequence, w.at + last / a.share, w.keys);
        if (w.key0 >= to.hi || w.key0 + KEYS <= from.lo) {
            for (int r = threadIdx.x; r <= last - w.row; r += THREADS) {
                const int64_t query = (w.token + (w.row + r) / a.share) * a.groups + w.group - a.first_group;
                a.tops[2 * ((query * a.share + (w.row + r) % a.share) * a.pieces + blockIdx.z)] = -INFINITY;
            }
            continue;
        }
        load_queries<R>(a, w, m, quads);
        const key_place p = place_keys<R>(a, w, m);
        vp_barrier();
        const kind k = kind_of<R>(m);
        if (k == WHOLE_BF16) score<R, WHOLE_BF16>(a, p, m, quads);
        if (k == WHOLE_F32) score<R, WHOLE_F32>(a, p, m, quads);
        if (k == ANY) score<R, ANY>(a, p, m, quads);
        vp_barrier();
        soften<R>(a, w, m);
        vp_barrier();
        mix_all<R>(a, w, m, k);
        vp_barrier();
    }
}

/* A warp has a query's head: a <- a and b, whose keys come after a's. */
VP_KERNEL(THREADS) merge_kernel(cached_args a, int64_t rows) {
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32, heads = (int64_t)a.groups * a.share;
    if (row >= rows) return;
    const int64_t token = row / heads, head = a.first_group * a.share + row % heads;
    const float *tops = a.tops + 2 * row * a.pieces, *parts = a.parts + row * a.pieces * a.d;
    for (int c = threadIdx.x % 32; c < a.d; c += 32) {
        float top = -INFINITY, sum = 0.0f, x = 0.0f;
        for (int64_t p = 0; p < a.pieces; p++) {
            const float then = tops[2 * p];
            if (then == -INFINITY) continue;
            const float both = then > top ? then : top, mine = v_exp(top - both), its = v_exp(then - both);
            x = fmaf(its, parts[p * a.d + c], mine * x);
            sum = fmaf(its, tops[2 * p + 1], mine * sum);
            top = both;
        }
        x = x * (sum > 0.0f ? 1.0f / sum : 0.0f) + 0.0f; /* no -0, which pieces that are not seen would not leave */
        const int64_t at = token * a.out.ld + head * a.d + c;
        if (a.out.dtype == VP_BF16)
            ((vp_bf16 *)a.out.ptr)[at] = vp_round<vp_bf16>(x);
        else
            ((float *)a.out.ptr)[at] = x;
    }
}

/* ---- host ---- */
static int check_cached(vp_queue *q, const vp_attn_op *op) {
    const vp_batch *b = op->batch;
    if (!b || !b->cu_q || !b->cu_k || !op->nspans || (b->ntiles > 0 && !b->tiles))
        return vp_queue_fail(q, VP_BUG, "attn: no offsets, spans or tiles");
    if (b->seg || op->drop.p != 0.0f || op->lse)
        return vp_queue_fail(q, VP_BUG, "attn: segments, dropout or lse over cached keys");
    if (op->heads < 1 || op->groups < 1 || op->heads % op->groups != 0 || op->d < 1 || op->d > WIDEST || op->window < 0)
        return vp_queue_fail(q, VP_BUG, "attn: %d heads in %d groups of width %d", (int)op->heads, (int)op->groups,
                             (int)op->d);
    if (op->most_keys < 0 || op->most_keys > KEYS * 65535)
        return vp_queue_fail(q, VP_BUG, "attn: %d keys", (int)op->most_keys);
    const int64_t queries = (int64_t)op->heads * op->d, keys = (int64_t)op->groups * op->d;
    VP_TRY(vp_check_mat(q, "attn.q", &op->q, true, b->T, queries));
    VP_TRY(vp_check_mat(q, "attn.out", &op->out, true, b->T, queries));
    if (op->k.rows) VP_TRY(vp_check_mat(q, "attn.k", &op->k, true, op->k.rows, keys));
    if (op->k.rows) VP_TRY(vp_check_mat(q, "attn.v", &op->v, true, op->k.rows, keys));
    if (op->k.rows && op->k.dtype != op->v.dtype) return vp_queue_fail(q, VP_BUG, "attn: k and v of unlike types");
    return VP_OK;
}

template <int R> static int run(vp_queue *q, const cached_args &a, const vp_batch *b) {
    const int64_t steps = vp_blocks((int64_t)(b->longest > 1 ? b->longest : 1) * a.share, R);
    const dim3 grid((unsigned)(b->ntiles * a.groups), steps < 32 ? (unsigned)steps : 32u, (unsigned)a.pieces);
    const int64_t rows = b->T * a.groups * a.share;
    VP_TRY(vp_launch(q, "attn pieces", piece_kernel<R>, grid, THREADS, room<R>::bytes((a.d + 7) / 8 * 2), a));
    return vp_launch(q, "attn merge", merge_kernel, vp_blocks(rows, THREADS / 32), THREADS, 0, a, rows);
}

/* As many groups at a time as their pieces fit. */
static int run_groups(vp_queue *q, const vp_attn_op *op, cached_args &a) {
    const vp_batch *b = op->batch;
    const bool single = b->T == b->ntiles; /* every sequence has one query */
    const size_t rows = (size_t)(b->T * a.share * a.pieces), each = rows * (size_t)(a.d + 2) * sizeof(float);
    const int64_t fit = (int64_t)(PARTS / each), at_once = fit < 1 ? 1 : fit < op->groups ? fit : op->groups;
    a.parts = (float *)vp_queue_take(q, "attn", (size_t)at_once * rows * (size_t)a.d * sizeof(float));
    a.tops = (float *)vp_queue_take(q, "attn", (size_t)at_once * rows * 2 * sizeof(float));
    if (!a.parts || !a.tops) return VP_MEMORY;
    for (; a.first_group < op->groups; a.first_group += a.groups) {
        a.groups = (int)(op->groups - a.first_group < at_once ? op->groups - a.first_group : at_once);
        const bool many = !single || a.share > 8;
        if (many && a.d <= 192) /* wider rows leave room for fewer */
            VP_TRY(run<16>(q, a, b));
        else if (many || a.share > 4)
            VP_TRY(run<8>(q, a, b));
        else
            VP_TRY(run<4>(q, a, b));
    }
    return VP_OK;
}

int vp_attn_cached(vp_queue *q, const vp_attn_op *op) {
    const vp_batch *b = op->batch;
    VP_TRY(check_cached(q, op));
    if (b->T == 0) return VP_OK;
    cached_args a = {};
    a.cu_q = b->cu_q;
    a.cu_k = b->cu_k;
    a.q_off = b->q_off;
    a.prefix = b->prefix;
    a.tiles = b->tiles;
    a.spans = op->spans;
    a.nspans = op->nspans;
    a.bi = op->mode == VP_ATTN_BI;
    a.window = op->window;
    a.share = op->heads / op->groups;
    a.d = op->d;
    a.scale = op->scale;
    a.softcap = op->softcap;
    a.q = op->q;
    a.k = op->k;
    a.v = op->v;
    a.out = op->out;
    a.pieces = vp_blocks(op->most_keys > 1 ? op->most_keys : 1, KEYS);
    const size_t mark = vp_arena_top(&q->arena);
    const int status = run_groups(q, op, a);
    vp_arena_back(&q->arena, mark);
    return status;
}
