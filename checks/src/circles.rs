//! Circles of files: files that need each other cannot be understood one after the other.
//!
//! A file uses another one when a path in it leads there, also over a re-export. Tests and the text in macros do not count.
//! Two files may use each other, such as an engine and its part. More may not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

use crate::folders::{product_folders, sources};

/// The most files that may use each other.
const CIRCLE_FILES_MAX: usize = 2;

/// Folders that the model layer replaces (`docs/adding-an-aggregate.md`).
const EXEMPT: [&str; 1] = ["gateway/src/graphql"];

/// The path of a module in its crate; empty for the root.
type Module = Vec<String>;

/// The circles that are too large, each with the uses that close it.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for folder in product_folders(root)?.into_iter().chain([root.join("checks/src"), root.join("bench/src")])
    {
        let graph = Graph::read(&folder)?;
        for circle in graph.circles() {
            let files: BTreeSet<PathBuf> = circle.iter().map(|module| graph.file(module)).collect();
            let is_exempt = |file: &PathBuf| {
                let file = file.strip_prefix(root).unwrap_or(file);
                EXEMPT.iter().any(|exempt| file.starts_with(exempt))
            };
            if circle.len() > CIRCLE_FILES_MAX && !files.iter().all(is_exempt) {
                let uses: Vec<String> = graph.uses_within(&circle);
                let names =
                    files.iter().map(|file| file.strip_prefix(root).unwrap_or(file).display().to_string());
                problems.push(format!(
                    "a circle of files: {}\n  {}",
                    names.collect::<Vec<_>>().join(", "),
                    uses.join("\n  ")
                ));
            }
        }
    }
    Ok(problems)
}

/// The modules of a crate that have a file, and which one uses which, with the path that does.
struct Graph {
    folder: PathBuf,
    uses: BTreeMap<Module, BTreeMap<Module, String>>,
}

impl Graph {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        for path in sources(folder)? {
            let text = std::fs::read_to_string(&path)?;
            let parsed = syn::parse_file(&text).with_context(|| path.display().to_string())?;
            files.insert(module_of(folder, &path), PathCollector::collect(&parsed.items));
        }
        let modules: BTreeSet<Module> = files.keys().cloned().collect();
        let mut exports: BTreeMap<(Module, String), Module> = BTreeMap::new();
        for (module, found) in &files {
            for path in &found.exports {
                if let Some((target, rest)) = resolve(&modules, module, path)
                    && let Some(name) = rest.first().or(path.last())
                {
                    exports.insert((module.clone(), name.clone()), target);
                }
            }
        }
        let mut uses: BTreeMap<Module, BTreeMap<Module, String>> = BTreeMap::new();
        for (module, found) in files {
            let targets = uses.entry(module.clone()).or_default();
            for path in found.paths {
                let Some((mut target, rest)) = resolve(&modules, &module, &path) else { continue };
                // A re-export of a re-export is followed as well; each step leads to another module.
                let mut seen = BTreeSet::new();
                while let Some(name) = rest.first()
                    && let Some(next) = exports.get(&(target.clone(), name.clone()))
                    && seen.insert(next.clone())
                {
                    target.clone_from(next);
                }
                if target != module {
                    targets.entry(target).or_insert_with(|| path.join("::"));
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), uses })
    }

    fn file(&self, module: &Module) -> PathBuf {
        let path = self.folder.join(module.iter().collect::<PathBuf>());
        if module.is_empty() { self.folder.join("lib.rs") } else { path.with_extension("rs") }
    }

    /// Sets of modules of which each reaches each other one.
    fn circles(&self) -> Vec<BTreeSet<Module>> {
        let reached: BTreeMap<&Module, BTreeSet<&Module>> =
            self.uses.keys().map(|module| (module, self.reachable(module))).collect();
        let mut circles: Vec<BTreeSet<Module>> = Vec::new();
        for (module, targets) in &reached {
            if circles.iter().any(|circle| circle.contains(*module)) || !targets.contains(module) {
                continue;
            }
            let mutual = targets.iter().filter(|target| reached[**target].contains(module));
            circles.push(mutual.map(|target| (*target).clone()).collect());
        }
        circles
    }

    fn reachable(&self, from: &Module) -> BTreeSet<&Module> {
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<&Module> = self.uses[from].keys().collect();
        while let Some(module) = waiting.pop() {
            if let Some((module, next)) = self.uses.get_key_value(module)
                && reached.insert(module)
            {
                waiting.extend(next.keys());
            }
        }
        reached
    }

    fn uses_within(&self, circle: &BTreeSet<Module>) -> Vec<String> {
        let uses = circle.iter().flat_map(|module| self.uses[module].iter().map(move |used| (module, used)));
        let inside = uses.filter(|(_, (target, _))| circle.contains(*target));
        inside.map(|(module, (_, path))| format!("{} uses {path}", self.file(module).display())).collect()
    }
}

fn module_of(folder: &Path, file: &Path) -> Module {
    let relative = file.strip_prefix(folder).unwrap_or(file).with_extension("");
    let parts = relative.iter().map(|part| part.to_string_lossy().into_owned());
    parts.filter(|part| part != "lib" && part != "main").collect()
}

/// The module with a file that a path leads to, and the rest of the path. `None` for a path out of the crate.
fn resolve(modules: &BTreeSet<Module>, from: &Module, path: &[String]) -> Option<(Module, Vec<String>)> {
    let mut rest = path;
    let mut module = match rest.first()?.as_str() {
        "crate" => Module::new(),
        "self" | "super" => from.clone(),
        child if modules.contains(&joined(from, child)) => from.clone(),
        _ => return None,
    };
    while let Some(step) = rest.first() {
        match step.as_str() {
            "crate" | "self" => {}
            "super" => drop(module.pop()),
            child if modules.contains(&joined(&module, child)) => module.push(child.to_owned()),
            _ => break,
        }
        rest = &rest[1..];
    }
    Some((module, rest.to_vec()))
}

fn joined(module: &Module, child: &str) -> Module {
    module.iter().cloned().chain([child.to_owned()]).collect()
}

/// The paths of a file, and those that it exports again.
#[derive(Default)]
struct PathCollector {
    paths: Vec<Vec<String>>,
    exports: Vec<Vec<String>>,
}

impl PathCollector {
    fn collect(items: &[Item]) -> Self {
        let mut found = Self::default();
        for item in items {
            found.visit_item(item);
        }
        found
    }
}

impl<'a> Visit<'a> for PathCollector {
    fn visit_item(&mut self, item: &'a Item) {
        let attributes: &[Attribute] = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !attributes.iter().any(is_test_only) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        let paths =
            if matches!(item.vis, Visibility::Inherited) { &mut self.paths } else { &mut self.exports };
        add_use_tree(&item.tree, &[], paths);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

fn is_test_only(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
}

fn add_use_tree(tree: &UseTree, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let with = |name: String| prefix.iter().cloned().chain([name]).collect::<Vec<_>>();
    match tree {
        UseTree::Path(path) => add_use_tree(&path.tree, &with(path.ident.to_string()), paths),
        UseTree::Group(group) => group.items.iter().for_each(|item| add_use_tree(item, prefix, paths)),
        UseTree::Name(name) => paths.push(with(name.ident.to_string())),
        UseTree::Rename(rename) => paths.push(with(rename.ident.to_string())),
        UseTree::Glob(_) => paths.push(prefix.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let folder =
            std::env::temp_dir().join(format!("annals-circles-{}-{}", std::process::id(), files.len()));
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let found = Graph::read(&folder).expect("reads").circles();
        std::fs::remove_dir_all(&folder).expect("removed");
        found.iter().map(|circle| circle.iter().map(|module| module.join("::")).collect()).collect()
    }

    #[test]
    fn a_circle_is_found_over_re_exports_and_children_and_not_in_tests() {
        let found = circles(&[
            ("lib.rs", "mod a; mod b; mod c; pub use b::B;"),
            ("a.rs", "use crate::B; pub struct A;"),
            ("b.rs", "pub struct B; fn f() { self::part::g(); }"),
            ("b/part.rs", "pub fn g() { crate::c::C; }"),
            ("c.rs", "pub struct C(super::a::A); #[cfg(test)] mod tests { use crate::d::D; }"),
            ("d.rs", "use crate::c::C; pub struct D;"),
        ]);
        assert_eq!(found, [["a", "b", "b::part", "c"]]);
    }

    #[test]
    fn files_that_use_each_other_one_way_are_no_circle() {
        let files = [
            ("lib.rs", "mod a; use a::A;"),
            ("a.rs", "pub struct A(std::path::PathBuf);"),
            ("b.rs", "use super::a;"),
        ];
        assert_eq!(circles(&files), Vec::<Vec<String>>::new());
    }
}
