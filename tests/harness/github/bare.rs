//! A bare repository on disk, written and read through libgit2 without a work tree.

use std::{collections::BTreeMap, path::PathBuf};

use git2::{FileMode, ObjectType, Oid, Repository, Signature, TreeWalkMode, TreeWalkResult, build::TreeUpdateBuilder};

/// One bare repository. The methods panic when git refuses: then the test is wrong.
#[derive(Debug, Clone)]
pub struct Bare {
    path: PathBuf,
}

impl Bare {
    /// Makes an empty one whose default branch is `main`.
    pub fn init(path: PathBuf) -> Self {
        let repo = Repository::init_bare(&path).expect("a fresh bare repository");
        repo.set_head("refs/heads/main").expect("HEAD of a fresh repository");
        Self { path }
    }

    /// One that is there.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it lies.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn open(&self) -> Repository {
        Repository::open_bare(&self.path).expect("a bare repository")
    }

    /// Writes files on top of a branch (made when it is not there) in one commit, and returns the commit.
    pub fn commit(&self, branch: &str, files: &[(&str, &str)], message: &str) -> String {
        let repo = self.open();
        let parent = self.tip(branch).map(|tip| repo.find_commit(oid(&tip)).expect("the tip of a branch"));
        let mut update = TreeUpdateBuilder::new();
        for (path, content) in files {
            let mode = if content.starts_with("#!") { FileMode::BlobExecutable } else { FileMode::Blob };
            update.upsert(*path, repo.blob(content.as_bytes()).expect("a blob"), mode);
        }
        let empty = repo.treebuilder(None).and_then(|builder| builder.write()).expect("the empty tree");
        let before = parent.as_ref().map_or(empty, git2::Commit::tree_id);
        let before = repo.find_tree(before).expect("a tree that was just named");
        let tree = update.create_updated(&repo, &before).expect("a tree of these files");
        let tree = repo.find_tree(tree).expect("a tree that was just written");
        let author = Signature::now("Grace", "grace@example.org").expect("a valid signature");
        let parents: Vec<_> = parent.iter().collect();
        let reference = format!("refs/heads/{branch}");
        repo.commit(Some(&reference), &author, &author, message, &tree, &parents).expect("a commit").to_string()
    }

    /// The commit that a branch points to, if there is such a branch.
    pub fn tip(&self, branch: &str) -> Option<String> {
        Some(self.open().find_reference(&format!("refs/heads/{branch}")).ok()?.target()?.to_string())
    }

    /// Makes a branch point to a commit.
    pub fn point(&self, branch: &str, commit: &str) {
        let name = format!("refs/heads/{branch}");
        self.open().reference(&name, oid(commit), true, "moved by a test").expect("a branch can be moved");
    }

    /// Takes a branch away.
    pub fn delete(&self, branch: &str) {
        let repo = self.open();
        let mut reference = repo.find_reference(&format!("refs/heads/{branch}")).expect("the branch is there");
        reference.delete().expect("a branch can be deleted");
    }

    /// The names of all branches, sorted.
    pub fn branches(&self) -> Vec<String> {
        let repo = self.open();
        let references = repo.references_glob("refs/heads/*").expect("the references of a repository");
        let names = references.flatten().filter_map(|r| r.name().ok().map(str::to_owned));
        let mut names: Vec<_> = names.filter_map(|n| n.strip_prefix("refs/heads/").map(str::to_owned)).collect();
        names.sort();
        names
    }

    /// How many commits `head` has that `base` has not.
    pub fn ahead(&self, base: &str, head: &str) -> usize {
        let ahead = self.open().graph_ahead_behind(oid(head), oid(base)).expect("two commits of this repository");
        ahead.0
    }

    /// Every file of a branch by path; what is not text is shown lossily.
    pub fn files(&self, branch: &str) -> BTreeMap<String, String> {
        let repo = self.open();
        let mut files = BTreeMap::new();
        let tree = repo.find_tree(oid(&self.tree(branch))).expect("the tree of a branch");
        let walk = tree.walk(TreeWalkMode::PreOrder, |folder, entry| {
            if entry.kind() == Some(ObjectType::Blob) {
                let blob = repo.find_blob(entry.id()).expect("the blob of a tree");
                let path = format!("{folder}{}", String::from_utf8_lossy(entry.name_bytes()));
                files.insert(path, String::from_utf8_lossy(blob.content()).into_owned());
            }
            TreeWalkResult::Ok
        });
        walk.expect("a tree can be walked");
        files
    }

    /// The tree of a branch.
    pub fn tree(&self, branch: &str) -> String {
        self.of_tip(branch, |commit| commit.tree_id().to_string())
    }

    /// The whole message of the last commit of a branch.
    pub fn message(&self, branch: &str) -> String {
        self.of_tip(branch, |commit| String::from_utf8_lossy(commit.message_bytes()).into_owned())
    }

    /// The parents of the last commit of a branch.
    pub fn parents(&self, branch: &str) -> Vec<String> {
        self.of_tip(branch, |commit| commit.parent_ids().map(|id| id.to_string()).collect())
    }

    fn of_tip<T>(&self, branch: &str, read: impl FnOnce(&git2::Commit<'_>) -> T) -> T {
        let repo = self.open();
        let tip = self.tip(branch).unwrap_or_else(|| panic!("there is no branch {branch}: {:?}", self.branches()));
        read(&repo.find_commit(oid(&tip)).expect("the tip of a branch"))
    }
}

fn oid(text: &str) -> Oid {
    Oid::from_str(text).expect("an object id")
}
