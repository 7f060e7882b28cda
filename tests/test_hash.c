/* SPDX-License-Identifier: MIT */
/*
 * test_hash.c - what passwords and tokens stand on: the vectors that the standards publish, and
 * every length around a block's end against the same text in pieces.
 */
#include "test.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static void
check_hex(int line, const uint8_t *p, size_t n, const char *want)
{
    char text[160];

    CHECK(2 * n < sizeof text);
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", p[i]);
    if (strcmp(text, want) != 0)
        test_fail(__FILE__, line, "%s is not %s", text, want);
}

static void
sha256_of(const void *p, size_t n, uint8_t digest[32])
{
    struct sha256 s;

    sha256_init(&s);
    sha256_add(&s, p, n);
    sha256_end(&s, digest);
}

TEST(hash_sha256)
{
    static const struct {
        const char *text, *digest;
    } cases[] = { /* FIPS 180-2 appendix B, and its 896 bits */
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqr"
         "lmnopqrsmnopqrstnopqrstu",
         "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
    };
    uint8_t digest[32];
    struct sha256 s;

    for (size_t i = 0; i < COUNT(cases); i++) {
        sha256_of(cases[i].text, strlen(cases[i].text), digest);
        check_hex(__LINE__, digest, 32, cases[i].digest);
    }
    sha256_init(&s);
    for (int i = 0; i < 100000; i++)
        sha256_add(&s, "aaaaaaaaaa", 10);
    sha256_end(&s, digest);
    check_hex(__LINE__, digest, 32,
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(hash_sha256_in_pieces)
{
    uint8_t text[200], whole[32], pieces[32];

    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)(7 * i);
    for (size_t n = 0; n <= sizeof text; n++)
        for (size_t cut = 0; cut <= n; cut += 13) {
            struct sha256 s;
            sha256_of(text, n, whole);
            sha256_init(&s);
            sha256_add(&s, text, cut);
            sha256_add(&s, text + cut, n - cut);
            sha256_end(&s, pieces);
            CHECK(memcmp(whole, pieces, 32) == 0);
        }
}

TEST(hash_hmac)
{
    static const char large[] = "Test Using Larger Than Block-Size Key - Hash Key First",
                      larger[] = "This is a test using a larger than block-size key and a larger "
                                 "than block-size data. The key needs to be hashed before being "
                                 "used by the HMAC algorithm.";
    static const struct {
        int key_byte; /* repeated; 0: 1, 2, 3, …; -1: "Jefe" */
        size_t key_len;
        int byte; /* repeated 50 times; 0: `text` */
        const char *text, *mac;
    } cases[] = { /* RFC 4231 sections 4.2 to 4.8, without the truncated one */
        {0x0b, 20, 0, "Hi There",
         "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {-1, 4, 0, "what do ya want for nothing?",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {0xaa, 20, 0xdd, "", "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
        {0, 25, 0xcd, "", "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
        {0xaa, 131, 0, large, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
        {0xaa, 131, 0, larger,
         "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
    };
    uint8_t mac[32], key[131], data[50];
    struct hmac256 keyed;

    for (size_t i = 0; i < COUNT(cases); i++) {
        for (size_t k = 0; k < sizeof key; k++)
            key[k] = cases[i].key_byte > 0 ? (uint8_t)cases[i].key_byte : (uint8_t)(k + 1);
        if (cases[i].key_byte < 0)
            memcpy(key, "Jefe", 4);
        memset(data, cases[i].byte, sizeof data);
        hmac256_init(&keyed, key, cases[i].key_len);
        for (int twice = 0; twice < 2; twice++) { /* a copy behind init() is as good as new */
            struct hmac256 m = keyed;
            if (cases[i].byte != 0)
                hmac256_add(&m, data, sizeof data);
            else
                hmac256_add(&m, cases[i].text, strlen(cases[i].text));
            hmac256_end(&m, mac);
            check_hex(__LINE__, mac, 32, cases[i].mac);
        }
    }
}

TEST(hash_pbkdf2)
{
    static const struct {
        struct str password, salt;
        uint32_t rounds;
        size_t n;
        const char *key;
    } cases[] = {
        /* RFC 7914 section 11 */
        {{"passwd", 6}, {"salt", 4}, 1, 64,
         "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
         "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783"},
        {{"Password", 8}, {"NaCl", 4}, 80000, 64,
         "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"
         "a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d"},
        /* the inputs of RFC 6070, with SHA-256 */
        {{"password", 8}, {"salt", 4}, 1, 32,
         "120fb6cffcf8b32c43e7225256c4f837a86548c92ccc35480805987cb70be17b"},
        {{"password", 8}, {"salt", 4}, 2, 32,
         "ae4d0c95af6b46d32d0adff928f06dd02a303f8ef3c251dfd6e2d85a95474c43"},
        {{"password", 8}, {"salt", 4}, 4096, 32,
         "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a"},
        {{"passwordPASSWORDpassword", 24}, {"saltSALTsaltSALTsaltSALTsaltSALTsalt", 36}, 4096, 40,
         "348c89dbcbd32b2f32d814b8116e84cf2b17347ebc1800181c4e2a1fb8dd53e1c635518c7dac47e9"},
        {{"pass\0word", 9}, {"sa\0lt", 5}, 4096, 16, "89b69d0516f829893c696226650a8687"},
    };
    uint8_t key[64];

    for (size_t i = 0; i < COUNT(cases); i++) {
        pbkdf2(cases[i].password, cases[i].salt, cases[i].rounds, key, cases[i].n);
        check_hex(__LINE__, key, cases[i].n, cases[i].key);
    }
}

TEST(hash_base64url)
{
    static const struct {
        const char *plain, *coded;
    } good[] = {{"", ""},         {"f", "Zg"},          {"fo", "Zm8"},      {"foo", "Zm9v"},
                {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"\xfb\xff\xbf", "-_-_"}};
    /* Padding, the other alphabet, blanks, a single digit, and bits behind the end: a signature
     * must have one spelling. */
    static const char *const bad[] = {"Zg==", "Zm8=", "+/+/", "Z", "Zm9vY", "Zm 8", "Zm8\n", "Zh",
                                      "Zm9", "Zm9vYh", "Z.g", "Zg\xc3"};
    char out[16];

    for (size_t i = 0; i < COUNT(good); i++) {
        size_t n = strlen(good[i].plain), m = strlen(good[i].coded);
        CHECK_BYTES(out, base64url_encode(out, good[i].plain, n), good[i].coded);
        CHECK_INT(base64url_decode(out, test_edge(good[i].coded, m), m), n);
        CHECK_BYTES(out, n, good[i].plain);
    }
    for (size_t i = 0; i < COUNT(bad); i++)
        if (base64url_decode(out, bad[i], strlen(bad[i])) != -1)
            test_fail(__FILE__, __LINE__, "accepts %s", bad[i]);
}

TEST(hash_wipe)
{
    char secret[] = "0123456789";

    wipe(secret + 2, 6);
    for (int i = 2; i < 8; i++)
        CHECK_INT(secret[i], 0);
    CHECK(secret[1] == '1' && secret[8] == '8');
}
