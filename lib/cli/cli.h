/* How every program talks to its user: one option table drives parsing, --help with live defaults, and checks; progress
 * on a terminal; signals; the last line of main. */
#ifndef VP_CLI_H
#define VP_CLI_H
#include "lib/base/base.h"

typedef enum vp_option_kind {
    VP_OPT_FLAG,   /* bool *: --name sets true */
    VP_OPT_STRING, /* const char **: borrowed from argv */
    VP_OPT_INT,    /* int64_t *: strict decimal with optional K M G suffix (powers of 1024), within [min, max] */
    VP_OPT_AUTO,   /* the same, or the word auto, which is 0 */
    VP_OPT_REAL,   /* double *: strict, finite, within [min, max] */
    VP_OPT_CHOICE, /* int *: index into `choices`, "auto|f32|bf16" */
    VP_OPT_LIST,   /* vp_list *: may be repeated */
    VP_OPT_GROUP   /* a heading in --help (`help`); no name, no target */
} vp_option_kind;

typedef struct vp_list {
    const char **item; /* grown by the parser, free with free() */
    size_t n;
} vp_list;

typedef struct vp_option {
    const char *name;    /* long name without dashes */
    char letter;         /* 0: none */
    vp_option_kind kind; /* decides what target points to */
    void *target;        /* holds the default before parsing */
    const char *value;   /* placeholder: "PATH", "N"; VP_OPT_CHOICE may leave it NULL (the choices are shown) */
    const char *help;    /* one line; the live default is appended by the printer */
    const char *choices; /* VP_OPT_CHOICE */
    double min, max;     /* VP_OPT_INT, VP_OPT_AUTO and VP_OPT_REAL; both 0: no limits */
} vp_option;

typedef struct vp_program {
    const char *name;         /* "tok"; "knn add" for a subcommand */
    const char *summary;      /* one line for --help */
    const char *usage;        /* "tok [OPTION]... [FILE]"; several lines allowed */
    const vp_option *options; /* ended by {0}; NULL: none */
    const char *notes;        /* after the options in --help; NULL: none */
} vp_program;

typedef enum vp_cli_action { VP_CLI_RUN, VP_CLI_EXIT } vp_cli_action;

/* Parse argv (long options with = or a separate word, letters, --, - as an operand; options and operands may mix; exact
 * long names only). Adds -h/--help, --version itself, and -v/--verbose, -q/--quiet to every program (vp_cli_verbose(),
 * vp_cli_quiet()). Operands are moved to argv[*first .. argc). For --help or --version it prints and sets *action to
 * VP_CLI_EXIT. Wrong usage: VP_USAGE, naming the option and the value. */
int vp_cli_parse(const vp_program *p, int argc, char **argv, int *first, vp_cli_action *action, vp_error *err);
/* The strict number of VP_OPT_REAL, for operands: decimal, finite, nothing after it. False: s is none. */
bool vp_cli_real(const char *s, double *out);
/* The index of value[n] in `choices`, "auto|f32|bf16"; -1: it is none of them. */
int vp_cli_choice(const char *choices, const char *value, size_t n);
bool vp_cli_verbose(void);
bool vp_cli_quiet(void);

/* Before anything else in main. SIGINT, SIGTERM and SIGHUP unlink the temporaries registered with vp_temporary_add,
 * erase the progress line and end the process by that same signal, at once and wherever it stands: nothing else is
 * cleaned up, so what must survive is committed in transactions or published by rename. SIGPIPE is ignored (writes give
 * EPIPE). Descriptors 0 to 2 that the caller closed are filled, so that no file opened later is taken for a standard
 * stream. */
void vp_cli_start(const char *program);
/* The last line of main: flush and check standard output, print "program: what: why" (escaped, one line) for a failure,
 * and return the exit status. After a write to a closed pipe (err->broken_pipe): end by SIGPIPE, unless the parent had
 * it ignored. */
int vp_cli_finish(int status, vp_error *err);
/* The command line as a person would type it, for a stream's history: "fwd -m model", words with blanks in quotes. Call
 * it before vp_cli_parse, which moves operands. */
int vp_cli_command(vp_buf *out, const char *program, int argc, char *const *argv, vp_error *err);
/* One line "program: ..." on standard error, unless quiet. */
void vp_cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Progress on standard error, only when it is a terminal, not quiet, and standard output is no pipe (of a pipeline the
 * last program draws); at most 10 redraws a second; erased at the end. total < 0: what $VP_TOTAL says, else unknown
 * (rate only). With -v, vp_progress_finish prints totals, wall time and peak memory in one line, also when it is not a
 * terminal. */
typedef struct vp_progress vp_progress;
vp_progress *vp_progress_start(const char *unit, int64_t total); /* never NULL-checked: NULL is accepted everywhere */
int64_t vp_progress_total(const vp_progress *p);                 /* what was given, else $VP_TOTAL; -1: not known */
void vp_progress_add(vp_progress *p, int64_t rows, int64_t tokens);
/* Erase the line, and draw it no more: the program writes text to the same terminal. */
void vp_progress_hide(vp_progress *p);
/* What the line says beside the counts from the next redraw on: "step 12, loss 3.456"; copied, cut at 79 bytes. */
void vp_progress_note(vp_progress *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
void vp_progress_finish(vp_progress *p);

/* Refuse binary output to a terminal: VP_USAGE with what to do instead. */
int vp_cli_refuse_terminal(int fd, vp_error *err);

/* A --log file: one JSON object a line, appended, each line in one write; NULL path: does nothing. */
/* Adds time, program, event; json_members is "\"rows\":3" or NULL. Without --log it does nothing; a failed write is
 * reported by vp_cli_finish. "totals" (vp_progress_finish) and "end" with the status (vp_cli_finish) come by
 * themselves. */
void vp_cli_log(const char *event, const char *json_members);

#endif
