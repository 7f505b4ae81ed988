/* Makes JSON text that PostgreSQL refused storable: NUL, lone surrogates and bytes that are not UTF-8 become visible
 * escapes, raw control characters proper ones, and each string is cut at a bound.
 *
 * Pure; any thread. It mends strings, not structure: text that is no JSON stays none, and `rf_error_entry` wraps it.
 */
#ifndef RF_SANITISE_H
#define RF_SANITISE_H

#include <stdio.h>
#include <time.h>

#include "pgcopy.h"

/* Bytes of the valid UTF-8 character at `from`, 0 where there is none (surrogates and overlong forms are none). */
static inline size_t rf_utf8_length(const char *from, const char *end) {
    const uint8_t *p = (const uint8_t *)from;
    size_t left = (size_t)(end - from);
    if (p[0] < 0x80) return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf) return left >= 2 && (p[1] & 0xc0) == 0x80 ? 2 : 0;
    if (p[0] >= 0xe0 && p[0] <= 0xef) {
        if (left < 3 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80) return 0;
        if (p[0] == 0xe0 && p[1] < 0xa0) return 0;
        if (p[0] == 0xed && p[1] > 0x9f) return 0;
        return 3;
    }
    if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        if (left < 4 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80 || (p[3] & 0xc0) != 0x80) return 0;
        if (p[0] == 0xf0 && p[1] < 0x90) return 0;
        if (p[0] == 0xf4 && p[1] > 0x8f) return 0;
        return 4;
    }
    return 0;
}

/* The code of `\uXXXX` at `from`, -1 where it is not one. */
static inline int rf_unicode_escape(const char *from, const char *end) {
    if (end - from < 6 || from[0] != '\\' || from[1] != 'u') return -1;
    int code = 0;
    for (int i = 2; i < 6; i++) {
        char c = from[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        code = code * 16 + digit;
    }
    return code;
}

/* One character of text that is to stand in a JSON string, written safely to `piece` (at least 16 bytes). `escaped`: the
 * text is a JSON string's inside, so backslashes begin escapes; else it is plain. Bytes consumed; *length of the piece. */
static size_t rf_safe_piece(const char *from, const char *end, bool escaped, char *piece, size_t *length) {
    uint8_t c = (uint8_t)from[0];
    if (c == '\\' && escaped) {
        int code = rf_unicode_escape(from, end);
        if (code >= 0xd800 && code <= 0xdbff) {
            int low = rf_unicode_escape(from + 6, end);
            if (low >= 0xdc00 && low <= 0xdfff) {
                memcpy(piece, from, *length = 12);
                return 12;
            }
        }
        if (code == 0 || (code >= 0xd800 && code <= 0xdfff)) {
            piece[0] = '\\'; /* a backslash in front: the escape stays readable, and means nothing any more */
            memcpy(piece + 1, from, 6);
            *length = 7;
            return 6;
        }
        if (code > 0) {
            memcpy(piece, from, *length = 6);
            return 6;
        }
        if (end - from >= 2 && from[1] != 0 && strchr("\"\\/bfnrt", from[1]) != NULL) {
            memcpy(piece, from, *length = 2);
            return 2;
        }
        memcpy(piece, "\\\\", *length = 2);
        return 1;
    }
    if (c == '\\' || c == '"') {
        piece[0] = '\\';
        piece[1] = (char)c;
        *length = 2;
        return 1;
    }
    if (c == 0) {
        memcpy(piece, "\\\\u0000", *length = 7);
        return 1;
    }
    if (c < 0x20) {
        *length = (size_t)snprintf(piece, 16, "\\u%04x", c);
        return 1;
    }
    size_t width = rf_utf8_length(from, end);
    if (width > 0) {
        memcpy(piece, from, *length = width);
        return width;
    }
    *length = (size_t)snprintf(piece, 16, "\\\\x%02x", c);
    return 1;
}

/* Appends `text` to `out` as the inside of a JSON string, at most `max` bytes of it. Returns where it stopped reading:
 * the closing quote if `escaped`, else the end. */
static const char *rf_safe_string(rf_buffer *out, const char *text, const char *end, bool escaped, size_t max) {
    size_t written = 0;
    bool cut = false;
    while (text < end && !(escaped && *text == '"')) {
        char piece[16];
        size_t length;
        text += rf_safe_piece(text, end, escaped, piece, &length);
        if (cut || written + length > max) {
            cut = true;
            if (!escaped) break;
            continue;
        }
        rf_put(out, piece, length);
        written += length;
    }
    return text;
}

/* Appends the JSON text, mended, each string at most `max` bytes long. */
static void rf_sanitise_json(rf_buffer *out, const char *json, size_t length, size_t max) {
    const char *end = json + length;
    for (const char *p = json; p < end; p++) {
        if (*p == '"') {
            rf_put(out, "\"", 1);
            p = rf_safe_string(out, p + 1, end, true, max);
            rf_put(out, "\"", 1);
        } else if ((uint8_t)*p >= 0x20 ? (uint8_t)*p < 0x80 : *p == '\n' || *p == '\t' || *p == '\r') {
            rf_put(out, p, 1); /* outside of strings JSON is ASCII */
        }
    }
}

/* Appends an AttemptError object: `before` and then `text`, at most `max` bytes of it, as the error. */
static void rf_error_entry(rf_buffer *out, int attempt, const char *before, const char *text, size_t length,
                           size_t max) {
    struct timespec now;
    struct tm utc;
    char at[64], head[160];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%S", &utc);
    int written = snprintf(head, sizeof head, "{\"at\":\"%s.%06ldZ\",\"attempt\":%d,\"error\":\"", at,
                           now.tv_nsec / 1000, attempt);
    rf_put(out, head, (size_t)written);
    rf_safe_string(out, before, before + strlen(before), false, max);
    rf_safe_string(out, text, text + length, false, max);
    rf_put(out, "\",\"trace\":\"\"}", 13);
}

#endif
