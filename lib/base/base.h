/* What every part of the library uses: statuses and errors, the one growable buffer, hashing, and whole-file helpers.
 * No I/O policy, no streams, no models. */
#ifndef VP_BASE_H
#define VP_BASE_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Statuses are exit codes; one table drives the enum, vecpipe(7) and the tests.
 * Every fallible function returns one of them and describes a failure in its last argument. */
#define VP_STATUSES(X)                                                                                                 \
    X(OK, 0, "done")                                                                                                   \
    X(USAGE, 2, "wrong usage")                                                                                         \
    X(DATA, 3, "bad input or model")                                                                                   \
    X(IO, 4, "input or output failed")                                                                                 \
    X(MEMORY, 5, "out of memory, or a device failed")                                                                  \
    X(UPSTREAM, 6, "an upstream program died")                                                                         \
    X(LOCKED, 7, "locked by another process")                                                                          \
    X(BUG, 70, "a bug in vecpipe")

enum {
#define X(e, code, what) VP_##e = code,
    VP_STATUSES(X)
#undef X
};

typedef struct vp_error {
    int code;         /* one of the statuses */
    bool broken_pipe; /* the reader of our output went away (EPIPE): main ends by SIGPIPE */
    char text[500];   /* "what: why", no newline at the end, unescaped (main escapes control characters) */
} vp_error;

/* Record a failure ("what: why") and return `code`. The first failure wins: an error that is set is kept. */
int vp_fail(vp_error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same with ": " and strerror(errno) appended, code VP_IO; EPIPE sets broken_pipe. */
int vp_fail_errno(vp_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* VP_MEMORY: "out of memory: WHAT needs N bytes". */
int vp_fail_memory(vp_error *err, const char *what, size_t bytes);

/* Propagate a failure: if (expr) returns non-zero, return it. */
#define VP_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        int vp_try_status_ = (expr);                                                                                   \
        if (vp_try_status_) return vp_try_status_;                                                                     \
    } while (0)

/* ---- growable bytes. {0} is an empty buffer; vp_buf_free makes it that again. data is 64-byte aligned. ---- */
typedef struct vp_buf {
    char *data;
    size_t len, cap;
} vp_buf;
int vp_buf_reserve(vp_buf *b, size_t cap, vp_error *err); /* total capacity, not extra */
int vp_buf_add(vp_buf *b, const void *data, size_t n, vp_error *err);
int vp_buf_printf(vp_buf *b, vp_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
void vp_buf_free(vp_buf *b);

/* n * size zeroed bytes, 64-byte aligned, or NULL (also when the product overflows). Free with free(). */
void *vp_calloc(size_t n, size_t size);
char *vp_strndup(const char *s, size_t n); /* NULL when out of memory */
/* Room for one more item behind the n of a growing list: *items (a T **, malloc'd, NULL at first) of *cap items of
 * `size` bytes doubles when it is full. `what` names the list in VP_MEMORY, which leaves it as it was. */
int vp_grow(void *items, size_t *cap, size_t n, size_t size, const char *what, vp_error *err);

/* ---- files ---- */
/* The whole file mapped read-only; an empty file gives data = "" and size 0. Unmap with vp_map_close. */
typedef struct vp_map_file {
    const uint8_t *data;
    size_t size;
} vp_map_file;
int vp_map_open(vp_map_file *m, const char *path, vp_error *err);
void vp_map_close(vp_map_file *m);
/* What was read of it need not stay in memory: whoever reads it again gets it from the file. */
void vp_map_forget(const vp_map_file *m);
/* The whole of a small file (at most `limit` bytes, else VP_DATA) plus a terminating NUL that len does not count. */
int vp_read_file(const char *path, size_t limit, vp_buf *out, vp_error *err);
/* For reading: standard input where there is no file, or "-". *name is for messages. */
int vp_open_input(const char *file, int *fd, const char **name, vp_error *err);
/* All n bytes, or a failure; EINTR and short counts are handled. `name` is for the message. */
int vp_write_all(int fd, const void *data, size_t n, const char *name, vp_error *err);

/* `fd` where it is a pipe or socket, whose reader can go away; else -1, which vp_wait_input takes for none. */
int vp_watched(int fd);
/* Wait until reading `in` (-1: nothing) would not block, at most timeout_ms (-1: for ever); *ready says so. A program
 * that waits while nobody reads its own `output` (a descriptor, or -1) any more ends: VP_IO with broken_pipe. */
int vp_wait_input(int in, int output, int timeout_ms, bool *ready, vp_error *err);

/* fsync the folder that holds `path`: what was created, renamed or unlinked there lasts. No slash at the path's end. */
int vp_sync_folder_of(const char *path, vp_error *err);

/* A file that appears under its name whole or not at all: written as a temporary beside it, synced, renamed, the folder
 * synced. A name that is a device, pipe or folder is refused (VP_IO). vp_publish_end with the status of
 * the writing publishes after VP_OK, and removes the temporary after anything else. Temporaries of killed programs are
 * unlinked by the next vp_publish_open of the same name when no process holds them locked. */
typedef struct vp_publish {
    int fd;
    char *path, *temporary;
    int slot; /* from vp_temporary_add */
} vp_publish;
int vp_publish_open(vp_publish *p, const char *path, vp_error *err);
int vp_publish_end(vp_publish *p, int status, vp_error *err);
/* All of it: folder/name with these n bytes. */
int vp_publish_file(const char *folder, const char *name, const void *data, size_t n, vp_error *err);

/* A folder that appears under its name whole or not at all: its files are written into `temporary`, a locked folder
 * beside it, then commit syncs and renames it. A name that is taken is refused (VP_IO) unless it is an empty folder, or
 * `replace` names a file ("config.json") that the folder holds: then the two change places in one step and the old one
 * is removed. abort (also after a failure) removes the temporary; the next open of the same name sweeps up what killed
 * programs left. */
typedef struct vp_publish_folder {
    int fd;
    char *path, *temporary;
    bool exchange; /* for a folder that is there */
    int slot;
} vp_publish_folder;
int vp_publish_folder_open(vp_publish_folder *p, const char *path, const char *replace, vp_error *err);
int vp_publish_folder_commit(vp_publish_folder *p, vp_error *err);
void vp_publish_folder_abort(vp_publish_folder *p);
/* Every file of folder `from` into folder `to`, in the place of what has its name there, `last` after all others;
 * folders are made where they lack. `to` is synced. Of a file that cannot be moved err says why; those before it have
 * moved. */
int vp_folder_move_files(const char *from, const char *to, const char *last, vp_error *err);
/* A new file folder/name with these n bytes, synced. */
int vp_write_file(const char *folder, const char *name, const void *data, size_t n, vp_error *err);

/* Remove temporaries PATH.tmp-*, files and folders, that no living process holds locked. */
void vp_temporaries_sweep(const char *path);
/* Temporaries that a signal must not leave behind: a program ended by SIGINT or SIGTERM unlinks what is registered,
 * folders last. add copies the path and returns a slot for remove, 0 if none is free (the file is then swept up by the
 * next run, as after kill -9), which remove accepts. unlink is async-signal-safe. */
int vp_temporary_add(const char *path);
void vp_temporary_remove(int slot);
void vp_temporaries_unlink(void);

/* ---- text helpers ---- */
/* Bytes of the longest valid UTF-8 prefix of s[0..n) (n if all of it is valid). */
size_t vp_utf8_valid(const char *s, size_t n);
/* Copy s into out (at most cap bytes with the NUL) with control characters (C1 too) and bytes that are no UTF-8 as \n,
 * \t, \xNN; always terminated. */
void vp_escape(char *out, size_t cap, const char *s, size_t n);
/* hex: 2n characters and a NUL */
void vp_hex(char *out, const uint8_t *bytes, size_t n);

/* XXH3-128, canonical (big-endian) bytes; the streaming form takes parts length-prefixed (8 bytes little-endian), so
 * that
 * ("ab","c") and ("a","bc") differ. */
typedef struct vp_hasher {
    void *state; /* owned until vp_hasher_finish */
} vp_hasher;
int vp_hasher_begin(vp_hasher *h, vp_error *err);
void vp_hasher_part(vp_hasher *h, const void *data, size_t n);
void vp_hasher_str(vp_hasher *h, const char *s); /* NULL counts as "" */
void vp_hasher_finish(vp_hasher *h, uint8_t out[16]);
uint64_t vp_hash64(const void *data, size_t n); /* XXH3-64, seed 0 */

/* Version, as --version and the stream's history print it. */
#define VP_VERSION "0.1.0"

#endif
