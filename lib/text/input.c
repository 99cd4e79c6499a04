/* How texts become tokens: options, what is remembered, and the model's files, in that order. */
#include "lib/text/input.h"
#include "lib/text/chat.h"
#include "lib/text/shorten.h"
#include "lib/text/slots.h"
#include <string.h>

static bool is(const char *s, const char *value) {
    return s && strcmp(s, value) == 0;
}

static const char *str(const vp_map *m, const char *key, const char *otherwise) {
    const char *s = m ? vp_map_str(m, key) : NULL;
    return s ? s : otherwise;
}

/* The model that --chat names; NULL: it is left open, or there is to be none. */
static const char *named_chat(const vp_input_options *a) {
    return is(a->chat, "auto") || is(a->chat, "none") ? NULL : a->chat;
}

int vp_input_check(const vp_input_options *a, vp_error *err) {
    if (a->block && (a->query || a->max_len || a->truncation || a->chunk || a->query_layout || a->query_max_len))
        return vp_fail(err, VP_USAGE, "--pack: running text is neither a query nor cut");
    if (a->block && named_chat(a)) return vp_fail(err, VP_USAGE, "--pack: running text is no chat");
    if (a->block && a->gen_max_len) return vp_fail(err, VP_USAGE, "--pack: running text is no conversation");
    const char *other = a->block                                     ? "--pack"
                        : a->words                                   ? "--words"
                        : a->chunk                                   ? "--chunk"
                        : a->truncation == 1 + (int)VP_TRUNCATE_LEFT ? "--truncate left"
                                                                     : NULL;
    if (a->doc_max_len > 0 && other) return vp_fail(err, VP_USAGE, "--doc-max-len and %s exclude each other", other);
    return VP_OK;
}

static int find_chat(const vp_input_options *a, const vp_input_model *m, const vp_map *known, const vp_chat **chat,
                     vp_error *err) {
    const char *asked = named_chat(a), *name = asked ? asked : str(known, "chat", "");
    *chat = *name ? vp_chat_find(name) : NULL;
    if (*name && !*chat)
        return vp_fail(err, asked ? VP_USAGE : VP_DATA,
                       "%s'%s': no chat of that model is known; there are %s, and "
                       "llara, llara-paper",
                       asked ? "--chat " : "the documents' chat ", name, vp_chat_models());
    if (!*name && m->chat && !known) *chat = vp_chat_find(m->chat);
    if (m->nv_embed && !known && !*chat) *chat = vp_chat_find(VP_CHAT_NV_EMBED);
    for (int i = 0; i < 2 && m->llm2vec && !known && !*chat; i++) *chat = vp_chat_find(m->base_name[i]);
    return VP_OK;
}

/* A prompt with slots: as it was asked for, as the documents had it, or as the model was trained. */
static const vp_slot_prompt *find_slots(const vp_input_options *a, const vp_input_model *m, const vp_map *known) {
    const char *asked = named_chat(a);
    return vp_slots_find(asked ? asked : known ? str(known, "chat", NULL) : m->chat);
}

static void choose_slots(vp_input *in, const vp_slot_prompt *slots) {
    in->chat = slots->name;
    in->texts.slots = slots;
    in->texts.slot_side = in->asked->query ? VP_SLOTS_NEXT : VP_SLOTS_SELF;
}

/* What follows a text of this chat. */
static int chat_after(const vp_chat *chat, const vp_input_model *m, const char **after, vp_error *err) {
    const bool eos = chat && is(chat->after, VP_CHAT_EOS);
    *after = eos && m->eos ? m->eos : chat ? chat->after : "";
    if (m->eos || !eos) return VP_OK;
    return vp_fail(err, VP_DATA, "the tokenizer has no end of text, which %s's texts have", chat->model);
}

/* A format that spells out what others leave to the tokenizer, for conversations as well. */
static int choose_spelled(vp_input *in, const vp_chat *chat, const vp_input_model *m, vp_error *err) {
    static const char eos[] = VP_CHAT_EOS;
    for (int i = 0; i < 2; i++) {
        const bool ends = strncmp(chat->task[i], eos, sizeof eos - 1) == 0;
        VP_TRY(vp_buf_printf(&in->task[i], err, "%s%s", ends ? m->mark[1] : "",
                             chat->task[i] + (ends ? sizeof eos - 1 : 0)));
        in->texts.task[i] = in->task[i].data;
    }
    VP_TRY(vp_buf_printf(&in->before, err, "%s", m->mark[0]));
    in->texts.before = in->before.data;
    in->texts.bare = chat->bare;
    in->texts.as_is = in->spelled = true;
    in->texts.specials = in->texts.pool_prompt = false;
    in->specials = "none";
    in->dialog = chat->model;
    return VP_OK;
}

/* What stands around instruction and text. */
static int choose_chat(vp_input *in, const vp_input_model *m, const vp_map *known, vp_error *err) {
    const vp_input_options *a = in->asked;
    const vp_chat *chat;
    const char *after;
    in->chat = in->end = "";
    if (is(a->chat, "none") || ((a->block || a->words) && !named_chat(a))) return VP_OK;
    const vp_slot_prompt *slots = find_slots(a, m, known);
    if (slots) choose_slots(in, slots);
    if (slots) return VP_OK;
    if (m->chat && !known && !named_chat(a) && !vp_chat_find(m->chat))
        return vp_fail(err, VP_DATA, "the model's prompt '%s' is not known; there are llara, llara-paper", m->chat);
    VP_TRY(find_chat(a, m, known, &chat, err));
    if (known)
        in->end = str(known, "end", "");
    else if (m->llm2vec && is(m->pooling, "eos"))
        in->end = vp_chat_end(chat, m->arch);
    if (chat && (*chat->after || chat->bare)) in->chat = chat->model;
    if (chat && chat->bare) return choose_spelled(in, chat, m, err);
    VP_TRY(chat_after(chat, m, &after, err));
    VP_TRY(vp_buf_printf(&in->after, err, "%s%s", after, in->end));
    in->texts.before = chat ? chat->before : "";
    for (int i = 0; i < 2; i++) in->texts.task[i] = chat ? chat->task[i] : NULL;
    in->texts.as_is = chat && chat->task[0];
    in->texts.after = in->after.data;
    return VP_OK;
}

static int choose_doc_max_len(vp_input *in, const vp_input_model *m, const vp_map *known, vp_error *err) {
    const vp_input_options *a = in->asked;
    vp_prompt_options *o = &in->texts;
    const bool whole = a->block || a->words || o->chunk || o->truncation == VP_TRUNCATE_LEFT;
    const int64_t before = known ? vp_map_int(known, "doc_max_len", 0) : m->doc_max_len;
    if (before < 0) return vp_fail(err, VP_DATA, "the documents' doc_max_len is %lld", (long long)before);
    o->doc_max_len = a->doc_max_len >= 0 ? a->doc_max_len : whole ? 0 : before;
    return VP_OK;
}

/* LLM2Vec strips the instruction and puts one space behind it. */
static int space_instruction(vp_input *in, const char *asked, vp_error *err) {
    const size_t n = vp_text_stripped(asked, strlen(asked)), indent = vp_text_indent(asked, n);
    return vp_buf_printf(&in->instruction, err, "%.*s%s", (int)(n - indent), asked + indent, n ? " " : "");
}

/* The instruction that was asked for; a layout says itself what follows it. */
static const char *asked_instruction(const vp_input *in, const vp_input_model *m, const char *layout) {
    return m->llm2vec && !*layout ? in->instruction.data : in->asked->instruction;
}

static void choose_queries(vp_input *in, const vp_input_model *m) {
    const vp_input_options *a = in->asked;
    in->queries = in->texts;
    in->queries.slot_side = VP_SLOTS_NEXT;
    in->queries.layout = a->query_layout ? a->query_layout : "";
    in->queries.instruction = a->instruction ? asked_instruction(in, m, in->queries.layout) : m->query_prefix;
    if (a->query_max_len) in->queries.max_len = a->query_max_len;
}

/* GRIT cuts texts to ten characters for each token of the largest limit, before anything else. */
static void choose_characters(vp_input *in) {
    const int64_t gen = in->asked->gen_max_len;
    int64_t most = in->texts.max_len > in->queries.max_len ? in->texts.max_len : in->queries.max_len;
    if (gen > most) most = gen;
    if (in->spelled && most < INT64_MAX / 10) in->texts.max_chars = in->queries.max_chars = 10 * most;
}

int vp_input_choose(vp_input *in, const vp_input_options *a, const vp_input_model *m, const vp_map *head,
                    const vp_map *known, vp_error *err) {
    *in = (vp_input){.asked = a, .dialog = "auto"};
    const vp_map *before = a->query || a->block ? NULL : head;
    const char *own = a->block ? "" : a->query ? m->query_prefix : m->document_prefix;
    const int64_t max_len = a->block ? 0 : m->max_len;
    in->side = a->query ? "query" : str(before, "side", "document");
    in->specials = a->no_specials ? "none" : str(before, "specials", "auto");
    in->texts = (vp_prompt_options){
        .instruction = str(before, "instruction", own ? own : ""),
        .layout = a->layout ? a->layout : str(before, "template", ""),
        .specials = !is(in->specials, "none"),
        .pool_prompt = m->prompt_pooled,
        .text_only = !a->block && (known ? vp_map_bool(known, "text_only", false)
                                         : m->llm2vec && !m->prompt_pooled && !is(m->pooling, "bos")),
        .max_len = a->max_len ? a->max_len
                   : before   ? vp_map_int(before, "max_len", max_len)
                              : max_len,
        .truncation =
            a->truncation ? (vp_truncation)(a->truncation - 1) : vp_truncation_named(str(before, "truncation", NULL)),
        .chunk = a->chunk || !before ? a->chunk : vp_map_int(before, "chunk", 0),
        .overlap = a->overlap || !before ? a->overlap : vp_map_int(before, "overlap", 0),
    };
    VP_TRY(choose_doc_max_len(in, m, known, err));
    VP_TRY(choose_chat(in, m, known, err));
    in->prefix = in->spelled && (a->prefix || (known ? vp_map_bool(known, "prefix", false) : m->prefix));
    if (a->prefix && !in->spelled)
        return vp_fail(err, VP_USAGE, "--prefix: only with --chat " VP_CHAT_GRIT " or " VP_CHAT_ZEPHYR);
    if (a->instruction) VP_TRY(space_instruction(in, a->instruction, err));
    if (a->instruction && !a->query_layout) in->texts.instruction = asked_instruction(in, m, in->texts.layout);
    choose_queries(in, m);
    choose_characters(in);
    return VP_OK;
}

int vp_input_describe(const vp_input *in, vp_map *input, vp_error *err) {
    const vp_prompt_options *o = &in->texts;
    const vp_input_options *a = in->asked;
    VP_TRY(vp_map_set_str(input, "side", in->side, err));
    VP_TRY(vp_map_set_str(input, "instruction", o->instruction, err));
    VP_TRY(vp_map_set_str(input, "template", o->layout, err));
    VP_TRY(vp_map_set_str(input, "specials", in->specials, err));
    VP_TRY(vp_map_set_int(input, "max_len", o->max_len, err));
    VP_TRY(vp_map_set_str(input, "truncation", vp_truncation_name(o->truncation), err));
    if (*in->chat) VP_TRY(vp_map_set_str(input, "chat", in->chat, err));
    if (*in->end) VP_TRY(vp_map_set_str(input, "end", in->end, err));
    if (o->doc_max_len) VP_TRY(vp_map_set_int(input, "doc_max_len", o->doc_max_len, err));
    if (o->text_only) VP_TRY(vp_map_set_bool(input, "text_only", true, err));
    if (in->prefix) VP_TRY(vp_map_set_bool(input, "prefix", true, err));
    if (a->block) VP_TRY(vp_map_set_int(input, "pack", a->block, err));
    if (a->query_layout) VP_TRY(vp_map_set_str(input, "query_template", a->query_layout, err));
    if (a->query_max_len) VP_TRY(vp_map_set_int(input, "query_max_len", a->query_max_len, err));
    if (a->gen_max_len) VP_TRY(vp_map_set_int(input, "gen_max_len", a->gen_max_len, err));
    if (!o->chunk) return VP_OK;
    VP_TRY(vp_map_set_int(input, "chunk", o->chunk, err));
    return vp_map_set_int(input, "overlap", o->overlap, err);
}

vp_conversation_options vp_input_conversation(const vp_input *in, const vp_tokenizer *t, const vp_dialog *d) {
    return (vp_conversation_options){.tokenizer = t,
                                     .dialog = d,
                                     .bos = in->spelled ? in->before.data : NULL,
                                     .max_len = in->asked->gen_max_len ? in->asked->gen_max_len : in->texts.max_len,
                                     .max_chars = in->texts.max_chars};
}

void vp_input_free(vp_input *in) {
    vp_buf_free(&in->instruction);
    vp_buf_free(&in->before);
    vp_buf_free(&in->after);
    for (int i = 0; i < 2; i++) vp_buf_free(&in->task[i]);
}
