//! Random filters, compared with a direct implementation of the grammar.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::filter::node::Node;
use crate::filter::tags::Tag;
use crate::filter::{Filter, Tags};
use crate::limits;

fn holds(node: &Value, tags: &HashMap<String, String>) -> bool {
    if let Some(op) = node["op"].as_str() {
        let mut nodes = node["nodes"].as_array().unwrap().iter().map(|node| holds(node, tags));
        return match op {
            "and" => nodes.all(|it| it),
            "or" => nodes.any(|it| it),
            _ => !nodes.next().unwrap(),
        };
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let number =
        |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite()).unwrap_or(f64::NAN);
    let (tag, val) = (tags.get(node["key"].as_str().unwrap()), text(&node["val"]));
    let has = |tag: &String| node["vals"].as_array().unwrap().iter().any(|value| text(value) == *tag);
    match node["cmp"].as_str().unwrap() {
        "eq" => tag == Some(&val),
        "neq" => tag != Some(&val),
        "in" => tag.is_some_and(has),
        "nin" => !tag.is_some_and(has),
        "ex" => tag.is_some(),
        "nex" => tag.is_none(),
        "sw" => tag.is_some_and(|tag| tag.starts_with(&val)),
        "ew" => tag.is_some_and(|tag| tag.ends_with(&val)),
        "ct" => tag.is_some_and(|tag| tag.contains(&val)),
        "gt" => tag.is_some_and(|tag| number(tag) > number(&val)),
        "gte" => tag.is_some_and(|tag| number(tag) >= number(&val)),
        "lt" => tag.is_some_and(|tag| number(tag) < number(&val)),
        "lte" => tag.is_some_and(|tag| number(tag) <= number(&val)),
        other => panic!("{other}"),
    }
}

/// Few and similar texts, so that filters match tags often.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{1,2}", "-?[0-2](\\.[05])?", Just("é\"\n".to_owned()), Just("inf".to_owned())]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => text().prop_map(Value::from),
        1 => (-2..3_i64).prop_map(Value::from),
        1 => (-4..5_i64).prop_map(|halves| json!(halves as f64 / 2.0)),
        1 => any::<bool>().prop_map(Value::from),
    ]
}

fn node() -> impl Strategy<Value = Value> {
    let cmp = prop::sample::select(vec![
        "eq", "neq", "in", "nin", "ex", "nex", "sw", "ew", "ct", "gt", "gte", "lt", "lte",
    ]);
    let leaf = ("[a-c]", cmp, value(), prop::collection::vec(value(), 1..5))
        .prop_map(|(key, cmp, val, vals)| json!({ "key": key, "cmp": cmp, "val": val, "vals": vals }));
    leaf.prop_recursive(4, 40, 4, |node| {
        prop_oneof![
            (prop::sample::select(vec!["and", "or"]), prop::collection::vec(node.clone(), 1..5))
                .prop_map(|(op, nodes)| json!({ "op": op, "nodes": nodes })),
            node.prop_map(|node| json!({ "op": "not", "nodes": [node] })),
        ]
    })
}

/// Any JSON, mostly with words of the grammar.
fn anything() -> impl Strategy<Value = Value> {
    let word =
        prop::sample::select(vec!["key", "cmp", "val", "vals", "op", "nodes", "events", "tags", "not", "in"]);
    let leaf = prop_oneof![value(), word.clone().prop_map(Value::from), Just(Value::Null), node()];
    leaf.prop_recursive(24, 60, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6).prop_map(|members| members
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

fn depth(node: &Node) -> usize {
    match node {
        Node::Tag { .. } => 1,
        Node::Not(node) => 1 + depth(node),
        Node::All(nodes) | Node::Any(nodes) => 1 + nodes.iter().map(depth).max().unwrap_or(0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn filter_agrees_with_the_reference(
        node in node(),
        events in prop::collection::vec("[ef]", 0..3),
        tags in prop::collection::hash_map("[a-c]", text(), 0..4),
    ) {
        let text = serde_json::to_string(&tags).unwrap();
        let read = Tags::read(Some(text.as_bytes()));
        let expected = holds(&node, &tags);
        let filter = Filter::parse_tags(&node.to_string()).unwrap();
        prop_assert_eq!(filter.passes(b"e", &read), expected);
        prop_assert_eq!(&filter, &Filter::parse(&node.to_string()).unwrap());

        let matches_e = events.is_empty() || events.contains(&"e".to_owned());
        let compound = Filter::parse(&json!({ "events": events, "tags": node }).to_string()).unwrap();
        prop_assert_eq!(compound.passes(b"e", &read), matches_e && expected);
    }

    #[test]
    fn any_json_is_a_filter_or_an_error_with_a_path(value in anything()) {
        let text = value.to_string();
        for (parsed, member) in [(Filter::parse(&text), "`filter"), (Filter::parse_tags(&text), "`tags_filter")] {
            match parsed {
                // `neq`, `nin` and `nex` are a negation of a leaf: one more level.
                Ok(filter) => prop_assert!(filter.tags.as_ref().map_or(0, depth) <= limits::FILTER_DEPTH_MAX + 1),
                Err(error) => prop_assert!(error.to_string().starts_with(member), "{}", error),
            }
        }
    }

    #[test]
    fn any_text_is_a_filter_or_an_error(text in "\\PC{0,60}|[{}\\[\\]\":,a-z]{0,60}") {
        let error = Filter::parse(&text).map_err(|error| error.to_string());
        prop_assert!(error.is_ok() || error.is_err_and(|error| error.starts_with("`filter")));
    }

    #[test]
    fn tags_agree_with_a_json_parser(
        keys in prop::collection::vec(text(), 0..24),
        cut in 0..200_usize,
    ) {
        let members: Vec<String> = keys.iter().enumerate().map(|(at, key)| format!("{}:\"{at}\"", json!(key))).collect();
        let whole = format!("{{{}}}", members.join(","));
        for text in [whole.as_bytes(), &whole.as_bytes()[..cut.min(whole.len())]] {
            let expected: HashMap<String, String> = serde_json::from_slice(text).unwrap_or_default();
            let tags = Tags::read(Some(text));
            for key in &keys {
                prop_assert_eq!(tags.get(key).map(Tag::value), expected.get(key).map(String::as_str));
            }
        }
    }
}
