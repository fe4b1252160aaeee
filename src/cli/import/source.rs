//! Detects the product of a configuration file and finds its apps.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use crate::cli::error::{ImportError, TomlFault};

pub(super) type Object = Map<String, Value>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    Soketi,
    Sockudo,
    Reverb,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Product::Soketi => "soketi",
            Product::Sockudo => "Sockudo",
            Product::Reverb => "Reverb",
        })
    }
}

pub(super) struct Source {
    pub(super) product: Product,
    pub(super) apps: Vec<Object>,
    /// Notes on sections that do not concern apps.
    pub(super) notes: Vec<String>,
}

pub(super) fn read(text: &str) -> Result<Source, ImportError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with("<?") {
        return Err(ImportError::Php);
    }
    let variables = variables(text);
    if variables.keys().any(|name| name.starts_with(REVERB_APP)) {
        return of_variables(&variables);
    }
    recognise(parse(text)?)
}

/// Parses JSON or TOML. Both are tried, because a TOML table and a JSON list both begin
/// with a bracket.
fn parse(text: &str) -> Result<Value, ImportError> {
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match toml::from_str::<Value>(text) {
        Ok(value) if value.as_object().is_some_and(|table| !table.is_empty()) => Ok(value),
        Err(error) if is_toml(text) => Err(ImportError::NotToml(TomlFault::new(text, &error))),
        _ if text.starts_with(['{', '[']) => Err(ImportError::NotJson(error)),
        _ => Err(ImportError::Unknown),
    }
}

/// Whether the first line is that of a TOML file: `[name]`, or `name = `.
fn is_toml(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next().unwrap_or_default();
    let name = match first.strip_prefix('[') {
        Some(table) => table.trim_start_matches('[').split(']').next(),
        None => first.split_once('=').map(|(name, _)| name.trim_end()),
    };
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_bare))
}

fn recognise(value: Value) -> Result<Source, ImportError> {
    let root = match value {
        Value::Object(root) => root,
        list @ Value::Array(_) => return bare(&list, Vec::new()),
        _ => return Err(ImportError::Unknown),
    };
    for (product, section, path, pointer) in [
        (Product::Soketi, "appManager", "appManager.array.apps", "/array/apps"),
        (Product::Sockudo, "app_manager", "app_manager.array.apps", "/array/apps"),
    ] {
        if let Some(manager) = root.get(section) {
            let apps = manager.pointer(pointer).ok_or(ImportError::NoApps(path))?;
            return Ok(Source { product, apps: objects(apps, path)?, notes: others(&root, section) });
        }
    }
    // `config('reverb')`, or an array with it as the member `reverb`.
    let reverb = root.get("reverb").and_then(Value::as_object).unwrap_or(&root);
    if let Some(apps) = reverb.get("apps").and_then(|apps| apps.get("apps")) {
        let apps = objects(apps, "apps.apps")?;
        return Ok(Source { product: Product::Reverb, apps, notes: others(reverb, "apps") });
    }
    let list = root.get("apps").ok_or(ImportError::Unknown)?;
    bare(list, others(&root, "apps"))
}

/// A bare list of apps. The names of their members identify the product.
fn bare(list: &Value, notes: Vec<String>) -> Result<Source, ImportError> {
    let apps = objects(list, "apps")?;
    let any = |is: &dyn Fn(&str) -> bool| apps.iter().any(|app| app.keys().any(|name| is(name)));
    let product = if any(&|name| name == "app_id") {
        Product::Reverb
    } else if !any(&|name| name == "id") {
        return Err(ImportError::Unknown);
    } else if any(&|name| name == "policy" || name.contains('_')) {
        Product::Sockudo
    } else {
        Product::Soketi
    };
    Ok(Source { product, apps, notes })
}

fn objects(list: &Value, path: &'static str) -> Result<Vec<Object>, ImportError> {
    let list = list.as_array().ok_or(ImportError::NotApps(path))?;
    if list.is_empty() {
        return Err(ImportError::NoApps(path));
    }
    let app = |(index, app): (usize, &Value)| {
        app.as_object().cloned().ok_or(ImportError::NotAnApp { list: path, index })
    };
    list.iter().enumerate().map(app).collect()
}

fn others(root: &Object, section: &str) -> Vec<String> {
    let others = root.keys().filter(|name| *name != section);
    others.map(|name| format!("`{name}` is left out: it is not about apps")).collect()
}

const REVERB_APP: &str = "REVERB_APP_";

/// Parses lines `NAME=value` as dotenv does. Empty for any other format.
fn variables(text: &str) -> BTreeMap<String, String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_')
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='))
        .filter(|(name, _)| is_name(name.trim()))
        .map(|(name, value)| (name.trim().to_owned(), unquoted(value.trim())))
        .collect()
}

fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some((inside, _)) = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return inside.to_owned();
        }
    }
    value.split(" #").next().unwrap_or_default().trim().to_owned()
}

/// The app of the variables that Laravel's config/reverb.php reads.
fn of_variables(variables: &BTreeMap<String, String>) -> Result<Source, ImportError> {
    let (mut app, mut rate_limiting) = (Object::new(), Object::new());
    let mut notes = Vec::new();
    for (variable, value) in variables.iter().filter(|(name, _)| name.starts_with("REVERB_")) {
        let name = match variable.strip_prefix(REVERB_APP) {
            Some("ID") => "app_id".to_owned(),
            Some(name) => name.to_ascii_lowercase(),
            None => {
                notes.push(format!("`{variable}` is left out: it is not about apps"));
                continue;
            }
        };
        match name.strip_prefix("rate_limiting_").or(name.strip_prefix("rate_limit_")) {
            Some(name) => drop(rate_limiting.insert(name.to_owned(), json!(value))),
            None => drop(app.insert(name, json!(value))),
        }
    }
    if !rate_limiting.is_empty() {
        app.insert("rate_limiting".to_owned(), rate_limiting.into());
    }
    for (name, variable) in
        [("app_id", "REVERB_APP_ID"), ("key", "REVERB_APP_KEY"), ("secret", "REVERB_APP_SECRET")]
    {
        app.get(name).ok_or(ImportError::Missing(variable))?;
    }
    Ok(Source { product: Product::Reverb, apps: vec![app], notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, product: Product) {
        let source = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((source.product, source.apps.len()), (product, 1), "{text}");
    }

    #[test]
    fn product_is_detected_by_member_names() {
        check(r#"{"appManager":{"driver":"array","array":{"apps":[{"id":"1"}]}}}"#, Product::Soketi);
        check(r#"[{"id":"1","key":"k","maxConnections":-1}]"#, Product::Soketi);
        check(r#"{"app_manager":{"array":{"apps":[{"id":"1"}]}}}"#, Product::Sockudo);
        check("[app_manager]\n[[app_manager.array.apps]]\nid = '1'\n", Product::Sockudo);
        check(r#"[{"id":"1","policy":{}}]"#, Product::Sockudo);
        check(
            r#"{"default":"reverb","apps":{"provider":"config","apps":[{"app_id":"1"}]}}"#,
            Product::Reverb,
        );
        check(r#"{"reverb":{"apps":{"apps":[{"app_id":1}]}}}"#, Product::Reverb);
        check(
            "APP_NAME=x\nREVERB_APP_ID=1\nexport REVERB_APP_KEY=\"k\"\nREVERB_APP_SECRET='s' # hush\n",
            Product::Reverb,
        );
    }

    #[test]
    fn unknown_file_returns_a_specific_error() {
        let error = |text: &str| read(text).err().map(|error| error.to_string()).unwrap_or_default();
        for text in ["", "7", "hello", "{}", "[{\"name\":1}]", "a = 1", "FOO=1", "{\"apps\":[{}]}"] {
            assert!(error(text).starts_with("this is none of"), "{text}: {}", error(text));
        }
        assert!(error("{\"appManager\": }").starts_with("it is not JSON"));
        assert!(error("{\"apps\":\n[,]}").contains("line 2"));
        assert!(error("[app_manager]\n[[app_manager.array.apps]]\nid = \"a").contains("(line 3)"));
        assert!(error(r#"{"apps":[{"id":"1"},7]}"#).starts_with("`apps[1]` is not an app"));
        assert!(error("<?php return [];").contains("json_encode"));
        assert!(error(r#"{"appManager":{"driver":"mysql"}}"#).contains("appManager.array.apps"));
        assert!(error(r#"{"app_manager":{"array":{"apps":[]}}}"#).contains("app_manager.array.apps"));
        assert!(error("REVERB_APP_ID=1\nREVERB_APP_KEY=k").contains("REVERB_APP_SECRET"));
    }

    #[test]
    fn variables_are_parsed_as_in_dotenv() {
        let found = variables("A=1 # one\nB=\"two # 2\"\n C = 'x'\n# D=1\nnot a line\n");
        let expect = [("A", "1"), ("B", "two # 2"), ("C", "x")];
        assert_eq!(found, expect.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }
}
