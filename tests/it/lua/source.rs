//! The scripts as the server puts them together.

use std::path::Path;

/// The table of scripts and of what they include, as the server has it.
const TABLE: &str = include_str!("../../../src/backend/redis/scripts.rs");

#[derive(Debug, Clone)]
pub struct Script {
    pub name: &'static str,
    /// The file, header and all.
    pub text: String,
    pub includes: Vec<String>,
}

impl Script {
    /// The script of this file in `lua/`.
    pub fn named(name: &str) -> Script {
        all().into_iter().find(|script| script.name == name).expect("it is in the server's table")
    }

    /// As the server sends it.
    pub fn source(&self) -> String {
        self.includes.iter().map(|include| [include, "\n"].concat()).collect::<String>() + &self.text
    }

    /// The comment that it opens with.
    pub fn header(&self) -> &str {
        header(&self.text)
    }
}

/// The comment that a file of `lua/` opens with.
pub fn header(text: &str) -> &str {
    text.split("]]\n").next().unwrap()
}

/// Below `lua/`.
pub fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lines such as `publish_batch: "append" "charge";`.
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
