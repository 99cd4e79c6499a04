/* The column table as data. */
#include "lib/stream/private.h"

const vp_schema vp_schemas[] = {
#define X(name, dtype, shape, meaning) {name, dtype, shape, meaning},
#include "schemas/columns.def"
#undef X
    {NULL, NULL, NULL, NULL}};

const vp_schema *vp_schema_find(const char *name) {
    for (const vp_schema *s = vp_schemas; s->name; s++)
        if (strcmp(s->name, name) == 0) return s;
    return NULL;
}
