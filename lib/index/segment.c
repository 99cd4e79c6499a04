/* Segments as a transaction sees them: committed slots and liveness from the database, vectors from mapped files. */
#include "lib/index/store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_BYTES = 40, BITMAP_BYTES = VP_SEGMENT_SLOTS / 8 };

static void segment_name(int64_t id, char name[NAME_BYTES]) {
    snprintf(name, NAME_BYTES, "seg-%08lld.vec", (long long)id);
}

vp_segment *vp_segments_add(vp_segments *s, int64_t id, vp_error *err) {
    if (vp_grow(&s->item, &s->cap, s->n, sizeof *s->item, "the list of segments", err)) return NULL;
    vp_segment *g = &s->item[s->n];
    *g = (vp_segment){.id = id, .bitmap = vp_calloc(1, BITMAP_BYTES)};
    if (!g->bitmap) {
        vp_fail_memory(err, "a bitmap", BITMAP_BYTES);
        return NULL;
    }
    s->n++;
    return g;
}

int vp_segments_load(vp_index *x, vp_segments *s, vp_error *err) {
    sqlite3_stmt *q;
    bool row;
    vp_segments_free(s);
    VP_TRY(vp_store_statement(x, VP_SQL_SEGMENTS, &q, err));
    for (;;) {
        VP_TRY(vp_store_step(x, q, &row, err));
        if (!row) break;
        int64_t id = sqlite3_column_int64(q, 0), slots = sqlite3_column_int64(q, 1), live = sqlite3_column_int64(q, 2);
        const void *bitmap = sqlite3_column_blob(q, 3);
        int bytes = sqlite3_column_bytes(q, 3);
        if (id < 1 || slots < 0 || slots > VP_SEGMENT_SLOTS || live < 0 || live > slots || bytes != (slots + 7) / 8 ||
            (slots && !x->dims))
            return vp_store_damaged(x, err, "a segment's row");
        vp_segment *g = vp_segments_add(s, id, err);
        if (!g) return VP_MEMORY;
        g->slots = slots;
        g->live = live;
        if (bytes) memcpy(g->bitmap, bitmap, (size_t)bytes);
    }
    sqlite3_reset(q);
    return VP_OK;
}

void vp_segments_free(vp_segments *s) {
    for (size_t i = 0; i < s->n; i++) free(s->item[i].bitmap);
    free(s->item);
    *s = (vp_segments){0};
}

static int compare_id(const void *key, const void *item) {
    int64_t a = *(const int64_t *)key, b = ((const vp_segment *)item)->id;
    return (a > b) - (a < b);
}

vp_segment *vp_segments_find(const vp_segments *s, int64_t id) {
    return s->n ? bsearch(&id, s->item, s->n, sizeof *s->item, compare_id) : NULL;
}

bool vp_segment_is_live(const vp_segment *s, int64_t slot) {
    return s->bitmap[slot >> 3] >> (slot & 7) & 1;
}

void vp_segment_set(vp_segment *s, int64_t slot, bool live) {
    if (vp_segment_is_live(s, slot) == live) return;
    s->bitmap[slot >> 3] ^= (uint8_t)(1 << (slot & 7));
    s->live += live ? 1 : -1;
    s->dirty = true;
}

int vp_segment_put(vp_index *x, vp_segment *s, vp_error *err) {
    sqlite3_stmt *q;
    VP_TRY(vp_store_statement(x, VP_SQL_SEGMENT_PUT, &q, err));
    sqlite3_bind_int64(q, 1, s->id);
    sqlite3_bind_int64(q, 2, s->slots);
    sqlite3_bind_int64(q, 3, s->live);
    sqlite3_bind_blob(q, 4, s->bitmap, (int)((s->slots + 7) / 8), SQLITE_STATIC);
    VP_TRY(vp_store_run(x, q, err));
    s->dirty = false;
    return VP_OK;
}

int vp_segment_open(vp_index *x, const vp_segment *s, int *fd, vp_error *err) {
    char name[NAME_BYTES];
    segment_name(s->id, name);
    *fd = openat(x->dir, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    struct stat st;
    off_t committed = (off_t)((size_t)s->slots * x->row_bytes);
    if (*fd < 0 || fstat(*fd, &st) != 0) return vp_fail_errno(err, "cannot open '%s/%s'", x->path, name);
    if (st.st_size < committed)
        return vp_fail(err, VP_DATA, "'%s/%s': damaged: %lld bytes, %lld were committed", x->path, name,
                       (long long)st.st_size, (long long)committed);
    /* what a killed writer left behind its last commit */
    if (st.st_size > committed && ftruncate(*fd, committed) != 0)
        return vp_fail_errno(err, "cannot cut '%s/%s'", x->path, name);
    return VP_OK;
}

int vp_segment_map(vp_index *x, const vp_segment *s, vp_map_file *m, bool *gone, vp_error *err) {
    *m = (vp_map_file){.data = (const uint8_t *)""};
    if (gone) *gone = false;
    size_t bytes = (size_t)s->slots * x->row_bytes;
    if (!bytes) return VP_OK;
    char name[NAME_BYTES];
    segment_name(s->id, name);
    int fd = openat(x->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        if (!gone) return vp_fail(err, VP_DATA, "'%s/%s': damaged: the file is missing", x->path, name);
        *gone = true;
        return VP_OK;
    }
    if (fd < 0) return vp_fail_errno(err, "cannot open '%s/%s'", x->path, name);
    struct stat st;
    int status = VP_OK;
    void *p = MAP_FAILED;
    if (fstat(fd, &st) != 0)
        status = vp_fail_errno(err, "cannot read '%s/%s'", x->path, name);
    else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < bytes)
        status = vp_fail(err, VP_DATA, "'%s/%s': damaged: %lld bytes, %zu were committed", x->path, name,
                         (long long)st.st_size, bytes);
    else if ((p = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        status = vp_fail_errno(err, "cannot map '%s/%s'", x->path, name);
    else
        *m = (vp_map_file){.data = p, .size = bytes};
    close(fd);
    return status;
}

int vp_segments_sweep(vp_index *x, const vp_segments *s, vp_error *err) {
    int fd = openat(x->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0) close(fd);
        return vp_fail_errno(err, "cannot list '%s'", x->path);
    }
    for (struct dirent *e; (e = readdir(d));) {
        char name[NAME_BYTES];
        char *end;
        if (strncmp(e->d_name, "seg-", 4) != 0) continue;
        errno = 0;
        int64_t id = strtoll(e->d_name + 4, &end, 10);
        segment_name(id, name);
        if (errno || strcmp(name, e->d_name) != 0) continue; /* not a name that we give */
        if (!vp_segments_find(s, id)) unlinkat(x->dir, name, 0);
    }
    closedir(d);
    return VP_OK;
}

void vp_segment_unlink(vp_index *x, int64_t id) {
    char name[NAME_BYTES];
    segment_name(id, name);
    unlinkat(x->dir, name, 0); /* a failure leaves it to the next writer's sweep */
}
