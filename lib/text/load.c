/* What both loaders need: steps of the pipeline, tokens and merges with their checks, the fingerprint. */
#include "lib/text/load.h"
#include <stdlib.h>
#include <string.h>

const char vp_gpt2_regex[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

int64_t vp_json_token_id(const json_t *v) {
    double x = json_is_number(v) ? json_number_value(v) : -1;
    return x >= 0 && x < VP_MAX_VOCAB && x == (double)(int64_t)x ? (int64_t)x : -1;
}

int vp_norms_push(vp_norms *list, vp_normal_kind kind, vp_norm **step, vp_error *err) {
    if (list->n == VP_MAX_STEPS) return vp_fail(err, VP_DATA, "more than %d normalisation steps", VP_MAX_STEPS);
    *step = &list->step[list->n++];
    **step = (vp_norm){.kind = kind};
    return VP_OK;
}

int vp_cuts_push(vp_cuts *list, vp_cut_kind kind, vp_cut **step, vp_error *err) {
    if (list->n == VP_MAX_STEPS) return vp_fail(err, VP_DATA, "more than %d pre-tokenizers", VP_MAX_STEPS);
    *step = &list->step[list->n++];
    **step = (vp_cut){.kind = kind};
    return VP_OK;
}

int vp_cuts_push_regex(vp_cuts *list, const char *regex, vp_split_behavior behavior, vp_error *err) {
    vp_cut *cut = NULL;
    VP_TRY(vp_cuts_push(list, VP_CUT_SPLIT, &cut, err));
    cut->behavior = behavior;
    return vp_pattern_regex(&cut->pattern, regex, strlen(regex), err);
}

int vp_cuts_push_class(vp_cuts *list, vp_char_class is, vp_split_behavior behavior, vp_error *err) {
    vp_cut *cut = NULL;
    VP_TRY(vp_cuts_push(list, VP_CUT_SPLIT, &cut, err));
    cut->behavior = behavior;
    cut->pattern.is = is;
    return VP_OK;
}

int vp_norms_push_text(vp_norms *list, vp_normal_kind kind, const char *content, vp_error *err) {
    vp_norm *step = NULL;
    VP_TRY(vp_norms_push(list, kind, &step, err));
    step->n = strlen(content);
    step->content = vp_strndup(content, step->n);
    return step->content ? VP_OK : vp_fail_memory(err, "a normalisation step", step->n);
}

int vp_norms_push_bert(vp_norms *list, bool clean, bool chinese, bool accents, bool lower, vp_error *err) {
    const struct {
        bool wanted;
        vp_normal_kind kind;
    } steps[] = {{clean, VP_NORM_CLEAN},
                 {chinese, VP_NORM_CHINESE},
                 {accents, VP_NORM_NFD},
                 {accents, VP_NORM_NO_NONSPACING},
                 {lower, VP_NORM_LOWER}};
    vp_norm *step = NULL;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (steps[i].wanted) VP_TRY(vp_norms_push(list, steps[i].kind, &step, err));
    return VP_OK;
}

int vp_cuts_push_bert(vp_cuts *list, vp_error *err) {
    VP_TRY(vp_cuts_push_class(list, vp_char_is_space, VP_SPLIT_REMOVED, err));
    return vp_cuts_push_class(list, vp_char_is_punctuation, VP_SPLIT_ISOLATED, err);
}

int vp_tokenizer_set_token(vp_tokenizer *t, int64_t id, const char *s, size_t n, vp_error *err) {
    char small[256];
    char *bytes = n <= sizeof small ? small : malloc(n);
    if (!bytes) return vp_fail_memory(err, "a token", n);
    size_t decoded;
    int status = t->byte_level && vp_bytes_decode(s, n, bytes, &decoded)
                     ? vp_vocab_set(&t->vocab, id, bytes, decoded, err)
                     : vp_vocab_set(&t->vocab, id, s, n, err);
    if (bytes != small) free(bytes);
    return status;
}

/* Tokens of a byte-level vocabulary that are not of its alphabet can only be added tokens; their texts are kept as they
 * are, and must not be taken for the bytes that another token stands for. */
int vp_tokenizer_index_bpe(vp_tokenizer *t, vp_error *err) {
    VP_TRY(vp_words_begin(&t->words, &t->vocab, (size_t)t->vocab.n, 0, err));
    for (int32_t id = 0; id < t->vocab.n; id++) {
        size_t n;
        const char *s = vp_vocab_text(&t->vocab, id, &n);
        if (!s || n == 0 || vp_words_find(&t->words, s, n) >= 0) continue;
        VP_TRY(vp_words_add(&t->words, id, err));
    }
    for (int b = 0; b < 256; b++) {
        char text[8] = {(char)b};
        if (t->byte_fallback) snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        if (t->byte_level || t->byte_fallback) t->byte_id[b] = vp_words_find(&t->words, text, t->byte_fallback ? 6 : 1);
    }
    return VP_OK;
}

/* Append the text as the vocabulary keeps it. */
static int append_text(const vp_tokenizer *t, vp_buf *b, const char *s, size_t n, vp_error *err) {
    VP_TRY(vp_buf_reserve(b, b->len + n + 1, err));
    size_t decoded = n;
    if (!t->byte_level || !vp_bytes_decode(s, n, b->data + b->len, &decoded)) memcpy(b->data + b->len, s, n);
    b->len += decoded;
    return VP_OK;
}

int vp_tokenizer_add_merge(vp_tokenizer *t, uint32_t rank, const char *left, size_t nleft, const char *right,
                           size_t nright, vp_error *err) {
    vp_buf text = {0};
    int status = append_text(t, &text, left, nleft, err);
    size_t border = text.len;
    if (!status) status = append_text(t, &text, right, nright, err);
    if (!status) {
        int32_t a = vp_words_find(&t->words, text.data, border);
        int32_t b = vp_words_find(&t->words, text.data + border, text.len - border);
        int32_t both = vp_words_find(&t->words, text.data, text.len);
        if (a < 0 || b < 0 || both < 0)
            status = vp_fail(err, VP_DATA, "merge %u, '%.*s' with '%.*s': not all of them are tokens", rank,
                             (int)(nleft < 80 ? nleft : 80), left, (int)(nright < 80 ? nright : 80), right);
        else
            vp_merges_add(&t->merges, a, b, rank, both);
    }
    vp_buf_free(&text);
    return status;
}

int vp_template_put(vp_template *around, bool before, int64_t id, vp_error *err) {
    int *n = before ? &around->nbefore : &around->nafter;
    if (*n == VP_MAX_TEMPLATE) return vp_fail(err, VP_DATA, "a template of more than %d tokens", VP_MAX_TEMPLATE);
    (before ? around->before : around->after)[(*n)++] = (int32_t)id;
    return VP_OK;
}

static int check_template(const vp_tokenizer *t, const int32_t *id, int n, vp_error *err) {
    for (int i = 0; i < n; i++)
        if (!vp_vocab_text(&t->vocab, id[i], NULL))
            return vp_fail(err, VP_DATA, "the template's id %d is no token", (int)id[i]);
    return VP_OK;
}

int vp_tokenizer_seal(vp_tokenizer *t, const char *settings, size_t n, vp_error *err) {
    VP_TRY(check_template(t, t->around.before, t->around.nbefore, err));
    VP_TRY(check_template(t, t->around.after, t->around.nafter, err));
    vp_hasher h;
    uint8_t digest[16];
    VP_TRY(vp_hasher_begin(&h, err));
    vp_hasher_part(&h, settings, n);
    vp_hasher_part(&h, &t->around, sizeof t->around);
    for (int32_t id = 0; id < t->vocab.n; id++) {
        size_t len = 0;
        const char *s = vp_vocab_text(&t->vocab, id, &len);
        vp_hasher_part(&h, s, len);
    }
    if (t->merges.slot) vp_hasher_part(&h, t->merges.slot, (t->merges.mask + 1) * sizeof *t->merges.slot);
    vp_hasher_finish(&h, digest);
    vp_hex(t->fingerprint, digest, sizeof digest);
    return VP_OK;
}
