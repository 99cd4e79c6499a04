/* UTF-8 validity, escaping for people, hex, hashing, and the table of element types. */
#include "lib/base/base.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

size_t vp_utf8_valid(const char *s, size_t n) {
    size_t at = 0;
    while (at < n) {
        if ((unsigned char)s[at] < 0x80) {
            at++;
            continue;
        }
        utf8proc_int32_t code;
        utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(n - at), &code);
        if (len <= 0) break;
        at += (size_t)len;
    }
    return at;
}

/* Bytes of the character at s that a terminal may be given as they are; 0: a control character (C0, DEL, C1) or no
 * UTF-8. */
static size_t printable(const char *s, size_t n) {
    utf8proc_int32_t code;
    utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &code);
    if (len <= 0 || code < 0x20 || (code >= 0x7f && code < 0xa0)) return 0;
    return (size_t)len;
}

void vp_escape(char *out, size_t cap, const char *s, size_t n) {
    size_t len = 0;
    for (size_t i = 0; i < n;) {
        char escaped[5] = "";
        const char *piece = s + i;
        size_t taken = printable(s + i, n - i), more = taken;
        if (!taken) {
            unsigned char c = (unsigned char)s[i];
            if (c == '\n' || c == '\t' || c == '\r')
                snprintf(escaped, sizeof escaped, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
            else
                snprintf(escaped, sizeof escaped, "\\x%02x", c);
            piece = escaped;
            more = strlen(escaped);
            taken = 1;
        }
        if (len + more + 1 > cap) break;
        memcpy(out + len, piece, more);
        len += more;
        i += taken;
    }
    if (cap) out[len] = '\0';
}

void vp_hex(char *out, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

int vp_hasher_begin(vp_hasher *h, vp_error *err) {
    h->state = XXH3_createState();
    if (!h->state) return vp_fail_memory(err, "a hash", 576);
    XXH3_128bits_reset(h->state);
    return VP_OK;
}

void vp_hasher_part(vp_hasher *h, const void *data, size_t n) {
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)n >> (8 * i));
    XXH3_128bits_update(h->state, length, sizeof length);
    if (n) XXH3_128bits_update(h->state, data, n);
}

void vp_hasher_str(vp_hasher *h, const char *s) {
    vp_hasher_part(h, s ? s : "", s ? strlen(s) : 0);
}

void vp_hasher_finish(vp_hasher *h, uint8_t out[16]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(h->state));
    memcpy(out, canonical.digest, 16);
    XXH3_freeState(h->state);
    h->state = NULL;
}

uint64_t vp_hash64(const void *data, size_t n) {
    return XXH3_64bits(data, n);
}
