/* Chat formats for generation, one table. Templates are programs in a language of their own (Jinja); the formats in use
 * are few, and each is known by marks that no other has. */
#include "lib/text/dialog.h"
#include "lib/base/json.h"
#include "lib/file/source.h"
#include "lib/text/shorten.h"
#include "lib/text/tokenizer.h"
#include <stdlib.h>
#include <string.h>

typedef struct format {
    const char *name, *mark;
    const char *before[3], *after[3]; /* by vp_speaker; system NULL: there is none */
    const char *answer;               /* what stands before the answer to come */
    const char *end;
    bool strip;  /* white space around turns */
    bool inside; /* the system turn is the beginning of the first user turn */
    bool begins; /* with BOS, also where the tokenizer puts none */
} format;

#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define IM(role)     "<|im_start|>" role "\n"

/* The first whose mark is in the template. */
static const format formats[] = {
    {"llama3",
     "<|start_header_id|>",
     {HEADER("system"), HEADER("user"), HEADER("assistant")},
     {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"},
     HEADER("assistant"),
     "<|eot_id|>",
     true,
     false,
     false},
    {"chatml",
     "<|im_start|>",
     {IM("system"), IM("user"), IM("assistant")},
     {"<|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n"},
     IM("assistant"),
     "<|im_end|>",
     false,
     false,
     false},
    {"gemma",
     "<start_of_turn>",
     {NULL, "<start_of_turn>user\n", "<start_of_turn>model\n"},
     {NULL, "<end_of_turn>\n", "<end_of_turn>\n"},
     "<start_of_turn>model\n",
     "<end_of_turn>",
     true,
     false,
     false},
    {"grit",
     "<|embed|>",
     {"", "<|user|>\n", "<|assistant|>\n"},
     {"\n", "\n", "</s>\n"},
     "<|assistant|>\n",
     "</s>",
     false,
     true,
     true},
    {"zephyr",
     "<|assistant|>",
     {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
     {"</s>\n", "</s>\n", "</s>\n"},
     "<|assistant|>\n",
     "</s>",
     false,
     false,
     true},
    {"llama2",
     "<<SYS>>",
     {"<<SYS>>\n", "[INST] ", " "},
     {"\n<</SYS>>\n\n", " [/INST]", " </s><s>"},
     "",
     "</s>",
     true,
     true,
     false},
    {"mistral", "[INST]", {NULL, "[INST] ", " "}, {NULL, " [/INST]", "</s>"}, "", "</s>", false, false, false},
};
enum { FORMATS = sizeof formats / sizeof *formats };

struct vp_dialog {
    const format *format;
    char *eos;    /* what stands for "</s>"; NULL: itself */
    char *bos;    /* before prompts; NULL: nothing, or the tokenizer puts it there */
    char *system; /* where the conversation has no system turn; NULL: none */
};

/* ---- the model's template ---- */
static int template_of_gguf(const char *path, char **text, vp_error *err) {
    vp_gguf *g;
    const char *s;
    size_t n;
    VP_TRY(vp_gguf_open(&g, path, err));
    int status = VP_OK;
    if (vp_gguf_str(g, "tokenizer.chat_template", &s, &n) && !(*text = vp_strndup(s, n)))
        status = vp_fail_memory(err, "a chat template", n);
    vp_gguf_close(g);
    return status;
}

/* "chat_template": a text, or several with names, of which "default" counts. */
static const char *template_in(const json_t *config) {
    const json_t *v = json_object_get(config, "chat_template");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *one = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && strcmp(name, "default") == 0) return json_string_value(json_object_get(one, "template"));
    }
    return json_string_value(v);
}

static int template_of_folder(const char *folder, char **text, vp_error *err) {
    enum { LIMIT = 1 << 20 };
    static const char own[] = "chat_template.jinja";
    if (vp_path_exists(folder, own)) {
        char *path = NULL;
        vp_buf file = {0};
        VP_TRY(vp_path_join(&path, folder, own, err));
        int status = vp_read_file(path, LIMIT, &file, err);
        if (!status && !(*text = vp_strndup(file.data, file.len)))
            status = vp_fail_memory(err, "a chat template", file.len);
        free(path);
        vp_buf_free(&file);
        return status;
    }
    vp_json config;
    VP_TRY(vp_json_open_optional(&config, folder, "tokenizer_config.json", JSON_OBJECT, err));
    const char *s = template_in(config.root);
    int status = VP_OK;
    if (s && !(*text = vp_strndup(s, strlen(s)))) status = vp_fail_memory(err, "a chat template", strlen(s));
    vp_json_close(&config);
    return status;
}

/* ChatML's templates write a default system turn as one string: <|im_start|>system\n ... <|im_end|>, the newline as it
 * is or as Jinja's \n. */
static int find_system(const char *template, char **system, vp_error *err) {
    static const char begin[] = "<|im_start|>system";
    for (const char *at = template; (at = strstr(at, begin));) {
        at += sizeof begin - 1;
        at += *at == '\n' ? 1 : strncmp(at, "\\n", 2) == 0 ? 2 : 0;
        const char *end = strstr(at, "<|im_end|>");
        if (!end || end == at || memchr(at, '\'', (size_t)(end - at)) || memchr(at, '{', (size_t)(end - at))) continue;
        *system = vp_strndup(at, (size_t)(end - at));
        return *system ? VP_OK : vp_fail_memory(err, "a system turn", (size_t)(end - at));
    }
    return VP_OK;
}

/* Zephyr's users' turns end with EOS, by its name or as it is; other formats with the same marks have nothing there, or
 * tokens of their own. */
static bool closes_users_turn(const char *template) {
    const char *user = strstr(template, "<|user|>"), *next = user ? strstr(user + 1, "<|") : NULL;
    const size_t n = next ? (size_t)(next - user) : user ? strlen(user) : 0;
    return n && (memmem(user, n, "eos_token", strlen("eos_token")) || memmem(user, n, "</s>", strlen("</s>")));
}

static bool is_format(const format *f, const char *template) {
    return strstr(template, f->mark) && (strcmp(f->name, "zephyr") != 0 || closes_users_turn(template));
}

static int recognise(vp_dialog *d, const char *path, vp_error *err) {
    char *text = NULL;
    VP_TRY(vp_tokenizer_is_gguf(path) ? template_of_gguf(path, &text, err) : template_of_folder(path, &text, err));
    if (!text) return vp_fail(err, VP_DATA, "%s: the model has no chat template: name a format, " VP_DIALOGS, path);
    for (int i = FORMATS - 1; i >= 0; i--)
        if (is_format(&formats[i], text)) d->format = &formats[i];
    int status = VP_OK;
    if (!d->format)
        status = vp_fail(err, VP_DATA, "%s: its chat template is none of " VP_DIALOGS, path);
    else if (strcmp(d->format->name, "chatml") == 0)
        status = find_system(text, &d->system, err);
    free(text);
    return status;
}

static const format *named(const char *name) {
    for (int i = 0; name && i < FORMATS; i++)
        if (strcmp(name, formats[i].name) == 0) return &formats[i];
    return NULL;
}

bool vp_dialog_known(const char *name) {
    return named(name) != NULL;
}

int vp_dialog_open(vp_dialog **out, const char *path, const char *name, vp_error *err) {
    vp_dialog *d = *out = vp_calloc(1, sizeof *d);
    if (!d) return vp_fail_memory(err, "a chat format", sizeof *d);
    int status = VP_OK;
    d->format = named(name);
    if (!d->format && strcmp(name, "auto") != 0)
        status = vp_fail(err, VP_USAGE, "chat format '%s': not one of auto, " VP_DIALOGS, name);
    else if (!d->format)
        status = recognise(d, path, err);
    if (!status) return VP_OK;
    vp_dialog_close(d);
    *out = NULL;
    return status;
}

void vp_dialog_close(vp_dialog *d) {
    if (!d) return;
    free(d->eos);
    free(d->bos);
    free(d->system);
    free(d);
}

static const char closing[] = "</s>";

int vp_dialog_spell(vp_dialog *d, const vp_tokenizer *t, vp_error *err) {
    char bos[VP_EOS_BYTES], eos[VP_EOS_BYTES];
    vp_tokenizer_marks(t, bos, eos);
    vp_tokenizer_begin(t, bos);
    if (*eos && strcmp(eos, closing) != 0 && !(d->eos = vp_strndup(eos, strlen(eos))))
        return vp_fail_memory(err, "a chat format", strlen(eos));
    if (d->format->begins && *bos && !(d->bos = vp_strndup(bos, strlen(bos))))
        return vp_fail_memory(err, "a chat format", strlen(bos));
    return VP_OK;
}

const char *vp_dialog_end(const vp_dialog *d) {
    return d->eos && strcmp(d->format->end, closing) == 0 ? d->eos : d->format->end;
}

/* ---- rendering ---- */
static bool blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

static int add_text(const format *f, const char *s, size_t n, vp_buf *out, vp_error *err) {
    while (f->strip && n && blank(*s)) s++, n--;
    while (f->strip && n && blank(s[n - 1])) n--;
    return vp_buf_add(out, s, n, err);
}

/* A piece of the format, with its end as the tokenizer has it. */
static int add(const vp_dialog *d, vp_buf *out, const char *s, vp_error *err) {
    const char *end = d->eos ? strstr(s, closing) : NULL;
    if (!end) return vp_buf_add(out, s, strlen(s), err);
    VP_TRY(vp_buf_add(out, s, (size_t)(end - s), err));
    VP_TRY(vp_buf_add(out, d->eos, strlen(d->eos), err));
    return vp_buf_add(out, end + sizeof closing - 1, strlen(end) - (sizeof closing - 1), err);
}

/* `system` NULL: none inside this turn */
static int add_turn(const vp_dialog *d, const vp_turn *turn, const vp_turn *system, bool open, vp_buf *out,
                    vp_error *err) {
    const format *f = d->format;
    VP_TRY(add(d, out, f->before[turn->speaker], err));
    if (system) {
        VP_TRY(add(d, out, f->before[VP_SPEAKER_SYSTEM], err));
        VP_TRY(add_text(f, system->text, system->n, out, err));
        VP_TRY(add(d, out, f->after[VP_SPEAKER_SYSTEM], err));
    }
    VP_TRY(add_text(f, turn->text, turn->n, out, err));
    return open ? VP_OK : add(d, out, f->after[turn->speaker], err);
}

static int check_order(const format *f, const vp_turn *turn, size_t n, vp_error *err) {
    const size_t first = n && turn[0].speaker == VP_SPEAKER_SYSTEM;
    if (first && !f->before[VP_SPEAKER_SYSTEM])
        return vp_fail(err, VP_DATA, "the chat format %s has no system turn", f->name);
    for (size_t i = first; i < n; i++)
        if (turn[i].speaker != ((i - first) % 2 ? VP_SPEAKER_ASSISTANT : VP_SPEAKER_USER))
            return vp_fail(err, VP_DATA, "turn %zu: user and assistant do not take turns", i + 1);
    return n > first ? VP_OK : vp_fail(err, VP_DATA, "a conversation without a user's turn");
}

/* Turns before the first user's; *first: which that is, *inside: the system turn that is part of it, or NULL. */
static int add_system(const vp_dialog *d, const vp_turn *turn, size_t *first, const vp_turn **inside, vp_buf *out,
                      vp_error *err) {
    const format *f = d->format;
    const bool given = turn[0].speaker == VP_SPEAKER_SYSTEM;
    const vp_turn own = {VP_SPEAKER_SYSTEM, d->system, d->system ? strlen(d->system) : 0};
    *first = given;
    *inside = given && f->inside ? &turn[0] : NULL;
    if (!given && d->system) VP_TRY(add_turn(d, &own, NULL, false, out, err));
    return given && !f->inside ? add_turn(d, &turn[0], NULL, false, out, err) : VP_OK;
}

int vp_dialog_render(const vp_dialog *d, const vp_turn *turn, size_t n, vp_buf *out, vp_error *err) {
    const vp_turn *inside;
    size_t first;
    VP_TRY(check_order(d->format, turn, n, err));
    if (d->bos) VP_TRY(vp_buf_add(out, d->bos, strlen(d->bos), err));
    VP_TRY(add_system(d, turn, &first, &inside, out, err));
    for (size_t i = first; i < n; i++) {
        const bool open = i + 1 == n && turn[i].speaker == VP_SPEAKER_ASSISTANT;
        VP_TRY(add_turn(d, &turn[i], i == first ? inside : NULL, open, out, err));
        if (open) return VP_OK;
    }
    return add(d, out, d->format->answer, err);
}

/* {answer}{end of turn} and, where more follows, what stands between. */
static int add_answer(const vp_dialog *d, const vp_turn *turn, bool last, vp_buf *out, vp_buf *answers, vp_error *err) {
    const format *f = d->format;
    const char *after = f->after[VP_SPEAKER_ASSISTANT], *end = strstr(after, f->end);
    const size_t n = vp_text_stripped(turn->text, turn->n), indent = vp_text_indent(turn->text, n);
    VP_TRY(add(d, out, f->before[VP_SPEAKER_ASSISTANT], err));
    size_t span[2] = {out->len, 0};
    VP_TRY(vp_buf_add(out, turn->text + indent, n - indent, err));
    VP_TRY(vp_buf_add(out, after, (size_t)(end - after), err));
    VP_TRY(add(d, out, f->end, err));
    span[1] = out->len;
    VP_TRY(vp_buf_add(answers, span, sizeof span, err));
    return last ? VP_OK : add(d, out, end + strlen(f->end), err);
}

int vp_dialog_render_answers(const vp_dialog *d, const vp_turn *turn, size_t n, vp_buf *out, vp_buf *answers,
                             vp_error *err) {
    const vp_turn *inside;
    size_t first;
    VP_TRY(check_order(d->format, turn, n, err));
    VP_TRY(add_system(d, turn, &first, &inside, out, err));
    for (size_t i = first; i < n; i++)
        VP_TRY(turn[i].speaker == VP_SPEAKER_ASSISTANT
                   ? add_answer(d, &turn[i], i + 1 == n, out, answers, err)
                   : add_turn(d, &turn[i], i == first ? inside : NULL, false, out, err));
    return VP_OK;
}
