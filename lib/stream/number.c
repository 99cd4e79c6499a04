/* Single elements of tensors of any type: widening, reading, and the search for what is not finite. */
#include "lib/stream/private.h"
#include "lib/base/half.h"

bool vp_dtype_is_float(vp_dtype d) {
    return d == VP_F32 || d == VP_F16 || d == VP_BF16 || d == VP_F64;
}

#define LOAD(type, name)                                                                                               \
    static type name(const uint8_t *data, int64_t i) {                                                                 \
        type x;                                                                                                        \
        memcpy(&x, data + (size_t)i * sizeof x, sizeof x);                                                             \
        return x;                                                                                                      \
    }
LOAD(float, load_f32)
LOAD(double, load_f64)
LOAD(int16_t, load_i16)
LOAD(uint16_t, load_u16)
LOAD(int32_t, load_i32)
LOAD(uint32_t, load_u32)
LOAD(int64_t, load_i64)
LOAD(uint64_t, load_u64)

int32_t vp_column_i32(const vp_column *c, int64_t i) {
    return load_i32(c->data, i);
}
int64_t vp_column_i64(const vp_column *c, int64_t i) {
    return load_i64(c->data, i);
}
uint64_t vp_column_u64(const vp_column *c, int64_t i) {
    return load_u64(c->data, i);
}

double vp_column_real(const vp_column *c, int64_t i) {
    switch (c->dtype) {
    case VP_F32:
        return (double)load_f32(c->data, i);
    case VP_F16:
        return (double)vp_f16_float(load_u16(c->data, i));
    case VP_BF16:
        return (double)vp_bf16_float(load_u16(c->data, i));
    case VP_F64:
        return load_f64(c->data, i);
    case VP_I8:
        return (int8_t)c->data[i];
    case VP_U8:
    case VP_BOOL:
        return c->data[i];
    case VP_I16:
        return load_i16(c->data, i);
    case VP_U16:
        return load_u16(c->data, i);
    case VP_I32:
        return load_i32(c->data, i);
    case VP_U32:
        return load_u32(c->data, i);
    case VP_I64:
        return (double)load_i64(c->data, i);
    case VP_U64:
        return (double)load_u64(c->data, i);
    case VP_NDTYPES:
    case VP_F8:
        break;
    }
    return 0;
}

/* Infinities and NaNs are the numbers whose exponent bits are all ones. Blocks without a branch inside, then the place.
 */
#define SCAN(width)                                                                                                    \
    static int64_t scan##width(const uint8_t *data, int64_t n, uint##width##_t ones) {                                 \
        for (int64_t first = 0; first < n; first += 4096) {                                                            \
            const int64_t end = n - first < 4096 ? n : first + 4096;                                                   \
            int bad = 0;                                                                                               \
            for (int64_t i = first; i < end; i++) bad |= (load_u##width(data, i) & ones) == ones;                      \
            for (int64_t i = first; bad && i < end; i++)                                                               \
                if ((load_u##width(data, i) & ones) == ones) return i;                                                 \
        }                                                                                                              \
        return -1;                                                                                                     \
    }
SCAN(16)
SCAN(32)
SCAN(64)

int64_t vp_column_nonfinite(const vp_column *c) {
    const int64_t n = (int64_t)(c->bytes / vp_dtype_size(c->dtype));
    if (c->dtype == VP_F32) return scan32(c->data, n, 0x7f800000);
    if (c->dtype == VP_F16) return scan16(c->data, n, 0x7c00);
    if (c->dtype == VP_BF16) return scan16(c->data, n, 0x7f80);
    if (c->dtype == VP_F64) return scan64(c->data, n, 0x7ff0000000000000);
    return -1;
}
