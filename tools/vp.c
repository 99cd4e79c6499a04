/* vp: the one command on PATH. Runs the programs, which lie beside it in a build and in ../libexec/vecpipe when
 * installed, lists them, and shows their pages. */
#include "lib/vecpipe.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name, *summary;
} programs[] = {
#define X(name, summary) {name, summary},
#include "tools/programs.def"
#undef X
};
enum { NPROGRAMS = sizeof programs / sizeof *programs };

static const vp_program vp = {
    .name = "vp",
    .summary = "run the programs of vecpipe",
    .usage = "vp PROGRAM [ARGUMENT]...\nvp help [PROGRAM]\nvp env",
    .notes = "vp help     list the programs; with a name, show its manual page\n"
             "vp env      print the line that puts the programs on PATH: eval \"$(vp env)\"\n",
};

static bool is_program(const char *name) {
    for (int i = 0; i < NPROGRAMS; i++)
        if (strcmp(programs[i].name, name) == 0) return true;
    return false;
}

/* The folder of the programs, without a slash at its end. */
static int find_folder(char folder[PATH_MAX], vp_error *err) {
    char self[PATH_MAX], candidate[2 * PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0) return vp_fail_errno(err, "cannot read '/proc/self/exe'");
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash) *slash = '\0';
    static const char *const places[] = {"", "/../libexec/vecpipe"};
    for (int i = 0; i < 2; i++) {
        snprintf(candidate, sizeof candidate, "%s%s/%s", self, places[i], programs[0].name);
        if (access(candidate, X_OK) != 0) continue;
        snprintf(candidate, sizeof candidate, "%s%s", self, places[i]);
        if (!realpath(candidate, folder)) return vp_fail_errno(err, "cannot resolve '%s'", candidate);
        return VP_OK;
    }
    return vp_fail(err, VP_IO, "the programs are neither in '%s' nor in its ../libexec/vecpipe", self);
}

/* Replace this process; returns only on failure. */
static int run(const char *name, char **argv, vp_error *err) {
    char folder[PATH_MAX], path[PATH_MAX + 32];
    VP_TRY(find_folder(folder, err));
    snprintf(path, sizeof path, "%s/%s", folder, name);
    execv(path, argv);
    return vp_fail_errno(err, "cannot run '%s'", path);
}

static void list_programs(void) {
    printf("Programs of vecpipe %s; each reads standard input and writes standard output:\n\n", VP_VERSION);
    for (int i = 0; i < NPROGRAMS; i++) printf("  vp %-6s %s\n", programs[i].name, programs[i].summary);
    printf("\nvp help PROGRAM shows a manual page, vp PROGRAM --help the options.\n"
           "eval \"$(vp env)\" puts the programs on PATH, as the examples have them.\n");
}

/* On a terminal the manual page that lies beside these programs; else --help. */
static int show_page(const char *name, vp_error *err) {
    bool itself = strcmp(name, "vp") == 0;
    if (!itself && !is_program(name)) return vp_fail(err, VP_USAGE, "%.100s: no such program; see vp help", name);
    char folder[PATH_MAX], page[PATH_MAX + 64];
    VP_TRY(find_folder(folder, err));
    static const char *const places[] = {"../../share/man/man1", "../../man"};
    for (size_t i = 0; isatty(STDOUT_FILENO) && i < sizeof places / sizeof *places; i++) {
        snprintf(page, sizeof page, "%s/%s/%s.1", folder, places[i], name);
        if (access(page, R_OK) == 0) execlp("man", "man", page, (char *)NULL);
    }
    char help[] = "--help", *argv[] = {(char *)(uintptr_t)name, help, NULL};
    if (!itself) return run(name, argv, err);
    int first;
    vp_cli_action action;
    return vp_cli_parse(&vp, 2, argv, &first, &action, err);
}

static int print_env(vp_error *err) {
    char folder[PATH_MAX];
    VP_TRY(find_folder(folder, err));
    printf("PATH='");
    for (const char *c = folder; *c; c++) *c == '\'' ? printf("'\\''") : putchar(*c);
    printf("':\"$PATH\"; export PATH\n");
    return VP_OK;
}

static int command(int argc, char **argv, vp_error *err) {
    /* options after the program's name are the program's */
    if (argc > 1 && is_program(argv[1])) return run(argv[1], argv + 1, err);
    int first;
    vp_cli_action action;
    VP_TRY(vp_cli_parse(&vp, argc, argv, &first, &action, err));
    if (action == VP_CLI_EXIT) return VP_OK;
    if (first == argc) return vp_fail(err, VP_USAGE, "no program named; see vp help");
    const char *name = argv[first];
    if (strcmp(name, "help") == 0) {
        if (argc - first > 2) return vp_fail(err, VP_USAGE, "help: takes one name");
        if (argc - first == 2) return show_page(argv[first + 1], err);
        list_programs();
        return VP_OK;
    }
    if (strcmp(name, "env") == 0) {
        if (argc - first > 1) return vp_fail(err, VP_USAGE, "env: takes no arguments");
        return print_env(err);
    }
    return vp_fail(err, VP_USAGE, "%.100s: no such program; see vp help", name);
}

int main(int argc, char **argv) {
    vp_error err = {0};
    /* vp becomes another program: that one sets its own signals, and must inherit untouched ones */
    int status = command(argc, argv, &err);
    vp_cli_start("vp");
    return vp_cli_finish(status, &err);
}
