/* Embedding: rows of a table that is on the device; and the gradient of the table, the tokens of an id in their order.
 */
#include "kernels/cuda/chain.h"
#include "kernels/cuda/map.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/weight.h"

/* ---- out[t] = scale table[ids[t]] (+ positions[pos[t]]) (+ types). An id past the table gives NaN: it is for who
 * makes ids to see that they are below its rows ---- */
struct embed_map {
    vp_cells table, positions, types, out;
    const int32_t *ids, *pos;
    int64_t vocabulary;
    float scale;
    template <bool WIDE> VP_INLINE void run(int64_t t, int j, int n) const {
        float v[VP_CELLS], w[VP_CELLS];
        const int32_t id = ids[t];
        const bool known = id >= 0 && id < vocabulary;
        for (int k = 0; k < VP_CELLS; k++) v[k] = NAN;
        if (known) vp_load8<vp_either, WIDE>(table, id, j, n, v);
        for (int k = 0; k < VP_CELLS; k++) v[k] *= scale;
        if (positions.p) {
            vp_load8<float, WIDE>(positions, pos[t], j, n, w);
            for (int k = 0; k < VP_CELLS; k++) v[k] += w[k];
        }
        if (types.p) {
            vp_load8<float, WIDE>(types, 0, j, n, w);
            for (int k = 0; k < VP_CELLS; k++) v[k] += w[k];
        }
        vp_store8<float, WIDE>(out, t, j, n, v);
    }
};

int vp_cuda_embed(vp_queue *q, const vp_embed_op *op) {
    const int64_t T = op->batch ? op->batch->T : op->out.rows;
    const vp_weight *w = op->resident;
    VP_TRY(vp_check_typed(q, "embed.out", &op->out, VP_F32, T, op->C));
    if (T > 0 && !op->ids) return vp_queue_fail(q, VP_BUG, "embed: no ids");
    if (op->positions && !(op->batch && op->batch->pos)) return vp_queue_fail(q, VP_BUG, "embed: no positions");
    if (!w || w->in != op->C || (w->row_type != VP_F32 && w->row_type != VP_BF16))
        return vp_queue_fail(q, VP_BUG, "embed: no table of width %lld on the device", (long long)op->C);
    const vp_mat table = {w->row, w->row_type, w->out, w->in, w->in, NULL};
    embed_map f = {table, op->positions, op->types, op->out, op->ids, NULL, w->out, op->scale};
    f.positions.ld = op->C;
    if (op->positions) f.pos = op->batch->pos;
    return vp_map(q, "embed", vp_wide(table, op->out, op->positions, op->types), f, T, op->C);
}

/* ---- dtable[ids[t] - dfirst] += scale dout[t] ---- */
struct embed_bwd_map {
    vp_cells dout, dtable;
    const int32_t *ids;
    vp_chain chain;
    int64_t first, past; /* the ids that have a gradient */
    float scale;
    template <bool WIDE> VP_INLINE void run(int64_t t, int j, int n) const {
        const int64_t id = ids[t];
        if (!chain.first[t] || id < first || id >= past) return;
        float sum[VP_CELLS], v[VP_CELLS];
        vp_load8<float, WIDE>(dtable, id - first, j, n, sum);
        for (int32_t i = (int32_t)t; i >= 0; i = chain.next[i]) {
            vp_load8<float, WIDE>(dout, i, j, n, v);
            for (int k = 0; k < VP_CELLS; k++) sum[k] += scale * v[k];
        }
        vp_store8<float, WIDE>(dtable, id - first, j, n, sum);
    }
};

int vp_cuda_embed_bwd(vp_queue *q, const vp_embed_op *op) {
    const int64_t T = op->batch ? op->batch->T : op->out.rows, rows = op->table.rows + op->extra.rows;
    VP_TRY(vp_check_grad(q, "embed_bwd.dout", op->dout, VP_F32, T, op->C));
    if (T > 0 && (!op->ids || !op->dtable)) return vp_queue_fail(q, VP_BUG, "embed_bwd: no ids or no dtable");
    const size_t mark = vp_arena_top(&q->arena);
    embed_bwd_map f = {*op->dout, op->dtable, op->ids, {}, op->dfirst, rows, op->scale};
    f.dtable.ld = op->C;
    int status = vp_chain_make(q, "embed_bwd", op->ids, T, &f.chain);
    if (!status) status = vp_map(q, "embed_bwd", vp_wide(*op->dout, op->dtable), f, T, op->C);
    vp_arena_back(&q->arena, mark);
    return status;
}
