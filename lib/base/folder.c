/* Publishing a folder under its name in one step, and sweeping up temporaries that killed programs left. */
#include "lib/base/base.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    remove(path);
    return 0;
}

/* Links are removed, never followed. */
static void remove_tree(const char *path) {
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

void vp_temporaries_sweep(const char *path) {
    char pattern[PATH_MAX];
    size_t n = 0;
    for (const char *s = path; *s && n + 16 < sizeof pattern; s++) {
        if (strchr("*?[\\", *s)) pattern[n++] = '\\';
        pattern[n++] = *s;
    }
    snprintf(pattern + n, sizeof pattern - n, ".tmp-*");
    glob_t found;
    if (glob(pattern, GLOB_NOSORT, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        int fd = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0) continue;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) remove_tree(found.gl_pathv[i]);
        close(fd);
    }
    globfree(&found);
}

int vp_write_file(const char *folder, const char *name, const void *data, size_t n, vp_error *err) {
    vp_buf path = {0};
    VP_TRY(vp_buf_printf(&path, err, "%s/%s", folder, name));
    int fd = open(path.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int status = fd < 0 ? vp_fail_errno(err, "cannot create '%s'", path.data) : VP_OK;
    if (!status) status = vp_write_all(fd, data, n, path.data, err);
    if (!status && fsync(fd) != 0) status = vp_fail_errno(err, "cannot sync '%s'", path.data);
    if (fd >= 0) close(fd);
    vp_buf_free(&path);
    return status;
}

/* Whether the name is free, or may be taken as the caller allows. */
static int check_place(vp_publish_folder *p, const char *replace, vp_error *err) {
    struct stat st;
    if (lstat(p->path, &st) != 0) return errno == ENOENT ? VP_OK : vp_fail_errno(err, "cannot write '%s'", p->path);
    if (!S_ISDIR(st.st_mode)) return vp_fail(err, VP_IO, "cannot write '%s': it exists and is not a folder", p->path);
    if (rmdir(p->path) == 0) { /* it was empty; it is kept until the rename */
        if (mkdir(p->path, st.st_mode & 07777) != 0) return vp_fail_errno(err, "cannot write '%s'", p->path);
        return VP_OK;
    }
    if (!replace) return vp_fail(err, VP_IO, "cannot write '%s': a folder with files in it exists", p->path);
    vp_buf file = {0};
    VP_TRY(vp_buf_printf(&file, err, "%s/%s", p->path, replace));
    p->exchange = access(file.data, F_OK) == 0;
    vp_buf_free(&file);
    return p->exchange ? VP_OK : vp_fail(err, VP_IO, "will not replace '%s': no %s in it", p->path, replace);
}

static int make_temporary(vp_publish_folder *p, vp_error *err) {
    size_t n = strlen(p->path);
    p->temporary = malloc(n + 16);
    if (!p->temporary) return vp_fail_memory(err, "a path", n);
    snprintf(p->temporary, n + 16, "%s.tmp-XXXXXX", p->path);
    if (!mkdtemp(p->temporary)) {
        int status = vp_fail_errno(err, "cannot create '%s'", p->temporary);
        free(p->temporary);
        p->temporary = NULL;
        return status;
    }
    p->slot = vp_temporary_add(p->temporary);
    p->fd = open(p->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mode_t mask = umask(0);
    umask(mask);
    if (p->fd < 0 || flock(p->fd, LOCK_EX | LOCK_NB) != 0 || fchmod(p->fd, 0777 & ~mask) != 0)
        return vp_fail_errno(err, "cannot lock '%s'", p->temporary);
    return VP_OK;
}

int vp_publish_folder_open(vp_publish_folder *p, const char *path, const char *replace, vp_error *err) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    *p = (vp_publish_folder){.fd = -1, .path = vp_strndup(path, n)};
    if (!p->path) return vp_fail_memory(err, "a path", n);
    vp_temporaries_sweep(p->path);
    int status = check_place(p, replace, err);
    if (!status) status = make_temporary(p, err);
    if (status) vp_publish_folder_abort(p);
    return status;
}

int vp_publish_folder_commit(vp_publish_folder *p, vp_error *err) {
    unsigned flags = p->exchange ? RENAME_EXCHANGE : 0;
    int status = VP_OK;
    if (fsync(p->fd) != 0)
        status = vp_fail_errno(err, "cannot sync '%s'", p->temporary);
    else if (renameat2(AT_FDCWD, p->temporary, AT_FDCWD, p->path, flags) != 0)
        status = vp_fail_errno(err, "cannot rename '%s' to '%s'", p->temporary, p->path);
    else {
        if (!p->exchange) { /* else the temporary name is now the old folder's, which goes */
            free(p->temporary);
            p->temporary = NULL;
        }
        status = vp_sync_folder_of(p->path, err);
    }
    vp_publish_folder_abort(p);
    return status;
}

void vp_publish_folder_abort(vp_publish_folder *p) {
    if (p->temporary) remove_tree(p->temporary);
    if (p->fd >= 0) close(p->fd);
    vp_temporary_remove(p->slot);
    free(p->path);
    free(p->temporary);
    *p = (vp_publish_folder){.fd = -1};
}

/* One entry, by its name in both folders; depth is that of what our own programs write. */
static int move_entry(const char *from, const char *to, const char *name, vp_error *err) {
    vp_buf source = {0}, target = {0};
    struct stat st;
    int status = vp_buf_printf(&source, err, "%s/%s", from, name);
    if (!status) status = vp_buf_printf(&target, err, "%s/%s", to, name);
    if (!status && lstat(source.data, &st) != 0) status = vp_fail_errno(err, "cannot read '%s'", source.data);
    if (!status && S_ISDIR(st.st_mode)) {
        if (mkdir(target.data, 0777) != 0 && errno != EEXIST)
            status = vp_fail_errno(err, "cannot create '%s'", target.data);
        if (!status) status = vp_folder_move_files(source.data, target.data, "", err);
    } else if (!status && rename(source.data, target.data) != 0) {
        status = vp_fail_errno(err, "cannot write '%s'", target.data);
    }
    vp_buf_free(&source);
    vp_buf_free(&target);
    return status;
}

static int move_into(DIR *d, const char *from, const char *to, const char *last, vp_error *err) {
    bool waiting = false;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (!strcmp(e->d_name, last))
            waiting = true;
        else
            VP_TRY(move_entry(from, to, e->d_name, err));
    }
    return waiting ? move_entry(from, to, last, err) : VP_OK;
}

int vp_folder_move_files(const char *from, const char *to, const char *last, vp_error *err) {
    DIR *d = opendir(from), *into = opendir(to);
    int status = d && into ? move_into(d, from, to, last, err) : vp_fail_errno(err, "cannot open '%s'", d ? to : from);
    if (!status && fsync(dirfd(into)) != 0) status = vp_fail_errno(err, "cannot sync '%s'", to);
    if (d) closedir(d);
    if (into) closedir(into);
    return status;
}
