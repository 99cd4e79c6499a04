/* A training run: opening everything in its order, and what happens around a step (run.h). */
#include "lib/train/run.h"
#include "lib/train/checkpoint.h"
#include "lib/train/live.h"
#include "lib/train/output.h"
#include "lib/model/projection.h"
#include "lib/model/settings_write.h"
#include "lib/text/chat.h"
#include "lib/text/slots.h"
#include "lib/train/recipe.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct vp_run {
    vp_run_options o;
    vp_model *model;
    vp_encoder *encoder;
    vp_pooler *pooler;
    vp_objective *objective;
    vp_head *head;
    vp_trainer *trainer;
    vp_live *live;
    json_t *recipe;
    char *attention, *compute, *checkpoint, *chat;
    bool followed, planned;
    bool nv_embed;  /* its texts have NV-Embed's format */
    bool prefix;    /* what stands before them sees all of itself */
    double balance; /* factor of the balancing loss of routers */
    int64_t next, saved;
};

/* ---- what the stream says ---- */

/* The header's encoder.KEY must not contradict an option. */
static int agree(const char *key, const char *option, const char *stream, const char **value, vp_error *err) {
    if (option && stream && strcmp(option, stream) != 0)
        return vp_fail(err, VP_USAGE, "%s '%s', but the stream was made with '%s'", key, option, stream);
    *value = option ? option : stream;
    return VP_OK;
}

static int agree_rate(const char *key, double option, const vp_map *dropout, double *value, vp_error *err) {
    const bool said = dropout && vp_map_has(dropout, key);
    const double stream = said ? vp_map_real(dropout, key, 0) : 0;
    if (said && option >= 0 && (option < stream || option > stream))
        return vp_fail(err, VP_USAGE, "%s dropout %g, but the stream was made with %g", key, option, stream);
    *value = option >= 0 ? option : stream;
    return VP_OK;
}

static int keep(char **copy, const char *text, vp_error *err) {
    *copy = vp_strndup(text, strlen(text));
    return *copy ? VP_OK : vp_fail_memory(err, "a name", strlen(text) + 1);
}

/* A prompt whose slots are pooled is part of what the result is, and so is a format of instructions. */
static int read_prompt(vp_run *r, const vp_map *encoder, vp_error *err) {
    vp_map *input = encoder ? vp_map_sub(encoder, "input") : NULL;
    const char *chat = input ? vp_map_str(input, "chat") : NULL;
    const vp_chat *format = vp_chat_find(chat);
    r->prefix = input && vp_map_bool(input, "prefix", false);
    const int status = vp_slots_find(chat) || (format && format->bare) ? keep(&r->chat, chat, err) : VP_OK;
    vp_map_free(input);
    return status;
}

static int read_header(vp_run *r, const vp_map *encoder, vp_error *err) {
    const char *attention = NULL, *compute = NULL;
    const char *const said = encoder ? vp_map_str(encoder, "attention") : NULL;
    vp_map *dropout = encoder ? vp_map_sub(encoder, "dropout") : NULL;
    int status = agree("attention", r->o.encode.attention, said, &attention, err);
    if (!status)
        status =
            agree("compute type", r->o.encode.compute, encoder ? vp_map_str(encoder, "compute") : NULL, &compute, err);
    if (!status)
        status = agree_rate("attention", r->o.train.attention_dropout, dropout, &r->o.train.attention_dropout, err);
    if (!status) status = agree_rate("hidden", r->o.train.hidden_dropout, dropout, &r->o.train.hidden_dropout, err);
    vp_map_free(dropout);
    if (status) return status;
    VP_TRY(read_prompt(r, encoder, err));
    r->followed = encoder && vp_map_bool(encoder, "follow", false);
    VP_TRY(keep(&r->attention, attention ? attention : vp_model_settings(r->model)->attention, err));
    return compute ? keep(&r->compute, compute, err) : VP_OK;
}

/* ---- opening ---- */

/* How vectors are made; NULL: none are, by what is known so far. */
static const char *pooling_of(const vp_run *r, const vp_map *encoder) {
    const char *kind = encoder ? vp_map_str(encoder, "pooling") : NULL;
    if (!kind) kind = r->o.pool.kind;
    if (!kind && !vp_objective_is_tokens(r->o.objective)) kind = vp_model_settings(r->model)->pooling;
    return kind;
}

/* Training that goes on with a result goes on with its projection, too, where vectors of rows are trained. */
static int continue_projection(vp_run *r, const vp_map *encoder, vp_error *err) {
    vp_train_options *t = &r->o.train;
    vp_projection_file f;
    const char *kind = pooling_of(r, encoder);
    if (!kind || !strcmp(kind, "pick") || t->projection || !t->start || !vp_projection_exists(t->start)) return VP_OK;
    const int status = vp_projection_open(&f, t->start, vp_model_width(r->model), err);
    t->projection = f.dims;
    vp_projection_close(&f);
    return status;
}

/* What the stream tells of its texts' format. */
static bool has_format(const vp_map *encoder, const char *name) {
    vp_map *input = encoder ? vp_map_sub(encoder, "input") : NULL;
    const char *chat = input ? vp_map_str(input, "chat") : NULL;
    const bool has = chat && !strcmp(chat, name);
    vp_map_free(input);
    return has;
}

/* Those of the stream are neither applied nor forgotten unsaid. */
static int check_adapters(const vp_run *r, const vp_map *header, vp_error *err) {
    vp_map *model = vp_map_sub(header, "model");
    const char *first = model ? vp_map_str_at(model, "adapters", 0) : NULL;
    const bool said = r->o.nadapters || r->o.train.start || r->o.resume;
    const int status = !first || said ? VP_OK
                                      : vp_fail(err, VP_USAGE,
                                                "the stream is for a model with adapter %s: --adapter trains on top of "
                                                "it, --continue goes on with it",
                                                first);
    vp_map_free(model);
    return status;
}

static int open_model(vp_run *r, const vp_map *header, vp_error *err) {
    VP_TRY(check_adapters(r, header, err));
    VP_TRY(r->o.nadapters ? vp_model_resolve(&r->model, r->o.model, header, r->o.adapters, r->o.nadapters, err)
                          : vp_model_resolve_base(&r->model, r->o.model, header, err));
    vp_map *encoder = vp_map_sub(header, "encoder");
    int status = read_header(r, encoder, err);
    const char *kind = pooling_of(r, encoder);
    if (!status && kind && !strcmp(kind, "latent")) r->o.train.latent = &r->o.latent;
    if (!status) status = continue_projection(r, encoder, err);
    if (!status && !r->o.train.latent && r->o.latent.heads + r->o.latent.latents + r->o.latent.inner > 0)
        status = vp_fail(err, VP_USAGE, "sizes of a latent-attention layer are for pooling latent");
    r->nv_embed = has_format(encoder, VP_CHAT_NV_EMBED);
    vp_map_free(encoder);
    VP_TRY(status);
    r->o.train.backward = true;
    r->o.encode.train = &r->o.train;
    r->o.encode.attention = r->attention;
    r->o.encode.compute = r->compute;
    return vp_encoder_open(&r->encoder, r->model, &r->o.encode, NULL, err);
}

/* Pooling as the stream had it, else as asked for, else marked tokens where the objective wants these, else the
 * model's. */
static int open_pooler(vp_run *r, const vp_map *header, vp_error *err) {
    vp_pool_options o = r->o.pool;
    const vp_objective_form form = r->objective ? vp_objective_form_in(r->objective) : VP_FORM_ROWS;
    const bool tokens = form == VP_FORM_TOKENS || form == VP_FORM_ANSWERS;
    vp_map *encoder = vp_map_sub(header, "encoder"), *own = vp_map_new();
    const char *pooling = encoder ? vp_map_str(encoder, "pooling") : NULL;
    int status = own ? vp_model_describe(r->model, own, err) : vp_fail_memory(err, "a map", 1);
    if (!status && pooling && o.kind && strcmp(pooling, o.kind) != 0)
        status = vp_fail(err, VP_USAGE, "--pool %s, but the stream was pooled by '%s'", o.kind, pooling);
    if (!status && pooling)
        o = (vp_pool_options){.kind = pooling,
                              .normalize = vp_map_bool(encoder, "normalize", false),
                              .dims = vp_map_int(encoder, "dims", 0)};
    else if (!o.kind && tokens)
        o.kind = "pick";
    o.trained = r->o.train.latent != NULL;
    o.project = r->o.train.projection;
    if (!status) status = vp_pooler_open(&r->pooler, &o, own, err);
    if (!status) vp_pooler_use(r->pooler, r->encoder);
    if (!status && r->objective && tokens != vp_pooler_picks(r->pooler))
        status = vp_fail(err, VP_USAGE, "objective %s %s", r->o.objective ? r->o.objective : "of `loss`",
                         tokens ? "takes marked tokens: --pool pick" : "takes one vector a text, not marked tokens");
    vp_map_free(encoder);
    vp_map_free(own);
    return status;
}

/* A head is needed by a loss of tokens that is made here, or was made by `loss`: its own gradient is always made here.
 */
static int open_objective(vp_run *r, const vp_map *header, vp_error *err) {
    vp_objective_options o = r->o.objective_options;
    bool tied;
    const bool trained = vp_encoder_head(r->encoder, &tied) >= 0 || (tied && vp_encoder_tokens(r->encoder) >= 0);
    o.name = r->o.objective ? r->o.objective : vp_map_str(header, "objective");
    r->balance = vp_map_real(header, "balance", 0);
    const bool tokens = vp_objective_has_head(o.name);
    if (r->o.train.head && !tokens)
        return vp_fail(err, VP_USAGE, "the output head is trained by mntp, ntp, llara, grit and kto, not by '%s'",
                       o.name ? o.name : "");
    const bool changed = trained || (tied && vp_model_has_tokens(r->model)),
               followed = vp_map_bool(header, "head_follow", false);
    if (!r->o.objective && !(changed && tokens)) return VP_OK;
    if (!r->o.objective && !followed)
        return vp_fail(err, VP_USAGE, "the output head is trained, but `loss` did not follow it: loss --follow %s",
                       r->o.folder);
    if (!r->o.objective && !trained) return VP_OK;
    VP_TRY(vp_objective_open(&r->objective, &o, err));
    if (r->o.objective) r->balance = vp_objective_balance(r->objective);
    if (!tokens) return VP_OK;
    return vp_head_open_on(&r->head, r->model, r->encoder, err);
}

static int open_trainer(vp_run *r, vp_error *err) {
    const vp_trainer_parts parts = {
        .encoder = r->encoder, .pooler = r->pooler, .objective = r->objective, .head = r->head, .balance = r->balance};
    return vp_trainer_open(&r->trainer, &r->o.trainer, &parts, err);
}

/* The first step tells how many there are. */
static int plan(vp_run *r, const vp_step *s, vp_error *err) {
    if (r->planned) return VP_OK;
    r->planned = true;
    const int64_t decay = r->o.decay_steps ? r->o.decay_steps : s->total;
    if (!decay && strcmp(r->o.schedule, "constant") != 0)
        return vp_fail(err, VP_USAGE, "the number of steps is not known: give --decay-steps, or --schedule constant");
    vp_schedule schedule;
    VP_TRY(vp_schedule_set(&schedule, r->o.schedule, r->o.lr, r->o.warmup, decay, err));
    vp_trainer_plan(r->trainer, &schedule);
    return VP_OK;
}

static int make_recipe(vp_run *r, vp_error *err) {
    bool tied = false;
    const vp_recipe recipe = {.fingerprint = vp_model_fingerprint(r->model),
                              .attention = r->attention,
                              .compute = vp_encoder_compute_type(r->encoder),
                              .adapters = r->o.adapters,
                              .nadapters = r->o.nadapters,
                              .train = *vp_encoder_training(r->encoder),
                              .latent = vp_encoder_latent(r->encoder),
                              .projection = vp_encoder_projection(r->encoder),
                              .head = vp_encoder_head(r->encoder, &tied),
                              .tokens = vp_encoder_tokens(r->encoder)};
    return vp_recipe_json(&recipe, &r->recipe, err);
}

/* ---- checkpoints ---- */

static int load_checkpoint(vp_run *r, vp_error *err) {
    json_t *state = NULL;
    VP_TRY(vp_checkpoint_state(r->checkpoint, &state, err));
    const vp_trainer_state t = vp_trainer_state_of(r->trainer);
    const json_t *recipe = json_object_get(state, "recipe");
    int status = VP_OK;
    if (!json_equal(recipe, r->recipe))
        status = vp_fail(err, VP_USAGE,
                         "'%s' was begun with another model, adapter, dropout, seed, attention or compute type (%s)",
                         r->o.folder, "its train.json says which");
    if (!status && json_integer_value(json_object_get(state, "optimizer")) != (json_int_t)r->o.trainer.optimizer)
        status = vp_fail(err, VP_USAGE, "'%s' was begun with another optimiser", r->o.folder);
    if (!status) status = vp_checkpoint_load(r->checkpoint, vp_encoder_params(r->encoder), t.m, t.v, err);
    r->next = r->saved = json_integer_value(json_object_get(state, "step"));
    if (!status) status = vp_trainer_resume(r->trainer, json_integer_value(json_object_get(state, "updates")), err);
    json_decref(state);
    return status;
}

/* It goes on with the first step that is not in its numbers. */
static int save_checkpoint(vp_run *r, vp_error *err) {
    const vp_trainer_state t = vp_trainer_state_of(r->trainer);
    const int64_t next = r->next - t.waiting;
    json_t *state = json_pack("{s:I,s:I,s:I,s:O}", "step", (json_int_t)next, "updates", (json_int_t)t.updates,
                              "optimizer", (json_int_t)r->o.trainer.optimizer, "recipe", r->recipe);
    if (!state) return vp_fail_memory(err, "a checkpoint", 1);
    int status = vp_checkpoint_save(r->checkpoint, vp_encoder_params(r->encoder), t.m, t.v, state, err);
    json_decref(state);
    if (!status) r->saved = next;
    return status;
}

int vp_run_next_step(const char *folder, int64_t *step, vp_error *err) {
    char *path = NULL;
    json_t *state = NULL;
    *step = 0;
    if (!vp_path_exists(folder, "checkpoint")) return VP_OK;
    int status = vp_path_join(&path, folder, "checkpoint", err);
    if (!status) status = vp_checkpoint_state(path, &state, err);
    if (!status) *step = json_integer_value(json_object_get(state, "step"));
    json_decref(state);
    free(path);
    return status;
}

/* ---- the folder ---- */

/* A model that is trained whole must not be written over the one that it begins with. */
static int check_apart(const vp_run *r, vp_error *err) {
    if (!vp_encoder_training(r->encoder)->full) return VP_OK;
    char *path = realpath(r->o.folder, NULL);
    if (!path) return vp_fail_errno(err, "cannot open the folder '%s'", r->o.folder);
    const bool same = !strcmp(path, vp_model_transformer(r->model)) || !strcmp(path, vp_model_path(r->model));
    free(path);
    return same ? vp_fail(err, VP_USAGE, "'%s' holds the model that is trained: take another folder", r->o.folder)
                : VP_OK;
}

static int open_folder(vp_run *r, vp_error *err) {
    if (mkdir(r->o.folder, 0777) != 0 && errno != EEXIST)
        return vp_fail_errno(err, "cannot make the folder '%s'", r->o.folder);
    VP_TRY(check_apart(r, err));
    VP_TRY(vp_live_lock(&r->live, r->o.folder, err));
    VP_TRY(vp_path_join(&r->checkpoint, r->o.folder, "checkpoint", err));
    if (!vp_path_exists(r->o.folder, "checkpoint")) return VP_OK;
    if (!r->o.resume)
        return vp_fail(err, VP_USAGE, "'%s' holds a run: go on with --resume, or take another folder", r->o.folder);
    return load_checkpoint(r, err);
}

/* train.json stands before `live` appears: a follower reads it then. */
static int announce(vp_run *r, vp_error *err) {
    const vp_params *p = vp_encoder_params(r->encoder);
    VP_TRY(vp_json_publish(r->o.folder, "train.json", r->recipe, err));
    return vp_live_begin(r->live, r->next, p->value, (size_t)p->count * sizeof *p->value, err);
}

static int open_run(vp_run *r, const vp_map *header, vp_error *err) {
    VP_TRY(open_model(r, header, err));
    VP_TRY(open_objective(r, header, err));
    VP_TRY(open_pooler(r, header, err));
    VP_TRY(open_trainer(r, err));
    VP_TRY(make_recipe(r, err));
    VP_TRY(open_folder(r, err));
    VP_TRY(announce(r, err));
    return vp_encoder_warm(r->encoder, err);
}

int vp_run_open(vp_run **out, const vp_run_options *o, const vp_map *header, vp_error *err) {
    *out = NULL;
    vp_run *r = vp_calloc(1, sizeof *r);
    if (!r) return vp_fail_memory(err, "a run", sizeof *r);
    r->o = *o;
    int status = open_run(r, header, err);
    if (status)
        vp_run_close(r);
    else
        *out = r;
    return status;
}

void vp_run_close(vp_run *r) {
    if (!r) return;
    vp_live_close(r->live);
    vp_trainer_close(r->trainer);
    vp_head_close(r->head);
    vp_objective_close(r->objective);
    vp_pooler_close(r->pooler);
    vp_encoder_close(r->encoder);
    vp_model_close(r->model);
    json_decref(r->recipe);
    free(r->attention);
    free(r->compute);
    free(r->checkpoint);
    free(r->chat);
    free(r);
}

int64_t vp_run_vocab(const vp_run *r) {
    return vp_model_vocab(r->model);
}

const vp_encoder *vp_run_encoder(const vp_run *r) {
    return r->encoder;
}

/* ---- running ---- */

int vp_run_step(vp_run *r, const vp_step *s, vp_trained *done, vp_error *err) {
    if (s->step != r->next)
        return vp_frame_fail(s->frame[0], VP_DATA, err,
                             "step %lld, but '%s' is at step %lld: give mix and tok --resume %s", (long long)s->step,
                             r->o.folder, (long long)r->next, r->o.folder);
    VP_TRY(plan(r, s, err));
    VP_TRY(vp_trainer_step(r->trainer, s, done, err));
    r->next = s->step + 1;
    if (r->followed) VP_TRY(vp_live_publish(r->live, r->next, vp_encoder_params(r->encoder)->value, err));
    const bool due = r->o.checkpoint_every && r->next - r->saved >= r->o.checkpoint_every;
    return due && done->updated ? save_checkpoint(r, err) : VP_OK;
}

/* ---- the result ---- */

static int write_adapter(vp_run *r, const vp_settings *s, vp_error *err) {
    const vp_train_options *t = vp_encoder_training(r->encoder);
    const vp_settings_place place = {
        .folder = r->o.folder, .transformer = "", .width = vp_encoder_width(r->encoder), .adapter = true};
    vp_params params = *vp_encoder_params(r->encoder);
    const int64_t latent = vp_encoder_latent(r->encoder), projection = vp_encoder_projection(r->encoder);
    const int64_t beside = latent >= 0 ? latent : projection;
    if (t->head) params.n--; /* the head stands last, the latent layer or the projection before it */
    while (beside >= 0 && params.param[params.n - 1].first >= beside) params.n--;
    const vp_lora_output lora = {.params = &params,
                                 .base = vp_model_path(r->model),
                                 .alpha = t->alpha,
                                 .dropout = t->lora_dropout,
                                 .tokens = t->tokens,
                                 .first_token = vp_model_vocab(r->model) - t->tokens,
                                 .dtype = r->o.dtype == VP_NDTYPES ? VP_F32 : r->o.dtype};
    VP_TRY(vp_run_write_adapter(r->o.folder, &lora, err));
    if (!vp_model_is_gguf(r->model)) VP_TRY(vp_run_write_tokenizer(r->o.folder, lora.base, err));
    if (s->chat) return vp_settings_write_own(s, r->o.folder, err);
    if (latent >= 0) return VP_OK; /* nobody else has such a pooling */
    if (!strcmp(s->attention, "bi")) VP_TRY(vp_settings_write_llm2vec(s, r->o.folder, err));
    return vp_settings_write(s, &place, err);
}

/* The latent layer that was trained, and what NV-Embed's texts are like, into the result's folder. */
static int write_latent(vp_run *r, const vp_settings *s, const char *folder, vp_error *err) {
    const vp_train_options *t = vp_encoder_training(r->encoder);
    const int64_t at = vp_encoder_latent(r->encoder), width = vp_encoder_width(r->encoder);
    if (at < 0 && !r->nv_embed) return VP_OK;
    if (at >= 0)
        VP_TRY(vp_latent_file_write(folder, t->latent, width, vp_encoder_params(r->encoder)->value + at,
                                    r->o.dtype == VP_NDTYPES ? VP_F32 : r->o.dtype, err));
    return vp_settings_write_nv_embed(s, t->latent, width, folder, err);
}

/* The projection of the adapter that is continued, where it was not trained. */
static int keep_projection(vp_run *r, const char *folder, vp_error *err) {
    const int64_t width = vp_encoder_width(r->encoder);
    vp_projection_file f;
    float *value = NULL;
    int status = vp_projection_open(&f, r->o.train.start, width, err);
    const size_t n = status ? 0 : (size_t)vp_projection_count(f.dims, width);
    if (!status && !(value = vp_calloc(n, sizeof *value)))
        status = vp_fail_memory(err, "a projection", n * sizeof *value);
    if (!status) status = vp_projection_read(&f, width, value, err);
    if (!status) status = vp_projection_write(folder, f.dims, width, value, VP_F32, err);
    free(value);
    vp_projection_close(&f);
    return status;
}

static int write_projection(vp_run *r, const char *folder, vp_error *err) {
    const int64_t at = vp_encoder_projection(r->encoder);
    const char *start = r->o.train.start;
    if (at < 0) return start && vp_projection_exists(start) ? keep_projection(r, folder, err) : VP_OK;
    return vp_projection_write(folder, vp_encoder_training(r->encoder)->projection, vp_encoder_width(r->encoder),
                               vp_encoder_params(r->encoder)->value + at,
                               r->o.dtype == VP_NDTYPES ? VP_F32 : r->o.dtype, err);
}

/* Whole in a folder of its own, then its files into the run's, config.json last: without it there is no model. */
static int write_model(vp_run *r, const vp_settings *s, vp_error *err) {
    vp_publish_folder result;
    vp_merged merged;
    bool exported;
    char *path;
    VP_TRY(vp_path_join(&path, r->o.folder, "result", err));
    int status = vp_publish_folder_open(&result, path, NULL, err);
    free(path);
    if (status) return status;
    const vp_dtype dtype = r->o.dtype == VP_NDTYPES ? vp_model_dtype(r->model) : r->o.dtype;
    status = vp_encoder_save(r->encoder, s, result.temporary, dtype, &merged, err);
    if (!status && vp_model_is_gguf(r->model))
        status = vp_tokenizer_export(vp_model_path(r->model), result.temporary, &exported, err);
    if (!status) status = write_latent(r, s, result.temporary, err);
    if (!status) status = write_projection(r, result.temporary, err);
    if (!status) status = vp_folder_move_files(result.temporary, r->o.folder, "config.json", err);
    vp_publish_folder_abort(&result);
    return status;
}

/* The result is good for the model's settings with the attention and pooling of this run. */
int vp_run_finish(vp_run *r, vp_error *err) {
    if (r->next == 0) return vp_fail(err, VP_DATA, "no step to train on: nothing is published");
    if (r->saved != r->next || !vp_path_exists(r->o.folder, "checkpoint")) VP_TRY(save_checkpoint(r, err));
    vp_settings s = *vp_model_settings(r->model);
    s.attention = r->attention;
    if (r->chat || r->nv_embed) s.chat = r->chat;
    if (!vp_pooler_picks(r->pooler)) s.pooling = (char *)vp_pooler_kind(r->pooler);
    s.nv_embed = r->nv_embed;
    s.prefix = r->prefix;
    if (vp_encoder_projection(r->encoder) >= 0) s.projection = vp_encoder_training(r->encoder)->projection;
    if (vp_encoder_training(r->encoder)->full) return write_model(r, &s, err);
    VP_TRY(write_adapter(r, &s, err));
    VP_TRY(write_projection(r, r->o.folder, err));
    return write_latent(r, &s, r->o.folder, err);
}
