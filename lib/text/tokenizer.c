/* Tokenising: the fixed pipeline over one text, with a bounded cache of words, and what a tokenizer says about itself.
 */
#include "lib/text/tokenizer.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- the cache: pieces that are short and become few tokens; an entry is replaced by the next piece of its slot ----
 */
enum { CACHE_SLOTS = 1 << 14, CACHE_BYTES = 22, CACHE_TOKENS = 8 };
typedef struct cached {
    uint8_t bytes, n; /* bytes 0: empty */
    char text[CACHE_BYTES];
    uint8_t start[CACHE_TOKENS], end[CACHE_TOKENS];
    int32_t id[CACHE_TOKENS];
} cached;

struct vp_scratch {
    vp_workspace work;
    vp_bpe bpe;
    vp_tokens word; /* of one piece, with spans within it */
    cached *cache;
    vp_scratch *next;
};

static void free_scratch(vp_scratch *s) {
    vp_workspace_free(&s->work);
    vp_buf_free(&s->bpe.symbols);
    vp_buf_free(&s->bpe.heap);
    vp_tokens_free(&s->word);
    free(s->cache);
    free(s);
}

static vp_scratch *take_scratch(vp_tokenizer *t, vp_error *err) {
    pthread_mutex_lock(&t->lock);
    vp_scratch *s = t->idle;
    if (s) t->idle = s->next;
    pthread_mutex_unlock(&t->lock);
    if (s) return s;
    s = calloc(1, sizeof *s);
    if (s) s->cache = calloc(CACHE_SLOTS, sizeof *s->cache);
    if (!s || !s->cache) {
        free(s);
        vp_fail_memory(err, "a tokenizer's cache", CACHE_SLOTS * sizeof(cached));
        return NULL;
    }
    return s;
}

static void give_scratch(vp_tokenizer *t, vp_scratch *s) {
    pthread_mutex_lock(&t->lock);
    s->next = t->idle;
    t->idle = s;
    pthread_mutex_unlock(&t->lock);
}

/* ---- tokens ---- */
void vp_tokens_free(vp_tokens *t) {
    free(t->id);
    free(t->start);
    free(t->end);
    *t = (vp_tokens){0};
}

int vp_tokens_add(vp_tokens *t, int32_t id, size_t start, size_t end, vp_error *err) {
    /* three arrays of one capacity, which the last to grow moves on */
    VP_TRY(vp_grow(&t->start, &(size_t){t->cap}, t->n, sizeof *t->start, "tokens", err));
    VP_TRY(vp_grow(&t->end, &(size_t){t->cap}, t->n, sizeof *t->end, "tokens", err));
    VP_TRY(vp_grow(&t->id, &t->cap, t->n, sizeof *t->id, "tokens", err));
    t->id[t->n] = id;
    t->start[t->n] = (uint32_t)start;
    t->end[t->n++] = (uint32_t)end;
    return VP_OK;
}

/* ---- one piece ---- */
static int word_tokens(const vp_tokenizer *t, vp_scratch *s, const char *text, size_t n, vp_error *err) {
    s->word.n = 0;
    if (t->model == VP_TOKENS_WORDPIECE) return vp_wordpiece_word(t, text, n, &s->word, err);
    return vp_bpe_word(t, &s->bpe, text, n, &s->word, err);
}

static void remember(cached *c, const char *text, size_t n, const vp_tokens *w) {
    if (w->n > CACHE_TOKENS) return;
    c->bytes = (uint8_t)n;
    c->n = (uint8_t)w->n;
    memcpy(c->text, text, n);
    for (size_t i = 0; i < w->n; i++) {
        c->id[i] = w->id[i];
        c->start[i] = (uint8_t)w->start[i];
        c->end[i] = (uint8_t)w->end[i];
    }
}

static int add_token(const vp_aligned *text, int32_t id, size_t start, size_t end, vp_tokens *out, vp_error *err) {
    uint32_t from, to;
    vp_aligned_span(text, start, end, &from, &to);
    return vp_tokens_add(out, id, from, to, err);
}

static int encode_piece(const vp_tokenizer *t, vp_scratch *s, vp_piece p, vp_tokens *out, vp_error *err) {
    const vp_aligned *text = &s->work.text;
    const char *piece = text->s + p.start;
    const size_t n = p.end - p.start;
    cached *c = n <= CACHE_BYTES ? &s->cache[vp_hash64(piece, n) % CACHE_SLOTS] : NULL;
    if (!c || c->bytes != n || memcmp(c->text, piece, n) != 0) {
        VP_TRY(word_tokens(t, s, piece, n, err));
        for (size_t i = 0; i < s->word.n; i++)
            VP_TRY(add_token(text, s->word.id[i], p.start + s->word.start[i], p.start + s->word.end[i], out, err));
        if (c) remember(c, piece, n, &s->word);
        return VP_OK;
    }
    for (size_t i = 0; i < c->n; i++)
        VP_TRY(add_token(text, c->id[i], p.start + c->start[i], p.start + c->end[i], out, err));
    return VP_OK;
}

/* ---- segments ---- */
static int encode_plain(const vp_tokenizer *t, vp_scratch *s, vp_tokens *out, vp_error *err) {
    VP_TRY(vp_cut_text(&t->cuts, &s->work, err));
    for (size_t i = 0; i < s->work.pieces.n; i++) VP_TRY(encode_piece(t, s, s->work.pieces.at[i], out, err));
    return VP_OK;
}

/* A stretch of the given text without raw added tokens: normalised, then cut at the normalised ones. */
static int encode_segment(const vp_tokenizer *t, vp_scratch *s, const char *text, size_t start, size_t end,
                          vp_tokens *out, vp_error *err) {
    if (start == end) return VP_OK;
    vp_workspace *w = &s->work;
    vp_aligned_borrow(&w->text, text + start, end - start, (uint32_t)start);
    VP_TRY(vp_normalize(&t->norms, w, err));
    if (t->normalized.n == 0) return encode_plain(t, s, out, err);
    vp_aligned whole = w->text; /* its storage comes back to the workspace at the end */
    w->text = (vp_aligned){0};
    int status = VP_OK;
    size_t at = 0, from, to;
    while (!status && at < whole.n) {
        int32_t id;
        vp_added_next(&t->normalized, whole.s, whole.n, at, &from, &to, &id);
        size_t stop = id < 0 ? whole.n : from;
        if (stop > at) {
            vp_aligned_view(&w->text, &whole, at, stop);
            status = encode_plain(t, s, out, err);
        }
        if (!status && id >= 0) status = add_token(&whole, id, from, to, out, err);
        at = id < 0 ? whole.n : to;
    }
    vp_aligned_free(&w->text);
    w->text = whole;
    return status;
}

static int encode_text(const vp_tokenizer *t, vp_scratch *s, const char *text, size_t n, vp_tokens *out,
                       vp_error *err) {
    size_t at = 0, from, to;
    int32_t id;
    do {
        vp_added_next(&t->raw, text, n, at, &from, &to, &id);
        VP_TRY(encode_segment(t, s, text, at, id < 0 ? n : from, out, err));
        if (id >= 0) VP_TRY(vp_tokens_add(out, id, from, to, err));
        at = id < 0 ? n : to;
    } while (at < n);
    return VP_OK;
}

int vp_tokenizer_encode(const vp_tokenizer *t, const char *text, size_t n, bool specials, vp_tokens *out,
                        vp_error *err) {
    if (n > INT32_MAX / 4) return vp_fail(err, VP_DATA, "a text of %zu bytes: at most %d", n, INT32_MAX / 4);
    size_t valid = vp_utf8_valid(text, n);
    if (valid < n) return vp_fail(err, VP_DATA, "the text is not UTF-8 at byte %zu", valid);
    for (int i = 0; specials && i < t->around.nbefore; i++) VP_TRY(vp_tokens_add(out, t->around.before[i], 0, 0, err));
    /* the scratch list is no part of what the caller sees as the tokenizer */
    vp_tokenizer *shared = (vp_tokenizer *)(uintptr_t)t;
    vp_scratch *s = take_scratch(shared, err);
    if (!s) return VP_MEMORY;
    int status = encode_text(t, s, text, n, out, err);
    give_scratch(shared, s);
    for (int i = 0; !status && specials && i < t->around.nafter; i++)
        status = vp_tokens_add(out, t->around.after[i], n, n, err);
    return status;
}

/* ---- opening and facts ---- */
bool vp_tokenizer_is_gguf(const char *path) {
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".gguf") == 0;
}

static int load(vp_tokenizer *t, const char *path, vp_error *err) {
    struct stat st;
    if (stat(path, &st) != 0) return vp_fail_errno(err, "cannot open '%s'", path);
    if (S_ISDIR(st.st_mode)) return vp_tokenizer_load_json(t, path, "tokenizer.json", err);
    if (vp_tokenizer_is_gguf(path)) return vp_tokenizer_load_gguf(t, path, err);
    const char *slash = strrchr(path, '/');
    char *folder = slash ? vp_strndup(path, (size_t)(slash - path)) : vp_strndup(".", 1);
    if (!folder) return vp_fail_memory(err, "a path", strlen(path));
    int status = vp_tokenizer_load_json(t, folder, slash ? slash + 1 : path, err);
    free(folder);
    return status;
}

int vp_tokenizer_open(vp_tokenizer **out, const char *path, vp_error *err) {
    vp_tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t) return vp_fail_memory(err, "a tokenizer", sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    t->bos = t->eos = t->mask = t->unk = -1;
    memset(t->byte_id, 0xFF, sizeof t->byte_id);
    vp_error why = {0};
    int status = load(t, path, &why);
    if (status) { /* errors of the tables do not know the file */
        vp_tokenizer_close(t);
        return strstr(why.text, path) ? vp_fail(err, status, "%s", why.text)
                                      : vp_fail(err, status, "'%s': %s", path, why.text);
    }
    *out = t;
    return VP_OK;
}

void vp_tokenizer_close(vp_tokenizer *t) {
    if (!t) return;
    while (t->idle) {
        vp_scratch *s = t->idle;
        t->idle = s->next;
        free_scratch(s);
    }
    vp_added_free(&t->raw);
    vp_added_free(&t->normalized);
    vp_norms_free(&t->norms);
    vp_cuts_free(&t->cuts);
    vp_vocab_free(&t->vocab);
    vp_words_free(&t->words);
    vp_words_free(&t->continuing);
    vp_merges_free(&t->merges);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

int64_t vp_tokenizer_vocab(const vp_tokenizer *t) {
    return t->vocab.n;
}
const char *vp_tokenizer_fingerprint(const vp_tokenizer *t) {
    return t->fingerprint;
}

void vp_tokenizer_specials(const vp_tokenizer *t, size_t *before, size_t *after) {
    *before = (size_t)t->around.nbefore;
    *after = (size_t)t->around.nafter;
}

int32_t vp_tokenizer_mask(const vp_tokenizer *t) {
    return t->mask;
}

int32_t vp_tokenizer_find(const vp_tokenizer *t, const char *text, size_t n) {
    for (int32_t id = 0; id < t->vocab.n; id++) {
        size_t len;
        const char *s = vp_vocab_text(&t->vocab, id, &len);
        if (s && len == n && memcmp(s, text, n) == 0) return id;
    }
    return -1;
}

static bool marked_special(const vp_added *a, int32_t id) {
    for (int32_t i = 0; i < a->n; i++)
        if (a->token[i].id == id) return a->token[i].special;
    return false;
}

/* The text of an added token, by its id or, where `text` is given, by its text. */
static bool find_added(const vp_tokenizer *t, int32_t id, const char *text, char out[VP_EOS_BYTES]) {
    const vp_added *const tables[] = {&t->raw, &t->normalized};
    out[0] = '\0';
    for (int k = 0; k < 2; k++) {
        for (int32_t i = 0; i < tables[k]->n; i++) {
            size_t n;
            const char *s = vp_vocab_text(&tables[k]->texts, i, &n);
            const bool is = text ? n == strlen(text) && memcmp(s, text, n) == 0 : tables[k]->token[i].id == id;
            if (!is || n >= VP_EOS_BYTES) continue;
            memcpy(out, s, n);
            out[n] = '\0';
            return true;
        }
    }
    return false;
}

bool vp_tokenizer_eos(const vp_tokenizer *t, char out[VP_EOS_BYTES]) {
    out[0] = '\0';
    if (t->eos >= 0 && t->around.nafter) return true;
    return t->eos >= 0 && find_added(t, t->eos, NULL, out);
}

void vp_tokenizer_marks(const vp_tokenizer *t, char bos[VP_EOS_BYTES], char eos[VP_EOS_BYTES]) {
    if (!find_added(t, -1, "<s>", bos) && t->bos >= 0) find_added(t, t->bos, NULL, bos);
    if (!find_added(t, -1, "</s>", eos) && t->eos >= 0) find_added(t, t->eos, NULL, eos);
}

void vp_tokenizer_begin(const vp_tokenizer *t, char bos[VP_EOS_BYTES]) {
    char eos[VP_EOS_BYTES];
    vp_tokenizer_marks(t, bos, eos);
    if (t->around.nbefore) bos[0] = '\0';
}

bool vp_tokenizer_is_special(const vp_tokenizer *t, int32_t id) {
    if (id == t->bos || id == t->eos || id == t->mask) return true;
    for (int i = 0; i < t->around.nbefore; i++)
        if (t->around.before[i] == id) return true;
    for (int i = 0; i < t->around.nafter; i++)
        if (t->around.after[i] == id) return true;
    return marked_special(&t->raw, id) || marked_special(&t->normalized, id);
}
