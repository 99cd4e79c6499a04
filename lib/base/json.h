/* For the library alone: bounded reading of JSON files and strict access to their members (Jansson below). */
#ifndef VP_BASE_JSON_H
#define VP_BASE_JSON_H
#include "lib/base/base.h"
#include <jansson.h>

typedef struct vp_json {
    json_t *root; /* an object, or an array where the caller asked for one */
    char *path;   /* for messages */
} vp_json;

/* folder/name, or folder when name is empty; caller frees. */
int vp_path_join(char **out, const char *folder, const char *name, vp_error *err);
/* Whether folder/name exists, of whatever kind. */
bool vp_path_exists(const char *folder, const char *name);

/* The file folder/name, at most 64 MiB. A file that cannot be read is VP_IO, one that is not JSON or whose root is of
 * another type VP_DATA with the line. vp_json_close accepts a {0}. */
int vp_json_open(vp_json *j, const char *folder, const char *name, json_type root, vp_error *err);
/* The same, but a file that does not exist gives root NULL and VP_OK. */
int vp_json_open_optional(vp_json *j, const char *folder, const char *name, json_type root, vp_error *err);
void vp_json_close(vp_json *j);
/* The object in folder/name to be changed and written again: its integers stay integers. The caller's to free. */
int vp_json_load(json_t **root, const char *folder, const char *name, vp_error *err);
/* The file folder/name, indented, through a temporary name. root NULL, or a text in it that is no UTF-8: VP_MEMORY. */
int vp_json_publish(const char *folder, const char *name, const json_t *root, vp_error *err);

/* Members of an object. An absent or null member leaves *value as it is; one of another type is VP_DATA naming the file
 * and the key. */
int vp_json_int(const vp_json *j, const json_t *o, const char *key, int64_t *value, vp_error *err);
int vp_json_real(const vp_json *j, const json_t *o, const char *key, double *value, vp_error *err);
int vp_json_bool(const vp_json *j, const json_t *o, const char *key, bool *value, vp_error *err);
int vp_json_str(const vp_json *j, const json_t *o, const char *key, const char **value, vp_error *err);
/* A member that says something: not absent, null, false, "", [] or {}. */
bool vp_json_says(const json_t *o, const char *key);

#endif
