#include "tests/unit/model_support.h"
#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void stop(const char *what) {
    printf("Bail out! %s\n", what);
    exit(1);
}

const char *golden_path(const char *format, ...) {
    static char path[8][1000];
    static int turn;
    char *out = path[turn++ % 8], *repo = getenv("REPO");
    char here[700];
    if (!repo && !(repo = getcwd(here, sizeof here))) stop("no current folder");
    int n = snprintf(out, sizeof path[0], "%.700s/tests/golden/", repo);
    va_list args;
    va_start(args, format);
    vsnprintf(out + n, sizeof path[0] - (size_t)n, format, args);
    va_end(args);
    return out;
}

tensor tensor_read(const vp_source *s, const char *name) {
    vp_error err = {0};
    const vp_tensor_info *info = vp_source_find(s, name);
    if (!info) stop(name);
    tensor t = {.rows = vp_tensor_rows(info), .cols = vp_tensor_cols(info)};
    t.n = t.rows * t.cols;
    if (info->dtype == VP_I32) {
        t.i = vp_calloc((size_t)t.n, sizeof *t.i);
        if (t.i) memcpy(t.i, info->data, (size_t)t.n * sizeof *t.i);
        return t;
    }
    t.f = vp_calloc((size_t)t.n, sizeof *t.f);
    for (int64_t r = 0; r < t.rows; r++)
        if (!t.f || vp_tensor_row(info, r, t.f + r * t.cols, &err)) stop(name);
    return t;
}

void tensor_free(tensor *t) {
    free(t->f);
    free(t->i);
}

double relative_error(const float *a, const float *b, int64_t n) {
    double largest = 0, diff = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return NAN;
        largest = fmax(largest, fabs((double)b[i]));
        diff = fmax(diff, fabs((double)a[i] - (double)b[i]));
    }
    return diff / largest;
}

packed pack_rows(const int32_t *ids, const int32_t *cu, int64_t rows, const int64_t *order, int64_t n) {
    vp_error err = {0};
    if (!order) n = rows;
    packed p = {.frame = vp_frame_new(VP_FRAME_BATCH, &err)};
    p.ids = vp_calloc((size_t)cu[rows] * (size_t)(order ? n : 1), sizeof *p.ids);
    p.cu = vp_calloc((size_t)n + 1, sizeof *p.cu);
    if (!p.frame || !p.ids || !p.cu) stop("memory");
    for (int64_t i = 0; i < n; i++) {
        int64_t b = order ? order[i] : i;
        int32_t length = cu[b + 1] - cu[b];
        memcpy(p.ids + p.cu[i], ids + cu[b], (size_t)length * sizeof *ids);
        p.cu[i + 1] = p.cu[i] + length;
    }
    int64_t T = p.cu[n], offsets = n + 1;
    if (vp_frame_put(p.frame, "cu", VP_I32, 1, &offsets, p.cu, &err) ||
        vp_frame_put(p.frame, "ids", VP_I32, 1, &T, p.ids, &err))
        stop(err.text);
    return p;
}

void packed_free(packed *p) {
    vp_frame_free(p->frame);
    free(p->ids);
    free(p->cu);
}

void *copy_of(const void *p, size_t bytes) {
    void *copy = vp_calloc(bytes, 1);
    if (!copy) stop("out of memory");
    return memcpy(copy, p, bytes);
}

float *encode(vp_model *m, const vp_frame *f, const char *attention, int threads, int64_t batch_tokens, vp_error *err) {
    vp_encode_options o = {.threads = threads, .attention = attention, .batch_tokens = batch_tokens};
    return encode_with(m, f, &o, err);
}

float *encode_with(vp_model *m, const vp_frame *f, const vp_encode_options *o, vp_error *err) {
    vp_encoder *e;
    const float *hidden;
    float *copy = NULL;
    if (vp_encoder_open(&e, m, o, NULL, err)) return NULL;
    if (!vp_encoder_run(e, f, &hidden, err)) copy = copy_of(hidden, (size_t)(f->T * vp_model_width(m)) * sizeof *copy);
    vp_encoder_close(e);
    return copy;
}

/* ---- folders ---- */

static char made[64][200];
static int nmade;

static void remove_made(void) {
    for (int i = 0; i < nmade; i++) {
        DIR *d = opendir(made[i]);
        for (struct dirent *e; d && (e = readdir(d));) unlinkat(dirfd(d), e->d_name, 0);
        if (d) closedir(d);
        rmdir(made[i]);
    }
}

const char *linked_folder(const char *from) {
    const char *tmp = getenv("TMPDIR");
    if (nmade == 64) stop("too many folders");
    if (!nmade) atexit(remove_made);
    char *folder = made[nmade++], target[1300], link[500];
    snprintf(folder, sizeof made[0], "%.150s/vp-model-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) stop(folder);
    DIR *d = from ? opendir(from) : NULL;
    if (from && !d) stop(from);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.' || e->d_type == DT_DIR) continue;
        snprintf(target, sizeof target, "%s/%s", from, e->d_name);
        snprintf(link, sizeof link, "%s/%s", folder, e->d_name);
        if (symlink(target, link)) stop(link);
    }
    if (d) closedir(d);
    return folder;
}

void write_bytes(const char *folder, const char *name, const void *data, size_t n) {
    char path[500];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) stop(path);
}

void write_text(const char *folder, const char *name, const char *text) {
    write_bytes(folder, name, text, strlen(text));
}

void replace_text(const char *folder, const char *name, const char *find, const char *with) {
    char path[500];
    vp_buf old = {0}, changed = {0};
    vp_error err = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (vp_read_file(path, 1 << 20, &old, &err)) stop(err.text);
    char *at = strstr(old.data, find);
    if (!at) stop(find);
    if (vp_buf_printf(&changed, &err, "%.*s%s%s", (int)(at - old.data), old.data, with, at + strlen(find))) stop(path);
    write_text(folder, name, changed.data);
    vp_buf_free(&old);
    vp_buf_free(&changed);
}
