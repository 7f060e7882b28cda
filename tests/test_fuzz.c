/* SPDX-License-Identifier: MIT */
/*
 * test_fuzz.c - the fuzz targets over their corpora, and some changes of each input: so that every
 * finding stays found, on machines without libFuzzer too. FUZZ_INPUTS=N in the environment asks for
 * N changes of each input.
 */
#include "fuzz.h"
#include "test.h"

static void
replay(const char *name, unsigned mutations)
{
    char dir[4096];
    const char *more = getenv("FUZZ_INPUTS");

    snprintf(dir, sizeof dir, "%s/tests/corpus", test_source());
    if (more != NULL)
        mutations = (unsigned)strtoul(more, NULL, 10);
    unsigned long inputs = fuzz_replay(fuzz_find(name), dir, mutations);
    CHECK(inputs > mutations); /* there is a corpus */
}

TEST(fuzz_pkt) { replay("pkt", 1000); }
TEST(fuzz_ws) { replay("ws", 1000); }
TEST(fuzz_http) { replay("http", 1000); }
TEST(fuzz_chunked) { replay("chunked", 1000); }
TEST(fuzz_proxy) { replay("proxy", 1000); }
TEST(fuzz_query) { replay("query", 1000); }
TEST(fuzz_resp) { replay("resp", 1000); }
TEST(fuzz_json) { replay("json", 1000); }
TEST(fuzz_request) { replay("request", 1000); }
TEST(fuzz_conf) { replay("conf", 100); }
TEST(fuzz_segment) { replay("segment", 10); }
TEST(fuzz_server) { replay("server", 4); }
TEST(fuzz_stream) { replay("stream", 4); }
TEST(fuzz_cluster) { replay("cluster", 4); }

TEST(fuzz_each_target_has_a_test_and_a_corpus)
{
    for (const struct fuzz_target *t = fuzz_targets; t->name != NULL; t++)
        replay(t->name, 0);
}
