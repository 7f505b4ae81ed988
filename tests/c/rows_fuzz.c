/* What the fetcher reads of other people's making: notification payloads and binary arrays, cut, flipped and invented.
 * The buffers have no byte to spare, so that a sanitizer sees the first one read beyond.
 */
#include "harness.h"
#include "payload.h"
#include "rows.h"

static const char *const payloads[] = {
    "{\"queue\": \"default\"}", "{\"a\": [1, {\"queue\": \"x\"}], \"queue\" : \"d\\u0065f\\ud83d\\ude00\"}", "{\"queue\": null}",
    "[[[{\"queue\":\"\\\\\\\"\"}]]]", "", "\\", "\"\\u12\"", "{\"queue\":\"\\ud800\\u0041\"}"};

static const unsigned char array[] = {0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0x0e, 0xda, 0, 0, 0, 2, 0, 0, 0, 1,
                                      0, 0, 0, 3, 1, '{', '}', 0xff, 0xff, 0xff, 0xff};

static char *spoil(const void *bytes, size_t length, size_t *now) {
    size_t kept = rng() % 3 == 0 ? rng() % (length + 1) : length;
    char *copy = (char *)malloc(kept + 1);
    CHECK(copy != NULL);
    memcpy(copy, bytes, kept);
    copy[kept] = 0;
    for (uint64_t flips = rng() % 4; flips > 0 && kept > 0; flips--) copy[rng() % kept] = (char)rng();
    *now = kept;
    return copy;
}

int main(void) {
    uint64_t rounds = env("RF_SIZE", 600) * 100;
    size_t length;
    char name[64];
    rng_seed(env("RF_SEED", 1));
    CHECK(rf_payload_queue(payloads[0], name, sizeof name) == 7 && memcmp(name, "default", 7) == 0);
    CHECK(rf_payload_queue(payloads[1], name, sizeof name) == 7 && memcmp(name, "def\xf0\x9f\x98\x80", 7) == 0);
    CHECK(rf_payload_queue(payloads[2], name, sizeof name) == -1);
    CHECK(rf_payload_queue(payloads[3], name, sizeof name) == -1);
    CHECK(rf_array_good((const char *)array, sizeof array, true) && !rf_array_good((const char *)array, sizeof array, false));
    for (uint64_t round = 0; round < rounds; round++) {
        const char *payload = payloads[rng() % (sizeof payloads / sizeof payloads[0])];
        char *text = spoil(payload, strlen(payload), &length);
        int found = rf_payload_queue(text, name, (int)sizeof name);
        CHECK(found >= -1 && found <= (int)sizeof name);
        free(text);
        text = spoil(array, sizeof array, &length);
        char *exact = (char *)malloc(length == 0 ? 1 : length); /* no NUL behind it */
        memcpy(exact, text, length);
        rf_array_good(exact, (int32_t)length, rng() % 2);
        free(exact);
        free(text);
    }
    printf("ok n=%llu\n", (unsigned long long)rounds);
}
