/* The database of an index: its tables and every statement that runs on them. Values read back are checked by the
 * reader: a database may be damaged or hostile. */
#ifndef VP_INDEX_SCHEMA_H
#define VP_INDEX_SCHEMA_H

#define VP_SCHEMA_APPLICATION 0x76706978 /* "vpix" */
#define VP_SCHEMA_VERSION     1          /* PRAGMA user_version */
#define VP_SCHEMA_VERSION_KV  2          /* of an index with keys and values: it has the tables of VP_SCHEMA_KV, too */

/* The tables:
 *
 * setting: uuid (32 hex digits), generation (grows with every commit); from the first stream that was added dims,
 * dtype, model and encoder (JSON).
 *
 * segment: a file of vectors; its committed slots, how many are live, and bit i & 7 of byte i >> 3 of bitmap for slot
 * i. AUTOINCREMENT: numbers are never used twice.
 *
 * extent: slots that one commit wrote, and XXH3-64 of their bytes; the extents of a segment tile [0, slots).
 *
 * entry: a live row; n gives the order in which rows came. parent, chunks: the record that it is a chunk of, and how
 * many chunks that has (NULL: not a chunk; not known). hash: of the record. generation: of the commit that changed the
 * entry last.
 *
 * document: the text of an entry that has one. bm25: FTS5 over document; words without their English endings. */
#define VP_SCHEMA                                                                                                      \
    "CREATE TABLE setting(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;"                                        \
    "CREATE TABLE segment(id INTEGER PRIMARY KEY AUTOINCREMENT, slots INTEGER NOT NULL, live INTEGER NOT NULL,"        \
    " bitmap BLOB NOT NULL);"                                                                                          \
    "CREATE TABLE extent(segment INTEGER NOT NULL, slot INTEGER NOT NULL, slots INTEGER NOT NULL,"                     \
    " hash INTEGER NOT NULL, PRIMARY KEY(segment, slot)) WITHOUT ROWID;"                                               \
    "CREATE TABLE entry(n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, parent TEXT, chunks INTEGER,"    \
    " hash BLOB, meta TEXT, segment INTEGER NOT NULL, slot INTEGER NOT NULL, generation INTEGER NOT NULL);"            \
    "CREATE UNIQUE INDEX entry_place ON entry(segment, slot);"                                                         \
    "CREATE INDEX entry_parent ON entry(parent) WHERE parent IS NOT NULL;"                                             \
    "CREATE TABLE document(n INTEGER PRIMARY KEY, text TEXT NOT NULL);"                                                \
    "CREATE VIRTUAL TABLE bm25 USING fts5(text, content='document', content_rowid='n',"                                \
    " tokenize='porter unicode61 remove_diacritics 2');"

/* kv_file: a file of keys and values; its committed bytes, and those of records that are live, each counted up to a
 * multiple of 64. AUTOINCREMENT: numbers are never used twice. kv_span: the record of entry n: where it lies, its
 * tokens, XXH3-64 of its bytes; file 0 where it has no bytes. Settings: kv (how they are stored), kv_layers, kv_groups,
 * kv_head_dim. */
#define VP_SCHEMA_KV                                                                                                   \
    "CREATE TABLE kv_file(id INTEGER PRIMARY KEY AUTOINCREMENT, bytes INTEGER NOT NULL, live INTEGER NOT NULL);"       \
    "CREATE TABLE kv_span(n INTEGER PRIMARY KEY, file INTEGER NOT NULL, at INTEGER NOT NULL, bytes INTEGER NOT NULL,"  \
    " tokens INTEGER NOT NULL, hash INTEGER NOT NULL);"                                                                \
    "CREATE INDEX kv_span_place ON kv_span(file, at);"                                                                 \
    "PRAGMA user_version=2;"

/* X(name, SQL). A record ?1 is the entry of that id that is no chunk, and the entries that have it as their parent. */
#define VP_STATEMENTS(X)                                                                                               \
    X(BEGIN, "BEGIN")                                                                                                  \
    X(BEGIN_WRITE, "BEGIN IMMEDIATE")                                                                                  \
    X(COMMIT, "COMMIT")                                                                                                \
    X(SETTING, "SELECT value FROM setting WHERE key = ?1")                                                             \
    X(SETTING_PUT, "INSERT OR REPLACE INTO setting(key, value) VALUES(?1, ?2)")                                        \
    X(SEGMENTS, "SELECT id, slots, live, bitmap FROM segment ORDER BY id")                                             \
    X(SEGMENT_NEW, "INSERT INTO segment(slots, live, bitmap) VALUES(0, 0, x'')")                                       \
    X(SEGMENT_PUT, "UPDATE segment SET slots = ?2, live = ?3, bitmap = ?4 WHERE id = ?1")                              \
    X(SEGMENT_DROP, "DELETE FROM segment WHERE id = ?1")                                                               \
    X(EXTENTS, "SELECT slot, slots, hash FROM extent WHERE segment = ?1 ORDER BY slot")                                \
    X(EXTENT_NEW, "INSERT INTO extent(segment, slot, slots, hash) VALUES(?1, ?2, ?3, ?4)")                             \
    X(EXTENTS_DROP, "DELETE FROM extent WHERE segment = ?1")                                                           \
    X(RECORD, "SELECT n, segment, slot, generation FROM entry WHERE id = ?1 AND parent IS NULL"                        \
              " UNION ALL SELECT n, segment, slot, generation FROM entry WHERE parent = ?1")                           \
    X(RECORD_STATE, "SELECT 1, hash, hash, meta, NULL FROM entry WHERE id = ?1 AND parent IS NULL")                    \
    X(CHUNKS_STATE, "SELECT count(*), min(hash), max(hash), min(meta), min(chunks) FROM entry WHERE parent = ?1")      \
    X(RECORD_META, "UPDATE entry SET meta = ?2, generation = ?3 WHERE (id = ?1 AND parent IS NULL) OR parent = ?1")    \
    X(RECORDS, "SELECT id, generation FROM entry WHERE parent IS NULL UNION ALL"                                       \
               " SELECT parent, max(generation) FROM entry WHERE parent IS NOT NULL GROUP BY parent")                  \
    X(ENTRY, "SELECT n, segment, slot, generation FROM entry WHERE id = ?1")                                           \
    X(ENTRY_NEW, "INSERT INTO entry(id, parent, chunks, hash, meta, segment, slot, generation)"                        \
                 " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")                                                            \
    X(ENTRY_DROP, "DELETE FROM entry WHERE n = ?1")                                                                    \
    X(ENTRY_MOVE, "UPDATE entry SET segment = ?2, slot = ?3 WHERE n = ?1")                                             \
    X(ENTRIES_OF, "SELECT n, slot FROM entry WHERE segment = ?1 AND slot >= ?2 ORDER BY slot")                         \
    X(ENTRIES, "SELECT e.segment, e.slot, e.id, e.parent, e.hash, d.text, e.meta FROM entry e"                         \
               " LEFT JOIN document d ON d.n = e.n ORDER BY e.n")                                                      \
    X(ENTRIES_BY_ID, "SELECT e.n, e.segment, e.slot, e.id, e.parent, d.text, e.meta FROM entry e"                      \
                     " LEFT JOIN document d ON d.n = e.n ORDER BY e.id")                                               \
    X(PLACES, "SELECT segment, slot FROM entry")                                                                       \
    X(HIT, "SELECT n, id, parent FROM entry WHERE segment = ?1 AND slot = ?2")                                         \
    X(HIT_BY_N, "SELECT n, id, parent FROM entry WHERE n = ?1")                                                        \
    X(FIRST_BY_ID, "SELECT n, 0 FROM entry ORDER BY id LIMIT ?1")                                                      \
    X(CONTENT, "SELECT d.text, e.meta FROM entry e LEFT JOIN document d ON d.n = e.n WHERE e.n = ?1")                  \
    X(DOCUMENT, "SELECT text FROM document WHERE n = ?1")                                                              \
    X(DOCUMENT_NEW, "INSERT INTO document(n, text) VALUES(?1, ?2)")                                                    \
    X(DOCUMENT_DROP, "DELETE FROM document WHERE n = ?1")                                                              \
    X(BM25_NEW, "INSERT INTO bm25(rowid, text) VALUES(?1, ?2)")                                                        \
    X(BM25_DROP, "INSERT INTO bm25(bm25, rowid, text) VALUES('delete', ?1, ?2)")                                       \
    X(BM25_SEARCH, "SELECT rowid, -rank FROM bm25 WHERE bm25 MATCH ?1 ORDER BY rank LIMIT ?2")                         \
    X(BM25_ONE, "SELECT -rank FROM bm25 WHERE bm25 MATCH ?1 AND rowid = ?2")                                           \
    X(COUNTS, "SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM entry WHERE parent IS NULL) +"               \
              " (SELECT count(DISTINCT parent) FROM entry WHERE parent IS NOT NULL),"                                  \
              " (SELECT count(*) FROM document)")                                                                      \
    X(TEXTED, "SELECT EXISTS(SELECT 1 FROM document)")                                                                 \
    X(TEXTLESS, "SELECT 1 WHERE EXISTS(SELECT 1 FROM entry) AND NOT EXISTS(SELECT 1 FROM document)")                   \
    X(KV_LAST, "SELECT id, bytes FROM kv_file ORDER BY id DESC LIMIT 1")                                               \
    X(KV_FILES, "SELECT id, bytes, live FROM kv_file ORDER BY id")                                                     \
    X(KV_FILE, "SELECT 1 FROM kv_file WHERE id = ?1")                                                                  \
    X(KV_FILE_NEW, "INSERT INTO kv_file(bytes, live) VALUES(0, 0)")                                                    \
    X(KV_FILE_PUT, "UPDATE kv_file SET bytes = ?2, live = live + ?3 WHERE id = ?1")                                    \
    X(KV_FILE_DROP, "DELETE FROM kv_file WHERE id = ?1")                                                               \
    X(KV_WASTEFUL, "SELECT id, bytes FROM kv_file WHERE (bytes - live) * 4 > bytes ORDER BY id LIMIT 1")               \
    X(KV_SPAN, "SELECT s.n, s.file, s.at, s.bytes, s.tokens, s.hash FROM entry e LEFT JOIN kv_span s ON s.n = e.n"     \
               " WHERE e.id = ?1")                                                                                     \
    X(KV_SPANS_OF, "SELECT s.n, s.file, s.at, s.bytes, s.tokens, s.hash, e.id FROM kv_span s LEFT JOIN entry e"        \
                   " ON e.n = s.n WHERE s.file = ?1 ORDER BY s.at")                                                    \
    X(KV_FIRST_OF, "SELECT n, file, at, bytes, tokens, hash FROM kv_span WHERE file = ?1 ORDER BY at LIMIT 1")         \
    X(KV_SPAN_NEW, "INSERT INTO kv_span(n, file, at, bytes, tokens, hash) VALUES(?1, ?2, ?3, ?4, ?5, ?6)")             \
    X(KV_SPAN_MOVE, "UPDATE kv_span SET file = ?2, at = ?3 WHERE n = ?1")                                              \
    X(KV_SPAN_DEAD, "UPDATE kv_file SET live = live - (SELECT (bytes + 63) & ~63 FROM kv_span WHERE n = ?1)"           \
                    " WHERE id = (SELECT file FROM kv_span WHERE n = ?1)")                                             \
    X(KV_SPAN_DROP, "DELETE FROM kv_span WHERE n = ?1")                                                                \
    X(KV_COUNTS, "SELECT coalesce(sum(tokens), 0), coalesce(sum(bytes), 0),"                                           \
                 " (SELECT coalesce(sum(bytes), 0) FROM kv_file) FROM kv_span")                                        \
    X(CHECK_KV, "SELECT e.id FROM entry e LEFT JOIN kv_span s ON s.n = e.n WHERE s.n IS NULL LIMIT 1")                 \
    X(CHECK_KV_SPANS, "SELECT n FROM kv_span WHERE n NOT IN (SELECT n FROM entry)"                                     \
                      " OR (bytes > 0 AND file NOT IN (SELECT id FROM kv_file)) LIMIT 1")                              \
    X(CHECK_DATABASE, "PRAGMA integrity_check(1)")                                                                     \
    X(CHECK_BM25, "INSERT INTO bm25(bm25, rank) VALUES('integrity-check', 1)")                                         \
    X(CHECK_DOCUMENTS, "SELECT n FROM document WHERE n NOT IN (SELECT n FROM entry) LIMIT 1")

typedef enum vp_statement {
#define X(name, sql) VP_SQL_##name,
    VP_STATEMENTS(X)
#undef X
        VP_SQL_COUNT
} vp_statement;

#endif
