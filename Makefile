# jim: `make run` builds and starts the server, `make test` runs the tests. Plain POSIX make; needs a
# C11 compiler, od and sed. CC, CFLAGS, LDFLAGS, PREFIX and DESTDIR are yours to set.

CC = cc
CFLAGS = -O2 -g -fstack-protector-strong -D_FORTIFY_SOURCE=2
LDFLAGS =
PREFIX = /usr/local
DESTDIR =

STD = -std=c11 -DJIM_INTERNAL
# What each system needs to show its whole interface under -std=c11; inert elsewhere.
FEATURES = -D_GNU_SOURCE -D_DARWIN_C_SOURCE -D_NETBSD_SOURCE
WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	-Wvla -Wformat=2 -Wundef -Wpointer-arith -Wcast-qual
ALL = $(STD) $(FEATURES) $(WARN) $(CFLAGS)
LIBS = -lpthread

HDRS = jim.h json.h
LIB = util.c codec.c loop.c store.c conf.c roster.c jim.c chat.c query.c api.c
LIBO = util.o codec.o loop.o store.o conf.o roster.o jim.o chat.o query.o api.o
TESTS = tests/run.c tests/test_*.c tests/client.c

all: jim

jim: main.o $(LIBO)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ main.o $(LIBO) $(LIBS)

.SUFFIXES: .c .o
.c.o:
	$(CC) $(ALL) -c -o $@ $<

main.o $(LIBO): $(HDRS) Makefile
api.o: page.inc

# The web page, as bytes inside the binary: no file to install, none to lose.
page.inc: web/index.html web/jim.js web/jim.css Makefile
	for f in index.html jim.js jim.css; do \
	    echo "static const unsigned char page_$$f[] = {" | tr . _ | sed 's/_\[/[/'; \
	    od -An -v -tx1 web/$$f | sed 's/ *\([0-9a-f][0-9a-f]\)/0x\1,/g'; \
	    echo "};"; \
	done > $@.tmp
	mv $@.tmp $@

run: jim
	./jim

tests/list.inc: tests/test_*.c Makefile
	sed -n 's/^TEST(\([a-z0-9_]*\)).*/TEST_ENTRY(\1)/p' tests/test_*.c > $@

build/run-tests: $(LIBO) $(TESTS) tests/test.h tests/list.inc
	mkdir -p build
	$(CC) $(ALL) -DTEST_LIST='"list.inc"' -o $@ $(TESTS) $(LIBO) $(LDFLAGS) $(LIBS)

test check: jim build/run-tests
	JIM_SOURCE="$$PWD" JIM="$$PWD/jim" build/run-tests

clean:
	rm -rf build *.o jim page.inc page.inc.tmp tests/list.inc

.PHONY: all run test check clean
