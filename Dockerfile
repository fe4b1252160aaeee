# A minimal image: the binary and glibc, without a shell, not as root.

FROM rust:1.95-bookworm AS build
WORKDIR /src
# Keeps function names for backtraces, and removes debug information.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
# ARM kernels have pages of 4, 16 or 64 KiB. An allocator built for the largest size
# works with all of them.
ENV AARCH64_UNKNOWN_LINUX_GNU_JEMALLOC_SYS_WITH_LG_PAGE=16

# Dependencies first, with an empty crate: this layer is rebuilt only after a change of
# the manifest or the lock file. Tests and benches are removed from the manifest,
# because their files are not in the image.
COPY Cargo.toml Cargo.lock ./
RUN sed -i -e '/^\[\[test\]\]/,/^$/d' -e '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin fanfare \
    # Cargo compares file times, and the copied sources may be older than this build.
    && cargo clean --release --locked --package fanfare

COPY src src
COPY lua lua
RUN cargo build --release --locked --bin fanfare

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/fanfare /fanfare
USER nonroot
# HTTP and WebSocket API, metrics.
EXPOSE 6001 9601
ENTRYPOINT ["/fanfare"]
