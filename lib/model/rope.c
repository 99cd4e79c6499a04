/* RoPE: inverse frequencies with the scalings of "linear" and "llama3", and the tables of cosines and sines. Every step
 * is f32 where transformers' modeling_rope_utils computes f32 tensors, so that angles at large positions agree. */
#include "lib/model/config.h"
#include <math.h>

/* LLaMA 3.1: long waves are slowed down by `factor`, short ones left alone, those between interpolated. */
static float llama3_frequency(const vp_config *c, float inverse) {
    float original = (float)c->original, factor = (float)c->factor, low = (float)c->low, high = (float)c->high;
    float wave = (float)(2 * M_PI) / inverse;
    if (wave > (float)((double)c->original / c->low)) return inverse / factor;
    if (wave < (float)((double)c->original / c->high)) return inverse;
    float smooth = (original / wave - low) / (float)((double)high - (double)low);
    return (1 - smooth) * inverse / factor + smooth * inverse;
}

void vp_rope_frequencies(const vp_config *c, const float *factors, float *out) {
    for (int64_t i = 0; i < c->rotary / 2; i++) {
        float exponent = (float)(2 * i) / (float)c->rotary;
        float inverse = 1.0f / powf((float)c->theta, exponent);
        if (c->scaling == VP_ROPE_LINEAR) inverse /= (float)c->factor;
        if (c->scaling == VP_ROPE_LLAMA3) inverse = llama3_frequency(c, inverse);
        out[i] = factors ? inverse / factors[i] : inverse;
    }
}

void vp_rope_tables(const float *inverse, int64_t half, int64_t n, float *cosines, float *sines) {
    for (int64_t p = 0; p < n; p++) {
        for (int64_t i = 0; i < half; i++) {
            float angle = (float)p * inverse[i];
            cosines[p * half + i] = (float)cos((double)angle);
            sines[p * half + i] = (float)sin((double)angle);
        }
    }
}
