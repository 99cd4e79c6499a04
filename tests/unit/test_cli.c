/* Option parsing (strict numbers, spellings, operands), --help with live defaults, the log, the registry of
 * temporaries. */
#include "lib/cli/internal.h"
#include "lib/vecpipe.h"
#include "tests/unit/tap.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct settings {
    bool lines, normalize;
    const char *model;
    int64_t k;
    double rate;
    int compute;
    vp_list adapter;
} settings;

typedef struct outcome {
    settings got;
    int status, first, argc;
    vp_cli_action action;
    vp_error err;
    char *argv[32];
} outcome;

/* Parses the words of one line; `words` is cut up in place and must outlive the outcome. */
static outcome parse(char *words) {
    outcome o = {.got = {.model = "the/default", .k = 10, .rate = 0.2}};
    settings *s = &o.got;
    const vp_option options[] = {
        {.name = "lines", .letter = 'l', .kind = VP_OPT_FLAG, .target = &s->lines, .help = "lines of text"},
        {.name = "normalize", .kind = VP_OPT_FLAG, .target = &s->normalize, .help = "unit length"},
        {.name = "model", .letter = 'm', .kind = VP_OPT_STRING, .target = &s->model, .value = "PATH", .help = "model"},
        {.name = "k",
         .letter = 'k',
         .kind = VP_OPT_INT,
         .target = &s->k,
         .value = "N",
         .help = "hits",
         .min = 1,
         .max = 1e6},
        {.name = "rate", .kind = VP_OPT_REAL, .target = &s->rate, .value = "P", .help = "rate", .min = 0, .max = 1},
        {.name = "compute", .kind = VP_OPT_CHOICE, .target = &s->compute, .help = "how", .choices = "auto|f32|bf16"},
        {.name = "adapter", .kind = VP_OPT_LIST, .target = &s->adapter, .value = "DIR", .help = "LoRA"},
        {0},
    };
    const vp_program program = {.name = "prog", .summary = "a test", .usage = "prog [OPTION]...", .options = options};
    char zero[] = "prog", *save = NULL;
    o.argv[o.argc++] = zero;
    for (char *w = strtok_r(words, " ", &save); w && o.argc < 31; w = strtok_r(NULL, " ", &save)) o.argv[o.argc++] = w;
    o.status = vp_cli_parse(&program, o.argc, o.argv, &o.first, &o.action, &o.err);
    return o;
}

static void test_spellings(void) {
    char a[] = "x --lines -m a --k=3 - --rate 0.5 --compute bf16 --adapter p --adapter=q -- --k";
    outcome o = parse(a);
    OK(o.status == VP_OK && o.action == VP_CLI_RUN, "a mixed command line parses: %s", o.err.text);
    OK(o.got.lines && strcmp(o.got.model, "a") == 0 && o.got.k == 3, "flags, letters and = set their targets");
    OK(o.got.rate == 0.5 && o.got.compute == 2, "reals and choices set their targets");
    OK(o.got.adapter.n == 2 && strcmp(o.got.adapter.item[1], "q") == 0, "a list keeps its order");
    OK(o.argc - o.first == 3 && strcmp(o.argv[o.first], "x") == 0 && strcmp(o.argv[o.first + 1], "-") == 0 &&
           strcmp(o.argv[o.first + 2], "--k") == 0,
       "operands come last, - and what follows -- among them");
    free(o.got.adapter.item);
    char b[] = "-lk7 -vq --normalize --k 2K";
    o = parse(b);
    OK(o.status == VP_OK && o.got.lines && o.got.normalize && o.got.k == 2048, "clusters, flags, suffixes: %s",
       o.err.text);
    OK(vp_cli_verbose() && vp_cli_quiet(), "every program has -v and -q");
    char c[] = "--k 7 --k 9";
    OK(parse(c).got.k == 9, "the last of a repeated option counts");
}

static void test_refusals(void) {
    static const char *const bad[][2] = {
        {"--k 1x", "--k: '1x' is not a whole number"},
        {"--k 1.0", "--k: '1.0' is not a whole number"},
        {"--k +1", "--k: '+1' is not a whole number"},
        {"--k 0x10", "--k: '0x10' is not a whole number"},
        {"--k 1KK", "--k: '1KK' is not a whole number"},
        {"--k=", "--k: '' is not a whole number"},
        {"--k 9223372036854775808", "--k: '9223372036854775808' is not a whole number"},
        {"--k 9007199254740993G", "--k: '9007199254740993G' is not a whole number"},
        {"-k0", "-k: '0' is below 1"},
        {"-k -5", "-k: '-5' is below 1"},
        {"--k 1000001", "--k: '1000001' is above 1000000"},
        {"--rate nan", "--rate: 'nan' is not a number"},
        {"--rate inf", "--rate: 'inf' is not a number"},
        {"--rate 1e999", "--rate: '1e999' is not a number"},
        {"--rate 0x1p-1", "--rate: '0x1p-1' is not a number"},
        {"--rate 0.5.5", "--rate: '0.5.5' is not a number"},
        {"--rate 1.5", "--rate: '1.5' is above 1"},
        {"--compute BF16", "--compute: 'BF16' is none of auto|f32|bf16"},
        {"--compute bf", "--compute: 'bf' is none of auto|f32|bf16"},
        {"--lines=yes", "--lines: takes no value"},
        {"--line", "--line: unknown option; see prog --help"},
        {"--no-lines", "--no-lines: unknown option; see prog --help"},
        {"-lz", "-z: unknown option; see prog --help"},
        {"--model", "--model: needs a value"},
        {"-m", "-m: needs a value"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char words[100];
        snprintf(words, sizeof words, "%s", bad[i][0]);
        outcome o = parse(words);
        OK(o.status == VP_USAGE && strcmp(o.err.text, bad[i][1]) == 0, "refused: %s: %s", bad[i][0], o.err.text);
    }
    char most[] = "--k 976K";
    OK(parse(most).got.k == 976 << 10, "a suffix multiplies");
}

/* What f prints on standard output, in a static buffer. */
static const char *printed(void (*f)(void)) {
    static char text[8192];
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    FILE *file = tmpfile();
    if (!file || saved < 0) return "";
    dup2(fileno(file), STDOUT_FILENO);
    f();
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void ask_help(void) {
    char words[] = "--k 42 --normalize --help";
    outcome o = parse(words);
    if (o.action != VP_CLI_EXIT) printf("no exit");
}

static void test_help(void) {
    const char *text = printed(ask_help);
    OK(strstr(text, "prog: a test\nUsage: prog [OPTION]...\n") != NULL, "help begins with summary and usage");
    OK(strstr(text, "  -m, --model PATH           model [the/default]\n") != NULL, "help shows defaults");
    OK(strstr(text, "hits [42]") != NULL, "help shows live values");
    OK(strstr(text, "  --normalize ") &&
           strstr(text, "--compute auto|f32|bf16\n                             how [auto]\n"),
       "flags, choices");
    OK(strstr(text, "-h, --help") && strstr(text, "--version"), "help lists the common options");
}

static void test_log(void) {
    char path[] = "/tmp/vp-test-log-XXXXXX", text[600] = {0};
    int fd = mkstemp(path);
    vp_error err = {0}, bad = {0};
    OK(vp_cli_log_open(NULL, &err) == VP_OK && vp_cli_log_close(VP_OK, &err) == VP_OK, "no log is fine");
    OK(vp_cli_log_open(path, &err) == VP_OK, "a log opens");
    vp_cli_log("start", NULL);
    vp_cli_log("done", "\"rows\":3");
    vp_fail(&bad, VP_DATA, "a \"bad\" line\n");
    OK(vp_cli_log_close(VP_DATA, &bad) == VP_DATA, "a log closes");
    ssize_t n = read(fd, text, sizeof text - 1);
    OK(n > 0 && strstr(text, "\"event\":\"start\"}\n{\"time\":\"20") &&
           strstr(text, "\"event\":\"done\",\"rows\":3}\n") &&
           strstr(text, "\"event\":\"end\",\"status\":3,\"error\":\"a \\\"bad\\\" line\\\\n\"}\n"),
       "events are JSON lines");
    close(fd);
    unlink(path);
    OK(vp_cli_log_open("/nonexistent/log", &err) == VP_IO, "an impossible log is an I/O failure: %s", err.text);
    err = (vp_error){0};
    OK(vp_cli_log_open("/dev/full", &err) == VP_OK, "a full device opens");
    vp_cli_log("start", NULL);
    OK(vp_cli_log_close(VP_OK, &err) == VP_IO, "a lost event is reported at the close: %s", err.text);
}

/* A child is ended by SIGTERM while it writes a file: the temporary must be gone and the signal be seen. */
static void test_signal(void) {
    char folder[] = "/tmp/vp-test-signal-XXXXXX", path[64];
    if (!OK(mkdtemp(folder) != NULL, "a folder")) return;
    snprintf(path, sizeof path, "%s/file", folder);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        vp_cli_start("child");
        vp_publish p;
        vp_error err = {0};
        if (vp_publish_open(&p, path, &err) || vp_write_all(p.fd, "x", 1, path, &err)) _exit(99);
        raise(SIGTERM);
        _exit(98);
    }
    int status = 0;
    waitpid(child, &status, 0);
    OK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "the signal ends the process (%d)", status);
    OK(rmdir(folder) == 0, "its temporary is gone");
}

static void test_registry(void) {
    int slot[17];
    for (int i = 0; i < 17; i++) slot[i] = vp_temporary_add("/nonexistent/temporary");
    OK(slot[0] > 0 && slot[15] > 0 && slot[16] == 0, "16 temporaries are kept");
    vp_temporary_remove(0);
    vp_temporary_remove(slot[3]);
    OK(vp_temporary_add("/nonexistent/other") == slot[3], "a slot is used again");
    vp_temporaries_unlink();
}

static void test_escape(void) {
    char out[64], small[6];
    static const char hostile[] = "a\x1b[31m\r\n\t\x7f \xc3\xa9 \xc2\x9b \xff\xc3";
    vp_escape(out, sizeof out, hostile, sizeof hostile - 1);
    OK(strcmp(out, "a\\x1b[31m\\r\\n\\t\\x7f \xc3\xa9 \\xc2\\x9b \\xff\\xc3") == 0, "escaped: %s", out);
    vp_escape(small, sizeof small, "ab\nc\xc3\xa9", 7);
    OK(strcmp(small, "ab\\nc") == 0, "cut before a character that does not fit");
}

int main(void) {
    test_escape();
    test_spellings();
    test_refusals();
    test_help();
    test_log();
    test_signal();
    test_registry();
    return done();
}
