//! Files: what goes in, what is told to be different, what comes out, and that nothing else is touched.

use workers::sandbox::{ChangedPath, FileKind, Found, SandboxError};

use super::{Backend, file, noise, sh, with_sandbox};

fn changed(path: impl AsRef<[u8]>, now: Found) -> ChangedPath {
    ChangedPath { path: path.as_ref().to_vec(), now }
}

pub(crate) async fn what_is_put_is_found_changed_and_got(backend: Backend) {
    use FileKind::{Executable, Regular, Symlink};
    with_sandbox(backend, async |sandbox| {
        let big = noise(1 << 20);
        let mut files = vec![
            file("README", Regular, "hello"),
            file("empty", Regular, ""),
            file("bin/tool", Executable, "#!/bin/sh\necho tool"),
            file("deep/er/and/deeper/file", Regular, &big),
            file("link", Symlink, "deep/er"),
            file("dangling", Symlink, "/no/such/../place"),
        ];
        sandbox.put(files.clone()).await.unwrap();
        assert_eq!(
            sh(sandbox, "bin/tool; cat README; readlink link; readlink dangling").await,
            "tool\nhellodeep/er\n/no/such/../place"
        );
        assert_eq!(sh(sandbox, "ls -ld README bin bin/tool | cut -c1-10").await, "-rw-r--r--\ndrwxr-xr-x\n-rwxr-xr-x");

        // Old enough not to count as changed only for being new.
        sh(sandbox, "sleep 0.2").await;
        sandbox.mark().await.unwrap();
        assert_eq!(sandbox.changes().await.unwrap(), []);
        sh(sandbox, "rm empty dangling; chmod +x README; echo x >>deep/er/and/deeper/file; touch new; ln -sf bin link")
            .await;
        let found = |path: &str, kind, size| changed(path, Found::File(kind, size));
        let expected = [
            changed("dangling", Found::Nothing),
            found("README", Executable, 5),
            found("deep/er/and/deeper/file", Regular, (1 << 20) + 2),
            changed("empty", Found::Nothing),
            found("link", Symlink, 3),
            found("new", Regular, 0),
        ];
        let mut expected = expected.to_vec();
        expected.sort_by(|a, b| a.path.cmp(&b.path));
        // A link that leads to a directory is replaced by `ln -sf` only from inside of it: both are right.
        let changes = sandbox.changes().await.unwrap();
        let changes: Vec<_> = changes.into_iter().filter(|change| change.path != b"deep/er/bin").collect();
        let expected: Vec<_> = expected
            .into_iter()
            .filter(|change| change.path != b"link" || changes.iter().any(|found| found.path == b"link"))
            .collect();
        assert_eq!(changes, expected);

        // Same content, same size, and the times set back: still found.
        sandbox.mark().await.unwrap();
        sh(sandbox, "sleep 0.1; printf HELLO >README; touch -d '2020-01-01 00:00' README").await;
        let changes = sandbox.changes().await.unwrap();
        assert!(changes.contains(&found("README", Executable, 5)), "{changes:?}");

        files.retain(|file| file.path != b"empty" && file.path != b"dangling" && file.path != b"link");
        files[0] = file("README", Executable, "HELLO");
        files[2].bytes.extend_from_slice(b"x\n");
        let got = sandbox.get(files.iter().map(|file| file.path.clone()).collect(), 4 << 20).await.unwrap();
        assert!(got == files);

        // Replacing and deleting, with the directories that become empty.
        sandbox.put(vec![file("README", Regular, "again"), file("bin/tool", Symlink, "../README")]).await.unwrap();
        assert_eq!(sh(sandbox, "cat bin/tool; ls -l README | cut -c1-10").await, "again-rw-r--r--");
        let paths = ["deep/er/and/deeper/file", "bin/tool", "never/was/there"].map(|path| path.as_bytes().to_vec());
        sh(sandbox, "rm -f deep/er/bin").await;
        sandbox.delete(paths.to_vec()).await.unwrap();
        assert_eq!(sh(sandbox, "ls -d deep bin never 2>/dev/null || echo none").await, "none");
        assert_eq!(sh(sandbox, "cat README").await, "again");
    })
    .await;
}

pub(crate) async fn only_what_git_can_carry_is_told_as_a_file(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sh(sandbox, "mkdir -p .git old/.git && touch .git/HEAD old/.git/HEAD old/file && sleep 0.1").await;
        sandbox.mark().await.unwrap();
        let line =
            "mkfifo pipe; mkdir -p new/.git sub/dir; touch new/.git/HEAD new/file .git/config old/.git/config old/more;
            mkdir locked; touch locked/in; chmod 0 locked; echo gitdir: x >sub/dir/.git";
        sh(sandbox, line).await;
        let expected = [
            changed("locked", Found::Special),
            changed("new", Found::NestedRepository),
            changed("old/more", Found::File(FileKind::Regular, 0)),
            changed("pipe", Found::Special),
            changed("sub/dir", Found::NestedRepository),
        ];
        assert_eq!(sandbox.changes().await.unwrap(), expected);
        let refused = sandbox.get(vec![b"pipe".to_vec()], 100).await.unwrap_err();
        assert_eq!(refused.to_string(), "the sandbox could not read files: pipe: it is neither a file nor a link");
        let refused = sandbox.get(vec![b"gone".to_vec()], 100).await.unwrap_err();
        assert!(matches!(refused, SandboxError::Refused { .. }), "{refused}");
    })
    .await;
}

pub(crate) async fn names_may_be_any_bytes(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sandbox.mark().await.unwrap();
        let names: [&[u8]; 5] =
            [b"new\nline", b"\xff\xfe not \xc3 utf-8", b" -rf *", b"\"q'\\", b"a\tb/\x01\x7f/\xe2\x80\xae"];
        let mut files: Vec<_> = names.iter().map(|name| file(name, FileKind::Regular, name)).collect();
        sandbox.put(files.clone()).await.unwrap();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let changes = sandbox.changes().await.unwrap();
        let paths: Vec<_> = changes.into_iter().map(|change| change.path).collect();
        assert_eq!(paths, files.iter().map(|file| file.path.clone()).collect::<Vec<_>>());
        assert!(sandbox.get(paths, 1000).await.unwrap() == files);
    })
    .await;
}

pub(crate) async fn paths_cannot_leave_the_workspace(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sh(sandbox, "mkdir /tmp/out; echo secret >/tmp/out/secret; ln -s /tmp/out escape; ln -s . self; touch file")
            .await;
        let paths = [
            "escape/x",
            "escape/secret",
            "self/x",
            "file/x",
            "../x",
            "a/../../x",
            "/tmp/out/x",
            "a//b",
            "./x",
            "a/",
            "",
        ];
        for path in paths {
            let refused = |result: Result<(), SandboxError>, what: &str| match result {
                Err(SandboxError::Refused { .. }) => {}
                other => panic!("{what} {path:?}: {other:?}"),
            };
            refused(sandbox.put(vec![file(path, FileKind::Regular, "x")]).await, "put");
            refused(sandbox.put(vec![file(path, FileKind::Symlink, "x")]).await, "link");
            refused(sandbox.delete(vec![path.into()]).await, "delete");
            refused(sandbox.get(vec![path.into()], 100).await.map(drop), "get");
        }
        // A link itself is read, replaced and deleted, never what it points to.
        let got = sandbox.get(vec![b"escape".to_vec()], 100).await.unwrap();
        assert_eq!(got, [file("escape", FileKind::Symlink, "/tmp/out")]);
        sandbox.put(vec![file("escape", FileKind::Regular, "mine")]).await.unwrap();
        sandbox.delete(vec![b"self".to_vec()]).await.unwrap();
        assert_eq!(
            sh(sandbox, "ls /tmp/out; cat /tmp/out/secret escape; ls").await,
            "secret\nsecret\nmineescape\nfile"
        );
    })
    .await;
}

pub(crate) async fn get_is_bounded(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sh(sandbox, "head -c 3000000 /dev/zero >big").await;
        let got = sandbox.get(vec![b"big".to_vec()], 3_000_000).await.unwrap();
        assert_eq!(got[0].bytes.len(), 3_000_000);
        match sandbox.get(vec![b"big".to_vec()], 2_999_999).await {
            Err(SandboxError::TooMuch { limit: 2_999_999, unit: "bytes" }) => {}
            other => panic!("{:?}", other.map(|files| files.len())),
        }
        assert_eq!(sh(sandbox, "echo alive").await, "alive");
    })
    .await;
}
