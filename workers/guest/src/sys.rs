//! The few functions of the C library that the standard library links but does not offer.

use std::ffi::{c_int, c_ulong};

unsafe extern "C" {
    fn prctl(option: c_int, ...) -> c_int;
}

const PR_SET_DUMPABLE: c_int = 4;
const PR_SET_NO_NEW_PRIVS: c_int = 38;

/// Nothing inside may look into this process, and nothing it starts may gain privileges.
pub(crate) fn harden() {
    let (none, one): (c_ulong, c_ulong) = (0, 1);
    // SAFETY: both options take plain integers and touch no memory of ours.
    unsafe {
        prctl(PR_SET_DUMPABLE, none, none, none, none);
        prctl(PR_SET_NO_NEW_PRIVS, one, none, none, none);
    }
}
