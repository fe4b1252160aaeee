//! `channel_delta_compression`: a table from channel patterns to what deltas are
//! there (protocol.md 3.11). Of what it can say, this version has on and off.

use super::raw::Raw;
use super::value::Wrong;

pub(super) const EXPECTED: &str = "a table from channel names, with at most one `*`, to \"inherit\", \"disabled\", \
     \"fossil\", or a table of `enabled` and `algorithm`";

/// Pairs of a pattern and whether deltas are permitted.
pub(super) fn read(raw: &Raw) -> Result<Vec<(String, bool)>, Wrong> {
    let expected = || Wrong::Expected(EXPECTED.to_owned());
    match raw {
        Raw::Table(table) => table
            .iter()
            .map(|(pattern, setting)| match pattern.matches('*').count() {
                0 | 1 if !pattern.is_empty() => Ok((pattern.clone(), read_setting(setting)?)),
                _ => Err(expected()),
            })
            .collect(),
        raw if raw.is_empty() => Ok(Vec::new()),
        // As an environment variable: `quiet-*=disabled,loud=fossil`.
        Raw::Text(text) => text
            .split(',')
            .map(|item| {
                let (pattern, word) = item.split_once('=').ok_or_else(expected)?;
                Ok((pattern.trim().to_owned(), read_word(word.trim())?))
            })
            .collect(),
        _ => Err(expected()),
    }
}

fn read_setting(raw: &Raw) -> Result<bool, Wrong> {
    let expected = || Wrong::Expected(EXPECTED.to_owned());
    let Raw::Table(table) = raw else { return read_word(raw.text().ok_or_else(expected)?) };
    let mut enabled = true;
    for (name, value) in table {
        match name.as_str() {
            "enabled" => enabled = value.flag().ok_or_else(expected)?,
            "algorithm" => drop(read_word(value.text().ok_or_else(expected)?)?),
            "conflation_key" | "max_messages_per_key" | "max_conflation_keys" | "enable_tags" => {
                return Err(Wrong::UnsupportedValue(format!("`{name}`")));
            }
            _ => return Err(expected()),
        }
    }
    Ok(enabled)
}

fn read_word(word: &str) -> Result<bool, Wrong> {
    match word.to_ascii_lowercase().as_str() {
        "inherit" | "fossil" => Ok(true),
        "disabled" => Ok(false),
        "xdelta3" | "vcdiff" => Err(Wrong::UnsupportedValue(format!("{word:?}"))),
        _ => Err(Wrong::Expected(EXPECTED.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str, expect: Result<&[(&str, bool)], Wrong>) {
        let table =
            Raw::from(&toml::de::DeValue::Table(toml::de::DeTable::parse(toml).expect("TOML").into_inner()));
        let expect = expect.map(|pairs| pairs.iter().map(|(p, on)| ((*p).to_owned(), *on)).collect());
        assert_eq!(read(&table), expect, "{toml}");
    }

    #[test]
    fn every_form_is_read_or_refused_by_name() {
        let expected = || Err(Wrong::Expected(EXPECTED.to_owned()));
        let unsupported = |what: &str| Err(Wrong::UnsupportedValue(what.to_owned()));
        check(
            "'a*' = 'Disabled'\nb = 'inherit'\nc = 'fossil'",
            Ok(&[("a*", false), ("b", true), ("c", true)]),
        );
        check("a = { enabled = false }\nb = { algorithm = 'Fossil' }", Ok(&[("a", false), ("b", true)]));
        check("a = 'xdelta3'", unsupported("\"xdelta3\""));
        check("a = { conflation_key = 'symbol' }", unsupported("`conflation_key`"));
        check("a = 'off'", expected());
        check("a = 7", expected());
        check("'a*b*' = 'fossil'", expected());
        check("a = { enable = true }", expected());
    }
}
