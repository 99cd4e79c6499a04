/* Tokenizers against recorded tokens: small tokenizer.json files with ids and byte spans (tests/tokenizers/make.py),
 * public GGUF vocabularies, and the two models where they have been fetched. Run from the repository's root. */
#include "lib/stream/input.h"
#include "lib/text/slots.h"
#include "tests/unit/tap.h"
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool same_ids(const json_t *want, const vp_tokens *got) {
    if (json_array_size(want) != got->n) return false;
    for (size_t i = 0; i < got->n; i++)
        if (json_integer_value(json_array_get(want, i)) != got->id[i]) return false;
    return true;
}

static bool same_spans(const json_t *want, const vp_tokens *got) {
    for (size_t i = 0; want && i < got->n; i++)
        if (json_integer_value(json_array_get(want, 2 * i)) != got->start[i] ||
            json_integer_value(json_array_get(want, 2 * i + 1)) != got->end[i])
            return false;
    return true;
}

/* One line {"text", "ids", "at", "special"}; NULL or what is wrong. */
static const char *check_line(const vp_tokenizer *t, const json_t *line, vp_tokens *tokens, vp_error *err) {
    const json_t *text = json_object_get(line, "text"), *special = json_object_get(line, "special");
    const char *s = json_string_value(text);
    size_t n = json_string_length(text);
    tokens->n = 0;
    if (vp_tokenizer_encode(t, s, n, false, tokens, err)) return err->text;
    if (!same_ids(json_object_get(line, "ids"), tokens)) return "other ids";
    if (!same_spans(json_object_get(line, "at"), tokens)) return "other spans";
    tokens->n = 0;
    if (special && vp_tokenizer_encode(t, s, n, true, tokens, err)) return err->text;
    return special && !same_ids(special, tokens) ? "other ids with specials" : NULL;
}

static void check_file(const char *name, const char *path, const char *expected) {
    vp_error err = {0};
    vp_tokenizer *t = NULL;
    vp_tokens tokens = {0};
    int status = vp_tokenizer_open(&t, path, &err);
    FILE *f = fopen(expected, "r");
    char *line = NULL, where[600] = "";
    size_t cap = 0, lines = 0, wrong = 0;
    while (t && f && getline(&line, &cap, f) > 0) {
        json_t *o = json_loads(line, JSON_ALLOW_NUL, NULL);
        const char *why = o ? check_line(t, o, &tokens, &err) : "not JSON";
        if (why && !wrong++) snprintf(where, sizeof where, "; first, line %zu: %s", lines + 1, why);
        json_decref(o);
        lines++;
    }
    OK(status == VP_OK && lines > 0 && wrong == 0, "%s: %zu of %zu texts wrong%s %s", name, wrong, lines, where,
       err.text);
    free(line);
    if (f) fclose(f);
    vp_tokens_free(&tokens);
    vp_tokenizer_close(t);
}

/* A vocabulary is stored compressed. */
static bool decompress(const char *from, const char *to) {
    vp_error err = {0};
    vp_input *in = NULL;
    int source = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    char *data = malloc(1 << 20);
    size_t n = 1;
    int status = source < 0 || out < 0 || !data ? VP_IO : vp_input_open(&in, source, from, &err);
    while (!status && n) {
        status = vp_input_full(in, data, 1 << 20, &n, &err);
        if (!status) status = vp_write_all(out, data, n, to, &err);
    }
    vp_input_close(in);
    free(data);
    if (source >= 0) close(source);
    if (out >= 0) close(out);
    return status == VP_OK;
}

/* LLaRA's pieces with LLaMA 2's tokens, as its code has them; the slots are not among these. */
static void check_slots(const char *path) {
    static const int32_t prefix[] = {1, 376};
    static const int32_t self[] = {9162, 19138, 675, 278, 2038, 13382, 2629, 9475, 3838, 29901, 29871};
    static const int32_t next[] = {9162, 8500, 278, 1494, 13382, 2629, 9475, 3838, 29901, 29871};
    const vp_slot_prompt *p = vp_slots_find("llara");
    vp_tokenizer *t = NULL;
    vp_tokens tokens[3] = {0}, none = {0};
    vp_error err = {0};
    OK(!vp_tokenizer_open(&t, path, &err) && !vp_slots_prefix(p, t, true, &tokens[0], &err) &&
           tokens[0].n == sizeof prefix / sizeof *prefix && !memcmp(tokens[0].id, prefix, sizeof prefix),
       "llara's prefix %s", err.text);
    for (int k = 0; t && k < 2; k++)
        vp_tokenizer_encode(t, p->suffix[k], strlen(p->suffix[k]), false, &tokens[k + 1], &err);
    OK(tokens[1].n == sizeof self / sizeof *self && !memcmp(tokens[1].id, self, sizeof self), "its summarise piece");
    OK(tokens[2].n == sizeof next / sizeof *next && !memcmp(tokens[2].id, next, sizeof next), "its predict piece");
    OK(t && vp_slots_suffix(p, t, VP_SLOTS_NEXT, &none, &err) == VP_DATA && strstr(err.text, "<s9>"), "no slots: %s",
       err.text);
    for (int k = 0; k < 3; k++) vp_tokens_free(&tokens[k]);
    vp_tokens_free(&none);
    vp_tokenizer_close(t);
}

static void check_gguf(const char *name) {
    char from[200], expected[200], path[] = "/tmp/vp-vocab-XXXXXX.gguf";
    snprintf(from, sizeof from, "tests/tokenizers/%s.gguf.zst", name);
    snprintf(expected, sizeof expected, "tests/tokenizers/%s.jsonl", name);
    int fd = mkstemps(path, 5);
    if (fd >= 0) close(fd);
    if (OK(fd >= 0 && decompress(from, path), "%s: decompressed", name)) check_file(name, path, expected);
    if (!strcmp(name, "llama-spm")) check_slots(path);
    unlink(path);
}

static void check_model(const char *name, const char *path, const char *expected) {
    if (access(path, R_OK) == 0)
        check_file(name, path, expected);
    else
        OK(true, "%s # SKIP no model: make models", name);
}

/* ---- files that must be refused ---- */
#define HEAD "{\"added_tokens\":[],\"normalizer\":"
#define BPE  "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":"
static const struct {
    const char *what, *json, *says; /* says: part of the message */
} refused[] = {
    {"unknown normalizer", HEAD "{\"type\":\"Nmt\"}," BPE "[]}}", "Nmt"},
    {"unknown pre_tokenizer", HEAD "null,\"pre_tokenizer\":{\"type\":\"Foo\"}," BPE "[]}}", "Foo"},
    {"unknown post_processor", HEAD "null,\"post_processor\":{\"type\":\"Bar\"}," BPE "[]}}", "Bar"},
    {"unknown model", "{\"model\":{\"type\":\"Unigram\",\"vocab\":{}}}", "Unigram"},
    {"vocabulary of another shape", "{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", "no vocabulary"},
    {"merge of unknown tokens", HEAD "null," BPE "[\"a c\"]}}", "not all of them"},
    {"merge without a token", HEAD "null," BPE "[\"ab\"]}}", "not two tokens"},
    {"merge of three", HEAD "null," BPE "[[\"a\",\"b\",\"a\"]]}}", "not two tokens"},
    {"huge id", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999},\"merges\":[]}}", "no id for token a"},
    {"negative id", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "no id for token a"},
    {"id taken twice", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "taken"},
    {"unknown token absent", "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", "unknown token"},
    {"added token with two ids", "{\"added_tokens\":[{\"id\":7,\"content\":\"a\"}]," BPE "[]}}", "has id 7"},
    {"template of no token",
     HEAD "null,\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"x\",9],\"sep\":[\"y\",1]}," BPE "[]}}",
     "id 9"},
    {"dropout", "{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}}", "dropout"},
    {"broken regular expression",
     HEAD "null,\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}," BPE
          "[]}}",
     "regular expression"},
    {"duplicate keys", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", "duplicate"},
    {"no JSON", "{", ".json:1: "},
    {"nothing", "", ".json:1: "},
};

static void check_refusals(void) {
    char path[] = "/tmp/vp-tokenizer-XXXXXX.json";
    int fd = mkstemps(path, 5);
    OK(fd >= 0, "a temporary file");
    for (size_t i = 0; fd >= 0 && i < sizeof refused / sizeof *refused; i++) {
        vp_error err = {0}, write_error = {0};
        vp_tokenizer *t = NULL;
        bool written = ftruncate(fd, 0) == 0 && lseek(fd, 0, SEEK_SET) == 0 &&
                       vp_write_all(fd, refused[i].json, strlen(refused[i].json), path, &write_error) == VP_OK;
        int status = vp_tokenizer_open(&t, path, &err);
        OK(written && status == VP_DATA && !t && strstr(err.text, refused[i].says), "%s is refused: %d %s",
           refused[i].what, status, err.text);
        vp_tokenizer_close(t);
    }
    if (fd >= 0) close(fd);
    unlink(path);
    vp_error err = {0};
    vp_tokenizer *t = NULL;
    int status = vp_tokenizer_open(&t, "/nonexistent", &err);
    OK(status == VP_IO, "an absent file: %d %s", status, err.text);
}

static void check_facts(void) {
    vp_error err = {0};
    vp_tokenizer *t = NULL;
    vp_tokens tokens = {0};
    if (!OK(vp_tokenizer_open(&t, "tests/tokenizers/llama3.json", &err) == VP_OK, "llama3 opens %s", err.text)) return;
    OK(strlen(vp_tokenizer_fingerprint(t)) == 32, "a fingerprint %s", vp_tokenizer_fingerprint(t));
    OK(vp_tokenizer_encode(t, "\xff", 1, false, &tokens, &err) == VP_DATA, "invalid UTF-8: %s", err.text);
    vp_tokens_free(&tokens);
    vp_tokenizer_close(t);
}

int main(void) {
    static const char *const small[] = {"llama3", "qwen2", "digits", "words", "invert", "fallback", "wordpiece"};
    static const char *const vocabularies[] = {"gpt-2", "llama-bpe", "bert-bge", "llama-spm"};
    char path[200], expected[200];
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        snprintf(path, sizeof path, "tests/tokenizers/%s.json", small[i]);
        snprintf(expected, sizeof expected, "tests/tokenizers/%s.jsonl", small[i]);
        check_file(small[i], path, expected);
    }
    for (size_t i = 0; i < sizeof vocabularies / sizeof *vocabularies; i++) check_gguf(vocabularies[i]);
    check_model("SmolLM2", "models/SmolLM2-135M-Instruct.gguf", "tests/tokenizers/smollm2.jsonl");
    check_model("MiniLM", "models/all-MiniLM-L6-v2", "tests/tokenizers/minilm.jsonl");
    check_facts();
    check_refusals();
    return done();
}
