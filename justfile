# Short names for the scripts, which work without just too.

# List the recipes
default:
    @just --list

# Run a server with a demo app on 127.0.0.1:6001
dev *ARGS:
    cargo run --locked -- --dev {{ ARGS }}

# Install the dependencies of the tests
setup:
    scripts/setup

# Run all checks: CI runs the same
test:
    scripts/test

# Run format, lints and the fast tests
test-fast *ARGS:
    scripts/test fast {{ ARGS }}

# Check docs/openapi.yaml against a server
test-openapi:
    scripts/test-openapi

# Format all packages
format:
    cargo fmt
    cargo fmt --manifest-path fuzz/Cargo.toml
    cargo fmt --manifest-path benches/delta_encoders/Cargo.toml

# Build and open the documentation of the crate
docs:
    cargo doc --locked --no-deps --document-private-items --open

# Fuzz one target or all: just fuzz batch_body 60
fuzz TARGET='all' SECONDS='30':
    scripts/fuzz {{ TARGET }} {{ SECONDS }}

# Measure: just bench compare, just bench growth, just bench members
bench *ARGS:
    scripts/bench {{ ARGS }}

# Measure bytes and CPU time of deltas
bench-deltas:
    scripts/bench-deltas

# Compare the delta encoders with published ones
bench-encoders:
    scripts/bench-encoders
