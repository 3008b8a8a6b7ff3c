# The two commands: `make run` opens a shop, `make test` proves it.

DATA ?= data
LISTEN ?= 127.0.0.1:8080

.PHONY: run test check demo packages clean

run: packages
	cargo build --release --locked --bin souk
	exec target/release/souk serve --listen $(LISTEN) --data $(DATA)

test: packages check
	cargo build --locked --bin souk
	.ci/summary cargo test --workspace --locked --no-fail-fast

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

# Plays the README's first purchase against the running shop.
demo:
	bash tests/demo.sh http://$(LISTEN)

packages:
	.ci/packages

clean:
	cargo clean
