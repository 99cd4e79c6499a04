/* repeat: a pass of small matrices takes the host longer to launch, kernel by kernel, than the device to compute. The
 * first time that a key comes its work is done plainly, so that kernels are loaded and the arena has grown; the second
 * time it is captured as a graph (CUDA C++ Programming Guide, "CUDA Graphs"); from then on that is launched.
 *
 * A graph holds addresses. Those of the arena follow from where it stands, which is part of the key, and from its
 * chunks: when one is given back all graphs go; so they do when a weight of the device was freed. */
#include "kernels/cuda/graph.h"
#include <functional>
#include <list>
#include <vector>

/* Keys that are remembered, so that graphs stay few; the least recently used one is forgotten. */
static const size_t MOST_KEYS = 32;

/* ---- one graph ---- */
#ifdef VP_SHIM
using Graph = std::vector<std::function<void()>>;

static void graph_free(Graph *g) {
    g->clear();
}
static bool graph_launch(vp_queue *q, const Graph &g) {
    (void)q;
    for (const auto &step : g) step();
    return true;
}
static bool graph_record(vp_queue *q, const vp_repeat_op *op, Graph *g) {
    (void)q;
    if (!vp_shim_record(g)) return false;
    const int status = op->work(op->ctx);
    vp_shim_record(NULL);
    return status == VP_OK;
}
#else
using Graph = cudaGraphExec_t;

static void graph_free(Graph *g) {
    if (*g) cudaGraphExecDestroy(*g); /* after what it has under way */
    *g = NULL;
}
static bool graph_launch(vp_queue *q, const Graph &g) {
    const bool good = cudaGraphLaunch(g, q->stream) == cudaSuccess;
    if (!good) cudaGetLastError();
    return good;
}
/* Other threads' queues go on meanwhile, and take memory. */
static bool graph_record(vp_queue *q, const vp_repeat_op *op, Graph *g) {
    cudaGraph_t graph = NULL;
    bool good = cudaStreamBeginCapture(q->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    if (good) {
        const int status = op->work(op->ctx);
        good = cudaStreamEndCapture(q->stream, &graph) == cudaSuccess && !status;
    }
    good = good && cudaGraphInstantiate(g, graph, 0) == cudaSuccess;
    if (graph) cudaGraphDestroy(graph);
    if (!good) cudaGetLastError(); /* it is not the next launch's */
    return good;
}
#endif

/* ---- those of a queue ---- */
using Key = std::vector<uint64_t>;
struct Pass {
    Key key;
    bool recorded, refused; /* neither: it came once */
    Graph graph;
};
struct vp_graphs {
    std::list<Pass> passes; /* the most recently used first */
    int64_t freed;          /* the device's, when the first of them was made */
};

void vp_graphs_drop(vp_queue *q) {
    if (!q->graphs) return;
    for (Pass &p : q->graphs->passes) graph_free(&p.graph);
    delete q->graphs;
    q->graphs = NULL;
}

/* The pass of that key, now the first of the list; NULL: it is not known. */
static Pass *find(vp_queue *q, const Key &key) {
    if (!q->graphs) return NULL;
    auto &all = q->graphs->passes;
    for (auto at = all.begin(); at != all.end(); ++at) {
        if (at->key != key) continue;
        all.splice(all.begin(), all, at);
        return &all.front();
    }
    return NULL;
}

static void remember(vp_queue *q, const Key &key) {
    if (!q->graphs) q->graphs = new vp_graphs{{}, q->device->freed};
    auto &all = q->graphs->passes;
    if (all.size() == MOST_KEYS) {
        graph_free(&all.back().graph);
        all.pop_back();
    }
    all.push_front({key, false, false, {}});
}

/* Work may give chunks of the arena back, and with them all that is remembered. */
static int do_plainly(vp_queue *q, const vp_repeat_op *op, const Key &key, bool known) {
    const int status = op->work(op->ctx);
    if (!status && !known && !find(q, key)) remember(q, key);
    return status;
}

static int record(vp_queue *q, const vp_repeat_op *op, const Key &key) {
    const size_t mark = vp_arena_top(&q->arena);
    Graph graph = {};
    const bool good = graph_record(q, op, &graph) && graph_launch(q, graph);
    Pass *p = find(q, key);
    if (good && p) {
        p->recorded = true;
        p->graph = graph;
        *op->how = VP_REPEAT_RECORDED;
        return VP_OK;
    }
    graph_free(&graph);
    if (good) return VP_OK;
    vp_arena_back(&q->arena, mark);
    if (p) p->refused = true;
    *op->how = VP_REPEAT_REFUSED;
    return do_plainly(q, op, key, true);
}

int vp_cuda_repeat(vp_queue *q, const vp_repeat_op *op) {
    *op->how = VP_REPEAT_PLAIN;
    if (q->plans) return op->work(op->ctx);
    if (q->graphs && q->graphs->freed != q->device->freed) vp_graphs_drop(q);
    Key key(op->key, op->key + op->keys);
    key.push_back((uint64_t)q->arena.current);
    key.push_back(q->arena.used);
    const Pass *p = find(q, key);
    if (!p || p->refused) return do_plainly(q, op, key, p);
    if (!p->recorded) return record(q, op, key);
    *op->how = VP_REPEAT_AGAIN;
    return graph_launch(q, p->graph) ? VP_OK : vp_queue_fail(q, VP_MEMORY, "a graph cannot be launched");
}
