//! The imports between the modules of `src`.

use std::collections::{BTreeMap, BTreeSet};

use super::tidy::{Source, paths, sources};

/// The path of a module within the crate: `["http", "events"]`. Empty for the crate.
pub type ModulePath = Vec<String>;

/// All modules, and the paths in their code.
pub struct ModuleGraph {
    files: BTreeMap<ModulePath, Vec<Vec<String>>>,
}

impl ModuleGraph {
    pub fn read() -> ModuleGraph {
        let file = |source: Source| {
            let path =
                source.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
            let module = path.split('/').map(str::to_owned).collect();
            (module, paths(&source).into_iter().map(|(_, path)| path).collect())
        };
        ModuleGraph { files: sources("src", "rs").into_iter().map(file).collect() }
    }

    /// The folders, each with the path of its module.
    pub fn folders(&self) -> impl Iterator<Item = &ModulePath> {
        self.files
            .keys()
            .filter(|path| self.files.keys().any(|file| file.len() > path.len() && file.starts_with(path)))
    }

    /// The imports between the files directly in a folder.
    pub fn imports_within(&self, folder: &ModulePath) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (module, paths) in &self.files {
            let Some([file, ..]) = module.strip_prefix(folder.as_slice()) else { continue };
            for path in paths {
                let target = self.resolve(module, path);
                if let Some([other, ..]) = target.and_then(|it| it.strip_prefix(folder.as_slice()))
                    && other != file
                {
                    imports.entry(file).or_default().insert(other);
                }
            }
        }
        imports
    }

    /// The module of the item that `path` names in the code of `module`. `None` for another crate.
    fn resolve(&self, module: &[String], path: &[String]) -> Option<&ModulePath> {
        let mut target = module.to_vec();
        let mut names = path.iter().peekable();
        while let Some(name) = names.next_if(|name| ["crate", "self", "super"].contains(&name.as_str())) {
            match name.as_str() {
                "crate" => target.clear(),
                "super" => drop(target.pop()),
                _ => {}
            }
        }
        while let Some(name) = names.peek() {
            target.push((*name).clone());
            if !self.files.contains_key(&target) {
                target.pop();
                break;
            }
            names.next();
        }
        let (target, paths) = self.files.get_key_value(&target)?;
        // A name that the module file imports from a file of its folder belongs to that file.
        let is_import = |path: &&Vec<String>| {
            let is_relative = self.files.contains_key(&[target.as_slice(), &path[..1]].concat());
            is_relative && path.last() == names.peek().copied()
        };
        match paths.iter().find(is_import) {
            Some(path) if target != module => self.resolve(target, path),
            _ => Some(target),
        }
    }
}

/// The files that `file` imports, directly or over others.
fn reachable<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>, file: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = imports.get(file).into_iter().flatten().copied().collect();
    while let Some(file) = next.pop() {
        if found.insert(file) {
            next.extend(imports.get(file).into_iter().flatten());
        }
    }
    found
}

/// The sets of files that import each other, directly or over others.
pub fn circles<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<BTreeSet<&'a str>> {
    let circle = |file: &&'a str| -> BTreeSet<&'a str> {
        reachable(imports, file)
            .into_iter()
            .filter(|other| reachable(imports, other).contains(file))
            .collect()
    };
    imports.keys().map(circle).filter(|circle| !circle.is_empty()).collect()
}

/// Leaves out each import that also leads over other files. The graph has no circles.
pub fn without_implied<'a>(
    imports: &BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let implied = |file: &str, target: &str| {
        imports[file].iter().any(|other| *other != target && reachable(imports, other).contains(target))
    };
    let reduced = |(file, targets): (&&'a str, &BTreeSet<&'a str>)| {
        (*file, targets.iter().copied().filter(|target| !implied(file, target)).collect())
    };
    imports.iter().map(reduced).collect()
}

#[test]
fn circles_are_sets_of_files_that_reach_each_other() {
    let imports = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"), ("c", "e"), ("f", "g"), ("g", "f")];
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in imports {
        graph.entry(from).or_default().insert(to);
    }
    let expected = [BTreeSet::from(["a", "b", "c"]), BTreeSet::from(["f", "g"])];
    assert_eq!(circles(&graph), expected.into());
}

#[test]
fn implied_imports_are_left_out() {
    let imports = BTreeMap::from([("a", BTreeSet::from(["b", "c"])), ("b", BTreeSet::from(["c"]))]);
    let expected = BTreeMap::from([("a", BTreeSet::from(["b"])), ("b", BTreeSet::from(["c"]))]);
    assert_eq!(without_implied(&imports), expected);
}
