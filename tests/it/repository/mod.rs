//! The repository itself: imports, documents, generated pages, and the report of the benchmarks.

mod bench_report;
mod documents;
mod module_graph;
mod reference;
pub mod tidy;
