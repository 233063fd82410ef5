//! Trees and edits by chance, with git as the judge.
//!
//! `ONRAMP_EXTRACT_CASES=5000 cargo test -p workers --test extract random` runs it for long, and `ONRAMP_EXTRACT_SEED=N`
//! from a seed that a failure has told.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, stream};

use crate::rig::{Conversions, Rig, sh};

/// Cases of one repository, so that the mirror is made once for all of them.
const BATCH: u64 = 50;

/// A small random generator, so that a failing seed can be run again.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        dice.roll(2);
        dice
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % sides as u64) as usize
    }

    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.roll(all.len())]
    }

    /// One to four parts, plain in the double quotes of Perl.
    fn path(&mut self) -> String {
        const PARTS: &[&str] = &[
            "a",
            "b",
            "A",
            "c.log",
            "d e",
            "build",
            r"\303\251",
            r"\377",
            r"x\042y",
            "out.o",
            r"n\nl",
            "-f",
            "a.b",
            "a0",
            r"\044x",
            "it",
            "sub",
            "sub.d",
            ".hid",
            "*",
        ];
        (0..1 + self.roll(4)).map(|_| self.pick(PARTS)).collect::<Vec<_>>().join("/")
    }

    /// A line of Perl that does one thing to a path.
    fn edit(&mut self) -> String {
        let path = self.path();
        let outer = path.rsplit_once('/').map_or(String::new(), |(outer, _)| format!("{outer}/"));
        match self.roll(16) {
            0 | 1 => format!("room(\"{path}\");"),
            2 => {
                let target = self.pick(&["a", "../b", "/nowhere", ".", "sub", "a/b"]);
                format!("room(\"{path}\"); symlink(\"{target}\", \"{path}\") or die;")
            }
            3 => {
                let rules = self.pick(&[
                    r"*.log\n",
                    r"build/\n",
                    r"/a/*\n!/a/b\n",
                    r"*\n!*/\n",
                    r"**/out.o\n!b/**\n",
                    r"d\\ e\n",
                    r"\n#x\n!a\n",
                    r"sub*\n!sub.d/\n",
                    r"a\n",
                    r".gitignore\n",
                    r"[a-c]*\n",
                    r"*\n!.gitignore\n!A\n",
                    r"a/**/b\n",
                ]);
                format!("put(\"{outer}.gitignore\", \"{rules}\");")
            }
            4 => format!("chmod 0755, \"{path}\" if file(\"{path}\");"),
            5 => format!("if (file(\"{path}\")) {{ chmod 0644, \"{path}\"; utime 1, 1, \"{path}\" }}"),
            6 => format!("room(\"{path}\"); mkdir \"{path}\" or die;"),
            7 => {
                let to = self.pick(&["moved", "moved2", "build2"]);
                format!("if (-e \"{path}\" || -l \"{path}\") {{ zap(\"{to}\"); rename \"{path}\", \"{to}\" }}")
            }
            8 => format!("if (file(\"{path}\")) {{ zap(\"hard\"); link \"{path}\", \"hard\" }}"),
            n => {
                let content = self.pick(&["", "x", r"x\n", r"one\ntwo\nthree\n", r"\000bin", r"a\r\nb\r\n", r"y\n"]);
                let mode = if n == 9 { format!(" chmod 0755, \"{path}\";") } else { String::new() };
                format!("put(\"{path}\", \"{content}\");{mode}")
            }
        }
    }

    /// A line of shell. One process of Perl does all of it, because a process for each edit takes too long.
    fn script(&mut self, n_edits: usize) -> String {
        let edits = (0..n_edits).map(|_| self.edit()).collect::<Vec<_>>().join("\n");
        format!("perl -e '{PRELUDE}\n{edits}'")
    }
}

/// Links are never followed by what changes things: the same script runs outside.
const PRELUDE: &str = r#"
    sub zap { my $p = shift; if (-d $p && !-l $p) { opendir my $d, $p; my @n = grep { !/^\.\.?$/ } readdir $d; closedir $d;
        zap("$p/$_") for @n; rmdir $p or die } elsif (-e $p || -l $p) { unlink $p or die } }
    sub room { my $p = shift; my @parts = split m{/}, $p; pop @parts; my $o = "";
        for (@parts) { $o .= $o eq "" ? $_ : "/$_"; if (-l $o || !-d $o) { zap($o); mkdir $o or die } } zap($p) }
    sub put { my ($p, $c) = @_; room($p); open my $f, ">", $p or die; print $f $c; close $f }
    sub file { my $p = shift; -f $p && !-l $p }"#;

/// (base, edit) of a seed.
fn scripts(seed: u64) -> (String, String) {
    let mut dice = Dice::new(seed);
    let base = 5 + dice.roll(30);
    let edit = 1 + dice.roll(20);
    (dice.script(base), dice.script(edit))
}

async fn run(rig: &Rig, seed: u64) -> Result<bool, String> {
    let (base, edit) = scripts(seed);
    let commit = rig.base(&base);
    let room = rig.open(commit).await;
    room.sh(&edit).await;
    let ours = room.extract().await;
    room.close().await;
    let git = rig.by_git(commit, &edit, Conversions::AsAttributesSay).await;
    let (ours, git) = match (ours, git) {
        (Ok(ours), Ok(git)) => (ours, git),
        (ours, git) => return Err(format!("seed {seed}: {ours:?}, git: {git:?}")),
    };
    match git.starts_with(ours.as_str()) {
        true => Ok(ours.as_str() != rig.tree_of(commit)),
        false => Err(format!("seed {seed}: ours:\n{}\ngit's:\n{git}\nof:\n{edit}", rig.listing(ours.as_str()))),
    }
}

#[expect(clippy::disallowed_methods, reason = "a person's choice for the tests alone")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_edits_leave_as_the_tree_that_git_makes() {
    let cases = number("ONRAMP_EXTRACT_CASES").unwrap_or(150);
    let chance = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 1_000_000_000;
    let first = number("ONRAMP_EXTRACT_SEED").unwrap_or_else(chance);
    println!("{cases} cases from seed {first}");
    let mut n_changed = 0;
    let seeds: Vec<u64> = (first..first + cases).collect();
    for batch in seeds.chunks(BATCH as usize) {
        let bases: Vec<String> = batch.iter().map(|seed| scripts(*seed).0).collect();
        let rig = Rig::new(&bases.iter().map(String::as_str).collect::<Vec<_>>(), false).await;
        let outcomes: Vec<_> = stream::iter(batch).map(|seed| run(&rig, *seed)).buffer_unordered(3).collect().await;
        for outcome in outcomes {
            n_changed += u64::from(outcome.unwrap_or_else(|wrong| panic!("{wrong}")));
        }
    }
    assert!(n_changed * 10 >= cases * 8, "only {n_changed} of {cases} cases changed anything");
}

#[test]
fn a_seed_means_the_same_script_each_time() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(scripts(7), scripts(7));
    assert_ne!(scripts(7).1, scripts(8).1);
    // And it is one that a shell understands.
    sh(dir.path(), &format!("set -e\n{}", scripts(7).0)).unwrap();
}
