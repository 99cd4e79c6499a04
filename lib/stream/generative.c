/* Which frames hold rows of text to be generated (role 3) instead of texts to be embedded: a frame holds one of them,
 * and its attention and what is taken of its states follow from it. */
#include "lib/stream/stream.h"

enum { GENERATIVE = 3 };

int vp_frame_generates(const vp_frame *f, bool *generates, vp_error *err) {
    const vp_column *role = vp_frame_find(f, "role");
    *generates = false;
    if (!role || !f->B) return VP_OK;
    VP_TRY(vp_frame_need(f, "role", VP_U8, 1, (const int64_t[]){f->B}, &role, err));
    *generates = role->data[0] == GENERATIVE;
    for (int64_t b = 1; b < f->B; b++)
        if ((role->data[b] == GENERATIVE) != *generates)
            return vp_frame_fail(f, VP_DATA, err,
                                 "row %lld: a frame holds rows to be generated (role %d) or others, not both",
                                 (long long)b, GENERATIVE);
    return VP_OK;
}
