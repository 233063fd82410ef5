//! What the operator says of vendors: a file by hand or by `onramp vendors`. Whom was dealt with is not in it; that is read
//! from the journal.

use std::{collections::BTreeMap, io::Write as _, path::Path};

use serde::{Deserialize, Serialize};
use tasks::{Code, Failure};

use crate::toml_problem::TomlProblem;

/// What is known of each vendor by its name: a host, or a kind and a name such as `image:rust:1.95`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VendorBook(pub BTreeMap<String, VendorNote>);

/// What the operator says of one vendor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VendorNote {
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// How much harm it could do: `low`, `medium`, `high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// Who approved it. Empty: nobody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub approved_by: String,
    /// When: `2026-11-29`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub approved_on: String,
    /// What it costs each month besides what is metered, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub monthly_cost: String,
}

/// How much harm a vendor could do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much: it sees code, or its code is run.
    High,
}

impl Risk {
    /// The word in the file and in exports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

impl VendorBook {
    /// Reads the file; one that is not there says nothing of anybody.
    ///
    /// # Errors
    /// E006 with the line.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bad = |why: String| {
            Failure::new(Code::BadConfig, format!("The register of vendors {} cannot be used: {why}", path.display()))
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(bad(error.to_string())),
        };
        toml::from_str(&text).map_err(|error| {
            let problem = TomlProblem::new(&text, &error);
            bad(problem.to_string()).detail(&problem.excerpt)
        })
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// E062 when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let write = || -> std::io::Result<()> {
            let text = toml::to_string(self).map_err(std::io::Error::other)?;
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::create_dir_all(dir)?;
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|error| {
            let message = format!("The register of vendors {} cannot be written: {error}", path.display());
            Failure::new(Code::StoreUnavailable, message)
        })
    }

    /// The names of those that somebody approved and that are hosts.
    pub fn approved(&self) -> Vec<String> {
        let approved = self.0.iter().filter(|(name, note)| !note.approved_by.is_empty() && !name.contains(':'));
        approved.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_a_mistake_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/vendors.toml");
        assert_eq!(VendorBook::read(&path).unwrap(), VendorBook::default());
        let note = VendorNote {
            owner: "ada".into(),
            risk: Some(Risk::High),
            approved_by: "ada".into(),
            ..VendorNote::default()
        };
        let image = VendorNote { approved_by: "ada".into(), ..VendorNote::default() };
        let book = VendorBook([("api.example.com".to_owned(), note), ("image:rust:1.95".to_owned(), image)].into());
        book.write(&path).unwrap();
        assert_eq!(VendorBook::read(&path).unwrap(), book);
        assert_eq!(book.approved(), ["api.example.com"]);
        std::fs::write(&path, "[\"a.example\"]\nowned = \"ada\"\n").unwrap();
        let failure = VendorBook::read(&path).unwrap_err();
        assert!(failure.message.contains("line 2") && failure.message.contains("owned"), "{failure}");
    }
}
