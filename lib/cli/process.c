/* A program's beginning and end: standard descriptors, signals, the one line of error, the exit status. */
#include "lib/cli/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ERASE_LINE "\r\033[K"

static struct {
    const char *program;
    bool verbose, quiet;
    bool keeps_sigpipe; /* the parent had SIGPIPE ignored: report a closed pipe instead of dying of it */
} process = {.program = "vecpipe"};

static atomic_bool status_line_shown;

const char *vp_cli_program(void) {
    return process.program;
}
bool vp_cli_verbose(void) {
    return process.verbose;
}
bool vp_cli_quiet(void) {
    return process.quiet;
}

void vp_cli_set_verbosity(bool verbose, bool quiet) {
    process.verbose = verbose;
    process.quiet = quiet;
}

/* Async-signal-safe. The handler was reset on entry, so the signal raised here ends the process when it returns. */
static void end_by_signal(int signal_number) {
    vp_temporaries_unlink();
    if (atomic_load(&status_line_shown)) {
        ssize_t ignored = write(STDERR_FILENO, ERASE_LINE, sizeof ERASE_LINE - 1);
        (void)ignored;
    }
    raise(signal_number);
}

void vp_cli_start(const char *program) {
    process.program = program;
    for (int fd = 0; fd <= 2; fd++) {
        /* opened the wrong way round on purpose: reading 0 and writing 1 fail as if they were closed */
        if (fcntl(fd, F_GETFD) < 0) {
            int filler = open("/dev/null", fd == 1 ? O_RDONLY : O_WRONLY);
            (void)filler;
        }
    }
    static const int deadly[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = end_by_signal, .sa_flags = (int)SA_RESETHAND}, old;
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) {
        /* nohup and shells without job control have some ignored: leave it so */
        if (sigaction(deadly[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaction(deadly[i], &action, NULL);
    }
    if (sigaction(SIGPIPE, NULL, &old) == 0) process.keeps_sigpipe = old.sa_handler == SIG_IGN;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes fails the write, as a full disk does */
}

static void write_stderr(const char *data, size_t n) {
    vp_error nowhere = {0};
    vp_write_all(STDERR_FILENO, data, n, "standard error", &nowhere);
}

void vp_cli_status_line(const char *text) {
    char line[400];
    if (!text && !atomic_load(&status_line_shown)) return;
    int n = snprintf(line, sizeof line, ERASE_LINE "%s", text ? text : "");
    atomic_store(&status_line_shown, text != NULL);
    write_stderr(line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

void vp_cli_line(const char *text) {
    char escaped[4 * sizeof(((vp_error *)0)->text)], line[sizeof escaped + 100];
    vp_cli_status_line(NULL);
    vp_escape(escaped, sizeof escaped, text, strlen(text));
    int n = snprintf(line, sizeof line, "%.64s: %s\n", process.program, escaped);
    write_stderr(line, (size_t)n);
}

void vp_cli_note(const char *format, ...) {
    if (process.quiet) return;
    char text[500];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    vp_cli_line(text);
}

int vp_cli_command(vp_buf *out, const char *program, int argc, char *const *argv, vp_error *err) {
    VP_TRY(vp_buf_printf(out, err, "%s", program));
    for (int i = 1; i < argc; i++) {
        bool plain = argv[i][0] && !argv[i][strcspn(argv[i], " \t\n'\"\\$")];
        VP_TRY(vp_buf_printf(out, err, plain ? " %s" : " '%s'", argv[i]));
    }
    return VP_OK;
}

int vp_cli_refuse_terminal(int fd, vp_error *err) {
    if (!isatty(fd)) return VP_OK;
    return vp_fail(err, VP_USAGE, "binary output to a terminal: redirect it, or pipe it into peek");
}

int vp_cli_finish(int status, vp_error *err) {
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout)) {
        if (!errno) errno = EIO; /* an earlier write failed, its reason is gone */
        int failed = vp_fail_errno(err, "cannot write standard output");
        if (!status) status = failed;
    }
    status = vp_cli_log_close(status, err);
    if (!status) return VP_OK;
    vp_temporaries_unlink();
    if (err->broken_pipe && !process.keeps_sigpipe) {
        vp_cli_status_line(NULL);
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    vp_cli_line(err->text[0] ? err->text : "failed without a message: please report it");
    return status;
}
