# Thin: every target is a command or two. `make` alone prints them.

ARGS ?=
# Most tests wait for servers: twice as many run at once as the machine has processors.
TEST_THREADS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))

# The data of test servers are in memory where the machine has room: tests kill processes, never the machine.
TEST_FOLDER ?= $(shell [ "$$(df --output=avail -m /dev/shm 2>/dev/null | tail -n1)" -gt 8192 ] 2>/dev/null && echo /dev/shm || echo $${TMPDIR:-/tmp})

.DEFAULT_GOAL := help
.PHONY: help run test test-long newcomer check bench bootstrap release-baseline

help: ## print the targets
	@echo "make run     start everything on this machine: PostgreSQL, NATS, all roles (ARGS=\"--ephemeral --random-ports --json\")"
	@echo "make test    run every test, on real servers"
	@echo "make test-long  the long forms of tests: 200 faults, every crash point (ANNALS_TEST_FAULTS=n, ANNALS_TEST_SEED=n)"
	@echo "make newcomer  follow docs/adding-an-aggregate.md to the letter in a copy of the project"
	@echo "make check   formatting, lints, names, compatibility with the last release, licences and bans of dependencies"
	@echo "make bench   measure; writes bench/results.json (ARGS=\"append\", \"personal\", \"seal\", \"fanout\", \"api\": parts of it)"
	@echo "make release-baseline VERSION=x.y.z  make what outsiders use now the state that later changes are compared with"
	@echo "make help    print this"

run: bootstrap
	@exec cargo run --bin annals -- dev $(ARGS)

test: bootstrap
	TMPDIR=$(TEST_FOLDER) cargo test --workspace -- --test-threads=$(TEST_THREADS)

test-long: bootstrap
	ANNALS_TEST_LONG=1 cargo test --test annals -- --nocapture faults:: crash_points:: long_

newcomer: bootstrap
	TMPDIR=$(TEST_FOLDER) scripts/check-adding-an-aggregate

check:
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo run --quiet --package checks -- compatibility
	cargo run --quiet --package checks -- names
	cargo run --quiet --package checks -- circles
	cargo run --quiet --package checks -- limits
	@scripts/deny

release-baseline:
	cargo run --quiet --package checks -- baseline $(VERSION)

bench: bootstrap
	cargo build --profile dist --bin annals --target-dir bench/target
	cd bench && cargo run --release -- $(ARGS)

bootstrap:
	@scripts/bootstrap
