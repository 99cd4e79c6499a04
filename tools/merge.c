/* merge: a model and its adapters as one Hugging Face folder. */
#include "lib/vecpipe.h"
#include "tools/common_options.h"
#include <stdlib.h>
#include <string.h>

static const vp_dtype types[] = {VP_F32, VP_BF16, VP_F16};

typedef struct options {
    const char *model, *out;
    vp_list adapters;
    int dtype; /* index into types */
    int64_t max_shard, extra_tokens;
    bool force;
} options;
static options opt = {.max_shard = INT64_C(5) << 30};

static const vp_option table[] = {
    OPTION_MODEL(&opt.model, "model folder, .gguf file or index; else $VP_MODEL"),
    OPTION_ADAPTER(&opt.adapters, "a LoRA adapter in PEFT's layout; may be repeated, merged in that order"),
    {.name = "out",
     .letter = 'o',
     .kind = VP_OPT_STRING,
     .target = &opt.out,
     .value = "DIR",
     .help = "the folder to make; it appears when it is complete"},
    {.name = "dtype",
     .kind = VP_OPT_CHOICE,
     .target = &opt.dtype,
     .choices = "f32|bf16|f16",
     .help = "type of the weights"},
    {.name = "max-shard-size",
     .kind = VP_OPT_INT,
     .target = &opt.max_shard,
     .value = "N",
     .min = 1,
     .max = 0x1p53,
     .help = "largest safetensors file, in bytes; one larger tensor has a file of its own"},
    {.name = "extra-tokens",
     .kind = VP_OPT_INT,
     .target = &opt.extra_tokens,
     .value = "N",
     .max = 65536,
     .help = "tokens <s1> to <sN> behind the vocabulary, with new rows in embedding and output head"},
    {.name = "force", .kind = VP_OPT_FLAG, .target = &opt.force, .help = "replace a model folder that is there"},
    {0},
};
static const vp_program program = {
    .name = "merge",
    .summary = "base and adapters to one model folder",
    .usage = "merge -m BASE [--adapter DIR]... --out DIR [OPTION]...",
    .options = table,
    .notes =
        "W += (alpha / r) B A in f32, rounded once to the type; -v says what the rounding lost. Without adapters it\n"
        "converts: a .gguf file becomes a folder.\n",
};

/* What is read must not lie in the folder that is replaced. */
static int check_apart(const char *out, const char *input, vp_error *err) {
    char *a = realpath(out, NULL), *b = realpath(input, NULL);
    size_t n = a ? strlen(a) : 0;
    bool inside = a && b && !strncmp(a, b, n) && (b[n] == '/' || b[n] == '\0');
    free(a);
    free(b);
    return inside ? vp_fail(err, VP_USAGE, "--out %s: it holds %s, which is merged", out, input) : VP_OK;
}

static int open_inputs(vp_model **m, vp_error *err) {
    if (!opt.out || !*opt.out) return vp_fail(err, VP_USAGE, "no folder to write: give --out");
    for (size_t i = 0; i < opt.adapters.n; i++) VP_TRY(check_apart(opt.out, opt.adapters.item[i], err));
    VP_TRY(vp_model_resolve(m, opt.model, NULL, opt.adapters.item, opt.adapters.n, err));
    return check_apart(opt.out, vp_model_path(*m), err);
}

/* Rows that no token has, which some models are padded with, make room for the new ones. */
static int write_weights(const vp_model *m, const char *folder, vp_merged *merged, vp_error *err) {
    if (!opt.extra_tokens) return vp_model_merge(m, folder, types[opt.dtype], opt.max_shard, merged, err);
    vp_tokenizer *t;
    VP_TRY(vp_tokenizer_open(&t, vp_model_transformer(m), err));
    const vp_growth growth = {.keep = vp_tokenizer_vocab(t), .extra = opt.extra_tokens};
    vp_tokenizer_close(t);
    return vp_model_grow(m, &growth, folder, types[opt.dtype], opt.max_shard, merged, err);
}

/* The tokenizer lies where the transformer does. */
static int extend_tokenizer(const vp_model *m, const char *folder, vp_error *err) {
    const char *sub = vp_model_is_gguf(m) ? "" : vp_model_transformer(m) + strlen(vp_model_path(m));
    vp_buf inner = {0};
    int status = vp_buf_printf(&inner, err, "%s%s", folder, sub);
    if (!status) status = vp_tokenizer_extend(inner.data, opt.extra_tokens, err);
    vp_buf_free(&inner);
    return status;
}

static int fill(const vp_model *m, const char *folder, vp_merged *merged, vp_error *err) {
    bool written = false, gguf = vp_model_is_gguf(m);
    VP_TRY(write_weights(m, folder, merged, err));
    if (gguf) VP_TRY(vp_tokenizer_export(vp_model_path(m), folder, &written, err));
    if (gguf && !written)
        vp_cli_note("no tokenizer.json: only byte-level BPE can be written; use tok -m %s", vp_model_path(m));
    return opt.extra_tokens ? extend_tokenizer(m, folder, err) : VP_OK;
}

static void tell(const vp_merged *merged) {
    if (!vp_cli_verbose()) return;
    vp_cli_note("%lld tensors, %lld bytes in %lld file%s; rounding: largest relative difference %.2e, mean %.2e",
                (long long)merged->tensors, (long long)merged->bytes, (long long)merged->files,
                merged->files == 1 ? "" : "s", merged->rounding.largest, merged->rounding.mean);
}

static int run(vp_model **m, vp_error *err) {
    vp_publish_folder folder;
    vp_merged merged;
    VP_TRY(open_inputs(m, err));
    VP_TRY(vp_publish_folder_open(&folder, opt.out, opt.force ? "config.json" : NULL, err));
    int status = fill(*m, folder.temporary, &merged, err);
    if (status)
        vp_publish_folder_abort(&folder);
    else
        status = vp_publish_folder_commit(&folder, err);
    if (!status) tell(&merged);
    return status;
}

int main(int argc, char **argv) {
    vp_error err = {0};
    vp_cli_action action = VP_CLI_RUN;
    vp_model *m = NULL;
    int first = argc;
    vp_cli_start(program.name);
    int status = vp_cli_parse(&program, argc, argv, &first, &action, &err);
    if (!status && action == VP_CLI_RUN && first < argc)
        status = vp_fail(&err, VP_USAGE, "'%s': no operands; adapters are given with --adapter", argv[first]);
    if (!status && action == VP_CLI_RUN) status = run(&m, &err);
    vp_model_close(m);
    free((void *)opt.adapters.item);
    return vp_cli_finish(status, &err);
}
