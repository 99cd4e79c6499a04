/* Products by oneDNN (2.x and 3.x), and nothing else of it anywhere: one thread, fixed tiles, weights packed once in
 * the layout that the primitive asks for. Each shape is certified before its first use. */
#include "kernels/cpu/product.h"
#include "lib/base/half.h"
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

/* oneDNN is linked to OpenMP, and divides work when a primitive is made as well as when it runs: a thread that calls it
 * says first that it works alone, and takes that back afterwards. Otherwise teams appear, which spin when idle. */
void omp_set_num_threads(int n);
int omp_get_max_threads(void);
static int work_alone(void) {
    int team = omp_get_max_threads();
    omp_set_num_threads(1);
    return team;
}
static void work_as_before(int team) {
    omp_set_num_threads(team);
}

typedef struct tile_primitive {
    int rows;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t run;
} tile_primitive;

struct vp_product_shape {
    const vp_product *product;
    vp_dtype type; /* of x and w */
    int64_t k, n;
    bool usable;
    tile_primitive tall, low; /* VP_TILE and VP_TILE_SHORT rows */
    size_t packed_bytes, scratch_bytes;
    vp_product_shape *next;
};

struct vp_product {
    dnnl_engine_t engine;
    dnnl_stream_t *stream; /* [streams]: one a thread, the last one for certifying beside running work */
    int streams;
    vp_product_shape *shapes;
};

static dnnl_data_type_t type_of(vp_dtype type) {
    return type == VP_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* ---- what differs between the two versions: descriptors of memory, and how a product is described ---- */
#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t md_ref;
typedef dnnl_memory_desc_t md_own;
static dnnl_status_t md_init(md_own *md, vp_dtype type, int64_t rows, int64_t cols, dnnl_format_tag_t tag) {
    dnnl_dims_t dims = {rows, cols};
    return dnnl_memory_desc_create_with_tag(md, 2, dims, type_of(type), tag);
}
static md_ref md_of(const md_own *md) {
    return *md;
}
static void md_free(md_own *md) {
    if (*md) dnnl_memory_desc_destroy(*md);
}
static dnnl_status_t describe(dnnl_primitive_desc_t *desc, dnnl_engine_t engine, md_ref x, md_ref w, md_ref out,
                              dnnl_primitive_attr_t attr) {
    return dnnl_matmul_primitive_desc_create(desc, engine, x, w, NULL, out, attr);
}
#else
typedef const dnnl_memory_desc_t *md_ref;
typedef dnnl_memory_desc_t md_own;
static dnnl_status_t md_init(md_own *md, vp_dtype type, int64_t rows, int64_t cols, dnnl_format_tag_t tag) {
    dnnl_dims_t dims = {rows, cols};
    return dnnl_memory_desc_init_by_tag(md, 2, dims, type_of(type), tag);
}
static md_ref md_of(const md_own *md) {
    return md;
}
static void md_free(md_own *md) {
    (void)md;
}
static dnnl_status_t describe(dnnl_primitive_desc_t *desc, dnnl_engine_t engine, md_ref x, md_ref w, md_ref out,
                              dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t matmul;
    dnnl_status_t status = dnnl_matmul_desc_init(&matmul, x, w, NULL, out);
    if (status != dnnl_success) return status;
    return dnnl_primitive_desc_create(desc, &matmul, attr, engine, NULL);
}
#endif

/* ---- a primitive for one tile height ---- */
static dnnl_status_t primitive_make(tile_primitive *t, const vp_product_shape *s, int rows, md_ref weights) {
    md_own x = {0}, out = {0};
    dnnl_primitive_attr_t attr = NULL;
    t->rows = rows;
    dnnl_status_t status = md_init(&x, s->type, rows, s->k, dnnl_ab);
    if (status == dnnl_success) status = md_init(&out, VP_F32, rows, s->n, dnnl_ab);
    if (status == dnnl_success) status = dnnl_primitive_attr_create(&attr);
    if (status == dnnl_success) status = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (status == dnnl_success) status = describe(&t->desc, s->product->engine, md_of(&x), weights, md_of(&out), attr);
    if (status == dnnl_success) status = dnnl_primitive_create(&t->run, t->desc);
    if (attr) dnnl_primitive_attr_destroy(attr);
    md_free(&x);
    md_free(&out);
    return status;
}

static void primitive_free(tile_primitive *t) {
    if (t->run) dnnl_primitive_destroy(t->run);
    if (t->desc) dnnl_primitive_desc_destroy(t->desc);
}

static md_ref desc_of(const tile_primitive *t, dnnl_query_t what) {
    return dnnl_primitive_desc_query_md(t->desc, what, 0);
}

/* Both tiles read the same packed weights: the tall one chooses the layout. */
static dnnl_status_t shape_make(vp_product_shape *s) {
    md_own any = {0};
    dnnl_status_t status = md_init(&any, s->type, s->k, s->n, dnnl_format_tag_any);
    if (status == dnnl_success) status = primitive_make(&s->tall, s, VP_TILE, md_of(&any));
    md_free(&any);
    if (status != dnnl_success) return status;
    md_ref packed = desc_of(&s->tall, dnnl_query_weights_md);
    status = primitive_make(&s->low, s, VP_TILE_SHORT, packed);
    if (status != dnnl_success) return status;
    s->packed_bytes = dnnl_memory_desc_get_size(packed);
    size_t a = dnnl_memory_desc_get_size(desc_of(&s->tall, dnnl_query_scratchpad_md));
    size_t b = dnnl_memory_desc_get_size(desc_of(&s->low, dnnl_query_scratchpad_md));
    s->scratch_bytes = a > b ? a : b;
    return dnnl_success;
}

size_t vp_product_packed_bytes(const vp_product_shape *s) {
    return s->packed_bytes;
}
size_t vp_product_scratch_bytes(const vp_product_shape *s) {
    return s->scratch_bytes;
}

/* Run a primitive on plain pointers, alone on this thread. */
typedef struct argument {
    int which;
    md_ref desc;
    void *data;
} argument;
static dnnl_status_t execute(const vp_product *p, int thread, dnnl_primitive_t run, const argument *arg, int n) {
    dnnl_exec_arg_t args[4];
    int made = 0;
    dnnl_status_t s = dnnl_success;
    for (; made < n && s == dnnl_success; made++) {
        args[made] = (dnnl_exec_arg_t){.arg = arg[made].which};
        s = dnnl_memory_create(&args[made].memory, arg[made].desc, p->engine, arg[made].data);
    }
    int team = work_alone();
    if (s == dnnl_success) s = dnnl_primitive_execute(run, p->stream[thread], n, args);
    work_as_before(team);
    for (int i = 0; i < made; i++)
        if (args[i].memory) dnnl_memory_destroy(args[i].memory);
    return s;
}

int vp_product_run(const vp_product_shape *s, int thread, int rows, const void *x, const void *packed, float *out,
                   void *scratch) {
    const tile_primitive *t = rows == VP_TILE ? &s->tall : &s->low;
    argument arg[] = {{DNNL_ARG_SRC, desc_of(t, dnnl_query_src_md), (void *)(uintptr_t)x},
                      {DNNL_ARG_WEIGHTS, desc_of(t, dnnl_query_weights_md), (void *)(uintptr_t)packed},
                      {DNNL_ARG_DST, desc_of(t, dnnl_query_dst_md), out},
                      {DNNL_ARG_SCRATCHPAD, desc_of(t, dnnl_query_scratchpad_md), scratch}};
    return execute(s->product, thread, t->run, arg, 4) == dnnl_success ? VP_OK : VP_MEMORY;
}

int vp_product_pack(const vp_product_shape *s, int thread, void *w, void *packed) {
    md_own plain = {0};
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t run = NULL;
    md_ref target = desc_of(&s->tall, dnnl_query_weights_md);
    int team = work_alone();
    dnnl_status_t status = md_init(&plain, s->type, s->k, s->n, dnnl_ba);
    if (status == dnnl_success)
        status = dnnl_reorder_primitive_desc_create(&desc, md_of(&plain), s->product->engine, target,
                                                    s->product->engine, NULL);
    if (status == dnnl_success) status = dnnl_primitive_create(&run, desc);
    if (status == dnnl_success) {
        argument arg[] = {{DNNL_ARG_FROM, md_of(&plain), w}, {DNNL_ARG_TO, target, packed}};
        status = execute(s->product, thread, run, arg, 2);
    }
    if (run) dnnl_primitive_destroy(run);
    if (desc) dnnl_primitive_desc_destroy(desc);
    md_free(&plain);
    work_as_before(team);
    return status == dnnl_success ? VP_OK : VP_MEMORY;
}

/* ---- certification ---- */
static int spare(const vp_product_shape *s) {
    return s->product->streams - 1;
}

/* Numbers in (-1, 1) whose sums round differently in every order. */
static void fill_random(void *p, vp_dtype type, int64_t n, uint32_t seed) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525U + 1013904223U;
        const float x = ((float)(seed >> 8) + 0.5f) / 8388608.0f - 1.0f;
        if (type == VP_BF16)
            ((uint16_t *)p)[i] = vp_float_bf16(x);
        else
            ((float *)p)[i] = x;
    }
}

/* Row r of the reference stands at row (r * step + shift) mod 64 of a permuted input: 16-row tiles at every position,
 * and one 64-row tile, must give its bytes; the last short tile keeps one row only, among zeros. */
static bool same_everywhere(const vp_product_shape *s, const char *x, const void *packed, const float *reference,
                            char *moved, float *out, void *scratch, int step, int shift) {
    const size_t row = (size_t)s->k * vp_dtype_size(s->type);
    const int64_t n = s->n;
    for (size_t r = 0; r < VP_TILE; r++)
        memcpy(moved + (r * (size_t)step + (size_t)shift) % VP_TILE * row, x + r * row, row);
    for (int height = VP_TILE; height >= VP_TILE_SHORT; height -= VP_TILE - VP_TILE_SHORT) {
        for (int r = 0; r < VP_TILE; r += height)
            if (vp_product_run(s, spare(s), height, moved + (size_t)r * row, packed, out + r * n, scratch))
                return false;
        for (int r = 0; r < VP_TILE; r++)
            if (memcmp(out + (r * step + shift) % VP_TILE * n, reference + r * n, (size_t)n * sizeof *out))
                return false;
    }
    const int lone = shift % VP_TILE_SHORT;
    memset(moved, 0, VP_TILE_SHORT * row);
    memcpy(moved + (size_t)lone * row, x, row);
    if (vp_product_run(s, spare(s), VP_TILE_SHORT, moved, packed, out, scratch)) return false;
    return memcmp(out + lone * n, reference, (size_t)n * sizeof *out) == 0;
}

static bool certify(const vp_product_shape *s) {
    const int64_t k = s->k, n = s->n;
    const size_t size = vp_dtype_size(s->type), sums = (size_t)(VP_TILE * n);
    char *x = vp_calloc((size_t)(VP_TILE * k), size), *moved = vp_calloc((size_t)(VP_TILE * k), size);
    char *w = vp_calloc((size_t)(n * k), size), *packed = vp_calloc(1, s->packed_bytes);
    float *reference = vp_calloc(sums, sizeof *reference), *out = vp_calloc(sums, sizeof *out);
    void *scratch = vp_calloc(1, s->scratch_bytes + 64);
    bool good = x && moved && w && packed && reference && out && scratch;
    if (good) {
        fill_random(x, s->type, VP_TILE * k, 1);
        fill_random(w, s->type, n * k, 2);
        good = !vp_product_pack(s, spare(s), w, packed) &&
               !vp_product_run(s, spare(s), VP_TILE, x, packed, reference, scratch);
    }
    static const int steps[] = {1, 5, 27, 63}; /* odd: permutations of 64 rows */
    for (int i = 0; i < 4 && good; i++)
        good = same_everywhere(s, x, packed, reference, moved, out, scratch, steps[i], 7 * i + 1);
    free(x), free(moved), free(w), free(packed), free(reference), free(out), free(scratch);
    return good;
}

/* ---- shapes ---- */
/* Products of bf16 are worth a library where there are tiles for them. With vdpbf16ps alone our own kernel comes to 211
 * to 225 GFLOP/s of 229 (Zen 4, K 576 to 1536), oneDNN 2.6 to 198 to 216. */
static bool is_worth_it(vp_dtype type) {
    const unsigned need = dnnl_cpu_isa_avx512_core_amx;
    return type == VP_F32 || ((unsigned)dnnl_get_effective_cpu_isa() & need) == need;
}

const vp_product_shape *vp_product_find(vp_product *p, vp_dtype type, int64_t k, int64_t n) {
    vp_product_shape *s = p->shapes;
    while (s && (s->type != type || s->k != k || s->n != n)) s = s->next;
    if (s) return s->usable ? s : NULL;
    if (!(s = vp_calloc(1, sizeof *s))) return NULL;
    *s = (vp_product_shape){.product = p, .type = type, .k = k, .n = n, .next = p->shapes};
    p->shapes = s;
    int team = work_alone();
    s->usable = is_worth_it(type) && shape_make(s) == dnnl_success && certify(s);
    work_as_before(team);
    return s->usable ? s : NULL;
}

int vp_product_open(vp_product **out, int threads, vp_error *err) {
    vp_product *p = vp_calloc(1, sizeof *p);
    if (!p) return vp_fail_memory(err, "products", sizeof *p);
    int wanted = threads + 1;
    p->stream = vp_calloc((size_t)wanted, sizeof(dnnl_stream_t));
    dnnl_status_t s = p->stream ? dnnl_engine_create(&p->engine, dnnl_cpu, 0) : dnnl_out_of_memory;
    for (; p->streams < wanted && s == dnnl_success; p->streams++)
        s = dnnl_stream_create(&p->stream[p->streams], p->engine, dnnl_stream_default_flags);
    if (s != dnnl_success) {
        vp_product_close(p);
        return vp_fail(err, VP_MEMORY, "oneDNN: cannot start (status %d)", (int)s);
    }
    *out = p;
    return VP_OK;
}

void vp_product_close(vp_product *p) {
    if (!p) return;
    while (p->shapes) {
        vp_product_shape *s = p->shapes;
        p->shapes = s->next;
        primitive_free(&s->tall);
        primitive_free(&s->low);
        free(s);
    }
    for (int i = 0; i < p->streams; i++)
        if (p->stream[i]) dnnl_stream_destroy(p->stream[i]);
    if (p->engine) dnnl_engine_destroy(p->engine);
    free(p->stream);
    free(p);
}
