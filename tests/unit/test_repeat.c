/* Passes that come again (vp_backend.repeat): what is recorded, when that is forgotten, and what is done where it
 * cannot be; and of models that a pass in one launch gives the bytes of the same pass kernel by kernel, without the
 * rows that were added, whatever lies in its batch. On the CPU there is nothing to record. */
#include "lib/model/cache.h"
#include "lib/model/encoder.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

/* ---- the backend's part: z = 3 (2 x) as two launches ---- */

enum { N = 40, MOST_KEYS = 32 };
typedef struct rig {
    const vp_backend *b;
    vp_device *device;
    vp_queue *queue;
    vp_mat x, y, z;
    int calls, failures; /* of work; those that are still to come */
    int status;
    float value; /* what x holds */
} rig;

static int multiply(rig *r, const vp_mat *from, const vp_mat *to, float by) {
    const vp_elem_op op = {.x = *from, .out = *to, .a = by};
    return r->b->add(r->queue, &op);
}

static int work(void *ctx) {
    rig *r = ctx;
    r->calls++;
    if (r->failures && r->failures--) return multiply(r, &r->x, &(vp_mat){.dtype = VP_F32, .rows = 2}, 1);
    VP_TRY(multiply(r, &r->x, &r->y, 2));
    return multiply(r, &r->y, &r->z, 3);
}

static vp_repeated ask(rig *r, uint64_t key) {
    vp_repeated how = VP_REPEAT_REFUSED;
    const vp_repeat_op op = {.key = (uint64_t[]){7, key}, .keys = 2, .work = work, .ctx = r, .how = &how};
    r->status = r->b->repeat(r->queue, &op);
    return how;
}

/* Once more with other numbers: done in the way `how`, with so many calls of work, and right. */
static bool goes(rig *r, uint64_t key, vp_repeated how, int calls) {
    float x[N], z[N];
    vp_error err = {0};
    const int before = r->calls;
    r->value += 1;
    for (int i = 0; i < N; i++) x[i] = r->value * (float)(i + 1);
    memset(z, 0, sizeof z);
    r->b->copy(r->queue, r->z.ptr, z, sizeof z);
    r->b->copy(r->queue, r->x.ptr, x, sizeof x);
    bool good = ask(r, key) == how && !r->status && r->calls - before == calls;
    r->b->copy(r->queue, z, r->z.ptr, sizeof z);
    good = good && !r->b->queue_wait(r->queue, &err);
    for (int i = 0; i < N; i++) good = good && z[i] == 6 * x[i];
    return good;
}

static bool learn(rig *r, uint64_t key) {
    return goes(r, key, VP_REPEAT_PLAIN, 1) && goes(r, key, VP_REPEAT_RECORDED, 1) && goes(r, key, VP_REPEAT_AGAIN, 0);
}

static vp_mat take(rig *r) {
    return (vp_mat){
        .ptr = r->b->arena_alloc(r->queue, N * sizeof(float)), .dtype = VP_F32, .rows = 1, .cols = N, .ld = N};
}

static void check_limit(rig *r) {
    bool good = true;
    for (uint64_t key = 0; key < MOST_KEYS; key++) good = good && learn(r, 100 + key);
    OK(good, "%d keys", MOST_KEYS);
    for (uint64_t key = 0; key < MOST_KEYS; key++) good = good && goes(r, 100 + key, VP_REPEAT_AGAIN, 0);
    OK(good, "are all remembered");
    OK(goes(r, 100, VP_REPEAT_AGAIN, 0) && goes(r, 99, VP_REPEAT_PLAIN, 1) && goes(r, 100, VP_REPEAT_AGAIN, 0) &&
           goes(r, 101, VP_REPEAT_PLAIN, 1),
       "one more takes the place of the one that was used least recently");
}

static int read_row(const void *ctx, int64_t row, float *out, vp_error *err) {
    (void)ctx, (void)row, (void)err;
    memset(out, 0, 8 * sizeof *out);
    return VP_OK;
}

static void check_dropping(rig *r) {
    const vp_weight_part part = {.rows = 8, .read_row = read_row};
    const vp_weight_desc desc = {.part = &part, .nparts = 1, .in = 8, .out = 8, .compute = VP_F32};
    vp_weight *w = NULL;
    vp_error err = {0};
    const size_t mark = r->b->arena_mark(r->queue);
    OK(learn(r, 1) && r->b->arena_alloc(r->queue, 1) && learn(r, 1), "where the arena stands is part of the key");
    r->b->arena_release(r->queue, mark);
    OK(goes(r, 1, VP_REPEAT_AGAIN, 0), "and the first one is still there");
    OK(!r->b->weight_prepare(r->device, &desc, &w, &err) && goes(r, 1, VP_REPEAT_AGAIN, 0), "with a weight more %s",
       err.text);
    r->b->weight_free(r->device, w);
    OK(learn(r, 1), "but not when it was freed");
    OK(!r->b->arena_reserve(r->queue, 8 << 20) && goes(r, 1, VP_REPEAT_AGAIN, 0),
       "a new chunk of the arena is nothing");
    OK(!r->b->arena_reserve(r->queue, 64 << 20) && learn(r, 1), "one that takes the place of another is");
}

static void check_failures(rig *r) {
    r->failures = 1;
    OK(ask(r, 2) == VP_REPEAT_PLAIN && r->status == VP_BUG && strstr(r->b->why(r->queue), "must be"),
       "work that fails: %s", r->b->why(r->queue));
    OK(goes(r, 2, VP_REPEAT_PLAIN, 1), "is not remembered");
    r->failures = 1;
    OK(goes(r, 2, VP_REPEAT_REFUSED, 2) && goes(r, 2, VP_REPEAT_PLAIN, 1),
       "what fails only while it is recorded is done, and not recorded again");
    vp_caps caps;
    r->b->caps(r->device, &caps);
    if (strcmp(caps.isa, "shim") != 0) return;
    OK(goes(r, 3, VP_REPEAT_PLAIN, 1), "another key");
    setenv("VP_SHIM_GRAPHS", "0", 1);
    OK(goes(r, 3, VP_REPEAT_REFUSED, 1) && goes(r, 3, VP_REPEAT_PLAIN, 1), "where nothing can be recorded");
    unsetenv("VP_SHIM_GRAPHS");
}

static void check_plan(rig *r) {
    vp_queue *real = r->queue;
    vp_error err = {0};
    OK(!r->b->queue_plan(&r->queue, r->device, &err), "a queue that plans %s", err.text);
    const int before = r->calls;
    bool good = true;
    for (int i = 0; i < 3; i++) good = good && ask(r, 4) == VP_REPEAT_PLAIN && !r->status;
    OK(good && r->calls - before == 3, "does the work every time");
    r->b->queue_close(r->queue);
    r->queue = real;
}

/* Whether there is anything to record. */
static bool check_backend(void) {
    rig r = {0};
    vp_device_options options = {.threads = 1};
    vp_error err = {0};
    const int status = vp_backend_open(NULL, &options, &r.b, &r.device, &r.queue, &err);
    const bool there = !status && r.b->repeat;
    OK(!status && there == (r.b != vp_backend_cpu()), "only a device repeats passes %s", err.text);
    if (there) {
        r.x = take(&r);
        r.y = take(&r);
        r.z = take(&r);
        OK(learn(&r, 0), "a key is done plainly, then recorded, then launched");
        OK(goes(&r, 1, VP_REPEAT_PLAIN, 1) && goes(&r, 0, VP_REPEAT_AGAIN, 0), "another key is another pass");
        check_limit(&r);
        check_dropping(&r);
        check_failures(&r);
        check_plan(&r);
    }
    if (!status) r.b->queue_close(r.queue);
    if (!status) r.b->close(r.device);
    return there;
}

/* ---- passes of models ---- */

enum { MOST = 800 };
typedef struct text_frame { /* with all columns that a pass reads */
    packed p;
    int32_t pos[MOST], prefix[MOST];
    uint8_t seg[MOST];
} text_frame;

static uint32_t draw(void) {
    static uint32_t state = 99;
    state = state * 1664525 + 1013904223;
    return state >> 16;
}

/* Rows of these lengths (ended by -1) with other tokens, positions, segments and prefixes every time; the first
 * position is below `top`. */
static text_frame make_frame(const int *length, int top) {
    text_frame f;
    int32_t ids[MOST], cu[32] = {0};
    int64_t B = 0;
    for (; length[B] >= 0; B++) {
        const int32_t first = (int32_t)draw() % top;
        cu[B + 1] = cu[B] + length[B];
        f.prefix[B] = (int32_t)draw() % (length[B] + 1);
        for (int32_t t = cu[B]; t < cu[B + 1]; t++) {
            ids[t] = 3 + (int32_t)draw() % 250;
            f.pos[t] = first + t - cu[B];
            f.seg[t] = (uint8_t)(draw() % 3);
        }
    }
    f.p = pack_rows(ids, cu, B, NULL, 0);
    return f;
}

/* One more: hidden states as those of a pass that also gives keys and values, which is never repeated, nor rounded up.
 */
static bool same_bytes(vp_encoder *e, const int *length, int top, bool columns, vp_error *err) {
    text_frame f = make_frame(length, top);
    const int64_t T = f.p.frame->T, B = f.p.frame->B;
    const size_t bytes = (size_t)(T * vp_encoder_width(e)) * sizeof(float);
    float *first = vp_calloc(1, bytes + 1);
    const float *hidden = NULL;
    const uint16_t *kv = NULL;
    int status = columns ? vp_frame_put(f.p.frame, "seg", VP_U8, 1, &T, f.seg, err) : VP_OK;
    if (!status && columns) status = vp_frame_put(f.p.frame, "prefix", VP_I32, 1, &B, f.prefix, err);
    if (!status && columns) status = vp_frame_put(f.p.frame, "pos", VP_I32, 1, &T, f.pos, err);
    if (!status) status = vp_encoder_run(e, f.p.frame, &hidden, err);
    if (!status && !first) status = vp_fail_memory(err, "states", bytes);
    if (!status) memcpy(first, hidden, bytes);
    if (!status) status = vp_encoder_run_kv(e, f.p.frame, &hidden, &kv, err);
    const bool same = !status && !memcmp(first, hidden, bytes);
    free(first);
    packed_free(&f.p);
    return same;
}

/* Shapes of one size and of others; with B and T that need no rounding up, an empty row, and one of a single token. */
static void check_shapes(vp_encoder *e, const char *name, const char *compute) {
    static const int one[] = {5, 7, -1}, same_size[] = {3, 4, 6, -1}, longer[] = {20, 0, 1, 19, -1}, whole[] = {16, -1};
    vp_error err = {0};
    bool good = true;
    for (int i = 0; i < 2; i++)
        good = good && same_bytes(e, one, 9, true, &err) && same_bytes(e, same_size, 9, true, &err);
    OK(good && vp_encoder_work(e).repeated == 2, "%s, %s: of four passes of a size two are in one launch %s", name,
       compute, err.text);
    for (int i = 0; i < 3; i++)
        good = good && same_bytes(e, longer, 9, true, &err) && same_bytes(e, whole, 9, true, &err) &&
               same_bytes(e, one, 9, false, &err);
    OK(good && vp_encoder_work(e).repeated == 5 && vp_encoder_work(e).passes == 26 && vp_encoder_work(e).refused == 0,
       "%s, %s: and one of three of every other size, or of other columns %s", name, compute, err.text);
}

static vp_encoder *open_encoder(vp_model **m, const char *path, const vp_encode_options *o, const char *adapter) {
    vp_error err = {0};
    vp_encoder *e = NULL;
    int status = vp_model_open(m, path, &err);
    if (!status && adapter) status = vp_model_add_adapter(*m, adapter, &err);
    if (!status) status = vp_encoder_open(&e, *m, o, NULL, &err);
    OK(!status, "opens %s", err.text);
    if (status) exit(done());
    return e;
}

static void check_model(const char *name, const char *compute, bool adapted) {
    vp_model *m = NULL;
    const vp_encode_options o = {.compute = compute};
    vp_encoder *e = open_encoder(&m, golden_path("%s", name), &o, adapted ? golden_path("%s/adapter", name) : NULL);
    check_shapes(e, name, compute);
    vp_encoder_close(e);
    vp_model_close(m);
}

/* llama with more positions than it was trained with. */
static const char *long_llama(void) {
    const char *folder = linked_folder(golden_path("llama"));
    replace_text(folder, "config.json", "\"max_position_embeddings\": 256", "\"max_position_embeddings\": 4096");
    return folder;
}

/* Tables of positions that grow lie elsewhere. */
static void check_positions(void) {
    static const int one[] = {5, 7, -1};
    vp_model *m = NULL;
    vp_error err = {0};
    vp_encoder *e = open_encoder(&m, long_llama(), &(vp_encode_options){0}, NULL);
    bool good = true;
    for (int top = 300; top <= 3000; top *= 3)
        for (int i = 0; i < 3; i++) good = good && same_bytes(e, one, top, true, &err);
    OK(good && vp_encoder_work(e).repeated >= 2,
       "after positions further away passes are as ever: %lld in one launch %s", (long long)vp_encoder_work(e).repeated,
       err.text);
    vp_encoder_close(e);
    vp_model_close(m);
}

static void check_sizes(void) {
    vp_model *m = NULL;
    vp_encoder *e = open_encoder(&m, golden_path("llama"), &(vp_encode_options){0}, NULL);
    const int64_t most = ((int64_t)1 << 27) / (vp_encoder_width(e) * vp_encoder_width(e));
    bool good = vp_batch_rows(e, most + 1) == most + 1 && !vp_batch_small(e, most + 1);
    int sizes = 0;
    for (int64_t T = 1, before = 0; T <= most; T++) {
        const int64_t rows = vp_batch_rows(e, T);
        good = good && rows >= T && rows >= before && rows <= T + (T < 64 ? 15 : T / 4);
        sizes += rows != before;
        before = rows;
    }
    OK(good && sizes <= 44, "up to %lld tokens are rounded up to %d sizes, further on they are not", (long long)most,
       sizes);
    vp_encoder_close(e);
    vp_model_close(m);
}

/* ---- generation: two sequences, tokens at once and then token after token, beyond 256 keys ---- */

enum { TOKENS = 270, BEGIN = 250, WIDTH = 64 };

static int32_t token(int b, int i) {
    return b ? 203 - i % 200 : 3 + i % 200;
}

/* States of the last tokens, the first `begin` at once. */
static int generate(vp_encoder *e, int32_t begin, float last[2 * WIDTH], vp_error *err) {
    int32_t ids[2 * TOKENS];
    vp_cache *cache[2] = {0};
    int status = vp_encoder_width(e) == WIDTH ? VP_OK : vp_fail(err, VP_BUG, "another width");
    for (int b = 0; !status && b < 2; b++) status = vp_cache_open(&cache[b], e, TOKENS, err);
    for (int i = 0; i < 2 * begin; i++) ids[i] = token(i / begin, i % begin);
    if (!status) status = vp_encoder_append(e, cache, 2, ids, (int32_t[]){0, begin, 2 * begin}, last, err);
    for (int32_t i = begin; !status && i < TOKENS; i++)
        status = vp_encoder_append(e, cache, 2, (int32_t[]){token(0, i), token(1, i)}, (int32_t[]){0, 1, 2}, last, err);
    vp_cache_close(cache[0]);
    vp_cache_close(cache[1]);
    return status;
}

/* Of up to 256 keys and of more the first two steps are not repeated; all tokens at once are passes of other sizes. */
static void check_generation(void) {
    vp_model *m = NULL;
    vp_error err = {0};
    float last[2 * WIDTH], whole[2 * WIDTH];
    vp_encoder *e = open_encoder(&m, long_llama(), &(vp_encode_options){.generate = true}, NULL);
    int status = generate(e, BEGIN, last, &err);
    const int64_t repeated = vp_encoder_work(e).repeated;
    OK(!status && repeated == TOKENS - BEGIN - 4, "a token after the other: %lld of %d steps in one launch %s",
       (long long)repeated, TOKENS - BEGIN, err.text);
    if (!status) status = generate(e, TOKENS, whole, &err);
    OK(!status && vp_encoder_work(e).repeated == repeated && !memcmp(last, whole, sizeof whole),
       "which end where all tokens at once do %s", err.text);
    vp_encoder_close(e);
    vp_model_close(m);
}

int main(void) {
    if (!check_backend()) return done();
    check_sizes();
    check_model("llama", "f32", false);
    check_model("llama", "bf16", true);
    check_model("llama", "fp8", false);
    check_model("bert", "bf16", false);
    check_model("qwen3", "f32", false);
    check_model("gptj", "bf16", false);
    check_model("mistral-window", "f32", false);
    check_model("mixtral", "bf16", false);
    check_positions();
    check_generation();
    return done();
}
