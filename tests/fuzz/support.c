/* How targets hand bytes to readers that open files: files in memory, and one scratch folder a process. */
#include "tests/fuzz/targets.h"
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void need(bool done, const char *what) {
    if (done) return;
    perror(what);
    _exit(4);
}

void fuzz_seed_text(fuzz_seeds *s, const char *text) {
    vp_error err = {0};
    need(vp_buf_add(fuzz_add_seed(s), text, strlen(text), &err) == VP_OK, "fuzz: a seed");
}

const char *fuzz_memory_file(const vp_buf *input, int *fd) {
    static char path[64];
    vp_error err = {0};
    *fd = memfd_create("fuzz", MFD_CLOEXEC);
    need(*fd >= 0 && vp_write_all(*fd, input->data, input->len, "a file in memory", &err) == VP_OK &&
             lseek(*fd, 0, SEEK_SET) == 0,
         "fuzz: a file in memory");
    snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
    return path;
}

static void write_bytes(const char *name, const char *data, size_t n) {
    vp_error err = {0};
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    need(fd >= 0 && vp_write_all(fd, data, n, name, &err) == VP_OK && close(fd) == 0, name);
}

void fuzz_write_file(const char *name, const vp_buf *input) {
    write_bytes(name, input->data, input->len);
}
void fuzz_write_text(const char *name, const char *text) {
    write_bytes(name, text, strlen(text));
}

void fuzz_scratch_enter(const char *folder) {
    need(chdir(folder) == 0, folder);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where) {
    (void)st, (void)type, (void)where;
    return remove(path);
}

void fuzz_scratch_remove(const char *folder) {
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}
