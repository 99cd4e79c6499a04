/* A new, empty index: made in a temporary folder beside its place and renamed there, so that it exists whole or not at
 * all. Creators in one parent folder take turns (flock on it); what a killed one left is removed by the next. */
#include "lib/index/store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TURN_NANOSECONDS = 10000000, TURNS = 6000 };

static int create_database(const char *folder, vp_error *err) {
    uint8_t random[16];
    char uuid[33], sql[200];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return vp_fail_errno(err, "cannot get random bytes");
    vp_hex(uuid, random, sizeof random);
    snprintf(sql, sizeof sql,
             "INSERT INTO setting VALUES('uuid', '%s'), ('generation', 0);"
             "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT;",
             uuid, VP_SCHEMA_APPLICATION, VP_SCHEMA_VERSION);
    vp_buf path = {0};
    int status = vp_buf_printf(&path, err, "%s/index.db", folder);
    sqlite3 *db = NULL;
    int keep = 1;
    if (!status &&
        (sqlite3_open_v2(path.data, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK ||
         sqlite3_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; BEGIN;", NULL, NULL, NULL) != SQLITE_OK ||
         sqlite3_file_control(db, "main", SQLITE_FCNTL_PERSIST_WAL, &keep) != SQLITE_OK ||
         sqlite3_exec(db, VP_SCHEMA, NULL, NULL, NULL) != SQLITE_OK ||
         sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK))
        status = vp_fail(err, VP_IO, "cannot create '%s': %s", path.data, db ? sqlite3_errmsg(db) : "out of memory");
    sqlite3_close(db);
    vp_buf_free(&path);
    return status;
}

/* Remove a folder of plain files; one that is not there is fine. */
static int remove_folder(const char *folder, vp_error *err) {
    DIR *d = opendir(folder);
    if (!d && errno == ENOENT) return VP_OK;
    if (!d) return vp_fail_errno(err, "cannot open '%s'", folder);
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    if (rmdir(folder) != 0) return vp_fail_errno(err, "cannot remove '%s'", folder);
    return VP_OK;
}

static int fill_folder(const char *folder, vp_error *err) {
    if (mkdir(folder, 0777) != 0) return vp_fail_errno(err, "cannot create '%s'", folder);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return vp_fail_errno(err, "cannot open '%s'", folder);
    int status = create_database(folder, err);
    static const char *const locks[] = {"lock", "run.lock"};
    for (int i = 0; i < 2 && !status; i++) {
        int file = openat(fd, locks[i], O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (file < 0) status = vp_fail_errno(err, "cannot create '%s/%s'", folder, locks[i]);
        if (file >= 0) close(file);
    }
    if (!status && fsync(fd) != 0) status = vp_fail_errno(err, "cannot sync '%s'", folder);
    close(fd);
    return status;
}

/* Under the parent's lock: nobody else makes or removes `temporary`. */
static int create_in_turn(const char *path, const char *temporary, vp_error *err) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) return VP_OK; /* opening it will tell */
    VP_TRY(remove_folder(temporary, err));
    int status = fill_folder(temporary, err);
    /* an empty folder is replaced; one with something in it is somebody's, perhaps an index made meanwhile */
    if (!status && rename(temporary, path) == 0) return vp_sync_folder_of(path, err);
    if (!status && errno != EEXIST && errno != ENOTEMPTY)
        status = vp_fail_errno(err, "cannot rename '%s' to '%s'", temporary, path);
    vp_error ignored = {0};
    remove_folder(temporary, &ignored);
    return status;
}

/* flock on the parent folder; a minute at most, for somebody else may use that lock, too. */
static int take_turn(int fd, const char *parent, vp_error *err) {
    for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; i++) {
        if (errno != EWOULDBLOCK && errno != EINTR) return vp_fail_errno(err, "cannot lock '%s'", parent);
        if (i == TURNS) return vp_fail(err, VP_LOCKED, "'%s': locked: another program keeps the folder", parent);
        nanosleep(&(struct timespec){.tv_nsec = TURN_NANOSECONDS}, NULL);
    }
    return VP_OK;
}

int vp_index_create(const char *path, vp_error *err) {
    vp_buf parent = {0}, temporary = {0};
    const char *slash = strrchr(path, '/');
    int status = slash ? vp_buf_printf(&parent, err, "%.*s", (int)(slash == path ? 1 : slash - path), path)
                       : vp_buf_printf(&parent, err, ".");
    if (!status) status = vp_buf_printf(&temporary, err, "%s.tmp-new", path);
    int fd = -1;
    if (!status) {
        fd = open(parent.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            status = vp_fail_errno(err, "cannot open '%s'", parent.data);
        else
            status = take_turn(fd, parent.data, err);
    }
    if (!status) status = create_in_turn(path, temporary.data, err);
    if (fd >= 0) close(fd);
    vp_buf_free(&parent);
    vp_buf_free(&temporary);
    return status;
}
