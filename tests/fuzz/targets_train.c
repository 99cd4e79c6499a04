/* What training reads: a run's train.json, checkpoints and live file, and steps of a stream. */
#include "lib/model/training.h"
#include "lib/train/checkpoint.h"
#include "lib/train/live.h"
#include "lib/train/live_file.h"
#include "lib/train/micro.h"
#include "lib/train/objective.h"
#include "lib/train/recipe.h"
#include "tests/fuzz/targets.h"
#include "tests/modelfile.h"
#include <fcntl.h>
#include <math.h>
#include <unistd.h>

/* ---- train.json: read, and an encoder opened as it says ---- */

void recipe_seeds(fuzz_seeds *s) {
    fuzz_tiny_model();
    fuzz_seed_text(s, "{\"vecpipe_train\":1,\"fingerprint\":\"00\",\"attention\":\"bi\",\"adapters\":[],\"full\":false,"
                      "\"attention_dropout\":0.1,\"hidden_dropout\":0.5,\"seed\":7,\"lora\":{\"rank\":2,\"alpha\":4,"
                      "\"dropout\":0.05,\"targets\":\"q_proj,v_proj\"}}");
    fuzz_seed_text(s, "{\"vecpipe_train\":1,\"fingerprint\":\"00\",\"attention\":\"causal\",\"full\":true}");
}

static int open_recipe(const vp_recipe *r, vp_error *err) {
    vp_model *m = NULL;
    vp_encoder *e = NULL;
    const vp_encode_options o = {.attention = r->attention, .threads = 1, .train = &r->train};
    int status = vp_model_open(&m, ".", err);
    if (!status) status = vp_encoder_open(&e, m, &o, NULL, err);
    vp_encoder_close(e);
    vp_model_close(m);
    return status == VP_USAGE ? err->code = VP_DATA : status; /* the options of an encoder are a user's elsewhere */
}

int recipe_run(const vp_buf *input, vp_error *err) {
    vp_recipe_file f;
    fuzz_write_file("train.json", input);
    int status = vp_recipe_open(&f, ".", err);
    if (!status) status = open_recipe(&f.recipe, err);
    vp_recipe_close(&f);
    return status;
}

/* ---- a checkpoint: one input, as state.json or as weights.safetensors ---- */

enum { NUMBERS = 16 }; /* of two tensors: the bytes that safetensors_repair expects */

void checkpoint_seeds(fuzz_seeds *s) {
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,4],\"data_offsets\":[0,32]},"
                                 "\"b\":{\"dtype\":\"F32\",\"shape\":[8,1],\"data_offsets\":[32,64]}}";
    const float zeros[NUMBERS] = {0};
    safetensors(fuzz_add_seed(s), header, zeros, sizeof zeros);
    fuzz_seed_text(s, "{\"step\":12,\"updates\":12,\"optimizer\":0,\"recipe\":{\"seed\":1,\"lora\":{\"rank\":2}}}");
}

void checkpoint_repair(vp_buf *input) {
    if (input->len && input->data[0] != '{') safetensors_repair(input);
}

int checkpoint_run(const vp_buf *input, vp_error *err) {
    static const vp_param table[] = {{"a", 2, 4, 0}, {"b", 8, 1, 8}};
    float value[NUMBERS];
    const vp_params params = {.param = table, .n = 2, .count = NUMBERS, .value = value};
    if (input->len && input->data[0] != '{') {
        fuzz_write_file("weights.safetensors", input);
        return vp_checkpoint_load(".", &params, NULL, NULL, err);
    }
    json_t *state;
    fuzz_write_file("state.json", input);
    int status = vp_checkpoint_state(".", &state, err);
    json_decref(state);
    return status;
}

/* ---- live, of a writer that dies as soon as the file is open ---- */

static void set_hashes(vp_buf *input) {
    vp_live_head head;
    memcpy(&head, input->data, sizeof head);
    const size_t n = (input->len - VP_LIVE_PAGE) / 2;
    head.bytes = n;
    for (size_t i = 0; i < 2; i++) head.slot[i].hash = vp_hash64(input->data + VP_LIVE_PAGE + i * n, n);
    memcpy(input->data, &head, sizeof head);
}

void live_seeds(fuzz_seeds *s) {
    vp_buf *b = fuzz_add_seed(s);
    vp_live_head head = {.layout = VP_LIVE_LAYOUT, .slot = {{.version = 4}, {.version = 3}}};
    memcpy(head.magic, VP_LIVE_MAGIC, sizeof head.magic);
    put(b, &head, sizeof head);
    put_pad(b, VP_LIVE_PAGE);
    for (int i = 0; i < 32; i++) put(b, &i, 1);
    set_hashes(b);
}

void live_repair(vp_buf *input) {
    if (input->len >= VP_LIVE_PAGE) set_hashes(input);
}

int live_run(const vp_buf *input, vp_error *err) {
    vp_follow *f = NULL;
    const struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    fuzz_write_file("live", input);
    const int writer = open("live", O_RDWR | O_CLOEXEC);
    if (writer < 0 || fcntl(writer, F_OFD_SETLK, &lock) != 0) abort();
    int status = vp_follow_open(&f, ".", -1, err);
    close(writer);
    if (status) return status;
    char *weights = malloc(vp_follow_bytes(f) + 1);
    status = weights ? vp_follow_wait(f, 4, weights, err) : vp_fail_memory(err, "weights", vp_follow_bytes(f));
    free(weights);
    vp_follow_close(f);
    return status;
}

/* ---- steps of a stream, and their micro-batches ---- */

static int put_step(vp_frame *f, int64_t step, int32_t unit, vp_error *err) {
    static const int32_t ids[] = {1, 2, 3, 4, 5}, cu[] = {0, 2, 5}, target[] = {7, -1, 8, 9, -1};
    static const float weight[] = {1, 0, 0.5f, 1, 0}, gradient[] = {1, 2, 3, 4, 5, 6}, loss[] = {1, 2};
    static const int64_t row[][2] = {{0, 1}, {2, 3}}; /* static: a frame borrows what is put */
    static const int32_t units[][2] = {{0, 1}, {2, 3}}, group[] = {0, 0};
    const int64_t T = 5, B = 2, M[] = {3, 2}, offsets = 3;
    static const uint8_t role[] = {0, 1};
    VP_TRY(vp_frame_put(f, "ids", VP_I32, 1, &T, ids, err));
    VP_TRY(vp_frame_put(f, "cu", VP_I32, 1, &offsets, cu, err));
    VP_TRY(vp_frame_put(f, "target", VP_I32, 1, &T, target, err));
    VP_TRY(vp_frame_put(f, "weight", VP_F32, 1, &T, weight, err));
    VP_TRY(vp_frame_put(f, "row", VP_I64, 1, &B, row[unit], err));
    VP_TRY(vp_frame_put(f, "unit", VP_I32, 1, &B, units[unit], err));
    VP_TRY(vp_frame_put(f, "group", VP_I32, 1, &B, group, err));
    VP_TRY(vp_frame_put(f, "role", VP_U8, 1, &B, role, err));
    VP_TRY(vp_frame_put(f, "loss", VP_F32, 1, &B, loss, err));
    VP_TRY(vp_frame_put(f, "grad.picked", VP_F32, 2, M, gradient, err));
    VP_TRY(vp_map_set_int(f->keys, "step", step, err));
    VP_TRY(vp_map_set_int(f->keys, "rows", 4, err));
    VP_TRY(vp_map_set_real(f->keys, "weight_sum", 5, err));
    return unit ? vp_map_set_bool(f->keys, "last", true, err) : VP_OK;
}

static int write_steps(vp_writer *w, vp_map *keys, vp_frame *f, vp_error *err) {
    VP_TRY(vp_writer_header(w, keys, "fuzz", err));
    VP_TRY(put_step(f, 0, 0, err));
    VP_TRY(vp_writer_batch(w, f, err));
    VP_TRY(put_step(f, 0, 1, err));
    VP_TRY(vp_writer_batch(w, f, err));
    return vp_writer_end(w, keys, err);
}

void steps_seeds(fuzz_seeds *s) {
    fuzz_seed_stream(fuzz_add_seed(s), write_steps);
}

static int look_at_micros(const vp_step *step, const vp_pooler *pooler, vp_error *err) {
    vp_micros all;
    int status = vp_micros_open(&all, step, pooler, 2, 3, err);
    for (size_t i = 0; !status && i < all.n; i++) {
        vp_targets targets;
        status = vp_targets_read(&targets, all.item[i].f, err);
        const size_t given = (size_t)all.item[i].vectors * 2;
        for (size_t k = 0; !status && all.gradients && k < given; k++)
            if (!isfinite(all.item[i].given[k])) status = vp_fail(err, VP_BUG, "a gradient that is not finite");
        vp_targets_free(&targets);
    }
    vp_micros_close(&all, &(vp_compute){0}); /* nothing was computed */
    return status;
}

int steps_run(const vp_buf *input, vp_error *err) {
    int fd;
    vp_reader *r = NULL;
    vp_steps *steps = NULL;
    vp_step *step = NULL;
    vp_pooler *pooler = NULL;
    vp_frame *f;
    vp_map *header = vp_map_new();
    fuzz_memory_file(input, &fd);
    int status = vp_pooler_open(&pooler, &(vp_pool_options){.kind = "pick"}, header, err);
    if (!status) status = vp_reader_open(&r, fd, "a stream", err);
    if (!status) status = vp_reader_next(r, &f, err);
    if (!status) status = vp_steps_open(&steps, r, err);
    do {
        if (!status) status = vp_steps_next(steps, &step, err);
        if (!status && step) status = look_at_micros(step, pooler, err);
    } while (!status && step);
    vp_steps_close(steps);
    vp_reader_close(r);
    vp_pooler_close(pooler);
    vp_map_free(header);
    close(fd);
    return status;
}
