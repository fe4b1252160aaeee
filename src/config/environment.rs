//! The environment as a map: that of the process, or a small one in tests.

use std::collections::BTreeMap;

use super::keys::VARIABLE_PREFIX;

/// The server's variables: their names begin with `FANFARE_`.
#[derive(Debug, Default, Clone)]
pub struct Environment(BTreeMap<String, String>);

/// The value of one of the server's variables is not UTF-8.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` in the environment is not UTF-8")]
pub struct NotUtf8 {
    pub name: String,
}

impl Environment {
    pub fn from_process() -> Result<Environment, NotUtf8> {
        let mut variables = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            if name.starts_with(VARIABLE_PREFIX) {
                let Ok(value) = value.into_string() else { return Err(NotUtf8 { name }) };
                variables.insert(name, value);
            }
        }
        Ok(Environment(variables))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and values, sorted by name, without those that Kubernetes adds.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let ours = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        ours.filter(|(name, value)| !is_service_link(name, value))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Environment {
        Environment(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Whether Kubernetes has set the variable. It adds `FANFARE_PORT=tcp://10.0.0.1:6001`
/// and others to every pod in the namespace of a Service called `fanfare` or
/// `fanfare-…`. The operator cannot remove them, so they are not errors.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port_of = |rest: &str| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|part| matches!(part, "TCP" | "UDP" | "SCTP"));
        let detail = parts.next().is_none_or(|part| matches!(part, "PROTO" | "PORT" | "ADDR"));
        number && protocol && detail && parts.next().is_none()
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.match_indices("_PORT_").any(|(at, found)| is_port_of(&name[at + found.len()..]))
        || (name.ends_with("_PORT") && value.contains("://"))
}
