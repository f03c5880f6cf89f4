//! The paths that filters ask for, as a tree: what a document is read for.

use std::fmt;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::expression::Path;

/// The place of a path in [`Paths`], and of its value in what was read of a document.
pub(super) type FieldId = u32;

/// The document as a whole.
pub(super) const ROOT: FieldId = 0;

/// Paths, each there for as long as somebody asks for it.
pub(super) struct Paths {
    nodes: Vec<Node>,
    free: Vec<FieldId>,
    children: HashTable<FieldId>,
    hashing: FixedState,
}

struct Node {
    parent: FieldId,
    /// Who asks for it; its own children do, too.
    users: u32,
    children: u32,
    name: Box<str>,
}

impl Paths {
    pub(super) fn new(hashing: FixedState) -> Self {
        let root = Node { parent: ROOT, users: 1, children: 0, name: Box::default() };
        Self { nodes: vec![root], free: Vec::new(), children: HashTable::new(), hashing }
    }

    /// One more than the highest place.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn parent(&self, field: FieldId) -> FieldId {
        self.nodes[field as usize].parent
    }

    #[inline]
    pub(super) fn has_children(&self, field: FieldId) -> bool {
        self.nodes[field as usize].children > 0
    }

    /// The member `name` of what is at `parent`, where somebody asks for it.
    #[inline]
    pub(super) fn child(&self, parent: FieldId, name: &[u8]) -> Option<FieldId> {
        let is_it = |field: &FieldId| {
            let node = &self.nodes[*field as usize];
            node.parent == parent && node.name.as_bytes() == name
        };
        self.children.find(self.hash(parent, name), is_it).copied()
    }

    pub(super) fn find(&self, path: &Path) -> Option<FieldId> {
        path.0.iter().try_fold(ROOT, |field, name| self.child(field, name.as_bytes()))
    }

    /// The place of `path`, kept until it is released as often as it was acquired.
    pub(super) fn acquire(&mut self, path: &Path) -> FieldId {
        let mut field = ROOT;
        for name in &path.0 {
            field = self.child(field, name.as_bytes()).unwrap_or_else(|| self.add(field, name));
        }
        self.nodes[field as usize].users += 1;
        field
    }

    fn add(&mut self, parent: FieldId, name: &str) -> FieldId {
        let node = Node { parent, users: 0, children: 0, name: name.into() };
        let field = match self.free.pop() {
            Some(field) => {
                self.nodes[field as usize] = node;
                field
            }
            None => {
                self.nodes.push(node);
                FieldId::try_from(self.nodes.len() - 1).expect("fewer than 2^32 paths fit into memory")
            }
        };
        let above = &mut self.nodes[parent as usize];
        above.children += 1;
        above.users += 1;
        let hash = self.hash(parent, name.as_bytes());
        let Self { nodes, children, hashing, .. } = self;
        children.insert_unique(hash, field, |field| {
            let node = &nodes[*field as usize];
            hash_of(hashing, node.parent, node.name.as_bytes())
        });
        field
    }

    /// One user less of `field`.
    pub(super) fn release(&mut self, field: FieldId) {
        let mut field = field;
        loop {
            let node = &mut self.nodes[field as usize];
            node.users -= 1;
            if node.users > 0 {
                return;
            }
            let (parent, name) = (node.parent, std::mem::take(&mut node.name));
            let hash = self.hash(parent, name.as_bytes());
            let entry =
                self.children.find_entry(hash, |other| *other == field).expect("every path but the root is there");
            entry.remove();
            self.free.push(field);
            self.nodes[parent as usize].children -= 1;
            field = parent;
        }
    }

    #[inline]
    fn hash(&self, parent: FieldId, name: &[u8]) -> u64 {
        hash_of(&self.hashing, parent, name)
    }
}

#[inline]
fn hash_of(hashing: &FixedState, parent: FieldId, name: &[u8]) -> u64 {
    let mut hasher = hashing.build_hasher();
    hasher.write_u32(parent);
    hasher.write(name);
    hasher.finish()
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Paths({})", self.children.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path(text.split('.').map(str::to_owned).collect())
    }

    #[test]
    fn a_path_is_there_while_somebody_asks_for_it() {
        let mut paths = Paths::new(FixedState::with_seed(1));
        let deep = paths.acquire(&path("a.b.c"));
        let middle = paths.acquire(&path("a.b"));
        assert_eq!(paths.acquire(&path("a.b.c")), deep);
        assert_eq!(paths.find(&path("a.b.c")), Some(deep));
        assert_eq!(paths.parent(deep), middle);
        paths.release(deep);
        paths.release(deep);
        assert_eq!(paths.find(&path("a.b.c")), None);
        assert!(!paths.has_children(middle));
        assert_eq!(paths.find(&path("a.b")), Some(middle));
        paths.release(middle);
        assert_eq!(paths.find(&path("a")), None);
        assert!(!paths.has_children(ROOT));
        for name in 0..100 {
            let field = paths.acquire(&path(&format!("x{name}.y")));
            paths.release(field);
        }
        assert_eq!(paths.len(), 4, "places are used again");
    }
}
