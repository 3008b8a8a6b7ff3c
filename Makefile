# The two commands: `make run` opens a shop, `make test` proves it. `make bench` says how fast it is.

DATA ?= data
LISTEN ?= 127.0.0.1:8080

.PHONY: run cluster services services-stop test check bench demo packages clean

run: packages
	cargo build --release --locked --bin souk
	exec target/release/souk serve --listen $(LISTEN) --data $(DATA)

# Three nodes behind a balancer; Ctrl-C stops them all.
CLUSTER_DATA ?= $(DATA)/cluster

cluster:
	.ci/packages haproxy
	cargo build --release --locked --bin souk
	exec env DATA=$(CLUSTER_DATA) PORT=$(lastword $(subst :, ,$(LISTEN))) cluster/play.sh

# Kafka on loopback: one broker, and three that replicate. They run until services-stop; what they hold stays.
SERVICES ?= services

services:
	.ci/packages java mvn
	@one=$$(tests/services/kafka.sh $(SERVICES)/kafka start 1) && \
	three=$$(tests/services/kafka.sh $(SERVICES)/kafka-three start 3) && \
	printf '%s\n' "One broker, and three; make services-stop stops them:" \
	    "  SOUK__KAFKA__BROKERS=$$one souk serve" "  SOUK__KAFKA__BROKERS=$$three souk serve"

services-stop:
	tests/services/kafka.sh $(SERVICES)/kafka stop
	tests/services/kafka.sh $(SERVICES)/kafka-three stop

test: packages check
	.ci/packages faketime || echo "without faketime, the test of a wrong clock is skipped" >&2
	.ci/packages java mvn python3-venv || echo "without Java, Maven and Python, tests with Kafka are skipped" >&2
	cargo build --locked --bin souk
	.ci/summary .ci/suite

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

# The loads that have a goal, beside hand-written SQL: five minutes. BENCH="--scenario growth" measures something
# else, BENCH_AGAINST=FILE compares with an earlier report.
BENCH ?= --scenario table --runs 3
BENCH_JSON ?= target/bench.json

bench: packages
	cargo build --release --locked --bin souk --bin souk-baseline
	SOUK_COMMIT=$$(git describe --always --dirty 2>/dev/null) target/release/souk bench $(BENCH) --json $(BENCH_JSON) \
	    $(if $(BENCH_AGAINST),--against $(BENCH_AGAINST))

# Plays the README's first purchase against the running shop.
demo:
	bash tests/demo.sh http://$(LISTEN)

packages:
	.ci/packages

clean:
	cargo clean
