# A small image: the binary, glibc, no shell, no root.

FROM rust:1.95-bookworm AS build
WORKDIR /src
# Names of functions stay for backtraces; tables for a debugger do not.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
# Kernels for ARM have pages of 4, 16 or 64 KiB: built for the largest, the allocator
# works with all of them.
ENV AARCH64_UNKNOWN_LINUX_GNU_JEMALLOC_SYS_WITH_LG_PAGE=16

# Dependencies first, behind an empty crate: this layer is built again only when
# the manifest or the lock file changes. Tests and benches are left out of the
# manifest, because their files are not here.
COPY Cargo.toml Cargo.lock ./
RUN sed -i -e '/^\[\[test\]\]/,/^$/d' -e '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin fanfare \
    # Cargo goes by file times, and what comes next may be older than this.
    && cargo clean --release --locked --package fanfare

COPY src src
COPY lua lua
RUN cargo build --release --locked --bin fanfare

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/fanfare /fanfare
USER nonroot
# Both APIs, and metrics.
EXPOSE 6001 9601
ENTRYPOINT ["/fanfare"]
