/* msgpack-c writing into a vp_buf. */
#include "lib/stream/private.h"

static int append(void *packer, const char *data, size_t n) {
    vp_packer *p = packer;
    return vp_buf_add(p->out, data, n, p->err) ? -1 : 0;
}

void vp_packer_init(vp_packer *p, vp_buf *out, vp_error *err) {
    *p = (vp_packer){.out = out, .err = err};
    msgpack_packer_init(&p->pk, p, append);
}

void vp_pack_strn(vp_packer *p, const char *s, size_t n) {
    msgpack_pack_str_with_body(&p->pk, s, n);
}
void vp_pack_str(vp_packer *p, const char *s) {
    vp_pack_strn(p, s, strlen(s));
}
void vp_pack_raw(vp_packer *p, const void *data, size_t n) {
    vp_buf_add(p->out, data, n, p->err);
}
