/* Writers and mender of JSON texts over random input: what is written reads back as it was, every mended text is valid
 * UTF-8 without anything PostgreSQL refuses, mending twice changes nothing, and no byte outside of a buffer is touched. */
#include "harness.h"
#include "pgcopy.h"
#include "sanitise.h"

static uint64_t checked;

/* An exact-size heap copy: one byte past its end is a report. */
static char *exactly(const char *bytes, size_t length) {
    char *copy = malloc(length ? length : 1);
    CHECK(copy != NULL);
    memcpy(copy, bytes, length);
    return copy;
}

static void check_writers(void) {
    rf_buffer b = {0};
    int32_t count = (int32_t)(rng() % 50);
    int64_t ids[50];
    rf_copy_begin(&b);
    CHECK(b.length == 19 && memcmp(b.data, "PGCOPY\n\377\r\n\0", 11) == 0);
    rf_copy_end(&b);
    CHECK(b.length == 21 && rf_load_i16(b.data + 19) == -1);
    rf_buffer_clear(&b);
    rf_array_begin(&b, RF_OID_INT8, count, false);
    for (int32_t i = 0; i < count; i++) rf_array_i64(&b, ids[i] = (int64_t)rng());
    CHECK(!b.failed && b.length == (count > 0 ? 20u + 12u * (size_t)count : 12u));
    for (int32_t i = 0; i < count; i++) {
        CHECK(rf_load_i64(b.data + 20 + 12 * i + 4) == ids[i]);
        checked++;
    }
    rf_buffer_clear(&b);
    size_t length = rng() % 3000;
    char *text = malloc(length + 1);
    for (size_t i = 0; i < length; i++) text[i] = (char)rng();
    rf_array_jsonb(&b, text, length);
    CHECK(b.length == length + 5 && b.data[4] == 1 && memcmp(b.data + 5, text, length) == 0);
    rf_array_jsonb(&b, text, RF_BUFFER_MAX);
    CHECK(b.failed, "a text too long for a message must not pass");
    size_t before = b.length;
    rf_put(&b, text, length);
    CHECK(b.length == before, "a failed buffer must stay as it is");
    free(text);
    rf_buffer_free(&b);
    checked += 4;
}

/* Against a decoder of the plainest kind: a code point, then what Unicode allows. */
static size_t utf8_length_by_code(const uint8_t *p, size_t left) {
    size_t width = p[0] < 0x80 ? 1 : (p[0] & 0xe0) == 0xc0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : (p[0] & 0xf8) == 0xf0 ? 4 : 0;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (width == 0 || width > left) return 0;
    uint32_t code = width == 1 ? p[0] : p[0] & (0x7f >> width);
    for (size_t i = 1; i < width; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (p[i] & 0x3f);
    }
    return code < least[width] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) ? 0 : width;
}

static void check_utf8(void) {
    static const uint8_t edges[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0,
                                    0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff};
    char bytes[4];
    size_t length = 1 + rng() % 4;
    for (size_t i = 0; i < length; i++) bytes[i] = (char)edges[rng() % sizeof edges];
    char *input = exactly(bytes, length);
    CHECK(rf_utf8_length(input, input + length) == utf8_length_by_code((uint8_t *)input, length));
    free(input);
    checked++;
}

static size_t make_json(char *json) {
    static const char *const pieces[] = {"\\u0000", "\\ud800", "\\udc00", "\\ud83d\\ude00", "\\\\u0000", "\\n", "\\", "\\u12",
                                         "\\x", "\xff", "\xed\xa0\x80", "\xc0\x80", "\xf0\x9f\x98\x80", "\xe2\x82", "\xc3\xa9",
                                         "a", "\x01", "\n", "{", "}", "\"", ",", ":", "[", "]", "1"};
    size_t length = 0;
    for (uint64_t n = rng() % 30; n > 0; n--) {
        if (rng() % 20 == 0) {
            json[length++] = 0;
            continue;
        }
        const char *piece = pieces[rng() % (sizeof pieces / sizeof *pieces)];
        memcpy(json + length, piece, strlen(piece));
        length += strlen(piece);
    }
    return length;
}

static void check_mended(const rf_buffer *mended, size_t max) {
    const char *end = mended->data + mended->length;
    size_t inside = 0;
    bool string = false;
    for (const char *p = mended->data; p < end;) {
        size_t width = rf_utf8_length(p, end);
        CHECK(width > 0 && *p != 0, "not UTF-8, or NUL, at %zu", (size_t)(p - mended->data));
        if (string && *p == '\\') {
            int code = rf_unicode_escape(p, end);
            CHECK(code != 0, "an escaped NUL was left");
            if (code >= 0xd800 && code <= 0xdbff) {
                int low = rf_unicode_escape(p + 6, end);
                CHECK(low >= 0xdc00 && low <= 0xdfff, "a lone high surrogate was left");
                width = 12;
            } else {
                CHECK(!(code >= 0xdc00 && code <= 0xdfff), "a lone low surrogate was left");
                width = code >= 0 ? 6 : 2;
            }
        } else if (*p == '"') {
            string = !string;
            inside = 0;
            p++;
            continue;
        }
        p += width;
        if (string) inside += width;
        CHECK(inside <= max, "a string was not cut");
        checked++;
    }
    CHECK(!string, "a string was left open");
}

static void check_mender(void) {
    char json[1024];
    size_t length = make_json(json), max = rng() % 2 ? 1000 : rng() % 40;
    char *input = exactly(json, length);
    rf_buffer once = {0}, twice = {0}, entry = {0};
    rf_sanitise_json(&once, input, length, max);
    check_mended(&once, max);
    rf_sanitise_json(&twice, once.data, once.length, 1000);
    CHECK(once.length == twice.length && (once.length == 0 || memcmp(once.data, twice.data, once.length) == 0),
          "mending twice is not mending once");
    rf_error_entry(&entry, 3, "before: ", input, length, 1000);
    check_mended(&entry, 2000);
    CHECK(entry.length > 60 && entry.data[0] == '{' && entry.data[entry.length - 1] == '}');
    free(input);
    rf_buffer_free(&once);
    rf_buffer_free(&twice);
    rf_buffer_free(&entry);
}

int main(void) {
    uint64_t size = env("RF_SIZE", 600) * 20;
    give_up_after((unsigned)env("RF_PATIENCE", 60));
    rng_seed(env("RF_SEED", 1));
    for (uint64_t i = 0; i < size; i++) {
        check_writers();
        check_mender();
        for (int n = 0; n < 20; n++) check_utf8();
    }
    printf("ok n=%llu\n", (unsigned long long)checked);
    return 0;
}
