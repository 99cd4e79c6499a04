/* msgpack-c writing into a vp_buf. */
#include "lib/stream/private.h"

static int append(void *packer, const char *data, size_t n) {
    vp_msgpack *p = packer;
    return vp_buf_add(p->out, data, n, p->err) ? -1 : 0;
}

void vp_msgpack_init(vp_msgpack *p, vp_buf *out, vp_error *err) {
    *p = (vp_msgpack){.out = out, .err = err};
    msgpack_packer_init(&p->pk, p, append);
}

void vp_msgpack_strn(vp_msgpack *p, const char *s, size_t n) {
    msgpack_pack_str_with_body(&p->pk, s, n);
}
void vp_msgpack_str(vp_msgpack *p, const char *s) {
    vp_msgpack_strn(p, s, strlen(s));
}
void vp_msgpack_raw(vp_msgpack *p, const void *data, size_t n) {
    vp_buf_add(p->out, data, n, p->err);
}
