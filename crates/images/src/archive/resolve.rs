//! Which packages a system needs: dependencies followed to their end.
//!
//! The choice is greedy, as apt's is: what was asked for comes first, an alternative that is already chosen
//! wins, otherwise the first one that the archive has. It never goes back on a choice; packages that can't
//! stand together are refused with both names.

use std::collections::{HashMap, VecDeque};

use super::packages::{Index, Package, Priority, Relation};
use crate::error::{Error, Result};

/// The packages chosen for a system.
#[derive(Debug)]
pub struct Selection<'a> {
    /// In the order of configuration as far as dependencies have one: a package after what it depends on.
    pub packages: Vec<&'a Package>,
    /// Names of those that were asked for or belong to the base system; the rest came as dependencies.
    pub manual: Vec<&'a str>,
}

/// Chooses the packages for `wanted` and everything they need; with `base`, also for every essential package
/// and those of priority required.
pub fn resolve<'a>(index: &'a Index, base: bool, wanted: &[String]) -> Result<Selection<'a>> {
    let mut chosen = Chosen::new(index);
    if base {
        index.iter().filter(|p| p.essential || p.priority == Priority::Required).for_each(|p| chosen.add(p));
    }
    for name in wanted {
        let package = index.get(name).or_else(|| chosen.only_provider(name));
        chosen.add(package.ok_or_else(|| Error::Unresolvable(format!("the archive has no package {name}")))?);
    }
    let manual = chosen.order.iter().map(|package| package.name.as_str()).collect();
    chosen.close()?;
    chosen.check_conflicts()?;
    Ok(Selection { packages: chosen.configuration_order(), manual })
}

struct Chosen<'a> {
    index: &'a Index,
    order: Vec<&'a Package>,
    by_name: HashMap<&'a str, &'a Package>,
    provided: HashMap<&'a str, Vec<&'a Package>>,
    unfollowed: VecDeque<&'a Package>,
}

impl<'a> Chosen<'a> {
    fn new(index: &'a Index) -> Self {
        let (by_name, provided) = (HashMap::new(), HashMap::new());
        Self { index, order: Vec::new(), by_name, provided, unfollowed: VecDeque::new() }
    }

    fn add(&mut self, package: &'a Package) {
        if self.by_name.insert(&package.name, package).is_none() {
            self.order.push(package);
            self.unfollowed.push_back(package);
            for provided in &package.provides {
                self.provided.entry(&provided.name).or_default().push(package);
            }
        }
    }

    fn only_provider(&self, name: &str) -> Option<&'a Package> {
        let mut providers = self.index.providers(name);
        let first = providers.next()?;
        providers.next().is_none().then_some(first)
    }

    /// The chosen package that meets an alternative.
    fn meeting(&self, relation: &Relation) -> Option<&'a Package> {
        let own = self.by_name.get(relation.name.as_str()).copied();
        let provided = self.provided.get(relation.name.as_str()).into_iter().flatten().copied();
        own.into_iter().chain(provided).find(|package| relation.is_met_by(package))
    }

    /// The package of the archive that would meet an alternative: the one of that name, else the most important
    /// of its providers.
    fn candidate(&self, relation: &Relation) -> Option<&'a Package> {
        let real = self.index.get(&relation.name).filter(|package| relation.admits(&package.version));
        real.or_else(|| {
            let providers = self.index.providers(&relation.name);
            providers.filter(|p| relation.is_met_by(p)).min_by_key(|p| (p.priority, &p.name))
        })
    }

    fn close(&mut self) -> Result<()> {
        while let Some(package) = self.unfollowed.pop_front() {
            for group in &package.depends {
                if group.iter().any(|relation| self.meeting(relation).is_some()) {
                    continue;
                }
                let Some(candidate) = group.iter().find_map(|relation| self.candidate(relation)) else {
                    return Err(Error::Unresolvable(format!(
                        "{} {} depends on {}, which the archive doesn't have",
                        package.name,
                        package.version,
                        describe(group)
                    )));
                };
                self.add(candidate);
            }
        }
        Ok(())
    }

    fn check_conflicts(&self) -> Result<()> {
        for package in &self.order {
            for relation in package.conflicts.iter().flatten() {
                let own = self.by_name.get(relation.name.as_str()).copied();
                let provided = self.provided.get(relation.name.as_str()).into_iter().flatten().copied();
                let mut candidates = own.into_iter().chain(provided);
                if let Some(other) = candidates.find(|o| o.name != package.name && relation.is_met_by(o)) {
                    let text = format!("{} and {} can't be installed together", package.name, other.name);
                    return Err(Error::Unresolvable(text));
                }
            }
        }
        Ok(())
    }

    /// Depth-first order; a cycle is cut where it is met.
    fn configuration_order(&self) -> Vec<&'a Package> {
        let mut done: HashMap<&str, bool> = HashMap::new();
        let mut ordered = Vec::with_capacity(self.order.len());
        for root in &self.order {
            let mut stack = vec![(*root, false)];
            while let Some((package, dependencies_done)) = stack.pop() {
                if dependencies_done {
                    ordered.push(package);
                } else if done.insert(&package.name, true).is_none() {
                    stack.push((package, true));
                    let needs = package.depends.iter().rev();
                    let needs = needs.filter_map(|group| group.iter().find_map(|r| self.meeting(r)));
                    stack.extend(needs.map(|package| (package, false)));
                }
            }
        }
        ordered
    }
}

fn describe(group: &[Relation]) -> String {
    let names: Vec<&str> = group.iter().map(|relation| relation.name.as_str()).collect();
    if names.is_empty() { "a package of another architecture".to_owned() } else { names.join(" or ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line: name, version, then fields separated by `;`.
    fn index(lines: &[(&str, &str, &str)]) -> Index {
        let digest = "0".repeat(64);
        let entry = |(name, version, fields): &(&str, &str, &str)| {
            let fields = fields.replace(';', "\n");
            format!(
                "Package: {name}\nVersion: {version}\n{fields}\nFilename: {name}.deb\nSize: 1\nSHA256: {digest}\n\n"
            )
            .replace("\n\nFile", "\nFile")
        };
        Index::parse(&lines.iter().map(entry).collect::<String>()).unwrap()
    }

    fn names(index: &Index, base: bool, wanted: &[&str]) -> std::result::Result<Vec<String>, String> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        let selection = resolve(index, base, &wanted).map_err(|error| error.to_string())?;
        Ok(selection.packages.iter().map(|package| package.name.clone()).collect())
    }

    #[test]
    fn dependencies_come_before_their_dependents() {
        let index =
            index(&[("a", "1", "Depends: b, c"), ("b", "1", "Depends: c"), ("c", "1", ""), ("d", "1", "")]);
        assert_eq!(names(&index, false, &["a"]).unwrap(), ["c", "b", "a"]);
    }

    #[test]
    fn cycles_end() {
        let index = index(&[("a", "1", "Depends: b"), ("b", "1", "Depends: a")]);
        assert_eq!(names(&index, false, &["a"]).unwrap(), ["b", "a"]);
    }

    #[test]
    fn base_system_is_essential_and_required() {
        let index = index(&[
            ("a", "1", "Essential: yes;Depends: lib"),
            ("b", "1", "Priority: required"),
            ("c", "1", "Priority: important"),
            ("lib", "1", ""),
        ]);
        assert_eq!(names(&index, true, &[]).unwrap(), ["lib", "a", "b"]);
    }

    #[test]
    fn chosen_alternative_wins_over_the_first() {
        let index = index(&[("a", "1", "Depends: x | y"), ("x", "1", ""), ("y", "1", "")]);
        assert_eq!(names(&index, false, &["a"]).unwrap(), ["x", "a"]);
        assert_eq!(names(&index, false, &["a", "y"]).unwrap(), ["y", "a"]);
    }

    #[test]
    fn alternative_with_unmet_version_is_passed_over() {
        let index = index(&[("a", "1", "Depends: x (>= 2) | y"), ("x", "1", ""), ("y", "1", "")]);
        assert_eq!(names(&index, false, &["a"]).unwrap(), ["y", "a"]);
    }

    #[test]
    fn virtual_package_takes_the_most_important_provider() {
        let index = index(&[
            ("a", "1", "Depends: mail"),
            ("big", "1", "Provides: mail"),
            ("good", "1", "Provides: mail;Priority: standard"),
        ]);
        assert_eq!(names(&index, false, &["a"]).unwrap(), ["good", "a"]);
    }

    #[test]
    fn missing_package_and_dependency_are_named() {
        let index = index(&[("a", "1", "Depends: gone (>= 3) | lost")]);
        assert!(names(&index, false, &["nothing"]).unwrap_err().contains("no package nothing"));
        assert!(names(&index, false, &["a"]).unwrap_err().contains("a 1 depends on gone or lost"));
    }

    #[test]
    fn conflicting_packages_return_error() {
        let index = index(&[
            ("a", "1", "Conflicts: virt"),
            ("b", "1", "Provides: virt"),
            ("c", "1", "Breaks: a (<< 1)"),
        ]);
        assert!(
            names(&index, false, &["a", "b"]).unwrap_err().contains("a and b can't be installed together")
        );
        assert!(names(&index, false, &["a", "c"]).is_ok());
    }

    #[test]
    fn dependencies_are_not_marked_manual() {
        let index = index(&[("a", "1", "Depends: b"), ("b", "1", "")]);
        assert_eq!(resolve(&index, false, &["a".to_owned()]).unwrap().manual, ["a"]);
    }
}
