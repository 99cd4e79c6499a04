/* How texts are prepared: which of the options, the documents before and the model's files decides; chats by name. */
#include "lib/text/chat.h"
#include "lib/text/input.h"
#include "tests/unit/tap.h"
#include <string.h>

static void test_chats(void) {
    static const char *const known[][3] = {
        {"meta-llama/Llama-2-7b-chat-hf", "[INST] ", " [/INST]"},
        {"mistralai/Mistral-7B-Instruct-v0.2", "[INST] ", " [/INST]"},
        {"meta-llama/Meta-Llama-3-8B-Instruct", "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
        {"meta-llama/Meta-Llama-3.1-8B-Instruct", "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
        {"Qwen/Qwen2-7B-Instruct", "<|im_start|>user\n", "<|im_end|>"},
        {"google/gemma-2-9b-it", "<bos><start_of_turn>user\n", "<end_of_turn>"},
        {"/models/gemma-2-9b-it//", "<bos><start_of_turn>user\n", "<end_of_turn>"},
        {"Qwen2-1.5B-Instruct", "<|im_start|>user\n", "<|im_end|>"},
        {"meta-llama/Meta-Llama-3-8B", "", ""}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const vp_chat *c = vp_chat_find(known[i][0]);
        OK(c && !strcmp(c->before, known[i][1]) && !strcmp(c->after, known[i][2]), "%s", known[i][0]);
    }
    static const char *const unknown[] = {
        NULL, "", "/", "princeton-nlp/Sheared-LLaMA-1.3B", "gemma-2-9b-it/x", "x-gemma-2-9b-it"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        OK(!vp_chat_find(unknown[i]), "no chat: %s", unknown[i] ? unknown[i] : "NULL");
    OK(!strncmp(vp_chat_models(), "Llama-2-7b-chat-hf, Mistral", 27), "the list: %s", vp_chat_models());
}

static void test_ends(void) {
    static const char *const ends[][3] = {{"Meta-Llama-3-8B", "llama", "<|end_of_text|>"},
                                          {"Meta-Llama-3-8B-Instruct", "llama", ""},
                                          {"Mistral-7B-Instruct-v0.2", "mistral", " </s>"},
                                          {"Sheared-LLaMA-1.3B", "llama", " </s>"},
                                          {"x", "gemma", "<eos>"},
                                          {"Qwen2-7B-Instruct", "qwen2", "<|endoftext|>"},
                                          {"x", "qwen3", ""},
                                          {"x", NULL, ""}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const char *got = vp_chat_end(vp_chat_find(ends[i][0]), ends[i][1]);
        OK(!strcmp(got, ends[i][2]), "the end of %s: '%s'", ends[i][0], got);
    }
}

/* ---- what decides ---- */

#define LEFT_OPEN .chat = "auto", .doc_max_len = -1
#define MISTRAL(how)                                                                                                   \
    .query_prefix = "", .document_prefix = "", .arch = "mistral", .pooling = how, .max_len = 512, .doc_max_len = 400,  \
    .llm2vec = true, .base_name = {"/tmp/x", "mistralai/Mistral-7B-Instruct-v0.2"}
#define OF_MISTRAL                                                                                                     \
    "\"specials\":\"auto\",\"max_len\":512,\"truncation\":\"right\",\"chat\":\"Mistral-7B-Instruct-v0.2\""

static const struct {
    const char *what;
    vp_input_options asked;
    vp_input_model model;
    const char *known, *want; /* JSON; NULL: there is none */
    const char *around;       /* before and after the layout, separated by | */
} cases[] = {
    {"a plain model",
     {LEFT_OPEN},
     {.query_prefix = "q: ", .document_prefix = "d: ", .max_len = 64, .base_name = {"gemma-2-9b-it"}},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"d: \",\"template\":\"\",\"specials\":\"auto\",\"max_len\":64,"
     "\"truncation\":\"right\"}",
     "|"},
    {"a plain model's queries",
     {LEFT_OPEN, .query = true, .no_specials = true, .max_len = 9},
     {.query_prefix = "q: ", .document_prefix = "d: ", .max_len = 64},
     NULL,
     "{\"side\":\"query\",\"instruction\":\"q: \",\"template\":\"\",\"specials\":\"none\",\"max_len\":9,"
     "\"truncation\":\"right\"}",
     "|"},
    {"LLM2Vec",
     {LEFT_OPEN},
     {MISTRAL("mean")},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\"," OF_MISTRAL
     ",\"doc_max_len\":400,\"text_only\":true}",
     "[INST] | [/INST]"},
    {"its instruction is stripped and one space follows",
     {LEFT_OPEN, .query = true, .instruction = " Find this:\n"},
     {MISTRAL("mean")},
     NULL,
     "{\"side\":\"query\",\"instruction\":\"Find this: \",\"template\":\"\"," OF_MISTRAL
     ",\"doc_max_len\":400,\"text_only\":true}",
     "[INST] | [/INST]"},
    {"not in a template",
     {LEFT_OPEN, .query = true, .instruction = " Find", .layout = "{instruction};{text}"},
     {MISTRAL("mean")},
     NULL,
     "{\"side\":\"query\",\"instruction\":\" Find\",\"template\":\"{instruction};{text}\"," OF_MISTRAL
     ",\"doc_max_len\":400,\"text_only\":true}",
     "[INST] | [/INST]"},
    {"an instruction of white space is none",
     {LEFT_OPEN, .instruction = " \n"},
     {MISTRAL("mean")},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\"," OF_MISTRAL
     ",\"doc_max_len\":400,\"text_only\":true}",
     "[INST] | [/INST]"},
    {"EOS pooling, and prompts that are pooled",
     {.chat = "auto", .doc_max_len = 7},
     {MISTRAL("eos"), .prompt_pooled = true},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\"," OF_MISTRAL
     ",\"end\":\" </s>\",\"doc_max_len\":7}",
     "[INST] | [/INST] </s>"},
    {"no chat is no end, either",
     {.chat = "none", .doc_max_len = 0},
     {MISTRAL("eos")},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\",\"specials\":\"auto\",\"max_len\":512,"
     "\"truncation\":\"right\",\"text_only\":true}",
     "|"},
    {"BOS pooling pools BOS",
     {.chat = "none", .doc_max_len = 0},
     {MISTRAL("bos")},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\",\"specials\":\"auto\",\"max_len\":512,"
     "\"truncation\":\"right\"}",
     "|"},
    {"a chat of a plain model",
     {.chat = "Qwen2-7B-Instruct", .doc_max_len = -1},
     {.max_len = 5},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\",\"specials\":\"auto\",\"max_len\":5,"
     "\"truncation\":\"right\",\"chat\":\"Qwen2-7B-Instruct\"}",
     "<|im_start|>user\n|<|im_end|>"},
    {"what is cut otherwise is not cut at words",
     {LEFT_OPEN, .chunk = 3, .overlap = 1},
     {MISTRAL("mean")},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\"," OF_MISTRAL
     ",\"text_only\":true,\"chunk\":3,\"overlap\":1}",
     "[INST] | [/INST]"},
    {"words have no chat",
     {LEFT_OPEN, .words = true},
     {MISTRAL("mean")},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\",\"specials\":\"auto\",\"max_len\":512,"
     "\"truncation\":\"right\",\"text_only\":true}",
     "|"},
    {"nor has running text",
     {LEFT_OPEN, .block = 8},
     {MISTRAL("mean")},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\",\"specials\":\"auto\",\"max_len\":0,"
     "\"truncation\":\"right\",\"pack\":8}",
     "|"},
    {"NV-Embed",
     {LEFT_OPEN, .query = true, .instruction = "Find"},
     {.arch = "mistral", .pooling = "latent", .max_len = 512, .eos = "</s>", .nv_embed = true},
     NULL,
     "{\"side\":\"query\",\"instruction\":\"Find\",\"template\":\"\",\"specials\":\"auto\",\"max_len\":512,"
     "\"truncation\":\"right\",\"chat\":\"NV-Embed\"}",
     "|</s>"},
    {"its form alone, for a tokenizer that ends texts itself",
     {.chat = "NV-Embed", .doc_max_len = -1},
     {.max_len = 9, .eos = ""},
     NULL,
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\",\"specials\":\"auto\",\"max_len\":9,"
     "\"truncation\":\"right\",\"chat\":\"NV-Embed\"}",
     "|"},
    {"documents that were prepared without",
     {LEFT_OPEN},
     {MISTRAL("eos")},
     "{\"side\":\"document\",\"instruction\":\"i\",\"template\":\"{instruction}-{text}\",\"specials\":\"none\","
     "\"max_len\":31,\"truncation\":\"left\",\"chunk\":4,\"overlap\":2}",
     "{\"side\":\"document\",\"instruction\":\"i\",\"template\":\"{instruction}-{text}\",\"specials\":\"none\","
     "\"max_len\":31,\"truncation\":\"left\",\"chunk\":4,\"overlap\":2}",
     "|"},
    {"documents that were prepared with",
     {LEFT_OPEN},
     {.max_len = 3},
     "{\"max_len\":31,\"chat\":\"gemma-2-9b-it\",\"end\":\"<eos>\",\"doc_max_len\":17,\"text_only\":true}",
     "{\"side\":\"document\",\"instruction\":\"\",\"template\":\"\",\"specials\":\"auto\",\"max_len\":31,"
     "\"truncation\":\"right\",\"chat\":\"gemma-2-9b-it\",\"end\":\"<eos>\",\"doc_max_len\":17,\"text_only\":true}",
     "<bos><start_of_turn>user\n|<end_of_turn><eos>"},
    {"queries of those",
     {LEFT_OPEN, .query = true},
     {.query_prefix = "q", .max_len = 3},
     "{\"max_len\":31,\"instruction\":\"i\",\"chat\":\"gemma-2-9b-it\",\"doc_max_len\":17}",
     "{\"side\":\"query\",\"instruction\":\"q\",\"template\":\"\",\"specials\":\"auto\",\"max_len\":3,"
     "\"truncation\":\"right\",\"chat\":\"gemma-2-9b-it\",\"doc_max_len\":17}",
     "<bos><start_of_turn>user\n|<end_of_turn>"},
};

static vp_map *parse(const char *json) {
    vp_error err = {0};
    vp_map *m = NULL;
    if (json && vp_map_from_json(&m, json, strlen(json), "test", &err)) OK(false, "%s", err.text);
    return m;
}

static void test_choice(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_map *known = parse(cases[i].known), *want = parse(cases[i].want), *input = vp_map_new();
        vp_buf got = {0}, wanted = {0}, around = {0};
        vp_input in = {0};
        vp_error err = {0};
        int status = vp_input_choose(&in, &cases[i].asked, &cases[i].model, known, known, &err);
        if (!status) status = vp_input_describe(&in, input, &err);
        if (!status) status = vp_map_json(input, &got, &err);
        if (!status) status = vp_map_json(want, &wanted, &err);
        const vp_prompt_options *o = &in.texts;
        if (!status)
            status = vp_buf_printf(&around, &err, "%s|%s", o->before ? o->before : "", o->after ? o->after : "");
        OK(!status && got.len == wanted.len && !memcmp(got.data, wanted.data, got.len), "%s: %.*s %s", cases[i].what,
           (int)got.len, got.data ? got.data : "", err.text);
        OK(!status && !strcmp(around.data, cases[i].around), "%s: around it %s", cases[i].what,
           around.data ? around.data : "");
        vp_buf_free(&got);
        vp_buf_free(&wanted);
        vp_buf_free(&around);
        vp_input_free(&in);
        vp_map_free(known);
        vp_map_free(want);
        vp_map_free(input);
    }
}

/* The queries of training examples: their own layout, length and instruction, and the chat of the texts. */
static void test_queries(void) {
    const vp_input_options asked = {LEFT_OPEN, .instruction = "Find ", .query_layout = "{instruction}; {text}",
                                    .query_max_len = 64};
    vp_input_model model = {MISTRAL("mean")};
    vp_error err = {0};
    vp_input in = {0};
    model.document_prefix = "d";
    if (vp_input_choose(&in, &asked, &model, NULL, NULL, &err)) {
        OK(false, "queries of examples: %s", err.text);
        return;
    }
    OK(!strcmp(in.queries.instruction, "Find ") && !strcmp(in.queries.layout, "{instruction}; {text}") &&
           in.queries.max_len == 64 && !strcmp(in.queries.before, "[INST] "),
       "queries of examples: '%s'", in.queries.instruction);
    OK(!strcmp(in.texts.instruction, "d") && in.texts.max_len == 512, "texts: '%s'", in.texts.instruction);
    vp_input_free(&in);
}

static void test_refusals(void) {
    static const struct {
        vp_input_options asked;
        const char *known;
        int status;
        const char *says;
    } wrong[] = {
        {{.doc_max_len = 3, .chat = "auto", .chunk = 4}, NULL, VP_USAGE, "--doc-max-len and --chunk"},
        {{.doc_max_len = 3, .chat = "auto", .words = true}, NULL, VP_USAGE, "--doc-max-len and --words"},
        {{.doc_max_len = 3, .chat = "auto", .truncation = 2}, NULL, VP_USAGE, "--doc-max-len and --truncate left"},
        {{.doc_max_len = 3, .chat = "auto", .block = 8}, NULL, VP_USAGE, "--doc-max-len and --pack"},
        {{.doc_max_len = -1, .chat = "gemma-2-9b-it", .block = 8}, NULL, VP_USAGE, "no chat"},
        {{.doc_max_len = -1, .chat = "auto", .block = 8, .max_len = 3}, NULL, VP_USAGE, "running text"},
        {{.doc_max_len = -1, .chat = "SmolLM2"}, NULL, VP_USAGE, "--chat 'SmolLM2': no chat of that model is known"},
        {{LEFT_OPEN}, "{\"chat\":\"SmolLM2\"}", VP_DATA, "the documents' chat 'SmolLM2'"},
        {{LEFT_OPEN}, "{\"doc_max_len\":-1}", VP_DATA, "doc_max_len is -1"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const vp_input_model model = {.max_len = 9};
        vp_map *known = parse(wrong[i].known);
        vp_input in = {0};
        vp_error err = {0};
        int status = vp_input_check(&wrong[i].asked, &err);
        if (!status) status = vp_input_choose(&in, &wrong[i].asked, &model, known, known, &err);
        OK(status == wrong[i].status && strstr(err.text, wrong[i].says), "refused: %s", err.text);
        vp_input_free(&in);
        vp_map_free(known);
    }
}

int main(void) {
    test_chats();
    test_ends();
    test_choice();
    test_queries();
    test_refusals();
    return done();
}
