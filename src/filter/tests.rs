use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::json;

use super::tags::Tag;
use super::*;
use crate::limits;

fn passes(filter: &str, tags: Option<&str>) -> bool {
    let filter = Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
    filter.passes(b"e", &Tags::read(tags.map(str::as_bytes)))
}

/// Each comparison, with values of tag `k` that match and values that do not.
#[test]
fn comparisons_match_the_values_in_the_table() {
    for (leaf, when_missing, met_by, not_met_by) in [
        (r#""cmp":"eq","val":"a""#, false, &["a"][..], &["", "A", "aa"][..]),
        (r#""cmp":"neq","val":"a""#, true, &["", "A", "aa"], &["a"]),
        (r#""cmp":"in","vals":["c","a","b"]"#, false, &["a", "b", "c"], &["", "d", "ab"]),
        (r#""cmp":"nin","vals":["c","a","b"]"#, true, &["", "d", "ab"], &["a", "b", "c"]),
        (r#""cmp":"ex""#, false, &["", "a"], &[]),
        (r#""cmp":"nex""#, true, &[], &["", "a"]),
        (r#""cmp":"sw","val":"ab""#, false, &["ab", "abc"], &["", "a", "Abc", "cab"]),
        (r#""cmp":"ew","val":"ab""#, false, &["ab", "cab"], &["", "b", "caB", "abc"]),
        (r#""cmp":"ct","val":"ab""#, false, &["ab", "cabc"], &["", "acb", "cABc"]),
        (
            r#""cmp":"gt","val":"10""#,
            false,
            &["10.5", "1e2", "+11"],
            &["10", "9", "-20", "", "x", "inf", "NaN"],
        ),
        (r#""cmp":"gte","val":10"#, false, &["10", "10.0", "1e1"], &["9.99", "", "x", "0x10", " 10"]),
        (r#""cmp":"lt","val":-1.5"#, false, &["-2", "-1.6"], &["-1.5", "0", "x", "-inf", ""]),
        (r#""cmp":"lte","val":"-1.5""#, false, &["-1.5", "-1e300"], &["-1.4", "x", "-inf"]),
        (r#""cmp":"gt","val":"x""#, false, &[], &["y", "1", "x"]),
        (r#""cmp":"lt","val":"inf""#, false, &[], &["1", "x"]),
        // Numbers and booleans are compared by their JSON text.
        (r#""cmp":"eq","val":1.0"#, false, &["1.0"], &["1"]),
        (r#""cmp":"eq","val":1e3"#, false, &["1e3"], &["1000"]),
        (r#""cmp":"eq","val":true"#, false, &["true"], &["1"]),
        (r#""cmp":"in","vals":[7,false,"x",""]"#, false, &["7", "false", "x", ""], &["7.0"]),
        (r#""cmp":"eq","val":"\u00e9\n""#, false, &["é\n"], &["e\u{301}\n"]),
    ] {
        let filter = format!(r#"{{"key":"k",{leaf}}}"#);
        for missing in [None, Some("{}"), Some(r#"{"K":"a","kk":"a"}"#)] {
            assert_eq!(passes(&filter, missing), when_missing, "{leaf} without the tag");
        }
        let with =
            |value: &str| passes(&filter, Some(&json!({ "j": "a", "k": value, "l": "a" }).to_string()));
        met_by.iter().for_each(|value| assert!(with(value), "{leaf} is met by {value:?}"));
        not_met_by.iter().for_each(|value| assert!(!with(value), "{leaf} is not met by {value:?}"));
    }
}

#[test]
fn branches_combine_and_compounds_require_both_parts() {
    let (yes, no) = (r#"{"key":"k","cmp":"ex"}"#, r#"{"key":"k","cmp":"nex"}"#);
    for (op, nodes, expected) in [
        ("and", vec![yes], true),
        ("and", vec![yes, no], false),
        ("or", vec![no, yes], true),
        ("or", vec![no], false),
        ("not", vec![no], true),
        ("not", vec![yes], false),
    ] {
        let branch = format!(r#"{{"op":"{op}","nodes":[{}]}}"#, nodes.join(","));
        assert_eq!(passes(&branch, Some(r#"{"k":"v"}"#)), expected, "{branch}");
    }
    for (compound, name, expected) in [
        (format!(r#"{{"events":["a","e","b"],"tags":{yes}}}"#), "e", true),
        (format!(r#"{{"events":["a","e","b"],"tags":{no}}}"#), "e", false),
        (format!(r#"{{"events":["a","e","b"],"tags":{yes}}}"#), "c", false),
        (format!(r#"{{"events":[],"tags":{yes}}}"#), "c", true),
        (r#"{"events":["é","a"]}"#.to_owned(), "é", true),
        (format!(r#"{{"events":null,"tags":{no},"expression":null}}"#), "e", false),
    ] {
        let filter = Filter::parse(&compound).unwrap();
        let tags = Tags::read(Some(br#"{"k":"v"}"#));
        assert_eq!(filter.passes(name.as_bytes(), &tags), expected, "{compound} {name}");
    }
}

#[test]
fn tags_are_parsed_as_json() {
    let tags = Tags::read(Some(br#" {"b":"1","\u0061":"\"x\"","b":"2","":"","b":"3"} "#));
    let read = |key| tags.get(key).map(Tag::value);
    assert_eq!((read("a"), read("b"), read(""), read("c")), (Some("\"x\""), Some("3"), Some(""), None));
    for nothing in [&b""[..], b"null", b"[\"a\"]", b"{\"a\":1}", b"{\"a\":\"\xff\"}", b"{\"a\":\"b\""] {
        assert_eq!(Tags::read(Some(nothing)).get("a").map(Tag::value), None);
    }
}

#[test]
fn filters_with_the_same_meaning_are_equal() {
    let hash = |filter: &Filter| {
        let mut hasher = DefaultHasher::new();
        filter.hash(&mut hasher);
        hasher.finish()
    };
    let (a, b) = (r#"{"key":"a","cmp":"ex"}"#, r#"{"key":"b","cmp":"ex"}"#);
    for (left, right, same) in [
        (
            r#"{"key":"k","cmp":"in","vals":["b","a","b"]}"#,
            r#"{ "vals":["a","b"], "cmp":"in","key":"\u006b" }"#,
            true,
        ),
        (r#"{"key":"k","cmp":"in","vals":[1]}"#, r#"{"key":"k","cmp":"eq","val":"1"}"#, true),
        (r#"{"key":"k","cmp":"gt","val":1}"#, r#"{"key":"k","cmp":"gt","val":"1.0","more":[]}"#, true),
        (r#"{"key":"k","cmp":"gt","val":0}"#, r#"{"key":"k","cmp":"gt","val":"-0"}"#, true),
        (r#"{"events":["x","y","x"]}"#, r#"{"events":["y","x"],"tags":null}"#, true),
        (r#"{"events":[],"tags":{"key":"a","cmp":"ex"}}"#, a, true),
        (
            &format!(r#"{{"op":"and","nodes":[{a},{b}]}}"#),
            &format!(r#"{{"op":"and","nodes":[{b},{a},{b}]}}"#),
            true,
        ),
        (
            &format!(r#"{{"op":"or","nodes":[{a},{{"op":"or","nodes":[{b},{a}]}}]}}"#),
            &format!(r#"{{"op":"or","nodes":[{b},{a}]}}"#),
            true,
        ),
        (&format!(r#"{{"op":"and","nodes":[{a}]}}"#), a, true),
        (r#"{"op":"not","nodes":[{"key":"a","cmp":"nex"}]}"#, a, true),
        (
            &format!(r#"{{"op":"and","nodes":[{a},{b}]}}"#),
            &format!(r#"{{"op":"or","nodes":[{a},{b}]}}"#),
            false,
        ),
        (r#"{"key":"k","cmp":"eq","val":"1"}"#, r#"{"key":"k","cmp":"eq","val":"1.0"}"#, false),
        (a, b, false),
    ] {
        let (l, r) = (Filter::parse(left).unwrap(), Filter::parse(right).unwrap());
        assert_eq!((l == r, hash(&l) == hash(&r)), (same, same), "{left} and {right}");
    }
}

#[test]
fn errors_name_the_member_at_fault() {
    for (text, error) in [
        ("null", "`filter` must be an object"),
        ("7", "`filter` must be an object"),
        (r#"["k","ex"]"#, "`filter` must be an object"),
        ("{}", "`filter` must have either `cmp` or `op`"),
        (r#"{"key":"k","cmp":null}"#, "`filter` must have either `cmp` or `op`"),
        (
            r#"{"key":"k","cmp":"ex","op":"and","nodes":[]}"#,
            "`filter` must have either `cmp` or `op`, not both",
        ),
        (
            r#"{"key":"k","cmp":"ex","events":["a"]}"#,
            "`filter` must be either a node or `events` and `tags`, not both",
        ),
        (r#"{"cmp":"ex"}"#, "`filter.key` must be a string that is not empty"),
        (r#"{"key":"","cmp":"ex"}"#, "`filter.key` must be a string that is not empty"),
        (r#"{"key":1,"cmp":"ex"}"#, "`filter.key` must be a string that is not empty"),
        (
            r#"{"key":"\ud800","cmp":"ex"}"#,
            r"`filter.key` has half of a surrogate pair, \ud800, which is not a character",
        ),
        (
            r#"{"key":"k","cmp":"eq"}"#,
            "`filter.val` must be a string that is not empty, a number or a boolean",
        ),
        (
            r#"{"key":"k","cmp":"sw","val":""}"#,
            "`filter.val` must be a string that is not empty, a number or a boolean",
        ),
        (
            r#"{"key":"k","cmp":"gt","vals":["1"]}"#,
            "`filter.val` must be a string that is not empty, a number or a boolean",
        ),
        (r#"{"key":"k","cmp":"eq","val":{}}"#, "`filter.val` must be a string, a number or a boolean"),
        (r#"{"key":"k","cmp":"in","val":"a"}"#, "`filter.vals` must be an array of at least one value"),
        (r#"{"key":"k","cmp":"nin","vals":[]}"#, "`filter.vals` must be an array of at least one value"),
        (r#"{"key":"k","cmp":"in","vals":"a"}"#, "`filter.vals` must be an array of at least one value"),
        (
            r#"{"key":"k","cmp":"in","vals":["a",null]}"#,
            "`filter.vals[1]` must be a string, a number or a boolean",
        ),
        (r#"{"op":"xor","nodes":[{"key":"k","cmp":"ex"}]}"#, "`filter.op` must be `and`, `or` or `not`"),
        (r#"{"op":"and"}"#, "`filter.nodes` must be an array of at least one node"),
        (r#"{"op":"or","nodes":[]}"#, "`filter.nodes` must be an array of at least one node"),
        (
            r#"{"op":"not","nodes":[{"key":"k","cmp":"ex"},{"key":"k","cmp":"ex"}]}"#,
            "`filter.nodes` must be an array of exactly one node",
        ),
        (
            r#"{"op":"or","nodes":[{"key":"k","cmp":"ex"},{"op":"and","nodes":[{"key":"k","cmp":"eq","val":[]}]}]}"#,
            "`filter.nodes[1].nodes[0].val` must be a string, a number or a boolean",
        ),
        (r#"{"op":"and","nodes":[7]}"#, "`filter.nodes[0]` must be an object"),
        (
            r#"{"tags":{"key":"k","cmp":"eq"}}"#,
            "`filter.tags.val` must be a string that is not empty, a number or a boolean",
        ),
        (r#"{"events":["a",""]}"#, "`filter.events[1]` must be a string that is not empty"),
        (r#"{"events":"a"}"#, "`filter.events` must be an array of strings"),
        (r#"{"expression":"event == 'a'"}"#, "`filter.expression` is not supported by this server"),
    ] {
        assert_eq!(Filter::parse(text).map_err(|error| error.to_string()), Err(error.to_owned()), "{text}");
    }
    let unknown = Filter::parse_tags(r#"{"key":"k","cmp":"EQ","val":"a"}"#).unwrap_err().to_string();
    assert!(unknown.starts_with("`tags_filter.cmp` must be one of `eq`, "), "{unknown}");
    let compound = Filter::parse_tags(r#"{"events":["a"]}"#).unwrap_err().to_string();
    assert_eq!(compound, "`tags_filter` must have either `cmp` or `op`");
    for unreadable in ["", "{", r#"{"op":"and"}}"#, r#"{"key":"a","key":"b","cmp":"ex"}"#] {
        let error = Filter::parse(unreadable).unwrap_err();
        assert!(matches!(error.fault, FilterFault::Unreadable(_)), "{unreadable}: {error}");
    }
}

fn nested(levels: usize) -> String {
    let (open, close) = (r#"{"op":"not","nodes":["#.repeat(levels - 1), "]}".repeat(levels - 1));
    format!(r#"{open}{{"key":"k","cmp":"ex"}}{close}"#)
}

/// For each limit: a filter at the limit is valid, one above it is an error with its path.
#[test]
fn limits_are_exact() {
    let leaf = |key: usize, value: usize| {
        json!({ "key": "k".repeat(key), "cmp": "eq", "val": "v".repeat(value) }).to_string()
    };
    let several = |count: usize| json!({ "key": "k", "cmp": "in", "vals": vec![1; count] }).to_string();
    let branch = |count: usize| {
        let nodes = vec![json!({ "key": "k", "cmp": "ex" }); count - 2];
        json!({ "op": "or", "nodes": [{ "op": "and", "nodes": nodes }] }).to_string()
    };
    let events = |count: usize, bytes: usize| json!({ "events": vec!["e".repeat(bytes); count] }).to_string();
    for (valid, invalid, at) in [
        (leaf(limits::FILTER_KEY_BYTES_MAX, 1), leaf(limits::FILTER_KEY_BYTES_MAX + 1, 1), "filter.key"),
        (leaf(1, limits::FILTER_VALUE_BYTES_MAX), leaf(1, limits::FILTER_VALUE_BYTES_MAX + 1), "filter.val"),
        (several(limits::FILTER_VALUES_MAX), several(limits::FILTER_VALUES_MAX + 1), "filter.vals"),
        (
            branch(limits::FILTER_NODES_MAX),
            branch(limits::FILTER_NODES_MAX + 1),
            "filter.nodes[0].nodes[126]",
        ),
        (events(limits::FILTER_EVENTS_MAX, 1), events(limits::FILTER_EVENTS_MAX + 1, 1), "filter.events"),
        (
            events(1, limits::FILTER_EVENT_BYTES_MAX),
            events(1, limits::FILTER_EVENT_BYTES_MAX + 1),
            "filter.events[0]",
        ),
    ] {
        assert!(Filter::parse(&valid).is_ok(), "{at}: {:?}", Filter::parse(&valid));
        assert_eq!(Filter::parse(&invalid).map_err(|error| error.at), Err(at.to_owned()));
    }
    let deepest = format!(r#"{{"tags":{}}}"#, nested(limits::FILTER_DEPTH_MAX));
    assert!(Filter::parse(&deepest).is_ok());
    for deeper in [nested(limits::FILTER_DEPTH_MAX + 1), nested(20_000), "[".repeat(100_000)] {
        let error = Filter::parse(&deeper).unwrap_err();
        assert!(matches!(error.fault, FilterFault::TooDeep { .. }), "{error}");
        assert!(error.at.len() < 200, "{error}");
    }
}

#[test]
fn cost_counts_comparisons_values_and_searches() {
    let values = |count: usize, bytes: usize| {
        let values: Vec<String> = (0..count).map(|number| format!("{number:0bytes$}")).collect();
        json!({ "key": "k", "cmp": "in", "vals": values })
    };
    let search = json!({ "key": "k", "cmp": "ct", "val": "v" });
    for (filter, cost) in [
        (json!({ "events": [] }), 0),
        (json!({ "events": ["a", "b"] }), 1),
        (json!({ "key": "k", "cmp": "eq", "val": "v" }), 1),
        (json!({ "key": "k", "cmp": "lt", "val": 7 }), 1),
        (json!({ "key": "k", "cmp": "nex" }), 1),
        (json!({ "key": "k", "cmp": "sw", "val": "v".repeat(1_023) }), 1),
        (json!({ "key": "k", "cmp": "sw", "val": "v".repeat(1_024) }), 2),
        (values(31, 3), 1),
        (values(32, 3), 2),
        (values(128, 64), 13),
        (search.clone(), 100),
        (json!({ "events": ["a"], "tags": { "op": "and", "nodes": [search, values(32, 3)] } }), 103),
    ] {
        assert_eq!(Filter::parse(&filter.to_string()).map(|filter| filter.cost()), Ok(cost), "{filter}");
    }
}

mod reference;
