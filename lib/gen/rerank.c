/* Scores of passages: the prompt, its tokens, and one row of the output head. Legend: C width. */
#include "lib/gen/rerank.h"
#include "kernels/ops.h"
#include "lib/model/cache.h"
#include "lib/model/head.h"
#include "lib/model/training.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct vp_reranker {
    vp_rerank_options o;
    const vp_tokenizer *tokenizer;
    vp_encoder *encoder;
    vp_head *head; /* of `token` alone */
    int32_t token;
    int64_t positions;
    float *last; /* [C] */
    vp_buf text;
    vp_tokens ids;  /* of all prompts of a query */
    size_t *cu;     /* [n + 1] */
    size_t cu_room; /* of cu */
};

/* ---- the prompt ---- */
typedef enum place { PLACE_QUERY, PLACE_TITLE, PLACE_TEXT, PLACE_NONE } place;
static const char *const places[] = {"{query}", "{title}", "{text}"};

/* The first place in s, and where; PLACE_NONE: at its end. */
static place next_place(const char *s, size_t *at) {
    place first = PLACE_NONE;
    *at = strlen(s);
    for (int i = 0; i < PLACE_NONE; i++) {
        const char *found = strstr(s, places[i]);
        if (!found || (size_t)(found - s) >= *at) continue;
        *at = (size_t)(found - s);
        first = (place)i;
    }
    return first;
}

/* Bytes of the first `chars` characters of valid UTF-8. */
static size_t cut_chars(const char *s, size_t n, int64_t chars) {
    size_t at = 0;
    for (int64_t seen = 0; at < n; at++)
        if (((unsigned char)s[at] & 0xc0) != 0x80 && seen++ == chars) break;
    return at;
}

static int render(const vp_reranker *r, const char *query, size_t len, const vp_passage *p, vp_buf *out,
                  vp_error *err) {
    for (const char *s = r->o.prompt;;) {
        size_t at;
        const place what = next_place(s, &at);
        VP_TRY(vp_buf_add(out, s, at, err));
        if (what == PLACE_NONE) return VP_OK;
        s += at + strlen(places[what]);
        if (what == PLACE_QUERY)
            VP_TRY(vp_buf_add(out, query, cut_chars(query, len, r->o.chars), err));
        else if (what == PLACE_TEXT)
            VP_TRY(vp_buf_add(out, p->text, cut_chars(p->text, p->text_len, r->o.chars), err));
        else if (p->title_len)
            VP_TRY(vp_buf_add(out, p->title, cut_chars(p->title, p->title_len, r->o.chars), err));
        else
            s += *s == ' ';
    }
}

/* Append the prompt's tokens, BOS before them and no EOS behind. */
static int add_prompt(vp_reranker *r, const char *query, size_t len, const vp_passage *p, vp_error *err) {
    size_t before, after;
    char bos[VP_EOS_BYTES];
    vp_tokenizer_begin(r->tokenizer, bos);
    r->text.len = 0;
    if (strncmp(r->o.prompt, bos, strlen(bos)) != 0) VP_TRY(vp_buf_add(&r->text, bos, strlen(bos), err));
    VP_TRY(render(r, query, len, p, &r->text, err));
    VP_TRY(vp_tokenizer_encode(r->tokenizer, r->text.len ? r->text.data : "", r->text.len, true, &r->ids, err));
    vp_tokenizer_specials(r->tokenizer, &before, &after);
    r->ids.n -= after;
    return VP_OK;
}

/* The token that `yes` is behind the prompt's end, which alone has the same tokens. */
static int find_token(vp_reranker *r, vp_error *err) {
    const char *end = r->o.prompt;
    vp_tokens alone = {0}, both = {0};
    bool has[PLACE_NONE + 1] = {false};
    for (place what = PLACE_QUERY; what != PLACE_NONE;) {
        size_t at;
        what = next_place(end, &at);
        has[what] = true;
        if (what != PLACE_NONE) end += at + strlen(places[what]);
    }
    if (!has[PLACE_QUERY] || !has[PLACE_TEXT])
        return vp_fail(err, VP_USAGE, "--prompt has no %s", has[PLACE_QUERY] ? "{text}" : "{query}");
    r->text.len = 0;
    int status = vp_buf_printf(&r->text, err, "%s%s", end, r->o.yes);
    if (!status) status = vp_tokenizer_encode(r->tokenizer, end, strlen(end), false, &alone, err);
    if (!status) status = vp_tokenizer_encode(r->tokenizer, r->text.data, r->text.len, false, &both, err);
    const size_t n = alone.n;
    if (!status && (both.n != n + 1 || (n && memcmp(both.id, alone.id, n * sizeof *alone.id) != 0)))
        status = vp_fail(err, VP_USAGE, "--yes '%.60s' is not one token after the prompt", r->o.yes);
    if (!status) r->token = both.id[n];
    vp_tokens_free(&alone);
    vp_tokens_free(&both);
    return status;
}

/* ---- opening ---- */
int vp_rerank_open(vp_reranker **out, const vp_model *m, vp_encoder *e, const vp_tokenizer *t,
                   const vp_rerank_options *o, vp_error *err) {
    vp_reranker *r = *out = vp_calloc(1, sizeof *r);
    if (!r) return vp_fail_memory(err, "a reranker", sizeof *r);
    *r = (vp_reranker){.o = *o, .tokenizer = t, .encoder = e, .positions = vp_model_positions(m)};
    const vp_compute on = vp_encoder_compute(e);
    int status = find_token(r, err);
    if (!status) status = vp_head_open_token(&r->head, m, &on, r->token, err);
    if (!status && !(r->last = vp_calloc((size_t)vp_head_width(r->head), sizeof *r->last)))
        status = vp_fail_memory(err, "a hidden state", (size_t)vp_head_width(r->head) * sizeof *r->last);
    if (!status) return VP_OK;
    vp_rerank_close(r);
    *out = NULL;
    return status;
}

void vp_rerank_close(vp_reranker *r) {
    if (!r) return;
    vp_head_close(r->head);
    vp_buf_free(&r->text);
    vp_tokens_free(&r->ids);
    free(r->last);
    free(r->cu);
    free(r);
}

int32_t vp_rerank_token(const vp_reranker *r) {
    return r->token;
}

/* ---- scores ---- */
/* The tokens of all prompts; *common: how many they begin with in common, less than the shortest has, so that each has
 * a last one of its own. */
static int make_prompts(vp_reranker *r, const char *query, size_t len, const vp_passage *p, size_t n, size_t *common,
                        size_t *longest, size_t *bad, vp_error *err) {
    r->ids.n = *longest = 0;
    *common = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        VP_TRY(vp_grow(&r->cu, &r->cu_room, i + 1, sizeof *r->cu, "prompts", err));
        r->cu[i] = r->ids.n;
        *bad = i;
        VP_TRY(add_prompt(r, query, len, &p[i], err));
        const size_t tokens = r->ids.n - r->cu[i];
        if (!tokens || tokens > (size_t)r->positions)
            return vp_fail(err, VP_DATA, "the prompt has %zu tokens, the model has %lld positions", tokens,
                           (long long)r->positions);
        size_t same = 0;
        while (same < *common && same + 1 < tokens && r->ids.id[same] == r->ids.id[r->cu[i] + same]) same++;
        *common = same;
        if (tokens > *longest) *longest = tokens;
    }
    r->cu[n] = r->ids.n;
    return VP_OK;
}

static int append(vp_reranker *r, vp_cache *c, size_t from, size_t to, vp_error *err) {
    const int32_t cu[2] = {0, (int32_t)(to - from)};
    return vp_encoder_append(r->encoder, &c, 1, r->ids.id + from, cu, r->last, err);
}

static int read_logit(vp_reranker *r, float *score, vp_error *err) {
    const int64_t C = vp_head_width(r->head);
    const vp_mat x = {.ptr = r->last, .dtype = VP_F32, .rows = 1, .cols = C, .ld = C};
    const vp_mat logit = {.ptr = score, .dtype = VP_F32, .rows = 1, .cols = 1, .ld = 1};
    const vp_compute on = vp_encoder_compute(r->encoder);
    vp_transfer t = vp_transfer_begin(&on, "a score", err);
    const vp_mat from = vp_transfer_put_mat(&t, &x), to = vp_transfer_room_mat(&t, &logit);
    if (!t.status) t.status = vp_head_logits(r->head, &from, &to, err);
    vp_transfer_get_mat(&t, &logit, &to);
    VP_TRY(vp_transfer_end(&t));
    if (!isfinite(*score)) *score = NAN;
    return VP_OK;
}

int vp_rerank_score(vp_reranker *r, const char *query, size_t len, const vp_passage *passage, size_t n, float *score,
                    size_t *bad, vp_error *err) {
    vp_cache *c = NULL;
    size_t common, longest;
    if (!n) return VP_OK;
    VP_TRY(make_prompts(r, query, len, passage, n, &common, &longest, bad, err));
    VP_TRY(vp_cache_open(&c, r->encoder, (int64_t)longest, err));
    int status = common ? append(r, c, 0, common, err) : VP_OK;
    for (size_t i = 0; i < n && !status; i++) {
        *bad = i;
        vp_cache_cut(c, (int64_t)common);
        status = append(r, c, r->cu[i] + common, r->cu[i + 1], err);
        if (!status) status = read_logit(r, &score[i], err);
    }
    vp_cache_close(c);
    return status;
}
