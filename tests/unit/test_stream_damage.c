/* Bad weather for the reader: a small stream cut off at every byte, with every bit flipped, and changed at random
 * behind a right checksum. Nothing may crash or hang, and no damage may pass for a whole stream. */
#include "tests/unit/stream_support.h"
#include "tests/unit/tap.h"

static vp_buf small_stream(void) {
    vp_buf b = {0}, text = {0};
    vp_error err = {0};
    if (vp_read_file("tests/streams/minimal.hex", 1 << 20, &text, &err)) {
        printf("Bail out! %s\n", err.text);
        exit(1);
    }
    b = bytes_of_hex(text.data);
    vp_buf_free(&text);
    return b;
}

static bool one_line(const char *s) {
    return *s && !strchr(s, '\n');
}

static void test_truncation(const vp_buf *s) {
    vp_error err;
    int frames, wrong = 0;
    for (size_t n = 0; n < s->len; n++) {
        const int status = read_stream(s->data, n, 0, &frames, &err);
        if (status == VP_UPSTREAM && one_line(err.text)) continue;
        wrong++;
        printf("# cut at byte %zu: status %d, %s\n", n, status, err.text);
    }
    OK(wrong == 0, "cut off at each of %zu bytes: an upstream's death", s->len);
}

/* In the head of a frame a flip may claim more bytes than there are (6); everywhere else it is bad data (3). */
static void test_flips(const vp_buf *s) {
    vp_error err;
    int frames, wrong = 0;
    for (size_t bit = 0; bit < 8 * s->len; bit++) {
        const size_t at = bit / 8;
        const bool length = at == 1 || at == 68 || at == 192;
        s->data[at] ^= (char)(1 << bit % 8);
        const int status = read_stream(s->data, s->len, 0, &frames, &err);
        s->data[at] ^= (char)(1 << bit % 8);
        if ((status == VP_DATA || (length && status == VP_UPSTREAM)) && one_line(err.text)) continue;
        wrong++;
        printf("# bit %zu of byte %zu: status %d, %s\n", bit % 8, at, status, err.text);
    }
    OK(wrong == 0, "each of %zu bits flipped is found", 8 * s->len);
}

/* Seeded: the next of a sequence of 32-bit numbers (xorshift). */
static uint32_t next_random(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

/* Behind a right checksum the cursor and the checks themselves must hold: bytes of the batch are changed, removed or
 * repeated, and the result is read. Any documented status will do. */
static void test_behind_checksum(const vp_buf *s) {
    enum { ROUNDS = 20000, MAP = 67 + 3 + 8, LENGTH = 113 };
    static const uint8_t telling[] = {0x80, 0x90, 0xa0, 0xc0, 0xc1, 0xc4, 0xc7,
                                      0xca, 0xcf, 0xd3, 0xdb, 0xdd, 0xdf, 0xff};
    uint32_t state = 1;
    int wrong = 0, accepted = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t map[LENGTH];
        vp_error err;
        int frames;
        memcpy(map, s->data + MAP, LENGTH);
        for (uint32_t changes = 1 + next_random(&state) % 3; changes; changes--) {
            const uint32_t r = next_random(&state);
            map[(r >> 8) % LENGTH] = r & 1 ? (uint8_t)(r >> 24) : telling[(r >> 24) % sizeof telling];
        }
        vp_buf stream = {0};
        vp_buf_add(&stream, s->data, 67, &(vp_error){0});
        add_frame(&stream, map, LENGTH - (next_random(&state) % 8 == 0));
        vp_buf_add(&stream, s->data + 191, s->len - 191, &(vp_error){0});
        const int status = read_stream(stream.data, stream.len, 0, &frames, &err);
        accepted += status == VP_OK;
        wrong += status != VP_OK && status != VP_DATA;
        vp_buf_free(&stream);
    }
    OK(wrong == 0, "%d batches changed behind a right checksum: %d of them still streams", ROUNDS, accepted);
    OK(accepted > 0, "some changes are harmless, so the checks were reached");
}

int main(void) {
    vp_buf s = small_stream();
    OK(s.len == 235, "the small stream");
    test_truncation(&s);
    test_flips(&s);
    test_behind_checksum(&s);
    vp_buf_free(&s);
    return done();
}
