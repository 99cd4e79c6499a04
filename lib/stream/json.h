/* Pieces of JSON text that several parts of the library print. */
#ifndef VP_STREAM_JSON_H
#define VP_STREAM_JSON_H
#include "lib/base/base.h"

/* Append n bytes of UTF-8 as a quoted string; control characters (with those that steer terminals) are escaped. */
int vp_json_quote(vp_buf *out, const char *s, size_t n, vp_error *err);
/* The shortest text that reads back as the same finite number; returns its length. A double never looks like an
 * integer. */
int vp_json_real_text(char out[32], double x);
int vp_json_float_text(char out[32], float x);

#endif
