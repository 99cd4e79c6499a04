/* Tokens back to text: round trips over recorded texts, characters spread over tokens; and chat formats as the models'
 * own templates render them. */
#include "lib/text/decode.h"
#include "lib/text/dialog.h"
#include "lib/text/tokenizer.h"
#include "tests/unit/tap.h"
#include <string.h>

/* text -> tokens -> text, one token at a time; what is certain is valid UTF-8 all along */
static bool same_again(const vp_tokenizer *t, const char *text, size_t n, const char *lead) {
    vp_error err = {0};
    vp_tokens tokens = {0};
    vp_buf got = {0};
    vp_detokenizer d = {.tokenizer = t};
    bool good = !vp_tokenizer_encode(t, text, n, true, &tokens, &err);
    for (size_t i = 0; good && i < tokens.n; i++)
        good = !vp_detokenize(&d, tokens.id[i], &got, &err) && vp_utf8_valid(got.data, got.len) == got.len;
    good = good && !vp_detokenize_end(&d, &got, &err);
    const size_t skip = *text == ' ' ? 0 : strlen(lead);
    good = good && got.len == n + skip && !memcmp(got.data, lead, skip) && !memcmp(got.data + skip, text, n);
    if (!good) printf("# '%.*s' became '%.*s' %s\n", (int)n, text, (int)got.len, got.data ? got.data : "", err.text);
    vp_tokens_free(&tokens);
    vp_buf_free(&got);
    return good;
}

static const char *const texts[] = {
    "a plain text",    "se\u00f1or \u4f60\u597d \U0001f95e!", "  two spaces\n\nlines\t", "x", "\u00a0\u2028 odd spaces",
    "x\u0304 combined"};

static void check_round_trips(const char *path, const char *lead) {
    vp_error err = {0};
    vp_tokenizer *t = NULL;
    if (!OK(!vp_tokenizer_open(&t, path, &err), "%s %s", path, err.text)) return;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        OK(same_again(t, texts[i], strlen(texts[i]), lead), "%s: text %zu", path, i);
    vp_buf text = {0};
    vp_detokenizer d = {.tokenizer = t};
    OK(vp_detokenize(&d, -1, &text, &err) == VP_DATA, "no such token: %s", err.text);
    OK(!vp_detokenize(&d, t->vocab.n, &text, &err) && text.len == 0, "an id above the vocabulary has no text");
    vp_buf_free(&text);
    vp_tokenizer_close(t);
}

/* Bytes as tokens of their own: 0xFF and lone continuations are replaced, an unfinished character waits, then is. */
static void check_bytes(const char *path) {
    static const struct {
        const char *bytes, *text;
    } cases[] = {{"\xff", "\ufffd"},
                 {"a\x80z", "a\ufffdz"},
                 {"\xe4\xbd\xa0", "\u4f60"},
                 {"\xe4\xbd", "\ufffd"},
                 {"\xe4\xbd"
                  "a",
                  "\ufffd"
                  "a"},
                 {"\xed\xa0\x80", "\ufffd\ufffd\ufffd"},
                 {"\xf0\x9f\xa5", "\ufffd"},
                 {"\xc0\xaf", "\ufffd\ufffd"},
                 {"\xf0\x9f\xa5\x9e", "\U0001f95e"},
                 {"\xf4\x90"
                  "b",
                  "\ufffd\ufffd"
                  "b"}};
    vp_error err = {0};
    vp_tokenizer *t = NULL;
    if (!OK(!vp_tokenizer_open(&t, path, &err), "%s %s", path, err.text)) return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_buf got = {0};
        vp_detokenizer d = {.tokenizer = t};
        bool good = true;
        for (const char *c = cases[i].bytes; *c; c++)
            good = good && !vp_detokenize(&d, t->byte_id[(unsigned char)*c], &got, &err);
        good = good && !vp_detokenize_end(&d, &got, &err);
        const size_t n = strlen(cases[i].text);
        OK(good && got.len == n && !memcmp(got.data, cases[i].text, n), "%s: bytes %zu %s", path, i, err.text);
        vp_buf_free(&got);
    }
    vp_tokenizer_close(t);
}

/* ---- chat formats ---- */
static const vp_turn conversation[] = {{VP_SPEAKER_SYSTEM, "S", 1},
                                       {VP_SPEAKER_USER, " hello ", 7},
                                       {VP_SPEAKER_ASSISTANT, "hi", 2},
                                       {VP_SPEAKER_USER, "bye", 3}};

static void check_format(const char *name, size_t from, const char *want) {
    vp_error err = {0};
    vp_dialog *d = NULL;
    vp_buf got = {0};
    bool good = !vp_dialog_open(&d, "", name, &err) && !vp_dialog_render(d, conversation + from, 4 - from, &got, &err);
    good = good && got.len == strlen(want) && !memcmp(got.data, want, got.len);
    OK(good, "%s: %s", name, err.text);
    if (!good) printf("# %.*s\n", (int)got.len, got.data ? got.data : "");
    vp_buf_free(&got);
    vp_dialog_close(d);
}

int main(void) {
    check_round_trips("tests/tokenizers/qwen2.json", "");
    check_round_trips("tests/tokenizers/fallback.json", " "); /* SentencePiece puts a space before a text */
    check_bytes("tests/tokenizers/digits.json");
    check_bytes("tests/tokenizers/fallback.json");
    check_format("chatml", 0,
                 "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n hello <|im_end|>\n<|im_start|>assistant\n"
                 "hi<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n");
    check_format("llama3", 0,
                 "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
                 "hello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>user"
                 "<|end_header_id|>\n\nbye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
    check_format("gemma", 1,
                 "<start_of_turn>user\nhello<end_of_turn>\n<start_of_turn>model\nhi<end_of_turn>\n<start_of_turn>user\n"
                 "bye<end_of_turn>\n<start_of_turn>model\n");
    check_format("zephyr", 0,
                 "<|system|>\nS</s>\n<|user|>\n hello </s>\n<|assistant|>\nhi</s>\n<|user|>\nbye</s>\n<|assistant|>\n");
    check_format("llama2", 0, "[INST] <<SYS>>\nS\n<</SYS>>\n\nhello [/INST] hi </s><s>[INST] bye [/INST]");
    check_format("mistral", 1, "[INST]  hello  [/INST] hi</s>[INST] bye [/INST]");
    check_format("grit", 0, "<|user|>\nS\n hello \n<|assistant|>\nhi</s>\n<|user|>\nbye\n<|assistant|>\n");
    return done();
}
