/* The chat formats of LLM2Vec's models and the formats of NV-Embed and GRIT, one table; a model that is not in it gets
 * the bare text. */
#include "lib/text/chat.h"
#include <stddef.h>
#include <string.h>

#define INST_BEFORE   "[INST] "
#define INST_AFTER    " [/INST]"
#define LLAMA3_BEFORE "<|start_header_id|>user<|end_header_id|>\n\n"
#define LLAMA3_AFTER  "<|eot_id|>"
#define QWEN2_BEFORE  "<|im_start|>user\n"
#define QWEN2_AFTER   "<|im_end|>"

/* X(model, before, after, end). Gemma's tokenizer puts a second <bos> before the one that is written here: so it was
 * trained. After Llama 3's <|eot_id|> nothing comes, whatever the pooling. */
#define CHATS(X)                                                                                                       \
    X("Llama-2-7b-chat-hf", INST_BEFORE, INST_AFTER, NULL)                                                             \
    X("Mistral-7B-Instruct-v0.2", INST_BEFORE, INST_AFTER, NULL)                                                       \
    X("Meta-Llama-3-8B-Instruct", LLAMA3_BEFORE, LLAMA3_AFTER, "")                                                     \
    X("Meta-Llama-3.1-8B-Instruct", LLAMA3_BEFORE, LLAMA3_AFTER, "")                                                   \
    X("Meta-Llama-3-8B", "", "", "<|end_of_text|>")                                                                    \
    X("Qwen2-1.5B-Instruct", QWEN2_BEFORE, QWEN2_AFTER, NULL)                                                          \
    X("Qwen2-7B-Instruct", QWEN2_BEFORE, QWEN2_AFTER, NULL)                                                            \
    X("gemma-2-9b-it", "<bos><start_of_turn>user\n", "<end_of_turn>", NULL)

static const vp_chat chats[] = {
#define X(model, before, after, end) {model, before, after, end, {NULL, NULL}, NULL},
    CHATS(X)
#undef X
        {VP_CHAT_NV_EMBED, "", VP_CHAT_EOS, "", {"Instruct: ", "\nQuery: "}, NULL},
    {VP_CHAT_GRIT, "", "", "", {"<|user|>\n", "\n<|embed|>\n"}, "<|embed|>\n"},
    {VP_CHAT_ZEPHYR, "", "", "", {"<|user|>\n", VP_CHAT_EOS "\n<|embed|>\n"}, "<|embed|>\n"},
};
#define X(model, before, after, end) ", " model
static const char names[] = "" CHATS(X) ", " VP_CHAT_NV_EMBED ", " VP_CHAT_GRIT ", " VP_CHAT_ZEPHYR;
#undef X

const char *vp_chat_models(void) {
    return names + 2;
}

const vp_chat *vp_chat_find(const char *name) {
    if (!name) return NULL;
    size_t n = strlen(name);
    while (n && name[n - 1] == '/') n--;
    const char *slash = memrchr(name, '/', n);
    const char *last = slash ? slash + 1 : name;
    n -= (size_t)(last - name);
    for (size_t i = 0; i < sizeof chats / sizeof *chats; i++)
        if (strlen(chats[i].model) == n && memcmp(chats[i].model, last, n) == 0) return &chats[i];
    return NULL;
}

const char *vp_chat_end(const vp_chat *chat, const char *arch) {
    static const char *const ends[][2] = {
        {"llama", " </s>"}, {"mistral", " </s>"}, {"gemma", "<eos>"}, {"qwen2", "<|endoftext|>"}};
    if (chat && chat->end) return chat->end;
    for (size_t i = 0; arch && i < sizeof ends / sizeof *ends; i++)
        if (strcmp(ends[i][0], arch) == 0) return ends[i][1];
    return "";
}
