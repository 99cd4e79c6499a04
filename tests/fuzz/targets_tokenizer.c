/* Tokenizers: tokenizer.json and GGUF vocabularies. What loads must encode anything, to ids of the vocabulary with
 * spans inside the text. */
#include "lib/text/tokenizer.h"
#include "lib/vecpipe.h"
#include "tests/fuzz/targets.h"
#include "tests/modelfile.h"

#define MARK "\xe2\x96\x81" /* U+2581 */

/* ---- encoding with what was loaded ---- */

static int check_tokens(const vp_tokenizer *t, const vp_tokens *tokens, size_t n, vp_error *err) {
    for (size_t i = 0; i < tokens->n; i++) {
        if (tokens->id[i] < 0 || tokens->id[i] >= vp_tokenizer_vocab(t))
            return vp_fail(err, VP_BUG, "id %d of a vocabulary of %lld", (int)tokens->id[i],
                           (long long)vp_tokenizer_vocab(t));
        if (tokens->start[i] > tokens->end[i] || tokens->end[i] > n)
            return vp_fail(err, VP_BUG, "span %u..%u of a text of %zu bytes", tokens->start[i], tokens->end[i], n);
        size_t length;
        if (!vp_vocab_text(&t->vocab, tokens->id[i], &length)) return vp_fail(err, VP_BUG, "a token without a text");
    }
    return VP_OK;
}

static int encode(const vp_tokenizer *t, vp_error *err) {
    static const char *const texts[] = {
        "Hello, world! it's 12345 o'clock  \n\tthe \xc3\xa9t\xc3\xa9 [SEP]<|end|>",
        "\xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80\xe2\x80\x8d e\xcc\x81 ab abab ababab", ""};
    for (size_t i = 0; i < 2 * sizeof texts / sizeof *texts; i++) {
        const char *text = texts[i / 2];
        vp_tokens tokens = {0};
        vp_error why = {0};
        int status = vp_tokenizer_encode(t, text, strlen(text), i % 2, &tokens, &why);
        if (status && status != VP_DATA) status = vp_fail(err, status, "%s", why.text);
        if (!status) status = check_tokens(t, &tokens, strlen(text), err);
        vp_tokens_free(&tokens);
        if (status && status != VP_DATA) return status;
    }
    return VP_OK;
}

static int open_tokenizer(const char *path, vp_error *err) {
    vp_tokenizer *t = NULL;
    int status = vp_tokenizer_open(&t, path, err);
    if (!status) status = encode(t, err);
    vp_tokenizer_close(t);
    return status;
}

/* ---- tokenizer.json ---- */

#define BYTE_TOKENS                                                                                                    \
    "\"a\":0,\"b\":1,\"\\u0120\":2,\"ab\":3,\"abab\":4,\"\\u0120ab\":5,\"H\":6,\"e\":7,\"l\":8,\"o\":9,\"1\":10"

void tokenizer_seeds(fuzz_seeds *s) {
    fuzz_seed_text(s,
                   "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{\"id\":11,\"content\":"
                   "\"<|end|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                   "\"special\":true}],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                   "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":{\"type\":"
                   "\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,\"use_regex\":true},\"decoder\":{"
                   "\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
                   "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
                   "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{" BYTE_TOKENS
                   ",\"<|end|>\":11},\"merges\":[\"a b\",\"ab ab\",\"\\u0120 ab\"]}}");
    fuzz_seed_text(s,
                   "{\"added_tokens\":[{\"id\":11,\"content\":\"<s>\",\"single_word\":true,\"lstrip\":true,\"rstrip\":"
                   "true,\"normalized\":true,\"special\":true}],\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{"
                   "\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t)|"
                   "\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":"
                   "\"Isolated\",\"invert\":false},{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":"
                   "\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},"
                   "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\","
                   "\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{"
                   "\"<s>\":{\"id\":\"<s>\",\"ids\":[11],\"tokens\":[\"<s>\"]}}},\"model\":{\"type\":\"BPE\","
                   "\"ignore_merges\":true,\"vocab\":{" BYTE_TOKENS ",\"<s>\":11},\"merges\":[[\"a\",\"b\"],"
                   "[\"ab\",\"ab\"]]}}");
    fuzz_seed_text(
        s, "{\"added_tokens\":[{\"id\":1,\"content\":\"[SEP]\",\"special\":true,\"single_word\":false,"
           "\"lstrip\":false,\"rstrip\":false,\"normalized\":false}],\"normalizer\":{\"type\":"
           "\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,\"strip_accents\":null,"
           "\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"post_processor\":{\"type\":"
           "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"[CLS]\",\"type_id\":0}},{\"Sequence\":"
           "{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"[SEP]\",\"type_id\":0}}],\"pair\":[],"
           "\"special_tokens\":{\"[CLS]\":{\"id\":\"[CLS]\",\"ids\":[2],\"tokens\":[\"[CLS]\"]},\"[SEP]\":{"
           "\"id\":\"[SEP]\",\"ids\":[1],\"tokens\":[\"[SEP]\"]}}},\"decoder\":{\"type\":\"WordPiece\","
           "\"prefix\":\"##\",\"cleanup\":true},\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\","
           "\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,\"vocab\":{\"[UNK]\":0,"
           "\"[SEP]\":1,\"[CLS]\":2,\"hello\":3,\"world\":4,\"a\":5,\"##b\":6,\"##ab\":7,\"!\":8}}}");
}

int tokenizer_run(const vp_buf *input, vp_error *err) {
    fuzz_write_file("tokenizer.json", input);
    return open_tokenizer(".", err);
}

/* ---- GGUF ---- */

typedef struct seed_vocab {
    const char *model, *pre;
    const char *const *token;
    const int32_t *type;
    int n;
} seed_vocab;

static void put_vocab(vp_buf *b, const seed_vocab *v, uint64_t more) {
    gguf_header(b, 3, 0, 7 + more);
    gguf_key(b, "tokenizer.ggml.model", VP_GGUF_STRING);
    gguf_string(b, v->model);
    gguf_key(b, "tokenizer.ggml.pre", VP_GGUF_STRING);
    gguf_string(b, v->pre);
    gguf_array(b, "tokenizer.ggml.tokens", VP_GGUF_STRING, (uint64_t)v->n);
    for (int i = 0; i < v->n; i++) gguf_string(b, v->token[i]);
    gguf_array(b, "tokenizer.ggml.token_type", VP_GGUF_I32, (uint64_t)v->n);
    put(b, v->type, (size_t)v->n * sizeof *v->type);
    static const char *const ids[] = {"bos", "eos", "unknown"};
    for (uint32_t i = 0; i < 3; i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ids[i]);
        gguf_key(b, key, VP_GGUF_U32);
        put_u32(b, i);
    }
}

void vocabulary_seeds(fuzz_seeds *s) {
    static const int32_t types[] = {3, 3, 2, 1, 1, 1, 1, 1, 4};
    static const char *const bpe[] = {"<|end|>",
                                      "<s>",
                                      "?",
                                      "a",
                                      "b",
                                      "ab",
                                      "abab",
                                      "\xc4\xa0"
                                      "ab",
                                      "user"};
    static const char *const merges[] = {"a b", "ab ab"};
    static const char *const bert[] = {"[CLS]", "[SEP]", "[UNK]", MARK "hello", MARK "a", "b", "ab", MARK "!", "user"};
    static const char *const llama[] = {"<s>", "</s>", "<unk>", MARK, "a", "b", "ab", MARK "ab", "<0x0A>"};
    vp_buf *b = fuzz_add_seed(s);
    put_vocab(b, &(seed_vocab){"gpt2", "smollm", bpe, types, 9}, 1);
    gguf_array(b, "tokenizer.ggml.merges", VP_GGUF_STRING, 2);
    for (int i = 0; i < 2; i++) gguf_string(b, merges[i]);
    put_vocab(fuzz_add_seed(s), &(seed_vocab){"bert", "jina-v2", bert, types, 9}, 0);
    b = fuzz_add_seed(s);
    put_vocab(b, &(seed_vocab){"llama", "default", llama, types, 9}, 1);
    gguf_array(b, "tokenizer.ggml.scores", VP_GGUF_F32, 9);
    for (int i = 0; i < 9; i++) put_f32(b, -(float)i);
}

int vocabulary_run(const vp_buf *input, vp_error *err) {
    fuzz_write_file("vocabulary.gguf", input);
    return open_tokenizer("vocabulary.gguf", err);
}
