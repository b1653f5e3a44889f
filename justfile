# An index of what one can do. One line each; what needs an `if` becomes Rust.

# List the recipes.
default:
    @just --list

# Does it compile?
check:
    cargo check --workspace --all-targets

# Every test.
test:
    cargo test --workspace

# Head, envelope, token, decision.
bench:
    cargo bench

# Instructions of the pure rooms, against those recorded; ARGS is --record to renew them.
instructions *ARGS:
    cargo run --release -p instructions -- {{ARGS}}

# Worlds of sessions and streams under faults, each by a seed; CI runs 256.
sim SEEDS="10000":
    PORTCULLIS_SIM_SEEDS={{SEEDS}} cargo test --test all sim:: -- --nocapture

# nginx, HAProxy, a bare hop and Portcullis on the same traffic, in turn.
load *ARGS:
    cargo build --release -p portcullis -p loadtest -p bare-hop && target/release/loadtest compare {{ARGS}}

# A working gateway with servers and tokens.
demo:
    cargo run --release -- demo

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Writes portcullis.schema.json anew.
schema:
    cargo run -q -- check --schema > target/schema.json && cp target/schema.json portcullis.schema.json

# Looks for inputs that break a parser (tests/fuzz/README.md); ARGS are libFuzzer's.
fuzz TARGET *ARGS:
    mkdir -p target/fuzz-corpus/{{TARGET}} && cp Cargo.lock tests/fuzz/
    cargo fuzz run --fuzz-dir tests/fuzz -s none --target-dir target/fuzz {{TARGET}} target/fuzz-corpus/{{TARGET}} tests/fuzz/seeds/{{TARGET}} -- {{ARGS}}
