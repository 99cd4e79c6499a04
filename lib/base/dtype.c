/* Element types by number and by name. */
#include "lib/base/dtype.h"
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[VP_NDTYPES] = {
#define X(e, n, s) {n, s},
    VP_DTYPES(X)
#undef X
};

size_t vp_dtype_size(vp_dtype d) {
    if (d == VP_F8) return 1;
    return (unsigned)d < VP_NDTYPES ? dtypes[d].size : 0;
}
const char *vp_dtype_name(vp_dtype d) {
    if (d == VP_F8) return "F8_E4M3";
    return (unsigned)d < VP_NDTYPES ? dtypes[d].name : "?";
}

vp_dtype vp_dtype_find(const char *name, size_t n) {
    int d = 0;
    while (d < VP_NDTYPES && !(strlen(dtypes[d].name) == n && memcmp(dtypes[d].name, name, n) == 0)) d++;
    return (vp_dtype)d;
}
