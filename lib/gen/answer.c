/* Answers: tokens to text, stop texts across their borders, and the line of JSON. */
#include "lib/gen/private.h"
#include "lib/stream/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *vp_finish_name(vp_finish f) {
    static const char *const names[] = {NULL, "end", "stop", "length", "context", "failed"};
    return names[f];
}

void vp_answer_free(vp_answer *a) {
    vp_buf_free(&a->text);
    free(a->id);
    free(a->logprob);
    *a = (vp_answer){0};
}

/* Where the first stop text begins in what is new since `from`; text.len: nowhere. */
static size_t find_stop(const vp_answer *a, const vp_stops *stops, size_t from) {
    const size_t back = stops->longest > 1 ? stops->longest - 1 : 0, begin = from > back ? from - back : 0;
    size_t first = a->text.len;
    for (size_t i = 0; a->text.len && i < stops->n; i++) {
        const char *at = memmem(a->text.data + begin, a->text.len - begin, stops->text[i], strlen(stops->text[i]));
        if (at && (size_t)(at - a->text.data) < first) first = (size_t)(at - a->text.data);
    }
    return first;
}

/* The text without the longest end that could begin a stop text. */
static size_t certain_bytes(const vp_answer *a, const vp_stops *stops) {
    size_t held = stops->longest ? stops->longest - 1 : 0;
    if (held > a->text.len) held = a->text.len;
    for (; held; held--)
        for (size_t i = 0; i < stops->n; i++)
            if (strlen(stops->text[i]) > held && memcmp(a->text.data + a->text.len - held, stops->text[i], held) == 0)
                return a->text.len - held;
    return a->text.len;
}

int vp_answer_take(vp_answer *a, vp_detokenizer *d, const vp_stops *stops, int32_t id, bool ends, int64_t most,
                   vp_finish at_most, vp_error *err) {
    const size_t from = a->text.len;
    a->id[a->tokens++] = id;
    if (!ends) VP_TRY(vp_detokenize(d, id, &a->text, err));
    a->finish = ends ? VP_FINISH_END : a->tokens == most ? at_most : VP_FINISH_NONE;
    if (a->finish) VP_TRY(vp_detokenize_end(d, &a->text, err));
    const size_t stop = find_stop(a, stops, from);
    if (stop < a->text.len) {
        a->text.len = stop;
        a->finish = VP_FINISH_STOP;
    }
    a->certain = a->finish ? a->text.len : certain_bytes(a, stops);
    return VP_OK;
}

/* ---- JSON ---- */
static int put_key(vp_buf *out, const char *key, vp_error *err) {
    const bool first = out->len && out->data[out->len - 1] == '{';
    return vp_buf_printf(out, err, "%s\"%s\":", first ? "" : ",", key);
}

static int put_text(vp_buf *out, const char *key, const char *s, size_t n, vp_error *err) {
    VP_TRY(put_key(out, key, err));
    return vp_json_quote(out, n ? s : "", n, err);
}

static int put_logprobs(const vp_answer *a, vp_buf *out, vp_error *err) {
    VP_TRY(put_key(out, "logprobs", err));
    for (int64_t i = 0; i < a->tokens; i++)
        VP_TRY(vp_buf_printf(out, err, "%s[%d,%.6g]", i ? "," : "[", (int)a->id[i], (double)a->logprob[i]));
    return vp_buf_add(out, "]", 1, err);
}

int vp_gen_write(const vp_answer *a, const vp_gen_line *l, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_add(out, "{", 1, err));
    if (l->id) VP_TRY(put_text(out, "id", l->id, l->id_len, err));
    if (l->meta_len > 2) {
        if (l->id) VP_TRY(vp_buf_add(out, ",", 1, err));
        VP_TRY(vp_buf_add(out, l->meta + 1, l->meta_len - 2, err)); /* without the braces */
    }
    if (l->prompt) VP_TRY(put_text(out, "prompt", l->prompt, l->prompt_len, err));
    VP_TRY(put_text(out, "text", a->text.data, a->text.len, err));
    VP_TRY(put_key(out, "tokens", err));
    VP_TRY(vp_buf_printf(out, err, "%lld", (long long)a->tokens));
    VP_TRY(put_text(out, "finish", vp_finish_name(a->finish), strlen(vp_finish_name(a->finish)), err));
    if (a->logprob) VP_TRY(put_logprobs(a, out, err));
    return vp_buf_add(out, "}\n", 2, err);
}

int vp_gen_printable(const char *text, size_t n, vp_buf *out, vp_error *err) {
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i], next = (unsigned char)(i + 1 < n ? text[i + 1] : 0);
        const bool control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f || (c == 0xc2 && next < 0xa0);
        if (control) i += c == 0xc2;
        VP_TRY(vp_buf_add(out, control ? "?" : &text[i], 1, err));
    }
    return VP_OK;
}

/* ---- prompts ---- */
int vp_gen_prompt(const vp_tokenizer *t, const vp_dialog *d, const char *begin, const vp_record *r, vp_tokens *out,
                  vp_error *err) {
    const vp_turn only = {VP_SPEAKER_USER, r->text, r->text_len};
    vp_buf text = {0};
    size_t before, after;
    vp_tokenizer_specials(t, &before, &after);
    if (r->turn && !d) return vp_fail(err, VP_DATA, "a conversation: --chat says in which format");
    int status = d ? vp_dialog_render(d, r->turn ? r->turn : &only, r->turn ? r->turns : 1, &text, err)
                   : vp_buf_add(&text, begin, strlen(begin), err);
    if (!status && !d) status = vp_buf_add(&text, r->text, r->text_len, err);
    if (!status) status = vp_tokenizer_encode(t, text.len ? text.data : "", text.len, true, out, err);
    if (!status) out->n -= after;
    vp_buf_free(&text);
    return status;
}
