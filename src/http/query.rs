//! The query of a request: its parameters, and its part of the signed text (protocol.md 1.2).

use std::collections::HashMap;

use thiserror::Error;

use crate::limits;

/// Percent-decoded parameters, in the order of the query.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum QueryError {
    #[error("The query has more than {} parameters", limits::QUERY_PARAMETERS_MAX)]
    TooMany,
    /// The signed text joins names and values with `=` and `&`. With these characters in a
    /// decoded name, or `&` in a value, one signature would be valid for several queries.
    #[error("The query parameter {0:?} must not contain `&`, and its name no `=`")]
    Ambiguous(String),
}

impl Query {
    /// Parses `a=1&b=2`. `+` is a plus sign, as in the signed text.
    pub(super) fn parse(text: &str) -> Result<Query, QueryError> {
        let mut pairs = text.split('&').filter(|pair| !pair.is_empty());
        let parameters = pairs.by_ref().take(limits::QUERY_PARAMETERS_MAX);
        let parameters = parameters.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let query = Query(parameters.map(|(name, value)| (decode(name), decode(value))).collect());
        match pairs.next() {
            None => Ok(query),
            Some(_) => Err(QueryError::TooMany),
        }
    }

    /// Fails if the signature of this query would be valid for another one too.
    pub(super) fn check_unambiguous(&self) -> Result<(), QueryError> {
        let is_ambiguous =
            |(name, value): &&(String, String)| name.contains(['=', '&']) || value.contains('&');
        match self.0.iter().find(is_ambiguous) {
            None => Ok(()),
            Some((name, _)) => Err(QueryError::Ambiguous(name.clone())),
        }
    }

    /// The first parameter with this name.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The parameters by name. The last one with a name wins.
    pub(super) fn into_map(self) -> HashMap<String, String> {
        self.0.into_iter().collect()
    }

    /// The query with the elements of each array, `a[]=x&a[]=y` or `a[0]=x&a[1]=y`, joined into
    /// one parameter `a=x,y`. `None` without arrays.
    pub(super) fn with_joined_arrays(&self) -> Option<Query> {
        self.0.iter().any(|(name, _)| array_name(name).is_some()).then(|| {
            let mut joined: Vec<(String, String)> = Vec::new();
            let mut arrays: HashMap<&str, usize> = HashMap::new();
            for (name, value) in &self.0 {
                let Some(array) = array_name(name) else {
                    joined.push((name.clone(), value.clone()));
                    continue;
                };
                if let Some(index) = arrays.get(array) {
                    let values = &mut joined[*index].1;
                    values.push(',');
                    values.push_str(value);
                } else {
                    arrays.insert(array, joined.len());
                    joined.push((array.to_owned(), value.clone()));
                }
            }
            Query(joined)
        })
    }
}

/// Returns `a` for `a[]` and `a[0]`, and `None` for a name that is not that of an array element.
fn array_name(name: &str) -> Option<&str> {
    let (array, index) = name.strip_suffix(']')?.rsplit_once('[')?;
    (!array.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit())).then_some(array)
}

pub(super) fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth;

    #[test]
    fn arrays_are_joined_in_the_order_of_their_elements() {
        let query = Query::parse("b=1&a[]=x&c[0]=p&a[]=y&c[1]=q&d[e]=r&[]=s").expect("a query");
        let joined = query.with_joined_arrays().expect("it has arrays");
        let expected = [("b", "1"), ("a", "x,y"), ("c", "p,q"), ("d[e]", "r"), ("[]", "s")];
        assert_eq!(joined.pairs().collect::<Vec<_>>(), expected);
        assert!(joined.with_joined_arrays().is_none());
    }

    #[test]
    fn query_has_a_limited_number_of_parameters() {
        let query = |count: usize| "a=1&".repeat(count);
        assert_eq!(Query::parse(&query(64)).expect("64 are allowed").pairs().count(), 64);
        assert_eq!(Query::parse(&query(65)).map(|_| ()), Err(QueryError::TooMany));
        assert_eq!(Query::parse(&query(5_000)).map(|_| ()), Err(QueryError::TooMany));
    }

    proptest! {
        /// The signed text of a query that is not refused has the parameters of no other query.
        #[test]
        fn signed_text_determines_an_unambiguous_query(
            pairs in prop::collection::vec(("[a-c=&]{1,2}", "[a-c=&]{0,3}"), 0..4),
        ) {
            let mut query = Query(pairs);
            query.0.sort_by(|a, b| a.0.cmp(&b.0));
            let text = auth::query_text(query.pairs());
            let read = Query::parse(&text).expect("a short query");
            prop_assert!(query.check_unambiguous().is_err() || read.0 == query.0, "{}", text);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,300}") {
            if let Ok(query) = Query::parse(&text) {
                let _ = (query.check_unambiguous(), query.with_joined_arrays());
            }
        }
    }
}
