/* Conversations to tokens, and which of them are answers. */
#include "lib/text/conversation.h"
#include "lib/text/shorten.h"
#include <string.h>

/* The turns with their texts cut to max_chars. */
static int shorten(vp_conversation *c, const vp_conversation_options *o, const vp_record *r, vp_error *err) {
    c->turns.len = 0;
    for (size_t i = 0; i < r->turns; i++) {
        vp_turn turn = r->turn[i];
        turn.n = vp_text_first(turn.text, turn.n, o->max_chars);
        c->truncated |= turn.n < r->turn[i].n;
        VP_TRY(vp_buf_add(&c->turns, &turn, sizeof turn, err));
    }
    return VP_OK;
}

static int render(vp_conversation *c, const vp_conversation_options *o, const vp_record *r, vp_error *err) {
    c->text.len = c->answers.len = 0;
    if (o->bos) VP_TRY(vp_buf_add(&c->text, o->bos, strlen(o->bos), err));
    if (!r->turn) {
        const size_t n = vp_text_first(r->text, r->text_len, o->max_chars), span[2] = {c->text.len, c->text.len + n};
        c->truncated |= n < r->text_len;
        VP_TRY(vp_buf_add(&c->text, r->text, n, err));
        return vp_buf_add(&c->answers, span, sizeof span, err);
    }
    if (!o->dialog) return vp_fail(err, VP_DATA, "a conversation, and the model has no chat format: --chat grit");
    VP_TRY(shorten(c, o, r, err));
    const vp_turn *turn = (const vp_turn *)(const void *)c->turns.data;
    return vp_dialog_render_answers(o->dialog, turn, r->turns, &c->text, &c->answers, err);
}

/* A token is an answer's when it has a byte of it. Both ascend. */
static int mark(vp_conversation *c, vp_error *err) {
    const size_t *answer = (const size_t *)(const void *)c->answers.data, n = c->answers.len / sizeof *answer;
    c->keep.len = c->targets = 0;
    for (size_t i = 0, a = 0; i < c->tokens.n; i++) {
        while (a + 1 < n && answer[a + 1] <= c->tokens.start[i]) a += 2;
        const bool added = c->tokens.start[i] == c->tokens.end[i];
        const char kept = (char)(a + 1 < n && !added && c->tokens.end[i] > answer[a]);
        c->targets += kept && i;
        VP_TRY(vp_buf_add(&c->keep, &kept, 1, err));
    }
    return VP_OK;
}

int vp_conversation_make(vp_conversation *c, const vp_conversation_options *o, const vp_record *r, vp_error *err) {
    size_t before, after = 0;
    c->truncated = false;
    c->tokens.n = 0;
    VP_TRY(render(c, o, r, err));
    if (!o->bos) vp_tokenizer_specials(o->tokenizer, &before, &after);
    VP_TRY(vp_tokenizer_encode(o->tokenizer, c->text.len ? c->text.data : "", c->text.len, !o->bos, &c->tokens, err));
    c->tokens.n -= after; /* answers have their own ends */
    if (o->max_len && c->tokens.n > (size_t)o->max_len) {
        c->tokens.n = (size_t)o->max_len;
        c->truncated = true;
    }
    return mark(c, err);
}

int vp_conversation_dialog(vp_dialog **d, const char *path, const char *name, const vp_tokenizer *t, vp_error *err) {
    vp_error why = {0};
    const int status = vp_dialog_open(d, path, name, &why);
    if (status == VP_DATA) return VP_OK; /* a model without one meets perhaps no conversation */
    return status ? vp_fail(err, status, "%s", why.text) : vp_dialog_spell(*d, t, err);
}

void vp_conversation_free(vp_conversation *c) {
    vp_buf_free(&c->text);
    vp_buf_free(&c->answers);
    vp_buf_free(&c->turns);
    vp_buf_free(&c->keep);
    vp_tokens_free(&c->tokens);
}
