/* The source text of a JSON value that Jansson has already accepted: members by their spelling, and a canonical compact
 * form that keeps every number and string as it was written. For lib/text, lib/train,
 * lib/mine and lib/gen alone. */
#ifndef VP_TEXT_JSON_TEXT_H
#define VP_TEXT_JSON_TEXT_H
#include "lib/base/base.h"
#include <jansson.h>

/* Line `number` of the input `name` must be UTF-8 and, unless `object` is NULL, one JSON object, which the caller
 * frees: VP_DATA with name:number. All numbers are reals: their values are not used, and integers of any length may
 * pass. */
int vp_line_parse(const char *s, size_t n, json_t **object, const char *name, int64_t number, vp_error *err);

typedef struct vp_json_text {
    const char *s;
    size_t n;
} vp_json_text;

/* The value of a member of the object `text`, as it is spelled. False: no member has this key (keys that are written
 * with escapes are not found). */
bool vp_json_text_member(vp_json_text text, const char *key, vp_json_text *value);
/* Append the object without whitespace, keys sorted at every level, and without the top-level members named in
 * `without` (ended by NULL). Nothing is appended when no member is left. */
int vp_json_text_compact(vp_json_text object, const char *const *without, vp_buf *out, vp_error *err);

#endif
