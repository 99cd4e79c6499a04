/* Deleting records, and exchanging whole indexes. */
#include "lib/index/store.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

int vp_change_drop_record(vp_change *c, const char *id, size_t len, int64_t seen, bool *dropped, vp_error *err) {
    vp_entries entries = {0};
    int status = vp_entries_find(c->x, VP_SQL_RECORD, id, len, &entries, err);
    *dropped = entries.n > 0;
    for (size_t i = 0; i < entries.n; i++)
        if (entries.item[i].generation > seen) *dropped = false;
    for (size_t i = 0; i < entries.n && *dropped && !status; i++) status = vp_change_drop(c, &entries.item[i], err);
    vp_entries_free(&entries);
    return status;
}

int vp_index_delete(vp_index *x, const char *const *id, const size_t *len, size_t n, int64_t *deleted, vp_error *err) {
    vp_change c;
    *deleted = 0;
    VP_TRY(vp_change_begin(&c, x, err));
    int status = VP_OK;
    for (size_t i = 0; i < n && !status; i++) {
        bool dropped = false;
        status = vp_change_drop_record(&c, id[i], len[i], INT64_MAX, &dropped, err);
        *deleted += dropped;
    }
    if (!status) return vp_change_commit(&c, err);
    vp_change_abort(&c);
    return status;
}

/* Nobody opens the index at the path while its byte is locked; it is still the one that was opened there. */
static int hold(const vp_index *x, vp_error *err) {
    vp_lock_request r = {.fd = x->lock,
                         .byte = VP_LOCK_OPENING,
                         .exclusive = true,
                         .wait = true,
                         .path = x->path,
                         .what = "another program is opening it"};
    VP_TRY(vp_lock_take(&r, err));
    struct stat at_path, opened;
    if (stat(x->path, &at_path) != 0 || fstat(x->dir, &opened) != 0)
        return vp_fail_errno(err, "cannot look at '%s'", x->path);
    if (at_path.st_ino != opened.st_ino || at_path.st_dev != opened.st_dev)
        return vp_fail(err, VP_LOCKED, "'%s': another program exchanged it just now", x->path);
    return VP_OK;
}

static int exchange(const vp_index *a, const vp_index *b, vp_error *err) {
    struct stat sa, sb;
    if (fstat(a->dir, &sa) != 0 || fstat(b->dir, &sb) != 0) return vp_fail_errno(err, "cannot look at '%s'", a->path);
    if (sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino)
        return vp_fail(err, VP_USAGE, "'%s' and '%s' are the same index", a->path, b->path);
    bool a_first = sa.st_dev < sb.st_dev || (sa.st_dev == sb.st_dev && sa.st_ino < sb.st_ino);
    VP_TRY(hold(a_first ? a : b, err)); /* in one order everywhere: two swaps do not wait for each other */
    VP_TRY(hold(a_first ? b : a, err));
    if (renameat2(AT_FDCWD, a->path, AT_FDCWD, b->path, RENAME_EXCHANGE) != 0) {
        if (errno == EXDEV) return vp_fail(err, VP_IO, "'%s' and '%s' are on different file systems", a->path, b->path);
        return vp_fail_errno(err, "cannot exchange '%s' and '%s'", a->path, b->path);
    }
    VP_TRY(vp_sync_folder_of(a->path, err));
    return vp_sync_folder_of(b->path, err);
}

int vp_index_swap(const char *a, const char *b, vp_error *err) {
    vp_index *x = NULL, *y = NULL;
    int status = vp_index_open(&x, a, VP_INDEX_WRITE, err);
    if (!status) status = vp_index_open(&y, b, VP_INDEX_WRITE, err);
    if (!status) status = exchange(x, y, err);
    vp_index_close(x);
    vp_index_close(y);
    return status;
}
