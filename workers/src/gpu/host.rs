//! Asks this machine about its GPUs: through the driver's own tool, and where that is missing through `/proc`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{Gpu, ToolkitFacts, inventory};

/// A driver that is stuck does not answer at all.
const TOOL_TIMEOUT: Duration = Duration::from_secs(20);
/// The programs of the toolkit, any of which shows that it is installed.
const TOOLKIT: &[&str] = &["nvidia-ctk", "nvidia-cdi-hook", "nvidia-container-runtime", "nvidia-container-cli"];
/// Where descriptions of devices lie that an engine can be asked for by name.
const CDI_DIRS: &[&str] = &["/etc/cdi", "/var/run/cdi"];

/// Where to ask.
#[derive(Debug, Clone)]
pub struct GpuHost {
    tool: Option<PathBuf>,
    toolkit: Option<PathBuf>,
    driver: PathBuf,
    cdi_dirs: Vec<PathBuf>,
}

/// A process on a GPU that was not lent to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// The GPU's UUID.
    pub gpu: String,
    /// Who: `python3 (process 4242)`.
    pub who: String,
}

impl GpuHost {
    /// This machine, with the programs that `path` leads to.
    pub fn find(path: &str) -> Self {
        Self {
            tool: program(path, "nvidia-smi"),
            toolkit: TOOLKIT.iter().find_map(|name| program(path, name)),
            driver: PathBuf::from("/proc/driver/nvidia"),
            cdi_dirs: CDI_DIRS.iter().map(PathBuf::from).collect(),
        }
    }

    /// One whose driver is this tool and nothing else, for tests.
    pub fn with_tool(tool: PathBuf) -> Self {
        Self { tool: Some(tool), toolkit: None, driver: "/nowhere".into(), cdi_dirs: Vec::new() }
    }

    /// The devices that can be lent, in the driver's order; none where there is no driver or it does not answer.
    pub async fn devices(&self) -> Vec<Gpu> {
        let information = self.information();
        let minors: Vec<_> = information.iter().filter_map(|text| inventory::minor_of(text)).collect();
        if let Some(tool) = &self.tool {
            let query =
                ask(tool, &[&format!("--query-gpu={}", inventory::QUERY), "--format=csv,noheader,nounits"]).await;
            let list = ask(tool, &["-L"]).await;
            if let (Ok(query), Ok(list)) = (query, list) {
                return inventory::devices(&query, &list, &minors);
            }
        }
        information.iter().filter_map(|text| inventory::device_of(text)).collect()
    }

    /// Who computes on which GPU right now. A slice's processes are told under its whole GPU's name.
    ///
    /// # Errors
    /// The tool's own words: who cannot look must not lend.
    pub async fn occupants(&self) -> Result<Vec<Occupant>, String> {
        let Some(tool) = &self.tool else { return Ok(Vec::new()) };
        let query = format!("--query-compute-apps={}", inventory::QUERY_PROCESSES);
        let text = ask(tool, &[&query, "--format=csv,noheader"]).await?;
        let found = inventory::processes(&text);
        Ok(found.into_iter().map(|(gpu, pid, name)| Occupant { gpu, who: format!("{name} (process {pid})") }).collect())
    }

    /// What is installed here, for [`super::judge`].
    pub fn facts(&self) -> ToolkitFacts {
        let mentions = |file: PathBuf| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.contains("nvidia.com/gpu")
        };
        let specs = self.cdi_dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
        ToolkitFacts {
            driver: self.tool.is_some() || self.driver.join("version").exists(),
            toolkit: self.toolkit.is_some(),
            cdi_spec: specs.map(|entry| entry.path()).any(mentions),
        }
    }

    /// The toolkit's version, where it is installed and says it.
    pub async fn toolkit_version(&self) -> Option<String> {
        let said = ask(self.toolkit.as_deref()?, &["--version"]).await.ok()?;
        let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
        said.split_whitespace().find(is_version).map(str::to_owned)
    }

    fn information(&self) -> Vec<String> {
        let gpus = std::fs::read_dir(self.driver.join("gpus")).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = gpus.map(|gpu| gpu.path().join("information")).collect();
        files.sort();
        files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect()
    }
}

fn program(path: &str, name: &str) -> Option<PathBuf> {
    path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join(name)).find(|file| file.is_file())
}

/// What the tool says, or why it says nothing.
async fn ask(tool: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(tool);
    command.args(arguments).env_clear().kill_on_drop(true).stdin(std::process::Stdio::null());
    let output = match timeout(TOOL_TIMEOUT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{} cannot be run: {error}", tool.display())),
        Err(_) => return Err(format!("{} did not answer within {} seconds", tool.display(), TOOL_TIMEOUT.as_secs())),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        // It tells its troubles on either stream.
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        return Err(format!("{} failed: {}", tool.display(), said.trim()));
    }
    Ok(text(&output.stdout))
}
