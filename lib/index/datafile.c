/* The numbered files of an index's folder, seg-N.vec and kv-N.bin: append-only, and only as long as the database says.
 * What stands behind that, and files that the database does not name, was left by a killed writer. */
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

enum { NAME_BYTES = 40 };

static const struct {
    const char *prefix, *suffix;
} kinds[] = {[VP_DATAFILE_VECTORS] = {"seg-", "vec"}, [VP_DATAFILE_KV] = {"kv-", "bin"}};

static void file_name(vp_datafile kind, int64_t id, char name[NAME_BYTES]) {
    snprintf(name, NAME_BYTES, "%s%08lld.%s", kinds[kind].prefix, (long long)id, kinds[kind].suffix);
}

int vp_datafile_open(vp_index *x, vp_datafile kind, int64_t id, int64_t committed, int *fd, vp_error *err) {
    char name[NAME_BYTES];
    file_name(kind, id, name);
    *fd = openat(x->dir, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    struct stat st;
    if (*fd < 0 || fstat(*fd, &st) != 0) return vp_fail_errno(err, "cannot open '%s/%s'", x->path, name);
    if (st.st_size < committed)
        return vp_fail(err, VP_DATA, "'%s/%s': damaged: %lld bytes, %lld were committed", x->path, name,
                       (long long)st.st_size, (long long)committed);
    if (st.st_size > committed && ftruncate(*fd, committed) != 0)
        return vp_fail_errno(err, "cannot cut '%s/%s'", x->path, name);
    return VP_OK;
}

int vp_datafile_write(vp_index *x, int fd, const void *data, size_t n, int64_t at, vp_error *err) {
    const uint8_t *from = data;
    while (n) {
        ssize_t done = pwrite(fd, from, n, at);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return vp_fail_errno(err, "cannot write a file of '%s'", x->path);
        from += done;
        n -= (size_t)done;
        at += done;
    }
    return VP_OK;
}

int vp_datafile_sync(vp_index *x, int fd, bool fresh, vp_error *err) {
    if (fdatasync(fd) != 0) return vp_fail_errno(err, "cannot sync a file of '%s'", x->path);
    if (fresh && fsync(x->dir) != 0) return vp_fail_errno(err, "cannot sync '%s'", x->path);
    return VP_OK;
}

int vp_datafile_map(vp_index *x, const vp_datafile_part *part, vp_map_file *m, const uint8_t **data, bool *gone,
                    vp_error *err) {
    const int64_t end = part->at + part->bytes;
    *m = (vp_map_file){.data = (const uint8_t *)""};
    *data = m->data;
    if (gone) *gone = false;
    if (!part->bytes) return VP_OK;
    char name[NAME_BYTES];
    file_name(part->kind, part->id, name);
    int fd = openat(x->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        if (!gone) return vp_fail(err, VP_DATA, "'%s/%s': damaged: the file is missing", x->path, name);
        *gone = true;
        return VP_OK;
    }
    if (fd < 0) return vp_fail_errno(err, "cannot open '%s/%s'", x->path, name);
    struct stat st;
    const int64_t first = part->at - part->at % sysconf(_SC_PAGESIZE);
    const size_t mapped = (size_t)(end - first);
    int status = VP_OK;
    void *p = MAP_FAILED;
    if (fstat(fd, &st) != 0)
        status = vp_fail_errno(err, "cannot read '%s/%s'", x->path, name);
    else if (!S_ISREG(st.st_mode) || st.st_size < end)
        status = vp_fail(err, VP_DATA, "'%s/%s': damaged: %lld bytes, %lld were committed", x->path, name,
                         (long long)st.st_size, (long long)end);
    else if ((p = mmap(NULL, mapped, PROT_READ, MAP_SHARED, fd, first)) == MAP_FAILED)
        status = vp_fail_errno(err, "cannot map '%s/%s'", x->path, name);
    else
        *m = (vp_map_file){.data = p, .size = mapped};
    close(fd);
    if (!status) *data = m->data + (part->at - first);
    return status;
}

int vp_datafiles_sweep(vp_index *x, vp_datafile kind, vp_datafile_named *named, void *ctx, vp_error *err) {
    int fd = openat(x->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0) close(fd);
        return vp_fail_errno(err, "cannot list '%s'", x->path);
    }
    const char *prefix = kinds[kind].prefix;
    int status = VP_OK;
    for (struct dirent *e; !status && (e = readdir(d));) {
        char name[NAME_BYTES];
        char *end;
        bool keep;
        if (strncmp(e->d_name, prefix, strlen(prefix)) != 0) continue;
        errno = 0;
        int64_t id = strtoll(e->d_name + strlen(prefix), &end, 10);
        file_name(kind, id, name);
        if (errno || strcmp(name, e->d_name) != 0) continue; /* not a name that we give */
        status = named(ctx, id, &keep, err);
        if (!status && !keep) unlinkat(x->dir, name, 0);
    }
    closedir(d);
    return status;
}

void vp_datafile_unlink(vp_index *x, vp_datafile kind, int64_t id) {
    char name[NAME_BYTES];
    file_name(kind, id, name);
    unlinkat(x->dir, name, 0); /* a failure leaves it to the next writer's sweep */
}
