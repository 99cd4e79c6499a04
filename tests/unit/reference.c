/* The operations in double precision: no blocks, no tricks. */
#include "tests/unit/reference.h"
#include "lib/base/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double at(const vp_mat *m, int64_t i, int64_t j) {
    return (double)((const float *)m->ptr)[i * m->ld + j];
}

double ref_drop(const vp_drop *drop, int64_t row, int64_t index, int32_t head) {
    if (drop->p == 0.0f) return 1.0;
    uint32_t word[4], counter[4] = {(uint32_t)(index / 8), (uint32_t)row, drop->step,
                                    drop->layer * (1U << 20) + drop->site * (1U << 14) + (uint32_t)head};
    vp_philox(word, counter, drop->seed);
    double units = floor((double)drop->p * 65536.0 + 0.5), kept = 65536.0 / (65536.0 - units);
    uint32_t lane = word[index % 8 / 2];
    return (index % 2 ? lane / 65536 : lane % 65536) >= units ? kept : 0.0;
}

double ref_drop_token(const vp_drop *drop, const vp_batch *batch, int64_t t, int64_t width, int64_t i) {
    int64_t b = 0;
    while (batch->cu_q[b + 1] <= t) b++;
    return drop->p == 0.0f ? 1.0 : ref_drop(drop, batch->row[b], (t - batch->cu_q[b]) * width + i, 0);
}

double ref_act(vp_act act, double x) {
    switch (act) {
    case VP_ACT_NONE:
        return x;
    case VP_ACT_SILU:
        return x / (1.0 + exp(-x));
    case VP_ACT_GELU:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case VP_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case VP_ACT_RELU:
        return x > 0.0 ? x : 0.0;
    case VP_ACT_TANH:
        return tanh(x);
    }
    return NAN;
}

void ref_product(const vp_mat *x, const float *w, int64_t n, double *out, double *size) {
    for (int64_t i = 0; i < x->rows; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0.0, absolute = 0.0;
            for (int64_t k = 0; k < x->cols; k++) {
                double p = at(x, i, k) * (double)w[j * x->cols + k];
                sum += p;
                absolute += fabs(p);
            }
            out[i * n + j] = sum;
            if (size) size[i * n + j] = absolute;
        }
}

void ref_norm(const vp_norm_op *op, double *out) {
    int64_t heads = op->heads > 0 ? op->heads : 1, n = op->x.cols / heads;
    for (int64_t i = 0; i < op->x.rows * heads; i++) {
        int64_t t = i / heads, from = i % heads * n;
        double mean = 0.0, square = 0.0;
        for (int64_t j = 0; j < n && op->kind == VP_NORM_LAYER; j++) mean += at(&op->x, t, from + j) / (double)n;
        for (int64_t j = 0; j < n; j++) square += pow(at(&op->x, t, from + j) - mean, 2.0) / (double)n;
        for (int64_t j = 0; j < n; j++) {
            double w = (double)op->weight[j] + (op->kind == VP_NORM_RMS_PLUS1 ? 1.0 : 0.0);
            double y = (at(&op->x, t, from + j) - mean) / sqrt(square + (double)op->eps);
            out[t * op->x.cols + from + j] = y * w + (op->bias ? (double)op->bias[j] : 0.0);
        }
    }
}

void ref_softmax(const vp_mat *x, double *out) {
    for (int64_t i = 0; i < x->rows; i++) {
        double top = -INFINITY, sum = 0.0;
        for (int64_t j = 0; j < x->cols; j++) top = fmax(top, at(x, i, j));
        for (int64_t j = 0; j < x->cols; j++) sum += exp(at(x, i, j) - top);
        for (int64_t j = 0; j < x->cols; j++) out[i * x->cols + j] = exp(at(x, i, j) - top) / sum;
    }
}

void ref_rope(const vp_rope_op *op, double *out) {
    int32_t half = op->rotary / 2;
    for (int64_t t = 0; t < op->x.rows; t++)
        for (int32_t h = 0; h < op->heads; h++) {
            double *to = out + t * op->x.cols + (int64_t)h * op->d;
            for (int32_t i = 0; i < op->d; i++) to[i] = at(&op->x, t, (int64_t)h * op->d + i);
            for (int32_t i = 0; i < half; i++) {
                int32_t first = op->interleaved ? 2 * i : i, second = op->interleaved ? 2 * i + 1 : i + half;
                double c = (double)op->cos[op->batch->pos[t] * half + i];
                double s = (double)op->sin[op->batch->pos[t] * half + i] * (op->sign < 0 ? -1.0 : 1.0);
                double a = to[first], b = to[second];
                to[first] = a * c - b * s;
                to[second] = b * c + a * s;
            }
        }
}

static bool allowed(const vp_attn_op *op, int64_t b, int64_t i, int64_t j) {
    const vp_batch *batch = op->batch;
    int64_t base = batch->cu_q[b];
    const int64_t prefix = batch->prefix ? batch->prefix[b] : 0;
    bool order = j <= i || (op->mode == VP_ATTN_BI ? i >= prefix : j < prefix);
    bool segment = !batch->seg || batch->seg[base + j] == 0 || batch->seg[base + j] == batch->seg[base + i];
    int64_t distance = i > j ? i - j : j - i;
    return order && segment && (op->window == 0 || distance < op->window);
}

void ref_attn_row(const vp_attn_op *op, int64_t b, int64_t i, int64_t h, double *p) {
    int64_t base = op->batch->cu_q[b], n = op->batch->cu_q[b + 1] - base, d = op->d;
    int64_t g = h / (op->heads / op->groups);
    double top = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j < n; j++) {
        double s = 0.0;
        for (int64_t c = 0; c < d; c++) s += at(&op->q, base + i, h * d + c) * at(&op->k, base + j, g * d + c);
        s *= (double)op->scale;
        if (op->softcap > 0.0f) s = (double)op->softcap * tanh(s / (double)op->softcap);
        p[j] = allowed(op, b, i, j) ? s : -INFINITY;
        top = fmax(top, p[j]);
    }
    for (int64_t j = 0; j < n; j++) sum += p[j] = exp(p[j] - top);
    for (int64_t j = 0; j < n; j++) p[j] /= sum;
}

static void attend(const vp_attn_op *op, int64_t b, int64_t i, int64_t h, double *p, double *out) {
    int64_t base = op->batch->cu_q[b], n = op->batch->cu_q[b + 1] - base, d = op->d;
    int64_t g = h / (op->heads / op->groups);
    ref_attn_row(op, b, i, h, p);
    for (int64_t j = 0; j < n && op->drop.p > 0.0f; j++)
        p[j] *= ref_drop(&op->drop, op->batch->row[b], i * (1 << 19) + j, (int32_t)h);
    for (int64_t c = 0; c < d; c++) {
        out[c] = 0.0;
        for (int64_t j = 0; j < n; j++) out[c] += p[j] * at(&op->v, base + j, g * d + c);
    }
}

void ref_attn(const vp_attn_op *op, double *out) {
    double *p = vp_calloc((size_t)op->batch->T + 1, sizeof *p);
    for (int64_t b = 0; b < op->batch->B && p; b++)
        for (int64_t i = 0; i < op->batch->cu_q[b + 1] - op->batch->cu_q[b]; i++)
            for (int64_t h = 0; h < op->heads; h++)
                attend(op, b, i, h, p, out + (op->batch->cu_q[b] + i) * op->heads * op->d + h * op->d);
    free(p);
}

int64_t ref_pool(const vp_pool_op *op, double *out) {
    int64_t empty = 0, C = op->x.cols;
    memset(out, 0, (size_t)(op->B * C) * sizeof *out);
    for (int64_t b = 0; b < op->B; b++) {
        double total = 0.0, count = 0.0;
        for (int64_t t = op->cu[b]; t < op->cu[b + 1]; t++) {
            if (op->keep && !op->keep[t]) continue;
            double w = op->kind == VP_POOL_WEIGHTED_MEAN ? ++count : 1.0;
            bool last = op->kind == VP_POOL_LAST || op->kind == VP_POOL_EOS;
            if (op->kind == VP_POOL_FIRST && total > 0.0) continue;
            if (last) total = 0.0;
            for (int64_t j = 0; j < C; j++) out[b * C + j] = (last ? 0.0 : out[b * C + j]) + w * at(&op->x, t, j);
            total += w;
        }
        empty += total == 0.0;
        for (int64_t j = 0; j < C && total > 0.0; j++) out[b * C + j] /= total;
    }
    return empty;
}
