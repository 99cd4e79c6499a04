/* Inside mining: rows and what is printed of them, the texts of an index in memory, the streams of queries in order,
 * pairs that are known. */
#ifndef VP_MINE_PRIVATE_H
#define VP_MINE_PRIVATE_H
#include "lib/index/rank.h"
#include "lib/mine/mine.h"
#include "lib/stream/order.h"
#include "lib/text/examples.h"
#include "lib/text/json_text.h"

/* The score that a rule compares with, of n positives'; 0 where there are none. */
float vp_mine_of_positives(vp_mine_positive which, const float *score, size_t n);
/* In (0, 1). */
double vp_mine_draw(uint64_t seed, uint64_t query, uint64_t candidate);

/* ---- row.c: a row as it came, and as it is printed ---- */
typedef struct vp_mine_name {
    const char *s; /* not terminated */
    size_t n;
} vp_mine_name;

typedef struct vp_mine_row {
    json_t *object;
    vp_example_store example; /* the query, positives, negatives; texts point into `object` */
    size_t positives;         /* texts of them */
    vp_mine_name id, query;
    vp_mine_name *pos_id; /* [pos_ids] */
    size_t pos_ids, cap;
    vp_buf spelled, scratch; /* ids that were numbers; the normalised query */
    uint64_t key;            /* of the query */
} vp_mine_row;
/* Read the object `line`; `text` (s NULL: the line's own) is the query where the object has none. It is borrowed until
 * the next read. VP_DATA without the row's place. */
int vp_mine_row_read(vp_mine_row *r, vp_json_text line, vp_mine_name text, vp_mine_name id, vp_error *err);
void vp_mine_row_free(vp_mine_row *r);
const vp_example_text *vp_mine_row_positive(const vp_mine_row *r, size_t i);
/* Class i of those that a field names, a string, a number or a list of them, as bytes to compare; *more false: there
 * are no more; empty: what stands there is no class. */
int vp_mine_label(const json_t *object, const char *field, size_t i, bool *more, vp_buf *out, vp_error *err);
/* A member that is a string, s NULL if there is none. */
vp_mine_name vp_mine_row_field(const vp_mine_row *r, const char *field);

typedef struct vp_negative {
    vp_mine_name text, id; /* id.s NULL: none */
    float score, bm25;
} vp_negative;
typedef struct vp_triple {
    const vp_negative *negative; /* [n] */
    size_t n;
    const float *pos_score, *pos_bm25; /* [pos]; NULL: not written */
    size_t pos;
    bool scores, bm25;            /* whether negatives have them */
    const vp_mine_name *positive; /* [pos]: texts for a row that has only their ids; NULL: it has them */
} vp_triple;
/* Append the row (line and name as it was read) without what an earlier mining wrote, with the triple, and a newline.
 */
int vp_mine_row_print(const vp_mine_row *r, vp_json_text line, const vp_triple *t, vp_buf *out, vp_error *err);

/* ---- catalogue.c: the texts of an index ---- */
typedef struct vp_mine_text {
    int64_t n; /* the index's number of the row */
    vp_place place;
    uint64_t key;   /* of the normalised text */
    int32_t same;   /* the first row with the same normalised text */
    int32_t record; /* the first row of its record */
    int32_t next;   /* of the same record, -1: the last */
} vp_mine_text;
typedef struct vp_catalogue {
    vp_index *x;
    vp_searcher *searcher; /* its snapshot is what the catalogue shows */
    vp_mine_text *text;    /* [n], by id */
    int32_t *by_number;    /* [n]: places in `text` by the index's number */
    size_t n, cap;
    vp_idset by_text, by_name;
    vp_idset labels, classes; /* numbers of labels; which texts have which, as class_key writes them */
    vp_buf scratch;
    float *rows; /* those that are scored */
    size_t rows_cap;
} vp_catalogue;
/* Of the open index c->x, which is closed with the catalogue. label: field of `meta` that says the class, or NULL.
 * header: of the queries' stream, borrowed. VP_DATA: a row has no text, or the stream is of another encoder. */
int vp_catalogue_load(vp_catalogue *c, const vp_frame *header, const vp_search_options *o, const char *label,
                      vp_error *err);
void vp_catalogue_close(vp_catalogue *c);
int32_t vp_catalogue_by_number(const vp_catalogue *c, int64_t n);                /* -1: none, also of the next two */
int32_t vp_catalogue_by_name(const vp_catalogue *c, const char *id, size_t len); /* first row of a record */
int vp_catalogue_by_text(vp_catalogue *c, const char *s, size_t len, int32_t *row, vp_error *err);
/* The classes that the field of a row names, those that texts have: int32_t each into `labels`. */
int vp_catalogue_labels(vp_catalogue *c, const json_t *object, const char *field, vp_buf *labels, vp_error *err);
/* Whether what the row says has one of them, here or under another id. */
bool vp_catalogue_has_label(const vp_catalogue *c, int32_t row, const vp_buf *labels);
/* Inner products of query i of the searcher's batch with rows[n], the same bytes that a search gives. */
int vp_catalogue_score(vp_catalogue *c, int64_t query, const int32_t *rows, size_t n, float *score, vp_error *err);
/* BM25 of one row for searcher->expression; 0: no word of it is there. */
int vp_catalogue_bm25(vp_catalogue *c, int32_t row, float *score, vp_error *err);
/* Text and id of a row, appended to `out`, where they begin at *at and *at + *text_len. */
int vp_catalogue_content(vp_catalogue *c, int32_t row, vp_buf *out, size_t *at, size_t *text_len, size_t *id_len,
                         vp_error *err);

/* ---- queries.c: the rows of a stream in order ---- */
typedef struct vp_mine_query {
    vp_mine_name id, text, meta; /* s NULL: none */
    const uint8_t *emb;          /* unaligned; NULL: none */
} vp_mine_query;
typedef struct vp_mine_queries {
    vp_reader *reader;
    int fd;
    bool has_emb, ended;
    vp_dtype dtype;
    int64_t dims;
    vp_row_order order;
    vp_buf piece, ready; /* rows that wait for their turn in `order`, then in `ready` from `at` on */
    size_t at, rows;
} vp_mine_queries;
/* Opens the stream and reads its header. */
int vp_mine_queries_open(vp_mine_queries *q, const vp_mine_teacher *t, bool has_emb, int output, vp_error *err);
/* Until `want` rows are ready, or the input pauses, or it ends. After a failure what came is ready. */
int vp_mine_queries_fill(vp_mine_queries *q, size_t want, vp_error *err);
/* The next of the ready rows, valid until the next fill. */
void vp_mine_queries_take(vp_mine_queries *q, vp_mine_query *row);
void vp_mine_queries_close(vp_mine_queries *q);

/* ---- candidates.c: what one teacher finds for one row ---- */
typedef struct vp_teacher {
    vp_mine_source source;
    vp_catalogue c;
    vp_mine_queries in;
    vp_mine_query *query; /* [batch], the rows at hand */
    vp_buf emb;           /* [batch, D] */
    uint32_t *mark;       /* [texts]; equal to `marks`: seen */
    uint32_t marks;
    vp_buf positives; /* of int32_t: the row of each, -1: the index has it not */
    vp_buf scores;    /* of float: of the positives */
    int32_t *banned;  /* [bans] rows whose record or text is a positive's */
    size_t bans, ban_cap;
    vp_buf labels;     /* of int32_t: the row's classes */
    vp_buf list, more; /* of vp_candidate; of int32_t: rows without a score yet */
} vp_teacher;
typedef struct vp_chosen {
    vp_teacher *teacher;
    int32_t row;
    float score;
    uint64_t key;
} vp_chosen;

struct vp_mine {
    const vp_mine_options *o;
    vp_teacher *teacher; /* [teachers] */
    size_t teachers;
    vp_idset known;
    vp_mine_counts counts;
    vp_error late; /* a stream broke off, the rows before it are not mined yet */
    /* of the row at hand */
    vp_mine_row row;
    bool is_bad; /* the failure is the row's own fault */
    vp_chosen *chosen;
    size_t n, cap;
    vp_buf pos_bm25; /* floats */
    vp_buf strings, negatives, names;
};
/* Row i of the batch: its positives in this teacher's index, their scores (of the first teacher they are kept), then
 * what of the candidates is chosen, appended to m->chosen. */
int vp_teacher_mine(vp_mine *m, vp_teacher *t, int64_t i, vp_error *err);
/* A failure that is the row's own fault: VP_DATA, m->is_bad. */
int vp_mine_bad(vp_mine *m, vp_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- known.c ---- */
/* The pairs of the file of rows that the options name, into m->known, 32 bytes each; the indexes are open. */
int vp_mine_known_read(vp_mine *m, vp_error *err);
bool vp_mine_known(const vp_idset *pairs, uint64_t query, uint64_t text);

#endif
