//! The corpus: one line for each thing that an agent may leave behind, and what becomes of it.
//!
//! Each edit runs in a box and, where git is the judge, in a clean clone outside. What leaves the box must be the tree
//! that `git add -A` makes there, or a refusal that names the path and the reason.

/// One edit.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The starting point: a script that makes its files.
    pub(crate) base: &'static str,
    /// What the agent does, and what happens outside for git to look at.
    pub(crate) edit: &'static str,
    /// What the agent does besides; git outside is not told.
    pub(crate) inside: &'static str,
    pub(crate) want: Want,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// The tree that git makes, which is another than the base's.
    Same,
    /// Nothing changed, for git too.
    Nothing,
    /// The tree that git makes of the bytes as they are. With the repository's attributes git makes another one.
    Bytes,
    /// Refused, with these words.
    Refused(&'static str),
    /// Refused with these words, and git refuses it too.
    RefusedByBoth(&'static str),
}

impl Case {
    const fn on(self, base: &'static str) -> Self {
        Self { base, ..self }
    }

    const fn inside(self, inside: &'static str) -> Self {
        Self { inside, ..self }
    }
}

const fn case(name: &'static str, edit: &'static str, want: Want) -> Case {
    Case { name, base: PLAIN, edit, inside: "", want }
}

const fn same(name: &'static str, edit: &'static str) -> Case {
    case(name, edit, Want::Same)
}

const fn nothing(name: &'static str, edit: &'static str) -> Case {
    case(name, edit, Want::Nothing)
}

const fn bytes(name: &'static str, edit: &'static str) -> Case {
    case(name, edit, Want::Bytes).on(ATTRIBUTES)
}

const fn refused(name: &'static str, edit: &'static str, words: &'static str) -> Case {
    case(name, edit, Want::Refused(words))
}

const fn refused_by_both(name: &'static str, edit: &'static str, words: &'static str) -> Case {
    case(name, edit, Want::RefusedByBoth(words))
}

/// A bit of everything.
pub(crate) const PLAIN: &str = r#"
    mkdir -p src docs bin deep/a/b; printf 'fn main() {}\n' >src/main.rs; echo 'pub fn x() {}' >src/lib.rs
    printf '#!/bin/sh\n' >bin/run; chmod +x bin/run; ln -s src/main.rs link; ln -s src dirlink; ln -s nowhere dangling
    echo one >deep/a/b/c; echo two >deep/a/d; printf x >README.md; : >empty; printf 'a\r\nb\r\n' >crlf.txt
    printf '\000\001\002' >data.bin; printf 'target/\n*.log\n!keep.log\n/only-top\n' >.gitignore; echo tracked >kept.log
    echo guide >docs/Guide.md"#;

/// Files with everything that git converts on the way in or out.
const ATTRIBUTES: &str = r#"
    printf '*.txt text\n*.dos text eol=crlf\n*.auto text=auto\n*.id ident\n*.evil filter=evil diff=evil\n*.bin -text\n' >.gitattributes
    echo '*.utf16 working-tree-encoding=UTF-16LE' >>.gitattributes
    for kind in txt dos auto id evil bin; do echo line >file.$kind; done"#;

const MODULE: &str = "echo x >file; echo '[submodule \"m\"]' >.gitmodules #index
    git update-index --add --cacheinfo 160000,0123456789012345678901234567890123456789,lib/module";

const GIT_NAME: &str = "a name that some systems take for git's own directory";
const NESTED: &str = "a git repository inside of the repository";
const SPECIAL: &str = "which is no file that git can carry";

pub(crate) const CASES: &[Case] = &[
    // --- symbolic links: carried as they are, never followed
    same("an absolute link", "ln -s /etc/passwd absolute"),
    same("a link that leads out", "ln -s ../../../etc/shadow src/out"),
    same("a chain of links", "ln -s src a; ln -s a b; ln -s b c; ln -s c/main.rs d"),
    same("a loop of links", "ln -s y x; ln -s x y; ln -s self self"),
    same("links to the top and above", "ln -s . top; ln -s .. src/up; ln -s / root"),
    same("a dangling link", "ln -s no/where/at/all d"),
    same("a link with a long target", "ln -s $(printf '%04000d' 0) long"),
    same("a link with an odd target", r#"ln -s "$(printf 'a\nb\377 ')" odd; ln -s ' ' blank; ln -s -- -rf dash"#),
    same("links into git's own directory", "ln -s .git/config config; ln -s .git g; ln -s ../.git/hooks src/hooks"),
    same("a link in place of a file", "rm README.md; ln -s src/main.rs README.md"),
    same("a link with the bytes of the file before it", "rm README.md; ln -s x README.md"),
    same("a link in place of a directory", "rm -r src; ln -s docs src"),
    same("a directory moved behind a link to it", "mv src real; ln -s real src"),
    same("a link into the system in place of a directory", "rm -r src; ln -s /etc src"),
    same("a file in place of a link, with its target as content", "rm link; printf src/main.rs >link"),
    same("a directory in place of a link", "rm dirlink; mkdir dirlink; echo x >dirlink/main.rs"),
    same("a directory in place of a dangling link", "rm dangling; mkdir -p dangling/a; echo x >dangling/a/b"),
    same("another target of the same length", "ln -sfn doc dirlink"),
    same("a file written through a link to a directory", "echo x >dirlink/new.rs"),
    same("a file changed through a link", "echo more >>link"),
    same("links removed", "rm link dirlink dangling"),
    same("a link renamed", "mv dirlink renamed"),
    nothing("a link made anew as it was", "rm link; ln -s src/main.rs link"),
    // --- hard links and modes
    same("hard links", "ln src/main.rs hard; ln hard docs/hard2"),
    same("a hard link that was changed through its other name", "ln src/main.rs other; echo more >>other"),
    same("hard links to a link", "ln -P link hardlink"),
    same("an executable bit set", "chmod +x src/main.rs"),
    same("an executable bit taken away", "chmod -x bin/run"),
    same("content and mode at once", "echo x >>bin/run; chmod -x bin/run; echo y >>README.md; chmod u+x README.md"),
    same("a new program", r"printf '#!/bin/sh\n' >new; chmod 755 new"),
    same("setuid, setgid and sticky bits, of which git knows none", "echo x >s; chmod 7755 s; echo y >t; chmod 7644 t; chmod 6755 README.md"),
    same("executable for its owner alone", "echo x >owner; chmod 0700 owner; echo x >group; chmod 0654 group"),
    nothing("modes that git does not see", "chmod 600 README.md; chmod 664 src/lib.rs; chmod 4755 bin/run; chmod 1777 docs; chmod 0645 data.bin"),
    // --- what is no file
    refused("a pipe", "mkfifo pipe", "`pipe`, which is no file that git can carry"),
    refused("a pipe in place of a file", "rm README.md; mkfifo README.md", "`README.md`, which is no file that git can carry"),
    refused("a pipe in a new directory", "mkdir -p n/m; mkfifo n/m/p", "`n/m/p`, which is no file"),
    refused("a socket", "perl -MSocket -e 'socket(S,PF_UNIX,SOCK_STREAM,0);bind(S,sockaddr_un(\"sock\")) or die'", SPECIAL),
    refused("a device, or a pipe where none can be made", "mknod device c 0 0 2>/dev/null || mkfifo device", "`device`, which is no file"),
    same("pipes that are ignored", "mkdir target; mkfifo target/pipe; mkfifo x.log; echo y >README.md"),
    refused("a file that cannot be read", "chmod 000 README.md", "README.md"),
    refused("a new file that cannot be read", "echo x >closed; chmod 000 closed", "closed"),
    refused("a directory that cannot be read", "chmod 000 src", "`src`"),
    refused("a directory that can be listed and not entered", "chmod 600 deep/a", "deep/a"),
    refused("a directory that can be entered and not listed", "chmod 300 deep/a", "`deep/a`"),
    same("closed directories and files that are ignored", "echo y >README.md")
        .inside("mkdir -p target/in sub/target; echo x >target/in/f; chmod 000 target/in sub/target; echo x >a.log; chmod 000 a.log"),
    same("an ignored directory that can be listed and not entered", "echo y >README.md")
        .inside("mkdir target; echo x >target/f; chmod 600 target"),
    // --- names of git's own directory
    refused_by_both("git's directory in capitals", "mkdir .GIT; echo x >.GIT/config", GIT_NAME),
    refused_by_both("git's directory in mixed case, below", "mkdir src/.Git; echo x >src/.Git/config", GIT_NAME),
    refused_by_both("git's directory with a blank", "mkdir '.git '; echo x >'.git /config'", GIT_NAME),
    refused_by_both("git's directory with dots", "mkdir .git.; echo x >.git./config", GIT_NAME),
    refused_by_both("git's directory with dots and blanks", "mkdir '.git . .'; echo x >'.git . ./x'", GIT_NAME),
    refused_by_both("git's short name", "mkdir git~1; echo x >git~1/config", GIT_NAME),
    refused_by_both("git's short name in capitals, as a file", "echo x >src/GIT~1", GIT_NAME),
    refused_by_both("git's directory as a stream", "mkdir '.git::$INDEX_ALLOCATION'; echo x >'.git::$INDEX_ALLOCATION/x'", GIT_NAME),
    refused_by_both("git's directory with a backslash", r"echo x >'.git\config'", GIT_NAME),
    refused_by_both("git's directory behind a backslash", r"echo x >'a\.git'", GIT_NAME),
    refused("git's directory with a joiner of no width", r#"n=$(printf '.g\342\200\214it'); mkdir "$n"; echo x >"$n/config""#, GIT_NAME),
    refused("git's directory with a mark of byte order", r#"n=$(printf '\357\273\277.git'); mkdir "$n"; echo x >"$n/config""#, GIT_NAME),
    refused("git's directory with another of those", r#"n=$(printf '.gi\342\201\257T'); mkdir "$n"; echo x >"$n/config""#, GIT_NAME),
    refused_by_both("a file of that name", "echo 'gitdir: /tmp' >.GIT", GIT_NAME),
    refused_by_both("a link of that name", "ln -s /etc src/.GIT", GIT_NAME),
    refused_by_both("a link in place of the list of submodules", "ln -s README.md .gitmodules", "`.gitmodules`"),
    refused_by_both("and under its short name", "ln -s README.md gitmod~1", "`gitmod~1`"),
    refused_by_both("and in capitals, below", "ln -s ../README.md src/.GITMODULES", "`src/.GITMODULES`"),
    refused("and as some systems read it", r#"ln -s README.md "$(printf '.gitm\342\200\214odules')""#, "list of submodules"),
    nothing("an empty directory of that name", "mkdir .GIT src/.Git"),
    same("that name where it is ignored", "echo .GIT >>.gitignore; mkdir .GIT; echo x >.GIT/config"),
    same("names that only look like it", "mkdir .github git .gitx; echo a >.github/w; echo b >git/HEAD; echo c >.gitx/c; echo d >git~2; echo e >.gitattributes; echo f >..git"),
    // --- repositories inside
    refused("a repository inside", "git init -q inner; echo x >inner/f", NESTED),
    refused("a repository with a commit inside", "git init -q in; cd in; git -c user.name=a -c user.email=b commit -q --allow-empty -m x", NESTED),
    refused("a repository in place of a directory", "rm -r src; git init -q src", NESTED),
    refused("a repository around files of the base", "git init -q src; echo x >>src/main.rs", NESTED),
    refused("a file that points to a repository", "mkdir -p w/t; echo 'gitdir: /somewhere' >w/t/.git; echo x >w/t/f", NESTED),
    refused("a link that points to a repository", "mkdir w; ln -s ../../.git w/.git; echo x >w/f", NESTED),
    refused("git's directory in a directory, empty", "mkdir -p deep/inner/.git", "`deep/inner`, a git repository"),
    same("a repository where it is ignored", "mkdir target; git init -q target/dep; echo x >target/dep/f; echo y >README.md"),
    same("a bare repository, which is files like any other", "mkdir -p b.git/refs b.git/objects; echo 'ref: refs/heads/main' >b.git/HEAD; : >b.git/config"),
    same("a submodule that stays", "echo y >file").on(MODULE),
    refused("a file in a submodule", "mkdir -p lib/module; echo x >lib/module/f", "which belongs to a submodule").on(MODULE),
    refused("a file in place of a submodule", "rm -rf lib/module; mkdir -p lib; echo x >lib/module", "which belongs to a submodule").on(MODULE),
    refused("a submodule's own repository", "mkdir -p lib/module; cd lib/module; git init -q", "`lib/module`").on(MODULE),
    same("the list of submodules changed", "echo '[submodule \"n\"]' >>.gitmodules").on(MODULE),
    // --- the agent's own git is not heard
    same("rules in git's own directory", "echo x >new").inside("mkdir -p .git/info; echo '*' >.git/info/exclude"),
    same("rules in a file that the configuration names", "echo x >new")
        .inside(r"mkdir -p .git ~/.config/git; printf '[core]\n\texcludesFile = /tmp/all\n' | tee .git/config >~/.gitconfig; echo '*' | tee /tmp/all >~/.config/git/ignore"),
    same("attributes in git's own directory", "printf 'a\\r\\n' >new").inside("mkdir -p .git/info; echo '* text' >.git/info/attributes"),
    same("a commit of the agent's own", "echo x >new; rm README.md")
        .inside("git init -q . && git add -A && git -c user.name=a -c user.email=b commit -q -m x"),
    same("an index that hides files", "echo y >README.md")
        .inside("git init -q . && git add README.md && git update-index --assume-unchanged README.md && git update-index --skip-worktree README.md"),
    same("a file in place of git's own directory", "echo x >new").inside("echo 'gitdir: /tmp/elsewhere' >.git"),
    same("a link in place of git's own directory", "echo x >new").inside("ln -s /etc .git"),
    same("a pipe in place of git's own directory", "echo x >new").inside("mkfifo .git"),
    same("git's own directory, closed", "echo x >new").inside("mkdir -p .git/x; chmod 000 .git"),
    // --- ignored files
    same("ignored files stay out", "mkdir -p target/debug src/target; echo x >target/debug/o; echo x >src/target/o; echo x >a.log; echo x >src/b.log; echo y >README.md"),
    same("what is taken in again comes", "echo x >keep.log; mkdir n; echo x >n/keep.log; echo x >n/lose.log"),
    same("a rule for the top is for the top", "echo x >only-top; mkdir n; echo x >n/only-top"),
    same("a tracked file that is ignored is changed", "echo more >>kept.log"),
    same("a tracked file that is ignored is deleted", "rm kept.log"),
    same("a tracked file that is ignored is made a directory", "rm kept.log; mkdir kept.log; echo x >kept.log/f; echo y >README.md"),
    same("rules in a new directory", r"mkdir -p n/m; printf '*\n!.gitignore\n!in\n' >n/.gitignore; echo x >n/in; echo x >n/out; echo x >n/m/in"),
    same("rules that take in what outer ones left out", r"mkdir n; echo '!*.log' >n/.gitignore; echo x >n/a.log; echo x >b.log"),
    same("rules in an ignored directory are none", "mkdir -p target/n; echo '!*' >target/.gitignore; echo '!*' >target/n/.gitignore; echo x >target/n/f; echo y >README.md"),
    same("rules taken away", "rm .gitignore; echo x >a.log; mkdir target; echo x >target/f"),
    same("rules in a link are none", "rm .gitignore; echo '*.rs' >rules; ln -s rules .gitignore; echo x >new.rs; echo x >a.log"),
    same("rules in a directory of that name are none", "rm .gitignore; mkdir .gitignore; echo x >.gitignore/f; echo x >a.log"),
    same("rules that ignore themselves", "mkdir n; echo .gitignore >n/.gitignore; echo x >n/f"),
    same("everything is ignored and tracked files change", "echo '*' >.gitignore; echo x >new; echo y >README.md; rm src/lib.rs"),
    same("rules with the line ends of Windows", r"printf '*.tmp\r\n' >.gitignore; echo x >a.tmp; echo x >b.tmp2"),
    same("rules with names of any bytes", r#"printf '*\377*\n' >.gitignore; n=$(printf 'a\377b'); echo x >"$n"; echo x >"$(printf 'a\376b')""#),
    nothing("only ignored files", "mkdir -p target/a/b/c; echo x >target/a/b/c/d; echo x >x.log"),
    // --- plain changes
    same("edits, new files, deletions", "echo y >README.md; rm src/lib.rs; mkdir -p n/m; echo x >n/m/o; : >n/empty"),
    same("a file with the same size and its old time", "touch -r src/main.rs /tmp/was$$; printf 'fn MAIN() {}\\n' >src/main.rs; touch -r /tmp/was$$ src/main.rs; rm /tmp/was$$"),
    same("a file replaced by one of the same size and time", "cp -p src/main.rs n; printf 'fn MINE() {}\\n' >n; touch -r src/main.rs n; mv n src/main.rs"),
    same("times from before all time, and after", "echo a >a; touch -d '1901-12-14' a; echo b >b; touch -d '2200-01-01' b; echo z >README.md; touch -d '1970-01-01 00:00:00 UTC' README.md"),
    same("a file that is longer and shorter again", "echo long >>README.md; truncate -s 1 README.md; printf y | dd of=README.md conv=notrunc 2>/dev/null"),
    nothing("files that were only touched", "touch README.md src/main.rs; cp -p src/lib.rs n; mv n src/lib.rs; printf x >README.md"),
    nothing("empty directories", "mkdir -p n/m/o target; mkdir src/empty"),
    same("a directory emptied", "rm src/*; mkdir -p src/n"),
    same("everything deleted", "rm -rf * .gitignore"),
    same("renames", "mv src lib; mv README.md docs/; mv deep/a/b deep/z"),
    same("names that differ in case alone", "mv README.md readme.md; cp docs/Guide.md docs/GUIDE.md; mkdir SRC; echo x >SRC/main.rs"),
    same("names changed in case alone", "mv docs Docs; mv src/main.rs src/Main.rs"),
    same("two files trade places", "mv src/main.rs t; mv src/lib.rs src/main.rs; mv t src/lib.rs"),
    same("a file becomes a directory", "rm README.md; mkdir -p README.md/a; echo x >README.md/a/b"),
    same("a directory becomes a file", "rm -r deep; echo x >deep"),
    same("a directory becomes an empty file", "rm -r src; : >src"),
    same("a file and a directory trade places", "mv docs t; mv README.md docs; mv t README.md"),
    same("a directory is empty in place of a file", "rm README.md; mkdir README.md"),
    same("names that sort like directories", "echo 1 >src.rs; echo 2 >src-x; mkdir src0; echo 3 >src0/f; echo 4 >'src '"),
    // --- names
    same("names with line ends, tabs and escapes", r#"echo 1 >"$(printf 'a\nb')"; echo 2 >"$(printf 'c\td')"; mkdir "$(printf 'e\n')x"; echo 3 >"$(printf 'e\n')x/f"; echo 4 >"$(printf '\033[31m')""#),
    same("names that are no text", r#"echo 1 >"$(printf '\377\376')"; mkdir "$(printf 'a\200')"; echo 2 >"$(printf 'a\200/\201')"; ln -s "$(printf '\377')" "$(printf '\303')""#),
    same("names for a shell", r#"echo 1 >-rf; echo 2 >'$(touch x)'; echo 3 >'a "b" c'; echo 4 >"it's"; echo 5 >'*'; echo 6 >'#x'; echo 7 >'!x'; echo 8 >:x"#),
    same("names that Windows does not like", r"echo 1 >con; echo 2 >aux.txt; echo 3 >'x.'; echo 4 >'y '; echo 5 >'a:b'; echo 6 >'a\b'; echo 7 >'a?b'"),
    same("the same letters in two forms", r#"echo 1 >"$(printf 'caf\303\251')"; echo 2 >"$(printf 'cafe\314\201')"; echo 3 >"$(printf '\342\200\256gnp.exe')""#),
    same("names of 255 bytes", "echo x >$(printf '%0255d' 0); mkdir $(printf '%0254d' 1); echo x >$(printf '%0254d' 1)/f"),
    same("150 levels of directories", "p=$(printf 'd/%.0s' $(seq 150)); mkdir -p $p; echo x >${p}f"),
    refused("more levels of directories than can be carried", "p=$(printf 'd/%.0s' $(seq 250)); mkdir -p $p; echo x >${p}f", "too many levels of directories"),
    refused("a path that is longer than systems take", "n=$(printf '%0200d' 0); for i in $(seq 30); do mkdir $n; cd $n; done; echo x >f", "too long"),
    // --- sizes
    same("a file of exactly the limit", "truncate -s 8388608 big"),
    refused("a byte more", "truncate -s 8388609 big", "8388609 bytes"),
    refused("a huge file without content", "truncate -s 1T sparse 2>/dev/null || truncate -s 512M sparse", "bytes or more, and at most 8388608 may leave"),
    refused("a file of the base grown huge", "truncate -s 700M README.md", "may leave a sandbox"),
    refused("many files that are too much together", "for i in $(seq 40); do truncate -s 300000 f$i; done", "12000000 bytes"),
    same("a sparse file with holes", "truncate -s 300000 s; printf x | dd of=s bs=1 seek=150000 conv=notrunc 2>/dev/null"),
    same("as many files as may leave", "mkdir n; for i in $(seq 1000); do : >n/$i; done"),
    refused("a file more", "mkdir n; for i in $(seq 1001); do : >n/$i; done", "1001 files or more, and at most 1000 may leave"),
    refused("very many files", "mkdir n; cd n; seq 20000 | xargs touch", "20000 files or more"),
    same("very many files that are ignored", "mkdir target; cd target; seq 20000 | xargs touch; echo y >../README.md"),
    // --- bytes: never converted, whatever the attributes say
    same("line ends of Windows without attributes", r"printf 'a\r\nb\n' >mixed; printf 'a\r\n' >>crlf.txt; printf 'a\nb\n' >docs/unix"),
    same("bytes of every value", r#"perl -e 'print map chr, 0..255' >all.bin; printf '\n\n\r\r\n\n' >ends; printf 'no end' >no-end"#),
    bytes("line ends of Windows in a file of text", r"printf 'a\r\nb\r\n' >file.txt"),
    bytes("line ends of Windows in a new file of text", r"printf 'a\r\nb\r\n' >new.dos; printf 'a\r\n' >new.auto"),
    bytes("a keyword", r"printf '$Id: 0123456789 $\n' >file.id"),
    bytes("another encoding", r"printf 'a\000\n\000' >new.utf16"),
    same("a file that a program should filter", "echo more >>file.evil").on(ATTRIBUTES),
    same("line ends of Unix in files of text", r"printf 'a\nb\n' | tee file.txt file.auto >file.bin").on(ATTRIBUTES),
    same("line ends of Windows in a file that is no text", r"printf 'a\r\n' >file.bin").on(ATTRIBUTES),
    bytes("attributes that come with the change", r"mkdir n; echo '* text' >n/.gitattributes; printf 'a\r\n' >n/f"),
];
