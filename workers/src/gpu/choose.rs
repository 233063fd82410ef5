//! Which devices a requirement means, the most fitting first.
//!
//! Models are matched by the words in the driver's own name for them, so a model that is new today needs no new version.
//! Of several that fit, the smallest goes first: the large ones stay for those who need them.

use tasks::{GpuChoice, GpuKind};

use super::Gpu;

/// What else will do when a model without `!` is not free: at least as much of everything that programs can see.
const BIGGER: &[(&str, &str)] = &[("h100", "h200"), ("a100-40gb", "a100-80gb"), ("l40", "l40s")];
/// Words behind a model's name that make another model of it.
const VARIANTS: &[&str] = &["ti", "super", "laptop", "mobile"];

/// The positions of the devices that will do, in the order in which they are to be tried.
pub(super) fn candidates(choice: &GpuChoice, devices: &[Gpu]) -> Vec<usize> {
    let mut found: Vec<(u8, usize)> =
        devices.iter().enumerate().filter_map(|(at, gpu)| Some((rank(choice, gpu)?, at))).collect();
    // A slice before a whole one, the small before the large.
    found.sort_by_key(|(rank, at)| (*rank, devices[*at].slice.is_none(), devices[*at].memory_bytes, *at));
    found.into_iter().map(|(_, at)| at).collect()
}

/// How well a device fits, 0 best; `None`: it does not.
fn rank(choice: &GpuChoice, gpu: &Gpu) -> Option<u8> {
    // One program cannot use several slices, so who wants several devices wants whole ones.
    let may_be_slice = gpu.slice.is_none() || choice.count == 1;
    match &choice.kind {
        GpuKind::Any => may_be_slice.then_some(0),
        GpuKind::Memory { at_least_bytes } => (may_be_slice && has_memory(gpu, *at_least_bytes)).then_some(0),
        GpuKind::Model { name, exact } => {
            if is(gpu, name) && !(*exact && is_variant(gpu, name)) {
                return Some(0);
            }
            let bigger = BIGGER.iter().any(|(model, bigger)| model == name && is(gpu, bigger));
            (bigger && !exact).then_some(1)
        }
    }
}

/// Sizes are asked for as they are sold, and error correction takes a sixteenth of what is sold.
fn has_memory(gpu: &Gpu, bytes: u64) -> bool {
    gpu.memory_bytes.saturating_add(gpu.memory_bytes / 15) >= bytes && gpu.memory_bytes > 0
}

/// Whether every word of `name` is in the name of the device, or says its memory. A slice is only meant where its own size
/// is asked for (`1g.10gb`, `a100-3g.40gb`): an "a100" is a whole one.
fn is(gpu: &Gpu, name: &str) -> bool {
    let model = gpu.model.to_lowercase();
    let words: Vec<&str> = model.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let profile = gpu.slice.as_ref().map(|slice| slice.profile.as_str());
    let mut asks_for_profile = false;
    let all = name.split('-').all(|part| {
        if profile == Some(part) {
            asks_for_profile = true;
            return true;
        }
        words.contains(&part) || words.windows(2).any(|pair| pair.concat() == part) || says_memory(gpu, part)
    });
    all && (gpu.slice.is_none() || asks_for_profile)
}

/// `80gb`, when that is what it is sold with.
fn says_memory(gpu: &Gpu, part: &str) -> bool {
    let Some(gigabytes) = part.strip_suffix("gb").and_then(|n| n.parse::<u64>().ok()) else { return false };
    let has = gpu.memory_bytes >> 20;
    let asked = gigabytes.saturating_mul(1024);
    has > 0 && has.abs_diff(asked) <= asked / 15
}

fn is_variant(gpu: &Gpu, name: &str) -> bool {
    let model = gpu.model.to_lowercase();
    let is_variant = |word: &str| VARIANTS.contains(&word) && !name.split('-').any(|part| part == word);
    model.split(|c: char| !c.is_ascii_alphanumeric()).any(is_variant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Slice, inventory};

    fn gpu(model: &str, gib: u64) -> Gpu {
        let id = format!("GPU-{model}-{gib}");
        Gpu { id, model: model.into(), memory_bytes: gib << 30, minor: None, slice: None }
    }

    fn chosen(request: &str, devices: &[Gpu]) -> Vec<String> {
        let request: tasks::GpuRequest = request.parse().unwrap();
        candidates(&request.choices()[0], devices).into_iter().map(|at| devices[at].name()).collect()
    }

    #[test]
    fn a_model_is_found_by_the_words_of_the_drivers_name() {
        let names = [
            ("h100", "NVIDIA H100 80GB HBM3"),
            ("h100-pcie", "NVIDIA H100 PCIe"),
            ("nvidia-h100", "NVIDIA H100 PCIe"),
            ("a100-sxm4", "NVIDIA A100-SXM4-80GB"),
            ("t4", "Tesla T4"),
            ("tesla-t4", "Tesla T4"),
            ("rtx-4090", "NVIDIA GeForce RTX 4090"),
            ("rtx4090", "NVIDIA GeForce RTX 4090"),
            ("a6000", "NVIDIA RTX A6000"),
            ("gh200", "NVIDIA GH200 480GB"),
        ];
        for (asked, model) in names {
            assert_eq!(chosen(asked, &[gpu(model, 80)]), [model], "{asked}");
        }
        for (asked, model) in [
            ("h100", "NVIDIA GH100"),
            ("h200", "NVIDIA GH200 480GB"),
            ("a10", "NVIDIA A100-SXM4-80GB"),
            ("a100", "NVIDIA A1000"),
            ("a10", "NVIDIA A10G"),
            ("rtx-4090!", "NVIDIA GeForce RTX 4090 Ti"),
        ] {
            assert!(chosen(asked, &[gpu(model, 80)]).is_empty(), "{asked} is no {model}");
        }
    }

    #[test]
    fn memory_is_meant_as_it_is_sold() {
        let devices = inventory::devices(inventory::tests::WHOLE, "", &[]);
        assert_eq!(chosen("h100-80gb", &devices), ["NVIDIA H100 80GB HBM3"]);
        assert_eq!(chosen("min_vram=80GiB", &devices), ["NVIDIA H100 80GB HBM3"]);
        assert_eq!(chosen("min_vram=16GiB", &devices)[0], "Tesla T4");
        assert_eq!(chosen("min_vram=24GiB", &devices)[0], "NVIDIA A100-SXM4-40GB");
        assert!(chosen("min_vram=90GiB", &devices).is_empty());
        assert!(chosen("a100-80gb", &devices).is_empty());
        assert!(chosen("min_vram=1GiB", &[gpu("unknown", 0)]).is_empty(), "what is not known is not enough");
    }

    #[test]
    fn a_bigger_sister_comes_last_and_never_where_it_is_refused() {
        let devices = [gpu("NVIDIA H200", 141), gpu("NVIDIA H100 PCIe", 80)];
        assert_eq!(chosen("h100", &devices), ["NVIDIA H100 PCIe", "NVIDIA H200"]);
        assert_eq!(chosen("h100!", &devices), ["NVIDIA H100 PCIe"]);
        assert_eq!(chosen("h200", &devices), ["NVIDIA H200"]);
        let a100 = [gpu("NVIDIA A100-SXM4-80GB", 80), gpu("NVIDIA A100-SXM4-40GB", 40)];
        assert_eq!(chosen("a100-40gb", &a100), ["NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"]);
        assert_eq!(chosen("a100-40gb!", &a100), ["NVIDIA A100-SXM4-40GB"]);
    }

    #[test]
    fn a_slice_is_taken_for_itself_and_for_a_small_need_only() {
        let whole = gpu("NVIDIA A100-SXM4-80GB", 80);
        let slice = Gpu {
            memory_bytes: 10 << 30,
            slice: Some(Slice { profile: "1g.10gb".into(), instances: None }),
            ..whole.clone()
        };
        let devices = [whole, slice];
        assert_eq!(chosen("any", &devices)[0], "NVIDIA A100-SXM4-80GB (1g.10gb)");
        assert_eq!(chosen("any:2", &devices), ["NVIDIA A100-SXM4-80GB"]);
        assert_eq!(chosen("a100", &devices), ["NVIDIA A100-SXM4-80GB"]);
        assert_eq!(chosen("1g.10gb", &devices), ["NVIDIA A100-SXM4-80GB (1g.10gb)"]);
        assert_eq!(chosen("a100-1g.10gb", &devices), ["NVIDIA A100-SXM4-80GB (1g.10gb)"]);
        assert_eq!(chosen("min_vram=8GiB", &devices)[0], "NVIDIA A100-SXM4-80GB (1g.10gb)");
        assert_eq!(chosen("min_vram=40GiB", &devices), ["NVIDIA A100-SXM4-80GB"]);
    }
}
