/* The payload of an insert notification, {"queue": "NAME"}: anybody may send anything, so it is read leniently.
 *
 * Fetcher thread; owns nothing, allocates nothing.
 */
#ifndef RF_PAYLOAD_H
#define RF_PAYLOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline int rf_hex4(const char *text) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1; /* also the text's end */
        value = value << 4 | digit;
    }
    return value;
}

static inline int rf_put_utf8(char *out, uint32_t c) {
    if (c < 0x80) { out[0] = (char)c; return 1; }
    if (c < 0x800) { out[0] = (char)(0xC0 | c >> 6); out[1] = (char)(0x80 | (c & 63)); return 2; }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12); out[1] = (char)(0x80 | (c >> 6 & 63)); out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18); out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63)); out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* A JSON string whose opening quote is at *at: its UTF-8 to `out`, *at behind it. The length, or -1: not a string, or
 * longer than `room`. */
static int rf_json_string(const char **at, char *out, int room) {
    const char *p = *at;
    int length = 0;
    if (*p++ != '"') return -1;
    while (*p != '"') {
        if (*p == 0 || length + 4 > room) return -1;
        if (*p != '\\') { out[length++] = *p++; continue; }
        p++;
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        if (*p == 'u') {
            int unit = rf_hex4(p + 1);
            if (unit < 0) return -1;
            p += 5;
            uint32_t c = (uint32_t)unit;
            if (unit >= 0xD800 && unit < 0xDC00 && p[0] == '\\' && p[1] == 'u') {
                int low = rf_hex4(p + 2);
                if (low >= 0xDC00 && low < 0xE000) { c = 0x10000 + ((c - 0xD800) << 10) + ((uint32_t)low - 0xDC00); p += 6; }
            }
            length += rf_put_utf8(out + length, c);
        } else {
            const char *found = *p == 0 ? NULL : strchr(from, *p);
            if (found == NULL) return -1;
            out[length++] = to[found - from];
            p++;
        }
    }
    *at = p + 1;
    return length;
}

static inline const char *rf_json_space(const char *p) {
    while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r') p++;
    return p;
}

/* The name of the queue in `payload` to `out`; its length, or -1 where there is none. */
static int rf_payload_queue(const char *payload, char *out, int room) {
    const char *p = payload;
    int depth = 0;
    while (*p != 0) {
        if (*p == '"') {
            int length = rf_json_string(&p, out, room);
            if (length < 0) return -1;
            const char *colon = rf_json_space(p);
            if (depth == 1 && *colon == ':' && length == 5 && memcmp(out, "queue", 5) == 0) {
                p = rf_json_space(colon + 1);
                return rf_json_string(&p, out, room);
            }
            continue;
        }
        if (*p == '{' || *p == '[') depth++;
        if (*p == '}' || *p == ']') depth--;
        p++;
    }
    return -1;
}

#endif
