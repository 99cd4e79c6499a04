/* Parsing argv by an option table: exact names, strict numbers, every refusal names the option and the value. */
#include "lib/cli/internal.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool wants_help, wants_version, wants_verbose, wants_quiet;
static const char *log_path;

const vp_option vp_cli_common[] = {
    {.kind = VP_OPT_GROUP, .help = "Common"},
    {.name = "help", .letter = 'h', .target = &wants_help, .help = "print this help"},
    {.name = "version", .target = &wants_version, .help = "print the version"},
    {.name = "verbose", .letter = 'v', .target = &wants_verbose, .help = "print totals at the end"},
    {.name = "quiet", .letter = 'q', .target = &wants_quiet, .help = "print errors only"},
    {.name = "log",
     .kind = VP_OPT_STRING,
     .target = &log_path,
     .value = "FILE",
     .help = "append events to FILE as JSON lines"},
    {0},
};

typedef struct parser {
    const vp_program *program;
    int argc, at; /* argv[at] is looked at */
    char **argv;
    vp_error *err;
} parser;

/* The option spelled so on the command line, for messages: "--name" or "-l". */
typedef struct spelling {
    char text[80];
} spelling;

static const vp_option *find_in(const vp_option *o, const char *name, size_t n, char letter) {
    for (; o && (o->name || o->kind == VP_OPT_GROUP); o++) {
        if (!o->name) continue;
        if (letter && o->letter == letter) return o;
        if (!name) continue;
        if (strlen(o->name) == n && memcmp(o->name, name, n) == 0) return o;
    }
    return NULL;
}

static const vp_option *find(const parser *p, const char *name, size_t n, char letter) {
    const vp_option *o = find_in(p->program->options, name, n, letter);
    return o ? o : find_in(vp_cli_common, name, n, letter);
}

static bool parse_int(const char *s, int64_t *out) {
    bool negative = *s == '-';
    s += negative;
    if (*s < '0' || *s > '9') return false;
    int64_t v = 0;
    for (; *s >= '0' && *s <= '9'; s++) {
        int digit = *s - '0';
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, digit, &v)) return false;
    }
    int64_t unit = *s == 'K' ? 1 << 10 : *s == 'M' ? 1 << 20 : *s == 'G' ? 1 << 30 : 1;
    if (unit > 1) s++;
    /* v is kept negative: the most negative number has no positive twin */
    if (*s || __builtin_mul_overflow(v, negative ? unit : -unit, out)) return false;
    return true;
}

bool vp_cli_real(const char *s, double *out) {
    if (!*s || s[strspn(s, "0123456789.eE+-")]) return false;
    char *end;
    *out = strtod(s, &end);
    return *end == '\0' && isfinite(*out);
}

static int refuse(const parser *p, const spelling *as, const char *value, const char *why) {
    return vp_fail(p->err, VP_USAGE, "%s: '%.200s' %s", as->text, value, why);
}

static int check_range(const parser *p, const vp_option *o, const spelling *as, const char *value, double v) {
    if ((o->min == 0 && o->max == 0) || (v >= o->min && v <= o->max)) return VP_OK;
    if (v < o->min) return vp_fail(p->err, VP_USAGE, "%s: '%.200s' is below %.15g", as->text, value, o->min);
    return vp_fail(p->err, VP_USAGE, "%s: '%.200s' is above %.15g", as->text, value, o->max);
}

int vp_cli_choice(const char *choices, const char *value, size_t n) {
    int index = 0;
    for (const char *c = choices; *c; index++) {
        size_t len = strcspn(c, "|");
        if (n == len && memcmp(c, value, n) == 0) return index;
        c += len + (c[len] == '|');
    }
    return -1;
}

static int set_choice(const parser *p, const vp_option *o, const spelling *as, const char *value) {
    const int index = vp_cli_choice(o->choices, value, strlen(value));
    if (index >= 0) {
        *(int *)o->target = index;
        return VP_OK;
    }
    return vp_fail(p->err, VP_USAGE, "%s: '%.200s' is none of %s", as->text, value, o->choices);
}

static int append(const parser *p, vp_list *list, const char *value) {
    const char **grown = realloc(list->item, (list->n + 1) * sizeof *grown);
    if (!grown) return vp_fail_memory(p->err, "the command line", list->n * sizeof *grown);
    list->item = grown;
    list->item[list->n++] = value;
    return VP_OK;
}

static int set_value(const parser *p, const vp_option *o, const spelling *as, const char *value) {
    int64_t whole;
    double real;
    switch (o->kind) {
    case VP_OPT_STRING:
        *(const char **)o->target = value;
        return VP_OK;
    case VP_OPT_LIST:
        return append(p, o->target, value);
    case VP_OPT_CHOICE:
        return set_choice(p, o, as, value);
    case VP_OPT_AUTO:
        *(int64_t *)o->target = 0;
        if (!strcmp(value, "auto")) return VP_OK;
        /* fallthrough */
    case VP_OPT_INT:
        if (!parse_int(value, &whole)) return refuse(p, as, value, "is not a whole number");
        VP_TRY(check_range(p, o, as, value, (double)whole));
        *(int64_t *)o->target = whole;
        return VP_OK;
    case VP_OPT_REAL:
        if (!vp_cli_real(value, &real)) return refuse(p, as, value, "is not a number");
        VP_TRY(check_range(p, o, as, value, real));
        *(double *)o->target = real;
        return VP_OK;
    case VP_OPT_FLAG:
    case VP_OPT_GROUP:
        break;
    }
    return vp_fail(p->err, VP_BUG, "%s: the option table is wrong", as->text);
}

static int next_word(parser *p, const spelling *as, const char **value) {
    if (p->at + 1 >= p->argc) return vp_fail(p->err, VP_USAGE, "%s: needs a value", as->text);
    *value = p->argv[++p->at];
    return VP_OK;
}

static int unknown(const parser *p, const char *option) {
    return vp_fail(p->err, VP_USAGE, "%.200s: unknown option; see %s --help", option, p->program->name);
}

static int parse_long(parser *p) {
    const char *word = p->argv[p->at], *name = word + 2;
    size_t n = strcspn(name, "=");
    const vp_option *o = find(p, name, n, 0);
    if (!o) return unknown(p, word);
    spelling as;
    snprintf(as.text, sizeof as.text, "--%.*s", (int)n, name);
    if (o->kind == VP_OPT_FLAG) {
        if (name[n]) return vp_fail(p->err, VP_USAGE, "%s: takes no value", as.text);
        *(bool *)o->target = true;
        return VP_OK;
    }
    const char *value = name + n + 1;
    if (!name[n]) VP_TRY(next_word(p, &as, &value));
    return set_value(p, o, &as, value);
}

/* "-k10", "-k 10", "-vq" */
static int parse_letters(parser *p) {
    for (const char *c = p->argv[p->at] + 1; *c; c++) {
        const vp_option *o = find(p, NULL, 0, *c);
        spelling as = {.text = {'-', *c}};
        if (!o) return unknown(p, as.text);
        if (o->kind == VP_OPT_FLAG) {
            *(bool *)o->target = true;
            continue;
        }
        const char *value = c + 1;
        if (!*value) VP_TRY(next_word(p, &as, &value));
        return set_value(p, o, &as, value);
    }
    return VP_OK;
}

/* Options are consumed where they stand; operands are gathered in `operand` and put last. */
static int parse_words(parser *p, char **operand, int *noperands) {
    bool only_operands = false;
    for (p->at = 1; p->at < p->argc; p->at++) {
        char *word = p->argv[p->at];
        if (only_operands || word[0] != '-' || !word[1])
            operand[(*noperands)++] = word;
        else if (strcmp(word, "--") == 0)
            only_operands = true;
        else
            VP_TRY(word[1] == '-' ? parse_long(p) : parse_letters(p));
    }
    return VP_OK;
}

int vp_cli_parse(const vp_program *program, int argc, char **argv, int *first, vp_cli_action *action, vp_error *err) {
    wants_help = wants_version = wants_verbose = wants_quiet = false;
    log_path = NULL;
    *action = VP_CLI_RUN;
    *first = argc;
    parser p = {.program = program, .argc = argc, .argv = argv, .err = err};
    char **operand = vp_calloc((size_t)argc + 1, sizeof *operand);
    if (!operand) return vp_fail_memory(err, "the command line", (size_t)argc * sizeof *operand);
    int noperands = 0;
    int status = parse_words(&p, operand, &noperands);
    if (!status) {
        *first = argc - noperands;
        memcpy(argv + *first, operand, (size_t)noperands * sizeof *operand);
        vp_cli_set_verbosity(wants_verbose, wants_quiet);
        if (wants_help)
            vp_cli_print_help(program);
        else if (wants_version)
            printf("%.*s (vecpipe) %s\n", (int)strcspn(program->name, " "), program->name, VP_VERSION);
        if (wants_help || wants_version) *action = VP_CLI_EXIT;
        if (*action == VP_CLI_RUN) status = vp_cli_log_open(log_path, err);
    }
    free(operand);
    return status;
}
