/* Detokenising: the bytes of a token, and characters that are spread over several. */
#include "lib/text/decode.h"
#include "lib/base/json.h"
#include "lib/file/source.h"
#include "lib/text/tokenizer.h"
#include <math.h>
#include <string.h>

#define MARK        "\xe2\x96\x81" /* U+2581, SentencePiece's visible space */
#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* ---- UTF-8 that may be unfinished ---- */
typedef enum shape { WHOLE, UNFINISHED, WRONG } shape;

/* The sequence at s[0..n): *len bytes are a character, or (WRONG) the longest part that could have begun one. */
static shape next_sequence(const unsigned char *s, size_t n, size_t *len) {
    const unsigned char c = s[0];
    const size_t need = c < 0x80                ? 1
                        : c >= 0xc2 && c < 0xe0 ? 2
                        : c >= 0xe0 && c < 0xf0 ? 3
                        : c >= 0xf0 && c < 0xf5 ? 4
                                                : 0;
    for (*len = 1; *len < need; ++*len) {
        if (*len == n) return UNFINISHED;
        const bool second = *len == 1;
        const unsigned char low = second && c == 0xe0 ? 0xa0 : second && c == 0xf0 ? 0x90 : 0x80;
        const unsigned char high = second && c == 0xed ? 0x9f : second && c == 0xf4 ? 0x8f : 0xbf;
        if (s[*len] < low || s[*len] > high) return WRONG;
    }
    return need ? WHOLE : WRONG;
}

/* pending + s[0..n) to text; what is unfinished at the end waits. */
static int add_bytes(vp_detokenizer *d, const char *s, size_t n, vp_buf *text, vp_error *err) {
    vp_buf all = {0};
    int status = vp_buf_add(&all, d->pending, d->npending, err);
    if (!status) status = vp_buf_add(&all, s, n, err);
    d->npending = 0;
    for (size_t at = 0, len; !status && at < all.len; at += len) {
        const shape is = next_sequence((const unsigned char *)all.data + at, all.len - at, &len);
        if (is == UNFINISHED) {
            memcpy(d->pending, all.data + at, len);
            d->npending = len;
        } else {
            status = is == WHOLE ? vp_buf_add(text, all.data + at, len, err)
                                 : vp_buf_add(text, REPLACEMENT, sizeof REPLACEMENT - 1, err);
        }
    }
    vp_buf_free(&all);
    return status;
}

/* ---- tokens ---- */
static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Whether token `id`, spelled <0xNN>, stands for a byte. */
static bool byte_of(const vp_tokenizer *t, int32_t id, const char *s, size_t n, char *byte) {
    if (!t->byte_fallback || n != 6 || memcmp(s, "<0x", 3) != 0) return false;
    const int value = hex_digit(s[3]) * 16 + hex_digit(s[4]);
    if (value < 0 || value > 255 || t->byte_id[value] != id) return false;
    *byte = (char)value;
    return true;
}

static int add_piece(vp_detokenizer *d, const char *s, size_t n, vp_buf *text, vp_error *err) {
    while (n) {
        const char *mark = memmem(s, n, MARK, sizeof MARK - 1);
        const size_t before = mark ? (size_t)(mark - s) : n;
        VP_TRY(add_bytes(d, s, before, text, err));
        if (!mark) break;
        VP_TRY(add_bytes(d, " ", 1, text, err));
        s += before + sizeof MARK - 1;
        n -= before + sizeof MARK - 1;
    }
    return VP_OK;
}

int vp_detokenize(vp_detokenizer *d, int32_t id, vp_buf *text, vp_error *err) {
    const vp_tokenizer *t = d->tokenizer;
    size_t n = 0;
    char byte;
    if (t->model != VP_TOKENS_BPE) return vp_fail(err, VP_DATA, "tokens of WordPiece cannot be made text again");
    const char *s = vp_vocab_text(&t->vocab, id, &n);
    if (id < 0) return vp_fail(err, VP_DATA, "id %d is no token", (int)id);
    if (!s) return VP_OK;
    if (byte_of(t, id, s, n, &byte)) return add_bytes(d, &byte, 1, text, err);
    if (vp_tokenizer_is_special(t, id)) return VP_OK;
    if (t->byte_level) return add_bytes(d, s, n, text, err);
    return add_piece(d, s, n, text, err);
}

int vp_detokenize_end(vp_detokenizer *d, vp_buf *text, vp_error *err) {
    const bool unfinished = d->npending > 0;
    d->npending = 0;
    return unfinished ? vp_buf_add(text, REPLACEMENT, sizeof REPLACEMENT - 1, err) : VP_OK;
}

/* ---- ends ---- */
typedef struct ends {
    int32_t *id;
    size_t n;
    int64_t vocab;
} ends;

static int add_end(ends *e, int64_t id, const char *path, vp_error *err) {
    if (id < 0 || id >= e->vocab)
        return vp_fail(err, VP_DATA, "%s: eos_token_id %lld is no token", path, (long long)id);
    for (size_t i = 0; i < e->n; i++)
        if (e->id[i] == id) return VP_OK;
    if (e->n == VP_MAX_ENDS) return vp_fail(err, VP_DATA, "%s: more than %d eos_token_id", path, (int)VP_MAX_ENDS);
    e->id[e->n++] = (int32_t)id;
    return VP_OK;
}

/* Numbers of a JSON file are reals. */
static int add_number(ends *e, const json_t *id, const char *path, vp_error *err) {
    const double x = json_number_value(id);
    if (!json_is_number(id) || !(fabs(x) < VP_MAX_VOCAB) || x != (double)(int64_t)x)
        return vp_fail(err, VP_DATA, "%s: eos_token_id is not a whole number, or a list of them", path);
    return add_end(e, (int64_t)x, path, err);
}

static int ends_of_json(ends *e, const char *folder, const char *name, vp_error *err) {
    vp_json j;
    VP_TRY(vp_json_open_optional(&j, folder, name, JSON_OBJECT, err));
    const json_t *id = json_object_get(j.root, "eos_token_id");
    int status = VP_OK;
    if (id && !json_is_null(id) && !json_is_array(id)) status = add_number(e, id, j.path, err);
    for (size_t i = 0; !status && i < json_array_size(id); i++)
        status = add_number(e, json_array_get(id, i), j.path, err);
    vp_json_close(&j);
    return status;
}

static int ends_of_gguf(ends *e, const char *path, vp_error *err) {
    static const char *const key[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    vp_gguf *g;
    int status = VP_OK;
    VP_TRY(vp_gguf_open(&g, path, err));
    for (int i = 0; i < 2 && !status; i++) {
        const int64_t id = vp_gguf_int(g, key[i], -1);
        if (id >= 0) status = add_end(e, id, path, err);
    }
    vp_gguf_close(g);
    return status;
}

int vp_tokenizer_ends(const vp_tokenizer *t, const char *path, int32_t id[VP_MAX_ENDS], size_t *n, vp_error *err) {
    ends e = {.id = id, .vocab = t->vocab.n};
    const bool gguf = vp_tokenizer_is_gguf(path);
    *n = 0;
    if (gguf) VP_TRY(ends_of_gguf(&e, path, err));
    if (!gguf) VP_TRY(ends_of_json(&e, path, "generation_config.json", err));
    if (!gguf && !e.n) VP_TRY(ends_of_json(&e, path, "config.json", err));
    if (!e.n && t->eos >= 0) VP_TRY(add_end(&e, t->eos, path, err));
    *n = e.n;
    return VP_OK;
}
