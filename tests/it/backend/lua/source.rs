//! The scripts as the server assembles them.

use std::path::Path;

/// The server's table of scripts and their includes.
const TABLE: &str = include_str!("../../../../src/backend/redis/scripts.rs");

#[derive(Debug, Clone)]
pub struct Script {
    pub name: &'static str,
    /// The file, including its header.
    pub text: String,
    pub includes: Vec<String>,
}

impl Script {
    /// The script in `lua/` with this name.
    pub fn named(name: &str) -> Script {
        all().into_iter().find(|script| script.name == name).expect("a script of the server's table")
    }

    /// The source as the server sends it.
    pub fn source(&self) -> String {
        self.includes.iter().map(|include| [include, "\n"].concat()).collect::<String>() + &self.text
    }

    /// The comment at the beginning.
    pub fn header(&self) -> &str {
        header(&self.text)
    }
}

/// The comment at the beginning of a file of `lua/`.
pub fn header(text: &str) -> &str {
    text.split("]]\n").next().unwrap()
}

/// Reads a file below `lua/`.
pub fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Parses lines such as `publish_batch: "append" "charge";`.
pub fn all() -> Vec<Script> {
    let (_, table) = TABLE.split_once("\nscripts! {\n").unwrap();
    let (table, _) = table.split_once("\n}").unwrap();
    let script = |line: &'static str| {
        let (name, includes) = line.trim().split_once(':').unwrap();
        let includes = includes.split('"').skip(1).step_by(2);
        let includes = includes.map(|include| read(&format!("include/{include}.lua"))).collect();
        Script { name, text: read(&format!("{name}.lua")), includes }
    };
    table.lines().map(script).collect()
}
