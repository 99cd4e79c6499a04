/* exp, tanh, erf, the activations and their derivatives: one copy of the arithmetic for every backend. Who includes
 * this has defined `vec` with its operations v_*: a vector on the CPU, one float on a GPU; VP_FN, what a function
 * begins with; and VP_TABLE, what a table of constants in it begins with. */
#ifndef VP_KERNELS_MATH_H
#define VP_KERNELS_MATH_H
#include <stdint.h>

/* sum of c[i] z^i by Horner's rule */
VP_FN vec v_poly(vec z, const float *c, int n) {
    vec p = v_set1(c[n - 1]);
    for (int i = n - 2; i >= 0; i--) p = v_fma(p, z, v_set1(c[i]));
    return p;
}

/* e^x: x = n ln 2 + r, |r| <= ln 2 / 2, e^r = 1 + r + r^2 P(r), P minimax of degree 5 (error 5e-11).
 * At most 1.5 units in the last place; +inf above 88.72, results under 2^-126 are 0, NaN stays NaN. */
VP_FN vec v_exp(vec x) {
    VP_TABLE c[] = {0.500000008f, 0.166666669f, 0.0416662691f, 0.0083332653f, 0.00139461325f, 0.000199178947f};
    vec y = v_min(v_set1(89.0f), v_max(v_set1(-88.0f), x)); /* a NaN in second place stays */
    vec n = v_round(v_mul(y, v_set1(1.44269504f)));
    vec r = v_fma(n, v_set1(-0.693145752f), y); /* ln 2 in two parts, the first with 15 bits */
    r = v_fma(n, v_set1(-1.42860677e-6f), r);
    vec p = v_fma(v_mul(r, r), v_poly(r, c, 6), v_add(r, v_set1(1.0f)));
    vec half = v_round(v_mul(n, v_set1(0.5f))); /* 2^n in two steps: n reaches 128 */
    vec e = v_scale2(v_scale2(p, half), v_sub(n, half));
    return v_select_lt(y, v_set1(-87.33654f), v_zero(), e);
}

/* tanh: x + x z P(z), z = x^2 under 0.625, else 1 - 2 / (e^2|x| + 1). At most 2 units in the last place. */
VP_FN vec v_tanh(vec x) {
    VP_TABLE c[] = {-0.333332839f, 0.133314912f, -0.0537434953f, 0.020650579f, -0.00571703656f};
    vec a = v_abs(x), z = v_mul(x, x);
    vec small = v_fma(v_mul(a, z), v_poly(z, c, 5), a);
    vec e = v_exp(v_add(a, a));
    vec large = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
    return v_with_sign(v_select_lt(a, v_set1(0.625f), small, large), x);
}

/* erf: x + x P(x^2) under 1, else 1 - e^-Q(|x|) with Q the minimax of -log erfc on [1, 4]. Error at most 2e-7. */
VP_FN vec v_erf(vec x) {
    VP_TABLE c[] = {0.128379166f,   -0.376126271f,    0.112836002f,   -0.0268544446f,
                    0.00518953534f, -0.000802084128f, 7.88911953e-05f};
    VP_TABLE q[] = {0.00035370893f, 1.12704008f,    0.638225602f,    0.103037436f,
                    -0.0218053512f, 0.00293961573f, -0.000185574893f};
    vec a = v_abs(x);
    vec small = v_fma(a, v_poly(v_mul(a, a), c, 7), a);
    vec b = v_min(v_set1(4.0f), a);
    vec large = v_sub(v_set1(1.0f), v_exp(v_sub(v_zero(), v_poly(b, q, 7))));
    return v_with_sign(v_select_lt(a, v_set1(1.0f), small, large), x);
}

/* x / (1 + e^-x) */
VP_FN vec silu(vec x) {
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), x))));
}
/* x (1 + erf(x / sqrt 2)) / 2 */
VP_FN vec gelu(vec x) {
    vec half = v_mul(x, v_set1(0.5f));
    return v_fma(half, v_erf(v_mul(x, v_set1(0.707106781f))), half);
}
/* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 */
VP_FN vec gelu_tanh(vec x) {
    vec half = v_mul(x, v_set1(0.5f)), z = v_mul(x, x);
    vec t = v_mul(x, v_fma(z, v_set1(0.0356774081f), v_set1(0.797884561f)));
    return v_fma(half, v_tanh(t), half);
}
VP_FN vec relu(vec x) {
    return v_max(v_zero(), x);
} /* NaN stays */
VP_FN vec same(vec x) {
    return x;
}

/* Their derivatives. */
VP_FN vec silu_slope(vec x) { /* s (1 + x (1 - s)), s = 1 / (1 + e^-x) */
    vec one = v_set1(1.0f), s = v_div(one, v_add(one, v_exp(v_sub(v_zero(), x))));
    return v_mul(s, v_fma(x, v_sub(one, s), one));
}
VP_FN vec gelu_slope(vec x) { /* (1 + erf(x / sqrt 2)) / 2 + x e^(-x^2 / 2) / sqrt(2 pi) */
    vec half = v_set1(0.5f), density = v_exp(v_mul(v_mul(x, x), v_set1(-0.5f)));
    vec below = v_fma(half, v_erf(v_mul(x, v_set1(0.707106781f))), half);
    return v_fma(v_mul(x, v_set1(0.398942280f)), density, below);
}
VP_FN vec gelu_tanh_slope(vec x) { /* (1 + t) / 2 + x (1 - t^2) z' / 2, t = tanh z */
    vec half = v_set1(0.5f), square = v_mul(x, x);
    vec t = v_tanh(v_mul(x, v_fma(square, v_set1(0.0356774081f), v_set1(0.797884561f))));
    vec inner = v_fma(square, v_set1(0.107032224f), v_set1(0.797884561f));
    vec steep = v_mul(v_mul(v_mul(half, x), inner), v_sub(v_set1(1.0f), v_mul(t, t)));
    return v_add(steep, v_fma(half, t, half));
}
VP_FN vec relu_slope(vec x) {
    return v_select_lt(v_zero(), x, v_set1(1.0f), v_zero());
}
VP_FN vec tanh_slope(vec x) {
    vec t = v_tanh(x);
    return v_sub(v_set1(1.0f), v_mul(t, t));
}
VP_FN vec same_slope(vec x) {
    (void)x;
    return v_set1(1.0f);
}

/* Every activation with its derivative. */
#define VP_ACT_FUNCTIONS(X)                                                                                            \
    X(VP_ACT_NONE, same, same_slope)                                                                                   \
    X(VP_ACT_SILU, silu, silu_slope)                                                                                   \
    X(VP_ACT_GELU, gelu, gelu_slope)                                                                                   \
    X(VP_ACT_GELU_TANH, gelu_tanh, gelu_tanh_slope)                                                                    \
    X(VP_ACT_RELU, relu, relu_slope)                                                                                   \
    X(VP_ACT_TANH, v_tanh, tanh_slope)

#endif
