# SPDX-License-Identifier: MIT
# kakuremichi. Knobs: CC, CFLAGS, SAN=address,undefined | thread, V=1, BUILD, PREFIX, DESTDIR,
# SOAK_TIME, SOAK_SEED, E2E_JOBS (files of end-to-end tests at once), WG_EMBED (folder of the embeddable WireGuard
# library, from Debian's wireguard-tools).
CC        ?= gcc
SAN       ?=
V         ?= 0
comma     := ,
BUILD     ?= build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
PREFIX    ?= /usr
SYSCONF   ?= /etc/kakuremichi
DESTDIR   ?=
UNITS     ?= $(PREFIX)/lib/systemd/system
ARGS      ?=
FUZZ_TIME ?= 60
WG_EMBED  ?= /usr/share/doc/wireguard-tools/examples/embeddable-wg-library
VERSION   := 0.1.0

PKGS      := libsodium libevent libevent_openssl libevent_pthreads libssl libcrypto libpq jansson libwebsockets \
             liburcu-memb inih libmnl libidn2 libuv libargon2
CFLAGS    ?= -O2 $(if $(SAN),-g1,-g)
WARN      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
KM_CFLAGS := -std=gnu17 -D_GNU_SOURCE -DKM_VERSION='"$(VERSION)"' -DKM_SYSCONF='"$(SYSCONF)"' \
             -DKM_LIBEXEC='"$(PREFIX)/lib/kakuremichi"' -pthread -fno-strict-aliasing \
             -I. -isystem $(WG_EMBED) $(shell pkg-config --cflags $(PKGS) 2>/dev/null) \
             $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
LDLIBS    += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -pthread
Q         := $(if $(filter 1,$(V)),,@)
say        = $(if $(filter 1,$(V)),,@printf '  %-5s %s\n' $(1) $(2))

DAEMONS   := controld gatewayd agentd
PROGRAMS  := $(DAEMONS) kmctl km-warden
WITH_LIB  := $(DAEMONS) kmctl
OBJ       := $(BUILD)/obj
srcs       = $(filter-out %/main.c,$(wildcard $(1)/*.c $(1)/*/*.c $(1)/*/*/*.c))
LIBKM_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(call srcs,libkm)) $(OBJ)/wg_embed.o
UNIT_SRC  := $(wildcard tests/unit/*/test_*.c)
UNIT      := $(patsubst %.c,$(BUILD)/%,$(UNIT_SRC))
UNIT_KMCTL := $(filter $(BUILD)/tests/unit/kmctl/%,$(UNIT))
UNIT_GATEWAYD := $(filter $(BUILD)/tests/unit/gatewayd/%,$(UNIT))
HEADERS   := $(wildcard libkm/*/*.h libkm/*/*/*.h $(WITH_LIB:%=%/*.h) $(WITH_LIB:%=%/*/*.h) warden/*.h)

all: $(PROGRAMS:%=$(BUILD)/%)
unit: $(UNIT) $(BUILD)/km-warden

$(BUILD)/libkm.a: $(LIBKM_OBJ)
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^
define program_rules
$(BUILD)/lib$(1).a: $(patsubst %.c,$(OBJ)/%.o,$(call srcs,$(1)))
	$$(call say,AR,$$@)
	$(Q)rm -f $$@ && ar rcs $$@ $$^
$(BUILD)/$(1): $(OBJ)/$(1)/main.o $(BUILD)/lib$(1).a $(BUILD)/libkm.a
	$$(call say,LD,$$@)
	$(Q)$$(CC) $$(KM_CFLAGS) $$(CFLAGS) $$(LDFLAGS) -o $$@ $$^ $$(LDLIBS)
endef
$(foreach d,$(WITH_LIB),$(eval $(call program_rules,$(d))))
# kmctl speaks with control over HTTPS; gatewayd with CAs, and with the DNS.
$(BUILD)/kmctl $(UNIT_KMCTL): LDLIBS += -lcurl
$(BUILD)/gatewayd $(UNIT_GATEWAYD): LDLIBS += -lcurl -lcares -lldns -lpsl -lnghttp2
# The SQL files, each after a line that names it, as one object.
$(BUILD)/libcontrold.a: $(OBJ)/migrations.o
$(OBJ)/migrations.o: $(wildcard controld/migrations/*.sql)
	@mkdir -p $(@D)
	$(call say,SQL,$@)
	$(Q)awk 'FNR == 1 { print "--@ " FILENAME } 1' $^ > $(@D)/migrations.sql
	$(Q)cd $(@D) && $(LD) -r -z noexecstack -b binary -o migrations.o migrations.sql
$(BUILD)/km-warden: $(patsubst %.c,$(OBJ)/%.o,$(wildcard warden/*.c)) $(BUILD)/libkm.a
	$(call say,LD,$@)
	$(Q)$(CC) $(KM_CFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(OBJ)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(KM_CFLAGS) $(WARN) $(CFLAGS) -MMD -MP -c -o $@ $<
$(OBJ)/controld/api/health.o: proto/openapi.json
$(OBJ)/wg_embed.o: $(WG_EMBED)/wireguard.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(KM_CFLAGS) $(CFLAGS) -w -c -o $@ $<
$(WG_EMBED)/wireguard.c:
	@echo "$@ is missing: install wireguard-tools with its documentation, or set WG_EMBED" >&2; exit 1

# One cmocka program per tests/unit/TOPIC/test_NAME.c; TOPIC names a daemon, kmctl or a folder of libkm.
$(BUILD)/tests/unit/%: $(OBJ)/tests/unit/%.o $(WITH_LIB:%=$(BUILD)/lib%.a) $(BUILD)/libkm.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(KM_CFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $(OBJ)/tests/unit/$*.o \
	  $(if $(filter $(WITH_LIB),$(*D)),$(BUILD)/lib$(*D).a) $(BUILD)/libkm.a $(LDLIBS) -lcmocka

# ---- the two commands, and what they are made of ----
SANITIZED := SAN=address,undefined
E2E_JOBS  ?= 3
E2E       := /usr/bin/python3 -m pytest -q -p no:cacheprovider --durations=5
deps:
	@sh packaging/setup.sh build
demo:
	@sh packaging/setup.sh demo
	@$(MAKE) -s -j$$(nproc) all
	@/usr/bin/python3 -B packaging/demo/demo.py $(ARGS)
check:
	@sh packaging/setup.sh check
	@$(MAKE) -s -j$$(nproc) all
	@$(MAKE) -s -j$$(nproc) $(SANITIZED) all unit
	@$(MAKE) -s $(SANITIZED) check-unit
	@$(MAKE) -s $(SANITIZED) check-e2e
	@$(MAKE) -s check-bulk
	@$(MAKE) -s check-vm
check-unit: unit
	@sh tests/run-unit.sh $(UNIT)
# The threaded parts under ThreadSanitizer; a race that it finds fails the test program. Its thread keeps an agent out of
# user namespaces, so there the agent is root.
TSAN_UNIT := $(foreach t,link event agentd gatewayd privnet replica,$(filter $(BUILD)/tests/unit/$(t)/%,$(UNIT)))
check-tsan:
	@sh packaging/setup.sh check
	@$(MAKE) -s -j$$(nproc) SAN=thread tsan-run
tsan-run: $(TSAN_UNIT) all
	@sh tests/run-unit.sh $(TSAN_UNIT)
	@KM_BUILD=$(BUILD) KM_LAB_AGENT_UID=0 $(E2E) $(WG_LOAD) tests/e2e/test_edge_load.py
# The embedded engine at full load, peers changing, under the sanitizers; check-e2e and check-tsan have it short.
WG_LOAD   := tests/e2e/test_wireguard_load.py
check-wg-sanitized:
	@sh packaging/setup.sh check
	@for s in thread address,undefined; do $(MAKE) -s -j$$(nproc) SAN=$$s wg-load || exit 1; done
wg-load: $(BUILD)/km-warden
	KM_BUILD=$(BUILD) KM_LOAD_SECONDS=$${KM_LOAD_SECONDS:-30} $(E2E) $(WG_LOAD)
# The whole system on kernel WireGuard: Debian's kernel in QEMU over this host's root (tests/vm/vm.py).
check-vm:
	@sh packaging/setup.sh check vm
	@$(MAKE) -s -j$$(nproc) all $(BUILD)/tests/unit/privnet/test_privnet
	@KM_BUILD=$(BUILD) /usr/bin/python3 -B tests/vm/vm.py $(ARGS)
# Engine and kernel through rekeys at real time, in the same machine; five minutes.
soak-vm:
	@$(MAKE) -s check-vm ARGS="-s tests/vm/test_soak.py"
schemas: $(BUILD)/tests/unit/msg/test_vectors
	$< --write
# Each tests/fuzz/fuzz_NAME.c for FUZZ_TIME seconds; finds are kept under build. check-unit replays the corpus.
FUZZ      := $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))
fuzz:
	@$(MAKE) -s CC=clang SAN=fuzzer-no-link,address,undefined fuzz-run
fuzz-run: $(FUZZ)
	$(Q)set -e; for f in $^; do mkdir -p $$f.corpus; $$f -max_total_time=$(FUZZ_TIME) -print_final_stats=1 \
	  -artifact_prefix=$$f. $$f.corpus tests/fuzz/corpus/$${f##*/fuzz_}; done
$(BUILD)/fuzz_%: $(OBJ)/tests/fuzz/fuzz_%.o $(BUILD)/libgatewayd.a $(BUILD)/libkm.a
	$(call say,LD,$@)
	$(Q)$(CC) $(KM_CFLAGS) -fsanitize=fuzzer $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcurl -lcares -lldns -lpsl -lnghttp2
# What is judged by memory and size runs on the plain build.
MEMORY    := tests/e2e/test_edge.py::test_memory_of_idle_connections
PLAIN     := tests/e2e/test_bulk.py tests/e2e/test_wireguard_flood.py
# Drives gatewayd's side of the DNS for test_dns01.py.
$(BUILD)/dns-drive: $(OBJ)/tests/lab/dns_drive.o $(BUILD)/libgatewayd.a $(BUILD)/libkm.a
	$(call say,LD,$@)
	$(Q)$(CC) $(KM_CFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcurl -lcares -lldns -lpsl -lnghttp2
check-e2e: all $(BUILD)/dns-drive
	KM_BUILD=$(BUILD) $(E2E) -n $(E2E_JOBS) --dist loadfile $(PLAIN:%=--ignore %) --deselect $(MEMORY) $(ARGS) tests/e2e
check-bulk: all $(BUILD)/bench-flood
	KM_BUILD=$(BUILD) $(E2E) -s $(PLAIN) tests/e2e/test_first_request.py $(MEMORY)
	/usr/bin/python3 -B packaging/demo/demo.py --once

# Our WireGuard engine beside the raw veth and Debian's wireguard-go; about two minutes.
bench-wg: all $(BUILD)/bench-floor
	@sh packaging/setup.sh build check
	/usr/bin/python3 -B tests/bench/wg.py --warden $(BUILD)/km-warden --json build/bench/wg.json $(ARGS)
$(BUILD)/bench-floor: $(OBJ)/tests/bench/floor.o $(BUILD)/libkm.a
	$(call say,LD,$@)
	$(Q)$(CC) $(KM_CFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Handshakes a second on one core, and what a flood of forged ones does to a tunnel.
bench-handshake: all $(BUILD)/bench-flood $(BUILD)/bench-handshakes
	@sh packaging/setup.sh build check
	/usr/bin/python3 -B tests/bench/handshake.py --build $(BUILD) --json build/bench/handshake.json $(ARGS)
$(BUILD)/bench-%: $(OBJ)/tests/bench/%.o $(BUILD)/libkm.a
	$(call say,LD,$@)
	$(Q)$(CC) $(KM_CFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# The edge beside nginx, haproxy, h2o and caddy; about ten minutes.
bench-edge: all $(BUILD)/bench-upstream
	@sh packaging/setup.sh build check bench
	/usr/bin/python3 -B tests/bench/edge.py --build $(BUILD) --json build/bench/edge.json $(ARGS)

# The whole way through the tunnel beside nginx in front of wireguard-go; about five minutes.
bench-tunnel: all $(BUILD)/bench-upstream
	@sh packaging/setup.sh build check bench
	/usr/bin/python3 -B tests/bench/tunnel.py --build $(BUILD) --json build/bench/tunnel.json $(ARGS)

# What a thousand strangers who are slow on purpose (slowhttptest) cost the others; ten minutes.
bench-slow: all $(BUILD)/bench-upstream
	@sh packaging/setup.sh build check bench
	/usr/bin/python3 -B tests/bench/slow.py --build $(BUILD) --json build/bench/slow.json $(ARGS)

# 10,000 idle and 1,000 active connections at once; two minutes.
bench-connections: all $(BUILD)/bench-upstream
	@sh packaging/setup.sh build check bench
	/usr/bin/python3 -B tests/bench/connections.py --build $(BUILD) --json build/bench/connections.json $(ARGS)

# testssl.sh against the edge; five minutes.
testssl: all
	@sh packaging/setup.sh build check
	/usr/bin/python3 -B tests/e2e/testssl.py --build $(BUILD) --json build/bench/testssl.json $(ARGS)

# What strangers who ask for names that nobody serves cost, and those whom they disturb; two minutes.
bench-sni: all $(BUILD)/bench-sni
	@sh packaging/setup.sh build check
	/usr/bin/python3 -B tests/bench/sni.py --build $(BUILD) --json build/bench/sni.json $(ARGS)

# What thousands of peers cost, and how they settle when all begin at once.
bench-peers: $(BUILD)/bench-peers
	@mkdir -p build/bench
	$(BUILD)/bench-peers build/bench/peers.json $(ARGS)

# 100,000 certificates on disk: start, cold names, memory, hits of workers side by side; then through gatewayd,
# beside nginx and haproxy. About five minutes.
bench-certs: all $(BUILD)/bench-certs
	@sh packaging/setup.sh build check bench
	/usr/bin/python3 -B tests/bench/certs.py --build $(BUILD) --json build/bench/certs.json $(ARGS)
$(BUILD)/bench-certs $(BUILD)/bench-heads: $(BUILD)/bench-%: $(OBJ)/tests/bench/%.o $(BUILD)/libgatewayd.a $(BUILD)/libkm.a
	$(call say,LD,$@)
	$(Q)$(CC) $(KM_CFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# What the heads of HTTP/1.1 messages cost; a second.
bench-heads: $(BUILD)/bench-heads
	$(BUILD)/bench-heads

# What nginx, haproxy, h2o and caddy make of the requests of tests/e2e/test_desync.py.
bench-strict: all
	@sh packaging/setup.sh build check bench
	/usr/bin/python3 -B tests/bench/strict.py --build $(BUILD)

# Streams through the engine while peers come and go beside them, at real time; a stall above 1 s fails it.
SOAK_TIME ?= 3600
SOAK_SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
soak-wg: all
	@sh packaging/setup.sh build check
	/usr/bin/python3 -B -m tests.soak.wg --warden $(BUILD)/km-warden --time $(SOAK_TIME) --seed $(SOAK_SEED) \
	  --json build/bench/soak-wg.json $(if $(SAN),--no-memory) $(ARGS)

# A thousand tunnels at once, and certificates of 40 seconds renewed ten times under load; about fifteen minutes.
# The e2e tests have both in short.
soak-acme: all
	@sh packaging/setup.sh build check
	KM_BUILD=$(BUILD) KM_ACME_TUNNELS=1000 KM_ACME_LIFE=40 KM_ACME_RENEWALS=10 $(E2E) -s $(ARGS) \
	  tests/e2e/test_acme.py::test_renewal_under_load tests/e2e/test_acme_trouble.py::test_many_at_once

# 10 GiB up through the tunnel to Apache, and a quarter of it in chunks; some minutes.
soak-upload: all
	@sh packaging/setup.sh build check
	KM_BUILD=$(BUILD) KM_UPLOAD_MIB=10240 $(E2E) -s $(ARGS) tests/e2e/test_real_servers.py -k long_upload

# ---- lint: the analysers over every source, and every header alone in both compilers ----
TIDY      := $(patsubst %,tidy/%,$(call srcs,libkm) $(foreach d,$(WITH_LIB),$(call srcs,$(d)) \
             $(wildcard $(d)/main.c)) $(wildcard warden/*.c))
ALONE     := $(patsubst %,alone/%,$(filter-out libkm/msg/undef.h libkm/msg/only_s.h,$(HEADERS)))
lint:
	@sh packaging/setup.sh build lint
	@$(MAKE) -s -k -j$$(nproc) headers cppcheck tidy
headers: $(ALONE)
tidy: $(TIDY)
$(ALONE): alone/%: %
	$(Q)for cc in gcc clang; do $$cc $(KM_CFLAGS) $(WARN) -Wno-unused-function -fsyntax-only -x c $< || exit 1; done
$(TIDY): tidy/%: %
	$(call say,TIDY,$<)
	$(Q)clang-tidy -quiet $< -- $(KM_CFLAGS) -include tests/lint/models.h 2>/dev/null
cppcheck:
	cppcheck -q -j2 --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
	  --suppressions-list=tests/lint/cppcheck.txt --include=tests/lint/models.h \
	  --include=tests/lint/cppcheck.h -I. $(patsubst tidy/%,%,$(TIDY))

# ---- install: programs, sample settings, man pages (section 5 from the programs), units ----
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/lib/kakuremichi $(DESTDIR)$(SYSCONF) \
	  $(addprefix $(DESTDIR)$(PREFIX)/share/man/man,1 5 8) $(DESTDIR)$(UNITS)
	install -d -m 700 $(DESTDIR)$(SYSCONF)/certificates
	install -m 755 $(DAEMONS:%=$(BUILD)/%) $(DESTDIR)$(PREFIX)/sbin
	install -m 755 $(BUILD)/kmctl $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(BUILD)/km-warden $(DESTDIR)$(PREFIX)/lib/kakuremichi
	set -e; for d in $(DAEMONS); do \
	  $(BUILD)/$$d --sample > $(DESTDIR)$(SYSCONF)/$${d%d}.conf.sample; \
	  $(BUILD)/$$d --man > $(DESTDIR)$(PREFIX)/share/man/man5/$${d%d}.conf.5; done
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 docs/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8
	for u in packaging/systemd/*.service; do sed 's#/usr/sbin/#$(PREFIX)/sbin/#' $$u \
	  > $(DESTDIR)$(UNITS)/$${u##*/}; done

clean:
	rm -rf build
.SECONDARY:
.PHONY: all unit clean deps demo check check-unit check-tsan tsan-run check-wg-sanitized wg-load check-e2e check-bulk check-vm soak-vm bench-wg bench-handshake bench-edge bench-tunnel bench-slow bench-connections testssl bench-sni bench-peers bench-certs bench-heads bench-strict soak-wg soak-acme soak-upload lint \
        headers tidy cppcheck install schemas fuzz fuzz-run $(TIDY) $(ALONE)
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
