//! The `filter` of a subscription and, after a line feed, the tags of an event: any text parses
//! to a filter or to an error that names a member. A filter and its negation never both match.

#![no_main]

use fanfare::filter::{Filter, Tags};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (filter, tags) = text.split_once('\n').unwrap_or((text, ""));
    let tags = Tags::read(Some(tags.as_bytes()));
    match Filter::parse(filter) {
        Ok(filter) => drop(filter.passes(b"e", &tags)),
        Err(error) => assert!(error.to_string().starts_with("`filter")),
    }
    let Ok(node) = Filter::parse_tags(filter) else { return };
    let passes = node.passes(b"e", &tags);
    let double = format!(r#"{{"op":"and","nodes":[{filter},{filter}]}}"#);
    if let Ok(double) = Filter::parse_tags(&double) {
        assert_eq!(double, node, "a conjunction with itself simplifies to the filter");
    }
    let negation = format!(r#"{{"op":"not","nodes":[{filter}]}}"#);
    if let Ok(negation) = Filter::parse_tags(&negation) {
        assert_ne!(negation.passes(b"e", &tags), passes);
    }
});
