/* Writers of PostgreSQL's binary forms: COPY rows and one-dimensional arrays, into a growable buffer.
 *
 * Used by one thread at a time, without the GIL. Every length is checked against what the protocol can carry; a buffer
 * that failed once (memory, or a value too long) stays failed, so callers look once, at the end.
 */
#ifndef RF_PGCOPY_H
#define RF_PGCOPY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One protocol message holds at most 1 GiB; the rest of a message needs room as well. */
#define RF_BUFFER_MAX ((size_t)1000 * 1024 * 1024)

enum { /* pg_type.oid of what we send: fixed for all of PostgreSQL's time */
    RF_OID_BOOL = 16, RF_OID_INT8 = 20, RF_OID_INT2 = 21, RF_OID_TEXT = 25, RF_OID_TIMESTAMPTZ = 1184,
    RF_OID_JSONB = 3802
};

typedef struct rf_buffer {
    char *data;
    size_t length;
    size_t capacity;
    bool failed;
} rf_buffer;

static inline void rf_buffer_free(rf_buffer *buffer) {
    free(buffer->data);
    memset(buffer, 0, sizeof *buffer);
}

static inline void rf_buffer_clear(rf_buffer *buffer) {
    buffer->length = 0;
    buffer->failed = false;
}

static inline bool rf_buffer_reserve(rf_buffer *buffer, size_t more) {
    if (buffer->failed) return false;
    if (more <= buffer->capacity - buffer->length) return true;
    if (more > RF_BUFFER_MAX || buffer->length > RF_BUFFER_MAX - more) {
        buffer->failed = true;
        return false;
    }
    size_t need = buffer->length + more, capacity = buffer->capacity < 256 ? 256 : buffer->capacity;
    while (capacity < need) capacity *= 2;
    char *data = realloc(buffer->data, capacity);
    if (data == NULL) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

static inline void rf_put(rf_buffer *buffer, const void *bytes, size_t length) {
    if (!rf_buffer_reserve(buffer, length)) return;
    if (length > 0) memcpy(buffer->data + buffer->length, bytes, length);
    buffer->length += length;
}

static inline void rf_store_i64(char *to, int64_t value) {
    uint64_t bits = (uint64_t)value;
    for (int i = 7; i >= 0; i--, bits >>= 8) to[i] = (char)(bits & 0xff);
}

static inline void rf_store_i32(char *to, int32_t value) {
    uint32_t bits = (uint32_t)value;
    for (int i = 3; i >= 0; i--, bits >>= 8) to[i] = (char)(bits & 0xff);
}

static inline void rf_store_i16(char *to, int16_t value) {
    uint16_t bits = (uint16_t)value;
    to[0] = (char)(bits >> 8);
    to[1] = (char)(bits & 0xff);
}

static inline int64_t rf_load_i64(const char *from) {
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits = bits << 8 | (uint8_t)from[i];
    return (int64_t)bits;
}

static inline int16_t rf_load_i16(const char *from) {
    return (int16_t)((uint16_t)(uint8_t)from[0] << 8 | (uint8_t)from[1]);
}

static inline void rf_put_i64(rf_buffer *buffer, int64_t value) {
    char bytes[8];
    rf_store_i64(bytes, value);
    rf_put(buffer, bytes, sizeof bytes);
}

static inline void rf_put_i32(rf_buffer *buffer, int32_t value) {
    char bytes[4];
    rf_store_i32(bytes, value);
    rf_put(buffer, bytes, sizeof bytes);
}

static inline void rf_put_i16(rf_buffer *buffer, int16_t value) {
    char bytes[2];
    rf_store_i16(bytes, value);
    rf_put(buffer, bytes, sizeof bytes);
}

/* ---- COPY (FORMAT binary) ---- */

static inline void rf_copy_begin(rf_buffer *buffer) {
    static const char header[19] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0"; /* signature, flags, no header extension */
    rf_put(buffer, header, sizeof header);
}

static inline void rf_copy_end(rf_buffer *buffer) { rf_put_i16(buffer, -1); }

/* ---- arrays of one dimension ---- */

static inline void rf_array_begin(rf_buffer *buffer, int32_t oid, int32_t count, bool nulls) {
    rf_put_i32(buffer, count > 0 ? 1 : 0);
    rf_put_i32(buffer, nulls ? 1 : 0);
    rf_put_i32(buffer, oid);
    if (count > 0) {
        rf_put_i32(buffer, count);
        rf_put_i32(buffer, 1); /* lower bound */
    }
}

static inline void rf_array_null(rf_buffer *buffer) { rf_put_i32(buffer, -1); }

static inline void rf_array_bytes(rf_buffer *buffer, const void *bytes, size_t length) {
    if (length > RF_BUFFER_MAX) {
        buffer->failed = true;
        return;
    }
    rf_put_i32(buffer, (int32_t)length);
    rf_put(buffer, bytes, length);
}

static inline void rf_array_i64(rf_buffer *buffer, int64_t value) {
    rf_put_i32(buffer, 8);
    rf_put_i64(buffer, value);
}

static inline void rf_array_i16(rf_buffer *buffer, int16_t value) {
    rf_put_i32(buffer, 2);
    rf_put_i16(buffer, value);
}

static inline void rf_array_bool(rf_buffer *buffer, bool value) {
    rf_put_i32(buffer, 1);
    rf_put(buffer, value ? "\1" : "\0", 1);
}

/* jsonb's binary form: a version byte and the text. NULL bytes: SQL NULL. */
static inline void rf_array_jsonb(rf_buffer *buffer, const char *text, size_t length) {
    if (text == NULL) {
        rf_array_null(buffer);
        return;
    }
    if (length >= RF_BUFFER_MAX) {
        buffer->failed = true;
        return;
    }
    rf_put_i32(buffer, (int32_t)(length + 1));
    rf_put(buffer, "\1", 1);
    rf_put(buffer, text, length);
}

#endif
