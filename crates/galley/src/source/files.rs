//! Files as a source: what a set of files says now, against what it said before, is a batch for the store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::decode::{Manifest, ReadOptions, read_manifests};
use crate::problem::{FieldProblem, Key, Problem, Problems};
use crate::snapshot::Snapshot;
use crate::store::{Batch, Change};

/// Everything a set of files says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileSet {
    manifests: BTreeMap<Key, Manifest>,
    passed_over: Vec<Problem>,
}

impl FileSet {
    /// Reads files, each by its name and content. One broken document breaks the set: what was said before stays valid.
    ///
    /// # Errors
    /// Everything that is wrong in any of the files, objects written down twice included.
    pub fn read<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        options: ReadOptions<'_>,
    ) -> Result<Self, Problems> {
        let mut set = Self::default();
        let mut problems = Vec::new();
        for (name, bytes) in files {
            let read = read_manifests(name, bytes, options);
            problems.extend(read.problems.0);
            set.passed_over.extend(read.passed_over);
            for manifest in read.manifests {
                problems.extend(set.add(manifest));
            }
        }
        if problems.is_empty() { Ok(set) } else { Err(Problems(problems)) }
    }

    fn add(&mut self, manifest: Manifest) -> Option<Problem> {
        let key = manifest.object.key();
        let problem =
            |field| Some(Problem { origin: Some(manifest.origin.clone()), subject: Some((&key).into()), field });
        if key.name.is_empty() {
            return problem(FieldProblem::new("metadata.name", "required"));
        }
        match self.manifests.entry(key.clone()) {
            Entry::Occupied(first) => {
                problem(FieldProblem::new("", format!("written down twice, first in {}", first.get().origin)))
            }
            Entry::Vacant(place) => {
                place.insert(manifest);
                None
            }
        }
    }

    /// What the files say of kinds that are none of the mesh's.
    pub fn passed_over(&self) -> &[Problem] {
        &self.passed_over
    }

    /// What the files say, in order of kind, namespace and name.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests.values()
    }

    /// The changes that bring a store from what the files said before to what they say now. Objects that read as before
    /// are left alone, even if somebody has changed them in the store; so are objects that no file ever spoke of.
    pub fn changes(&self, before: &Self, current: &Snapshot) -> Batch {
        let changed =
            |key: &Key, manifest: &Manifest| before.manifests.get(key).map(|old| &old.object) != Some(&manifest.object);
        let mut batch: Batch = self
            .manifests
            .iter()
            .filter(|(key, manifest)| changed(key, manifest))
            .map(|(_, manifest)| (Change::Upsert(manifest.object.clone()), Some(manifest.origin.clone())))
            .collect();
        // From the last kind to the first: a namespace goes after what is in it.
        for (key, manifest) in before.manifests.iter().rev() {
            if !self.manifests.contains_key(key) && current.get(key).is_some() {
                batch.push((Change::delete(key.clone()), Some(manifest.origin.clone())));
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests;
