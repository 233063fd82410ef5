//! Dockerfiles of sandboxes with an agent in them.

/// The Dockerfiles that ship with Onramp: (name, Dockerfile). Each but `cuda` is named for the agent in it.
pub static SANDBOX_IMAGES: &[(&str, &str)] = &[
    ("aider", include_str!("../sandbox/aider.Dockerfile")),
    ("claude", include_str!("../sandbox/claude.Dockerfile")),
    ("codex", include_str!("../sandbox/codex.Dockerfile")),
    ("cuda", include_str!("../sandbox/cuda.Dockerfile")),
    ("opencode", include_str!("../sandbox/opencode.Dockerfile")),
];

/// The Dockerfile of this name.
pub fn sandbox_image(name: &str) -> Option<&'static str> {
    SANDBOX_IMAGES.iter().find(|(of, _)| *of == name).map(|(_, dockerfile)| *dockerfile)
}

/// The version of the agent that a Dockerfile brings: the tag that its own first lines propose.
pub fn version_in_image(dockerfile: &str) -> Option<&str> {
    let (_, tag) = dockerfile.lines().find_map(|line| line.split_once(" -t "))?;
    tag.trim_end_matches(" -").rsplit_once(':').map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_pinned_and_runs_as_nobody() {
        for (name, dockerfile) in SANDBOX_IMAGES {
            let version = version_in_image(dockerfile).unwrap_or_else(|| panic!("{name} proposes no tag"));
            assert!(dockerfile.matches(version).count() > 1, "{name} proposes {version} and brings something else");
            assert!(dockerfile.trim_end().ends_with("USER 65534:65534"), "{name}");
            for line in dockerfile.lines().filter(|line| line.starts_with("ARG ")) {
                let (_, image) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
                let (_, tag) = image.split_once(':').unwrap_or_else(|| panic!("{name} does not pin {image}"));
                assert!(tag.contains('.') || tag.contains("-20"), "{name}: {image} moves");
            }
            assert!(!dockerfile.contains("latest"), "{name}");
            // A package is held against its hash, or has its exact version named.
            let packages = dockerfile.matches("package=").count();
            assert_eq!(packages, dockerfile.matches("sha512=").count(), "{name}");
            assert!(packages > 0 || dockerfile.contains("==") || *name == "cuda", "{name}");
        }
    }
}
