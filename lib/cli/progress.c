/* The progress line on a terminal, and the totals that -v prints at the end. */
#include "lib/cli/internal.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct vp_progress {
    const char *unit;
    int64_t total, rows, tokens;
    double started, drawn; /* seconds */
    bool shown;            /* see may_draw */
    char note[80];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 1234567 as "1,234,567"; text holds 32 bytes */
static const char *grouped(int64_t n, char *text) {
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%" PRId64, n), at = 0;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0 && digits[i - 1] != '-') text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

static void clock_text(char out[32], double seconds) {
    int64_t s = seconds < 0 ? 0 : seconds > 1e9 ? 1000000000 : (int64_t)(seconds + 0.5);
    if (s < 3600)
        snprintf(out, 32, "%" PRId64 ":%02" PRId64, s / 60, s % 60);
    else
        snprintf(out, 32, "%" PRId64 ":%02" PRId64 ":%02" PRId64, s / 3600, s / 60 % 60, s % 60);
}

static void draw(vp_progress *p, double at) {
    enum { BAR = 20 };
    char line[256], rows[32], total[32], rate[64] = "", number[32], timing[32];
    double elapsed = at - p->started;
    int64_t counted = p->tokens ? p->tokens : p->rows;
    if (elapsed > 0)
        snprintf(rate, sizeof rate, "  %s %s/s", grouped((int64_t)((double)counted / elapsed), number),
                 p->tokens ? "tokens" : p->unit);
    grouped(p->rows, rows);
    if (p->total > 0) {
        double share = p->rows < p->total ? (double)p->rows / (double)p->total : 1;
        char bar[BAR + 1] = {0};
        for (int i = 0; i < BAR; i++) bar[i] = (double)i < share * BAR ? '#' : '.';
        clock_text(timing, share > 0 ? elapsed / share - elapsed : 0);
        snprintf(line, sizeof line, "%s [%s] %3.0f%%  %s/%s %s%s  ETA %s", vp_cli_program(), bar, 100 * share, rows,
                 grouped(p->total, total), p->unit, rate, share > 0 ? timing : "?");
    } else {
        clock_text(timing, elapsed);
        snprintf(line, sizeof line, "%s  %s %s%s  %s", vp_cli_program(), rows, p->unit, rate, timing);
    }
    const size_t used = strlen(line);
    if (p->note[0]) snprintf(line + used, sizeof line - used, "  %s", p->note);
    struct winsize size;
    size_t columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
    if (strlen(line) >= columns) line[columns - 1] = '\0'; /* a wrapped line could not be erased */
    vp_cli_status_line(line);
    p->drawn = at;
}

/* Of the programs of a pipe only the last one draws: the others' lines would land on the same line of the terminal. */
static bool may_draw(void) {
    struct stat out;
    bool piped = fstat(STDOUT_FILENO, &out) == 0 && (S_ISFIFO(out.st_mode) || S_ISSOCK(out.st_mode));
    return !piped && !vp_cli_quiet() && isatty(STDERR_FILENO);
}

/* $VP_TOTAL: how many rows are to come, from who knows it; -1 otherwise. */
static int64_t announced_total(void) {
    const char *text = getenv("VP_TOTAL");
    if (!text || !*text || strlen(text) > 15 || text[strspn(text, "0123456789")]) return -1;
    return strtoll(text, NULL, 10);
}

vp_progress *vp_progress_start(const char *unit, int64_t total) {
    vp_progress *p = vp_calloc(1, sizeof *p);
    if (!p) return NULL;
    *p = (vp_progress){.unit = unit, .total = total < 0 ? announced_total() : total, .started = now()};
    p->shown = may_draw();
    if (p->shown) draw(p, p->started);
    return p;
}

int64_t vp_progress_total(const vp_progress *p) {
    return p ? p->total : -1;
}

void vp_progress_add(vp_progress *p, int64_t rows, int64_t tokens) {
    if (!p) return;
    p->rows += rows;
    p->tokens += tokens;
    if (!p->shown) return;
    double at = now();
    if (at - p->drawn >= 0.1) draw(p, at);
}

void vp_progress_hide(vp_progress *p) {
    if (!p || !p->shown) return;
    vp_cli_status_line(NULL);
    p->shown = false;
}

void vp_progress_note(vp_progress *p, const char *format, ...) {
    if (!p) return;
    va_list args;
    va_start(args, format);
    vsnprintf(p->note, sizeof p->note, format, args);
    va_end(args);
}

void vp_progress_finish(vp_progress *p) {
    if (!p) return;
    char text[300];
    double elapsed = now() - p->started;
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    if (p->shown) vp_cli_status_line(NULL);
    snprintf(text, sizeof text, "\"rows\":%" PRId64 ",\"tokens\":%" PRId64 ",\"seconds\":%.3f,\"peak_memory_mib\":%ld",
             p->rows, p->tokens, elapsed, use.ru_maxrss / 1024);
    vp_cli_log("totals", text);
    if (vp_cli_verbose()) {
        char rows[32], tokens[96] = "", number[32], rate[32];
        if (p->tokens)
            snprintf(tokens, sizeof tokens, ", %s tokens, %s tokens/s", grouped(p->tokens, number),
                     grouped((int64_t)((double)p->tokens / (elapsed > 1e-6 ? elapsed : 1e-6)), rate));
        snprintf(text, sizeof text, "%s %s%s, %.2f s, peak memory %ld MiB", grouped(p->rows, rows), p->unit, tokens,
                 elapsed, use.ru_maxrss / 1024);
        vp_cli_line(text);
    }
    free(p);
}
