/* Sizes and tensors of the latent-attention layer, and where its training begins. */
#include "lib/model/latent.h"
#include "kernels/ops.h"
#include "lib/base/philox.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sizes ---- */

/* The number behind "name=" in word; false: it is not that, or no whole number. */
static bool number_of(const char *word, const char *name, int64_t *value) {
    const size_t n = strlen(name);
    if (strncmp(word, name, n) != 0 || word[n] < '1' || word[n] > '9') return false;
    char *end;
    const long long v = strtoll(word + n, &end, 10);
    *value = v;
    return !*end && v <= 1 << 24;
}

int vp_latent_parse(const char *text, vp_latent_sizes *s, vp_error *err) {
    static const char *const names[] = {"latents=", "heads=", "width=", "inner="};
    int64_t *const values[] = {&s->latents, &s->heads, &s->head_width, &s->inner};
    bool seen[5] = {0};
    char word[40];
    *s = (vp_latent_sizes){0};
    for (const char *at = text; *at;) {
        const size_t n = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)(n < sizeof word ? n : sizeof word - 1), at);
        size_t k = 0;
        while (k < 4 && !number_of(word, names[k], values[k])) k++;
        const bool form = !strcmp(word, "form=plain") || !strcmp(word, "form=gated");
        if (form) s->plain = !(s->gated = !strcmp(word, "form=gated"));
        if ((k == 4 && !form) || seen[k]) return vp_fail(err, VP_USAGE, "'%s' is none of " VP_LATENT_SPEC, word);
        seen[k] = true;
        at += n + (at[n] == ',');
    }
    return VP_OK;
}

static bool within(int64_t n, int64_t most) {
    return n >= 1 && n <= most;
}

int vp_latent_complete(vp_latent_sizes *s, int64_t width, vp_error *err) {
    static const char impossible[] = "a latent layer of these sizes cannot be";
    if (!s->latents) s->latents = 512;
    if (!s->heads) s->heads = 8;
    if (!within(s->heads, 1 << 10)) return vp_fail(err, VP_USAGE, impossible);
    if (s->plain && !s->head_width)
        while (width % s->heads) s->heads--;
    if (!s->head_width) s->head_width = s->plain ? width / s->heads : width;
    if (!s->inner) s->inner = 4 * width;
    if (!within(s->latents, 1 << 20) || !within(s->head_width, 1 << 20) || !within(s->inner, 1 << 24))
        return vp_fail(err, VP_USAGE, impossible);
    if (!s->plain || s->heads * s->head_width == width) return VP_OK;
    return vp_fail(err, VP_USAGE, "%lld heads of width %lld: the plain form's are %lld together", (long long)s->heads,
                   (long long)s->head_width, (long long)width);
}

/* ---- tensors ---- */

/* Sizes by symbol: r latents, C width, I = H d, J = 2 H d, F inner, U = F, of the gated form 2 F; '1': a vector. */
typedef struct role_info {
    const char *name[2]; /* gated, plain; NULL: none */
    char rows, cols;
    bool bias;
} role_info;
#define CROSS "cross_attend_blocks.0."
#define FEED  "cross_attend_blocks.1."
static const role_info roles[VP_LATENT_ROLES] = {
    [VP_LATENTS] = {{"latents", "latents"}, 'r', 'C', false},
    [VP_LATENT_NORM] = {{CROSS "norm", NULL}, '1', 'C', true},
    [VP_LATENT_CONTEXT] = {{CROSS "norm_context", NULL}, '1', 'C', true},
    [VP_LATENT_Q] = {{CROSS "fn.to_q", NULL}, 'I', 'C', false},
    [VP_LATENT_KV] = {{CROSS "fn.to_kv", NULL}, 'J', 'C', false},
    [VP_LATENT_OUT] = {{CROSS "fn.to_out", NULL}, 'C', 'I', false},
    [VP_LATENT_NORM_2] = {{FEED "norm", NULL}, '1', 'C', true},
    [VP_LATENT_UP] = {{FEED "fn.net.0", "mlp.0"}, 'U', 'C', true},
    [VP_LATENT_DOWN] = {{FEED "fn.net.2", "mlp.2"}, 'C', 'F', true},
};

static int64_t size_of(const vp_latent_sizes *s, int64_t width, char symbol) {
    const int64_t inputs = s->heads * s->head_width;
    switch (symbol) {
    case 'r':
        return s->latents;
    case 'C':
        return width;
    case 'I':
        return inputs;
    case 'J':
        return 2 * inputs;
    case 'F':
        return s->inner;
    case 'U':
        return s->plain ? s->inner : 2 * s->inner;
    default:
        return 1;
    }
}

vp_latent_layout vp_latent_layout_of(const vp_latent_sizes *s, int64_t width) {
    vp_latent_layout l = {0};
    for (int i = 0; i < VP_LATENT_ROLES; i++) {
        const role_info *r = &roles[i];
        const int64_t rows = size_of(s, width, r->rows), cols = size_of(s, width, r->cols);
        l.weight[i] = l.bias[i] = -1;
        if (!r->name[s->plain]) continue;
        l.weight[i] = l.count;
        l.count += rows * cols;
        if (!r->bias) continue;
        l.bias[i] = l.count;
        l.count += r->rows == '1' ? cols : rows;
    }
    return l;
}

/* Role and kind of tensor i; false: there are no more. */
static bool find_tensor(const vp_latent_sizes *s, size_t i, int *role, bool *bias) {
    for (*role = 0; *role < VP_LATENT_ROLES; ++*role) {
        const role_info *r = &roles[*role];
        const size_t n = !r->name[s->plain] ? 0 : r->bias ? 2 : 1;
        *bias = i == 1;
        if (i < n) return true;
        i -= n;
    }
    return false;
}

bool vp_latent_tensor_at(const vp_latent_sizes *s, int64_t width, size_t i, vp_latent_tensor *t) {
    const vp_latent_layout l = vp_latent_layout_of(s, width);
    int role;
    bool bias;
    if (!find_tensor(s, i, &role, &bias)) return false;
    const role_info *r = &roles[role];
    const int64_t rows = size_of(s, width, r->rows), cols = size_of(s, width, r->cols);
    *t = (vp_latent_tensor){.rows = bias ? 1 : rows,
                            .cols = bias && r->rows != '1' ? rows : cols,
                            .first = bias ? l.bias[role] : l.weight[role],
                            .vector = bias || r->rows == '1'};
    snprintf(t->name, sizeof t->name, "latent_attention_model.%s%s", r->name[s->plain],
             role == VP_LATENTS ? ""
             : bias             ? ".bias"
                                : ".weight");
    return true;
}

/* ---- where training begins ---- */

/* In (0, 1), of 32 bits. */
static double uniform(uint32_t word) {
    return ((double)word + 0.5) / 4294967296.0;
}

/* Box and Muller's pairs of normal numbers. */
static void start_normal(float *value, int64_t n, uint32_t tensor, uint64_t seed) {
    uint32_t word[4] = {0};
    for (int64_t k = 0; k < n; k++) {
        const uint32_t counter[4] = {(uint32_t)(k >> 2), tensor, 1, VP_SITE_START << 14};
        if (!(k & 3)) vp_philox(word, counter, seed);
        const double length = sqrt(-2 * log(uniform(word[k & 2]))), angle = 2 * M_PI * uniform(word[(k & 2) + 1]);
        value[k] = (float)(length * (k & 1 ? sin(angle) : cos(angle)));
    }
}

static void start_uniform(float *value, int64_t n, double bound, uint32_t tensor, uint64_t seed) {
    uint32_t word[4] = {0};
    for (int64_t k = 0; k < n; k++) {
        const uint32_t counter[4] = {(uint32_t)(k >> 2), tensor, 1, VP_SITE_START << 14};
        if (!(k & 3)) vp_philox(word, counter, seed);
        value[k] = (float)((2 * uniform(word[k & 3]) - 1) * bound);
    }
}

void vp_latent_start(const vp_latent_sizes *s, int64_t width, uint64_t seed, float *value) {
    vp_latent_tensor t;
    int role;
    bool bias;
    for (size_t i = 0; vp_latent_tensor_at(s, width, i, &t) && find_tensor(s, i, &role, &bias); i++) {
        float *at = value + t.first;
        const int64_t n = t.rows * t.cols;
        if (role == VP_LATENTS)
            start_normal(at, n, (uint32_t)i, seed);
        else if (roles[role].rows == '1')
            for (int64_t k = 0; k < n; k++) at[k] = bias ? 0 : 1;
        else
            start_uniform(at, n, 1 / sqrt((double)size_of(s, width, roles[role].cols)), (uint32_t)i, seed);
    }
}
