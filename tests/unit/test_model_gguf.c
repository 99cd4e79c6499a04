/* A GGUF made from a golden LLaMA, its q and k rows permuted as llama.cpp's converter does: the same bytes as the
 * folder it came from. And what GGUF can say and we do not support. */
#include "tests/modelfile.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tap.h"

enum { LAYERS = 2, C = 64, F = 112, V = 320, HEADS = 4, GROUPS = 2, D = 16, TENSORS = 2 + 9 * LAYERS };

static const struct {
    const char *gguf, *hf;
    int64_t heads; /* of permuted rows */
} names[] = {
    {"attn_norm", "input_layernorm", 0},    {"attn_q", "self_attn.q_proj", HEADS},
    {"attn_k", "self_attn.k_proj", GROUPS}, {"attn_v", "self_attn.v_proj", 0},
    {"attn_output", "self_attn.o_proj", 0}, {"ffn_norm", "post_attention_layernorm", 0},
    {"ffn_gate", "mlp.gate_proj", 0},       {"ffn_up", "mlp.up_proj", 0},
    {"ffn_down", "mlp.down_proj", 0},
};

typedef struct writer {
    vp_buf table, data;
    const vp_source *source;
} writer;

/* Row (head, half, i) of the folder's matrix becomes row (head, i, half). */
static void add(writer *w, const char *name, const char *hf, int64_t heads) {
    tensor t = tensor_read(w->source, hf);
    uint64_t dims[2] = {(uint64_t)t.cols, (uint64_t)t.rows}, offset = w->data.len;
    gguf_tensor(&w->table, name, t.rows == 1 ? 1 : 2, dims, 0, offset);
    for (int64_t r = 0; r < t.rows; r++) {
        int64_t head = r / D, within = r % D, from = heads ? head * D + within % 2 * (D / 2) + within / 2 : r;
        put(&w->data, t.f + from * t.cols, (size_t)t.cols * sizeof *t.f);
    }
    put_pad(&w->data, 32);
    tensor_free(&t);
}

static void put_number(vp_buf *b, const char *key, uint32_t value) {
    gguf_key(b, key, VP_GGUF_U32);
    put_u32(b, value);
}

static void put_real(vp_buf *b, const char *key, float value) {
    gguf_key(b, key, VP_GGUF_F32);
    put_f32(b, value);
}

static void put_string(vp_buf *b, const char *key, const char *value) {
    gguf_key(b, key, VP_GGUF_STRING);
    gguf_string(b, value);
}

enum { KEYS = 8 };
static void put_keys(vp_buf *b, const char *arch, uint32_t layers) {
    put_string(b, "general.architecture", arch);
    put_number(b, "llama.block_count", layers);
    put_number(b, "llama.context_length", 256);
    put_number(b, "llama.embedding_length", C);
    put_number(b, "llama.feed_forward_length", F);
    put_number(b, "llama.attention.head_count", HEADS);
    put_number(b, "llama.attention.head_count_kv", GROUPS);
    put_real(b, "llama.attention.layer_norm_rms_epsilon", 1e-6f);
}

/* The golden model as GGUF in a new folder's file, with these keys after the usual ones. */
static const char *make(const char *arch, uint32_t layers, const vp_buf *keys, uint64_t nkeys) {
    static char path[300];
    vp_error err = {0};
    vp_source *source;
    if (vp_source_open(&source, golden_path("llama-gqa-tied"), &err)) abort();
    writer w = {.source = source};
    add(&w, "token_embd.weight", "model.embed_tokens.weight", 0);
    add(&w, "output_norm.weight", "model.norm.weight", 0);
    for (int layer = 0; layer < LAYERS; layer++) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            char gguf[80], hf[80];
            snprintf(gguf, sizeof gguf, "blk.%d.%s.weight", layer, names[i].gguf);
            snprintf(hf, sizeof hf, "model.layers.%d.%s.weight", layer, names[i].hf);
            add(&w, gguf, hf, names[i].heads);
        }
    }
    vp_buf file = {0};
    gguf_header(&file, 3, TENSORS, KEYS + nkeys);
    put_keys(&file, arch, layers);
    if (keys->len) put(&file, keys->data, keys->len);
    put(&file, w.table.data, w.table.len);
    put_pad(&file, 32);
    put(&file, w.data.data, w.data.len);
    const char *folder = linked_folder(golden_path("llama/adapter"));
    write_bytes(folder, "model.gguf", file.data, file.len);
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    vp_buf_free(&file);
    vp_buf_free(&w.table);
    vp_buf_free(&w.data);
    vp_source_close(source);
    return path;
}

static float *run(const char *path, bool adapter, vp_error *err) {
    static const int32_t ids[] = {5, 9, 300, 17, 4, 4, 80, 31, 7, 12}, cu[] = {0, 3, 10};
    vp_model *m;
    if (vp_model_open(&m, path, err)) return NULL;
    packed p = pack_rows(ids, cu, 2, NULL, 0);
    int status = adapter ? vp_model_add_adapter(m, golden_path("llama-gqa-tied/adapter"), err) : VP_OK;
    float *hidden = status ? NULL : encode(m, p.frame, NULL, 1, 0, err);
    packed_free(&p);
    vp_model_close(m);
    return hidden;
}

static void test_same(void) {
    vp_buf theta = {0};
    put_real(&theta, "llama.rope.freq_base", 100000.0f);
    const char *gguf = make("llama", LAYERS, &theta, 1);
    for (int adapter = 0; adapter < 2; adapter++) {
        vp_error err = {0};
        float *a = run(gguf, adapter, &err), *b = run(golden_path("llama-gqa-tied"), adapter, &err);
        OK(a && b && !memcmp(a, b, 10 * C * sizeof *a), "the same bytes as the folder%s %s",
           adapter ? ", with an adapter too" : "", err.text);
        free(a);
        free(b);
    }
    vp_buf_free(&theta);
}

static void refuse(const char *arch, uint32_t layers, const vp_buf *keys, uint64_t nkeys, const char *says) {
    vp_error err = {0};
    vp_model *m;
    OK(vp_model_open(&m, make(arch, layers, keys, nkeys), &err) == VP_DATA && strstr(err.text, says), "refused: %s",
       err.text);
    vp_model_close(m);
}

static void test_refusals(void) {
    vp_buf keys = {0};
    refuse("falcon", LAYERS, &keys, 0, "architecture \"falcon\"");
    refuse("llama", LAYERS + 1, &keys, 0, "blk.2.attn_norm.weight is missing");
    refuse("llama", LAYERS - 1, &keys, 0, "blk.1.attn_norm.weight is not part of");
    refuse("llama", 0, &keys, 0, "num_hidden_layers is 0");
    put_number(&keys, "llama.expert_count", 8);
    refuse("llama", LAYERS, &keys, 1, "blk.0.ffn_gate_inp.weight is missing");
    keys.len = 0;
    put_number(&keys, "qwen2.expert_count", 8);
    refuse("qwen2", LAYERS, &keys, 1, "qwen2.expert_count is not supported");
    keys.len = 0;
    put_string(&keys, "llama.rope.scaling.type", "yarn");
    refuse("llama", LAYERS, &keys, 1, "\"yarn\"");
    keys.len = 0;
    put_number(&keys, "llama.attention.key_length", 32);
    refuse("llama", LAYERS, &keys, 1, "has shape");
    keys.len = 0;
    put_number(&keys, "llama.attention.value_length", 32);
    refuse("llama", LAYERS, &keys, 1, "different widths");
    vp_buf_free(&keys);
}

int main(void) {
    test_same();
    test_refusals();
    return done();
}
