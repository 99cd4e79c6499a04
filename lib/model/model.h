/* Public model API: open a model with its settings, encode micro-batches, pool. */
#ifndef VP_MODEL_H
#define VP_MODEL_H
#include "lib/base/base.h"
#include "lib/file/export.h"
#include "lib/stream/stream.h"

/* Spellings, for options and checks. */
#define VP_POOLINGS   "mean|weighted_mean|last|eos|bos|cls|latent"
#define VP_ATTENTIONS "causal|bi|segments"
#define VP_COMPUTES   "auto|f32|tf32|bf16|i8|fp8"

/* What a model folder (or option, or index) decides for the pipe; travels in the header's `model` map. */
typedef struct vp_settings {
    char *attention;                      /* "causal", "bi", "segments" */
    char *pooling;                        /* one of VP_POOLINGS */
    int normalize;                        /* 1, 0 */
    int64_t dims;                         /* 0: all */
    int64_t projection;                   /* dimensions to which pooled vectors are projected; 0: they are not */
    int64_t max_len;                      /* default truncation, specials included */
    char *query_prefix, *document_prefix; /* prompts: "" when none */
    int prompt_pooled;                    /* 1: prompt tokens are pooled too (sentence-transformers' include_prompt) */
    int llm2vec;                          /* 1: LLM2Vec's instruction format, chat and end apply */
    int nv_embed;                         /* 1: NV-Embed's instruction format and end apply */
    int64_t doc_max_len;                  /* LLM2Vec: tokens of the text alone, to which it is cut; 0: no limit */
    char *chat;                           /* the prompt that it was trained with, by its name; NULL: none */
    int prefix;                           /* 1: with it, what stands before a text sees all of itself */
    char *base_name[2];                   /* what config.json and the last adapter call the base model, NULL: nothing */
} vp_settings;
enum { VP_DOC_MAX_LEN = 400 }; /* LLM2Vec's default */

typedef struct vp_model vp_model;

/* Open PATH: a Hugging Face or sentence-transformers folder, a .gguf file, an index folder (then its model, adapters
 * and settings, and its fingerprint must match), or an adapter's folder (then the model that it names, if it is here,
 * with the adapters below it and itself). Reads configuration and tensor table, maps the weights, checks every tensor's
 * shape against the architecture (VP_DATA names the file and tensor); prepares nothing. A plain causal model gets
 * causal attention and weighted mean, a plain bidirectional one the mean, both normalised; folders of
 * sentence-transformers and LLM2Vec decide themselves. Close with vp_model_close (NULL is fine); an open model may be
 * read by any thread. */
int vp_model_open(vp_model **m, const char *path, vp_error *err);
void vp_model_close(vp_model *m);
const vp_settings *vp_model_settings(const vp_model *m);
/* False for a vocabulary alone (a .gguf file without tensors, a folder with a tokenizer.json that lacks config.json
 * or weights): it opens, for tok, but cannot encode; its fingerprint is "". */
bool vp_model_has_weights(const vp_model *m);
const char *vp_model_path(const vp_model *m); /* absolute, of the folder or file that was opened */
/* Where its config, weights and tokenizer lie: the path, or a folder in it. */
const char *vp_model_transformer(const vp_model *m);
bool vp_model_is_gguf(const vp_model *m);            /* the path is a .gguf file */
const char *vp_model_fingerprint(const vp_model *m); /* 32 hex digits */
const char *vp_model_arch(const vp_model *m);        /* "llama"; NULL without weights */
bool vp_model_has_experts(const vp_model *m);        /* its MLPs are mixtures of them */
/* The encoder.input of the index or header that the model was opened from; NULL: none. */
const vp_map *vp_model_input(const vp_model *m);
int64_t vp_model_width(const vp_model *m); /* C */
/* The folder, its own or the last adapter's that has one, with a latent-attention layer; NULL: none. */
const char *vp_model_latent(const vp_model *m);
/* Of its weights: VP_F32, VP_F16 or VP_BF16, which quantised ones are best kept in. */
vp_dtype vp_model_dtype(const vp_model *m);
int64_t vp_model_vocab(const vp_model *m);
int64_t vp_model_positions(const vp_model *m); /* the longest sequence */

/* A LoRA adapter folder in PEFT's layout (both name depths), applied on the fly after those added before. A key that
 * matches nothing, DoRA and other unsupported kinds are VP_DATA. An llm2vec_config.json in it replaces the model's
 * settings, as NV-Embed's does, and a latent layer in it the model's. */
int vp_model_add_adapter(vp_model *m, const char *folder, vp_error *err);

bool vp_model_has_tokens(const vp_model *m); /* an adapter brings embedding rows of single tokens */

/* Write the model with its adapters merged, W + scale B A in f32 and rounded once, into `folder` (existing and empty)
 * as a Hugging Face folder: config.json, safetensors, and from a base that is a folder also its tokenizer, generation,
 * sentence-transformers and LLM2Vec files, which are made where the base has none, or other settings; bidirectional
 * attention of a decoder is `is_causal` false in config.json. A GGUF base is dequantised under Hugging Face's names, q
 * and k rows in its order; its tokenizer is vp_tokenizer_export's business. Tensors that are no weights of the
 * architecture are copied as they are; a tied head is not written. VP_DATA: a model without weights, numbers that
 * config.json cannot say, a value that the type cannot hold. dtype is VP_F32, VP_BF16 or VP_F16. */
typedef struct vp_merged { /* what was written */
    int64_t tensors, bytes, files;
    vp_rounding rounding;
} vp_merged;
int vp_model_merge(const vp_model *m, const char *folder, vp_dtype dtype, int64_t max_shard, vp_merged *merged,
                   vp_error *err);

/* The same with another vocabulary: the first `keep` rows of the embedding and of an output head of its own, then
 * `extra` new ones, uniform with the mean and the deviation of the kept ones' columns. VP_DATA: fewer than `keep` rows,
 * an output head with a bias. */
typedef struct vp_growth {
    int64_t keep, extra;
} vp_growth;
int vp_model_grow(const vp_model *m, const vp_growth *growth, const char *folder, vp_dtype dtype, int64_t max_shard,
                  vp_merged *merged, vp_error *err);

/* Fill a header's `model` map {path, fingerprint, arch, width, adapters, adapter_fingerprints, latent,
 * latent_fingerprint, projection, projection_fingerprint, attention, pooling, normalize, dims, max_len, doc_max_len};
 * other members (`tokenizer`, the fingerprint that tok puts there) stay. */
int vp_model_describe(const vp_model *m, vp_map *header, vp_error *err);
/* Compute encoder.space (32 hex digits) from everything that is known: model.fingerprint,
 * adapter_fingerprints and tokenizer; encoder.attention, layer, pooling, projection, normalize and dims. Called by tok,
 * fwd and pool after each change; absent members count as empty. */
int vp_encoder_space(vp_map *header, vp_error *err);
/* The model of a header: path from `model.path`, with its adapters and settings. The path must be absolute, a folder or
 * a .gguf file, and its fingerprint that of the header (VP_DATA). */
int vp_model_from_header(vp_model **m, const vp_map *header, vp_error *err);
/* The model that a program should use: `option` (-m, or NULL), else the header's, else $VP_MODEL; VP_USAGE when there
 * is none. `header` may be NULL. A fingerprint in the header that is not the model's is VP_DATA. With the n adapters
 * (folders, in order), or, when there are none and the header's model is taken, with the header's. *m is the caller's
 * to close, also after a failure. */
int vp_model_resolve(vp_model **m, const char *option, const vp_map *header, const char *const *adapters, size_t n,
                     vp_error *err);
/* The same without the header's adapters; an index that `option` names keeps its own. */
int vp_model_resolve_base(vp_model **m, const char *option, const vp_map *header, vp_error *err);

typedef struct vp_encode_options {
    const char *device;    /* one of VP_DEVICES; NULL: $VP_DEVICE, else auto */
    int threads;           /* 0: all */
    const char *compute;   /* one of VP_COMPUTES; a type that the machine lacks is VP_USAGE */
    const char *attention; /* one of VP_ATTENTIONS; NULL: the header's, else the model's. "segments": causal, and column
                              seg is required */
    int64_t batch_tokens;  /* tokens of a micro-batch inside a frame; 0: VP_BATCH_TOKENS, on a device what fits */
    bool generate;         /* for lib/model/cache.h: weights are kept row by row, once; `compute` is their type */
    const struct vp_train_options *train; /* lib/model/training.h; NULL: no training */
} vp_encode_options;
enum { VP_BATCH_TOKENS = 2048 };
typedef struct vp_encoder vp_encoder;
typedef struct vp_work {  /* what an encoder was planned to do so far */
    int64_t batch_tokens; /* tokens at a time; 0: not chosen yet */
    size_t bytes;         /* the most memory at a time, beside its weights */
    double flops;         /* of products and attention */
    int64_t passes;       /* that it did; of those one before came again, and was launched at once; could not be kept */
    int64_t repeated, refused;
} vp_work;
/* The model is borrowed until vp_encoder_close; adapters must be added before. Nothing heavy happens before the first
 * vp_encoder_run: weights are packed then. `header` (NULL: none) is the stream's: its encoder.attention counts. One
 * encoder belongs to one thread (it runs its own). */
int vp_encoder_open(vp_encoder **e, vp_model *m, const vp_encode_options *o, const vp_map *header, vp_error *err);
/* Fill a header's `encoder` map {attention, layer, compute} and encoder.space. */
int vp_encoder_describe(const vp_encoder *e, vp_map *header, vp_error *err);
const char *vp_encoder_attention(const vp_encoder *e);    /* one of VP_ATTENTIONS */
const char *vp_encoder_compute_type(const vp_encoder *e); /* "f32", "tf32", "bf16" or "fp8" */
/* One batch frame: hidden [T, C] f32, the encoder's until its next run or its end. Uses ids, cu, and pos, seg, prefix
 * if present. A sequence longer than the model's positions, a position or an id out of range is VP_DATA naming the row.
 * The result of a sequence does not depend on its neighbours. */
int vp_encoder_run(vp_encoder *e, const vp_frame *f, const float **hidden, vp_error *err);
vp_work vp_encoder_work(const vp_encoder *e);
/* Layers, key/value heads and their width: L, G, d. */
typedef struct vp_kv_shape {
    int64_t layers, groups, head_dim;
} vp_kv_shape;
vp_kv_shape vp_model_kv_shape(const vp_model *m);
/* The same as vp_encoder_run, and from the same pass every token's keys (after RoPE) and values, rounded to bf16:
 * *kv [2, L, T, G, d], keys first, the encoder's as well. */
int vp_encoder_run_kv(vp_encoder *e, const vp_frame *f, const float **hidden, const uint16_t **kv, vp_error *err);
void vp_encoder_close(vp_encoder *e);

enum { VP_PROJECTION_MOST = 1 << 20 }; /* dimensions of a projection behind the pooling */
/* Pooling, on one thread of the CPU; with a latent layer where that is computed. */
typedef struct vp_pool_options {
    const char *kind;   /* one of VP_POOLINGS, "words" or "pick"; NULL: the header's model.pooling */
    int normalize;      /* 1, 0; -1: the header's model.normalize, else 1; words: 0 */
    int64_t dims;       /* leading dimensions kept, before the normalisation; 0: the header's model.dims, else all */
    bool shift;         /* words: by the states of the positions before */
    const char *device; /* latent: as vp_encode_options.device, "": what the environment says; NULL: the CPU */
    int64_t project;    /* dimensions of a projection that is being trained: it comes by vp_pooler_use or
                           vp_pooler_give_projection; 0: the model's, if it has one */
    bool trained;       /* latent: the layer comes by vp_pooler_use or vp_pooler_give (lib/model/training.h) */
} vp_pool_options;
/* Options as the programs spell them: kind NULL or "auto" is the header's; VP_USAGE: an unknown kind, or both switches.
 */
int vp_pool_options_set(vp_pool_options *o, const char *kind, bool normalize, bool no_normalize, int64_t dims,
                        vp_error *err);
typedef struct vp_pooler vp_pooler;
/* What the options leave open is taken from `header` (NULL: nothing); so is the folder of a latent layer (model.latent,
 * VP_DATA if it is not the one whose fingerprint is there), and a projection (model.projection). VP_USAGE: no kind, an
 * unknown one, no latent layer. */
int vp_pooler_open(vp_pooler **p, const vp_pool_options *o, const vp_map *header, vp_error *err);
void vp_pooler_close(vp_pooler *p);
/* Change a header to what leaves the pooler: encoder.pooling, normalize, dims and space; column `hidden` [T, width]
 * gone, `emb` [B, D] or `picked` [M, width] declared; of words, nothing but id, parent, meta, row and emb. width 0: not
 * known, in a stream without batches. VP_USAGE: more dims than there are. */
int vp_pooler_describe(const vp_pooler *p, vp_map *header, int64_t width, vp_error *err);
/* Pool one batch frame in place: from `hidden` [T, width] f32 (NULL: the frame's column) to `emb` F32 [B, D], or for
 * "pick" `picked` F32 [M, width], the positions with a target other than -1 (keep = 1 when there is no target). hidden
 * leaves the frame, the rest stays. Rows with nothing to pool get zeros and are added to *empty. What was put lives
 * until the next call or vp_pooler_close: write the frame before. "eos" and "last" take the last kept position, "bos"
 * and "cls" the first; "latent" is the mean of what the latent layer makes of the states; weighted_mean weighs kept
 * tokens 1, 2, 3, ... "words" makes a row of every word that has a token (column `word`), the mean of its states, with
 * id SENTENCE#k, parent, the sentence's row, and meta {"label": labels[k]}; every other column goes. With `shift` the
 * state of a token is that of the position before it, and the first token of a row has none. */
int vp_pooler_run(vp_pooler *p, vp_frame *f, const float *hidden, int64_t width, int64_t *empty, vp_error *err);
/* The way back: dhidden [T, width] from the gradient [rows, D] of what vp_pooler_run puts for this frame and these
 * hidden states. VP_DATA: rows is not the number of vectors. */
int vp_pooler_backward(vp_pooler *p, const vp_frame *f, const float *hidden, int64_t width, const float *grad,
                       int64_t rows, float *dhidden, vp_error *err);
/* The encoder's pass and the pooler's run of its states in one. On a device with memory of its own they do not leave
 * it, where the pooler makes a vector a row, and the encoder is not one that follows or makes a run: vectors that train
 * are those of `pool`. */
int vp_encoder_pool(vp_encoder *e, vp_pooler *p, vp_frame *f, int64_t *empty, vp_error *err);
/* How many vectors it makes of a frame. */
int vp_pooler_vectors(const vp_pooler *p, const vp_frame *f, int64_t *vectors, vp_error *err);
const char *vp_pooler_kind(const vp_pooler *p); /* one of VP_POOLINGS, or "pick" */
/* What it makes of a frame is what another one of these options makes, whatever frames came before. */
bool vp_pooler_alike(const vp_pooler *p);
bool vp_pooler_picks(const vp_pooler *p); /* marked rows, not one vector a row */
/* The same of this frame: of text to be generated always (vp_frame_generates). */
int vp_pooler_picks_of(const vp_pooler *p, const vp_frame *f, bool *picks, vp_error *err);
int64_t vp_pooler_dims(const vp_pooler *p, int64_t width); /* D */
/* Width of the header's declared column `hidden`; 0 if it is not declared as [T, width]. */
int vp_header_width(const vp_map *header, int64_t *width, vp_error *err);
/* The same of another column: the second of its two declared dimensions. */
int vp_header_width_of(const vp_map *header, const char *name, int64_t *width, vp_error *err);

#endif
