//! What the driver says there is, read out of the texts of `nvidia-smi` and of `/proc/driver/nvidia`.

use super::{Gpu, Slice};

/// The fields asked for, in this order, without header and units.
pub(super) const QUERY: &str = "index,uuid,name,memory.total,mig.mode.current,compute_mode";
/// The fields asked for of processes.
pub(super) const QUERY_PROCESSES: &str = "gpu_uuid,pid,process_name";

/// The devices that can be lent. A GPU that is cut into slices is not lent whole, and one that its owner has closed for
/// computing (`Prohibited`) not at all.
pub(super) fn devices(query: &str, list: &str, minors: &[(String, u32)]) -> Vec<Gpu> {
    let mut found = Vec::new();
    for line in query.lines() {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let &[_, uuid, model, memory, mig, mode] = fields.as_slice() else { continue };
        if !uuid.starts_with("GPU-") || mode.eq_ignore_ascii_case("prohibited") {
            continue;
        }
        let minor = minors.iter().find(|(id, _)| id == uuid).map(|(_, minor)| *minor);
        let whole =
            Gpu { id: uuid.to_owned(), model: model.to_owned(), memory_bytes: mebibytes(memory), minor, slice: None };
        if mig.eq_ignore_ascii_case("enabled") {
            found.extend(slices(list, &whole));
        } else {
            found.push(whole);
        }
    }
    found
}

/// `81559`, `81559 MiB`; anything else is not known.
fn mebibytes(text: &str) -> u64 {
    text.trim_end_matches("MiB").trim().parse::<u64>().unwrap_or(0) << 20
}

/// The slices that `nvidia-smi -L` lists below a GPU.
fn slices(list: &str, whole: &Gpu) -> Vec<Gpu> {
    let mut found = Vec::new();
    let mut below = false;
    for line in list.lines() {
        if line.starts_with("GPU ") {
            below = uuid_in(line).is_some_and(|uuid| uuid == whole.id);
            continue;
        }
        let (true, Some(uuid)) = (below, uuid_in(line)) else { continue };
        let Some(profile) = line.trim().strip_prefix("MIG ").and_then(|rest| rest.split_whitespace().next()) else {
            continue;
        };
        let slice = Slice { profile: profile.to_lowercase(), instances: instances(uuid) };
        let memory_bytes = gigabytes(&slice.profile).map_or(0, |n| n << 30);
        found.push(Gpu { id: uuid.to_owned(), memory_bytes, slice: Some(slice), ..whole.clone() });
    }
    found
}

fn uuid_in(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("(UUID: ")?;
    rest.split_once(')').map(|(uuid, _)| uuid.trim())
}

/// The older form of a slice's name holds them: `MIG-GPU-<uuid>/<gpu instance>/<compute instance>`.
fn instances(uuid: &str) -> Option<(u32, u32)> {
    let mut parts = uuid.split('/').skip(1).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// 40 in `3g.40gb`, `3g.40gb+me`.
fn gigabytes(profile: &str) -> Option<u64> {
    let (_, memory) = profile.split_once('.')?;
    memory.split("gb").next()?.parse().ok()
}

/// UUID and the number of the device file, out of the files `/proc/driver/nvidia/gpus/*/information`.
pub(super) fn minor_of(information: &str) -> Option<(String, u32)> {
    Some((value(information, "GPU UUID")?.to_owned(), value(information, "Device Minor")?.parse().ok()?))
}

/// A device as those files alone describe it, for a machine whose driver came without its tools. They do not tell its
/// memory, nor whether it is cut into slices.
pub(super) fn device_of(information: &str) -> Option<Gpu> {
    let (id, minor) = minor_of(information).filter(|(id, _)| id.starts_with("GPU-") && !id.contains('?'))?;
    let model = value(information, "Model")?.to_owned();
    Some(Gpu { id, model, memory_bytes: 0, minor: Some(minor), slice: None })
}

/// The value behind `key:` at the beginning of a line.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix(':')).map(str::trim)
}

/// Which process uses which GPU: UUID, then who.
pub(super) fn processes(query: &str) -> Vec<(String, u32, String)> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ',').map(str::trim);
        let (uuid, pid, name) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?);
        Some((uuid.to_owned(), pid, name.rsplit('/').next().unwrap_or(name).to_owned()))
    };
    query.lines().filter_map(line).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const WHOLE: &str = "\
0, GPU-11111111-aaaa-bbbb-cccc-000000000000, NVIDIA H100 80GB HBM3, 81559, Disabled, Default
1, GPU-11111111-aaaa-bbbb-cccc-000000000001, NVIDIA A100-SXM4-40GB, 40960, Disabled, Exclusive_Process
2, GPU-11111111-aaaa-bbbb-cccc-000000000002, Tesla T4, 15360, [N/A], Default
3, GPU-11111111-aaaa-bbbb-cccc-000000000003, NVIDIA GeForce RTX 4090, [N/A], [N/A], Prohibited
";
    pub(crate) const MIXED: &str = "\
0, GPU-22222222-0, NVIDIA A100-SXM4-80GB, 81920, Enabled, Default
1, GPU-22222222-1, NVIDIA A100-SXM4-80GB, 81920, Disabled, Default
2, GPU-22222222-2, NVIDIA A100-SXM4-80GB, 81920, Enabled, Default
";
    pub(crate) const MIXED_LIST: &str = "\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-22222222-0)
  MIG 3g.40gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.10gb     Device  1: (UUID: MIG-GPU-22222222-0/7/0)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-22222222-1)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-22222222-2)
";
    const INFORMATION: &str = "\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 118
GPU UUID: \t GPU-11111111-aaaa-bbbb-cccc-000000000000
Video BIOS: \t 96.00.61.00.01
Bus Type: \t PCIe
Bus Location: \t 0000:0f:00.0
Device Minor: \t 3
GPU Excluded:\t No
";

    #[test]
    fn whole_gpus_are_listed_with_uuid_model_and_memory_and_closed_ones_left_out() {
        let found = devices(WHOLE, "", &[minor_of(INFORMATION).unwrap()]);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].minor, found[0].memory_bytes >> 20), (Some(3), 81_559));
        assert_eq!((found[2].name().as_str(), found[2].memory_bytes >> 30), ("Tesla T4", 15));
        assert!(found.iter().all(|gpu| gpu.slice.is_none() && gpu.id.starts_with("GPU-")));
    }

    #[test]
    fn a_gpu_that_is_cut_into_slices_is_lent_as_those_and_never_whole() {
        let found = devices(MIXED, MIXED_LIST, &[]);
        let names: Vec<_> = found.iter().map(|gpu| (gpu.id.as_str(), gpu.memory_bytes >> 30)).collect();
        assert_eq!(
            names,
            [("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", 40), ("MIG-GPU-22222222-0/7/0", 10), ("GPU-22222222-1", 80)]
        );
        assert_eq!(found[0].name(), "NVIDIA A100-SXM4-80GB (3g.40gb)");
        assert_eq!(found[1].slice.as_ref().unwrap().instances, Some((7, 0)));
        assert_eq!(found[0].slice.as_ref().unwrap().instances, None);
    }

    #[test]
    fn what_is_no_list_of_gpus_is_none() {
        for text in
            ["", "No devices were found", "NVIDIA-SMI has failed because it couldn't communicate", "a,b,c,d,e,f"]
        {
            assert_eq!(devices(text, text, &[]), []);
        }
    }

    #[test]
    fn a_driver_without_its_tools_still_names_its_devices() {
        let gpu = device_of(INFORMATION).unwrap();
        assert_eq!(
            (gpu.id.as_str(), gpu.minor, gpu.memory_bytes),
            ("GPU-11111111-aaaa-bbbb-cccc-000000000000", Some(3), 0)
        );
        assert_eq!(device_of("Model: Unknown\nGPU UUID: GPU-????????\nDevice Minor: 0"), None);
        assert_eq!(device_of(""), None);
    }

    #[test]
    fn processes_are_told_by_name() {
        let text = "GPU-1, 4242, /usr/bin/python3\nGPU-2, 7, [Not Found]\nNo running processes found\n";
        let found = processes(text);
        assert_eq!(found, [("GPU-1".into(), 4242, "python3".into()), ("GPU-2".into(), 7, "[Not Found]".into())]);
    }
}
