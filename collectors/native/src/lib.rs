//! Reads the iteration counter, the batch and the stack of a running Python engine from outside.

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little"
)))]
compile_error!("latencyprism-native reads 64-bit little-endian Linux processes only");

mod calls;
mod clock;
mod dump;
mod errors;
mod events;
mod frames;
#[cfg(test)]
mod fuzz;
mod layout;
mod lookahead;
mod memory;
mod objects;
mod pace;
mod places;
mod process;
mod reader;
mod sampler;
mod selfcheck;
mod spec;
mod stats;
mod time;

use pyo3::prelude::*;

#[pymodule]
mod latencyprism_native {
    use super::*;

    #[pymodule_export]
    use crate::errors::{
        AnchorMissing, PermissionRefused, ProcessGone, SamplerError, UnsupportedPython,
    };
    #[pymodule_export]
    use crate::sampler::Sampler;

    #[pyfunction]
    fn dump_stacks(py: Python<'_>, pid: i32) -> PyResult<String> {
        Ok(py.detach(|| dump::dump(pid))?)
    }

    #[pyfunction]
    fn monotonic_ns() -> u64 {
        time::monotonic_ns()
    }

    #[pymodule_init]
    fn constants(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("EVENT_HEADER", events::HEADER_FORMAT)?;
        module.add("UNKNOWN", events::UNKNOWN)?;
        for (name, value) in [
            ("BEGIN", u32::from(events::BEGIN)),
            ("BATCH", u32::from(events::BATCH)),
            ("END", u32::from(events::END)),
            ("STACK", u32::from(events::STACK)),
            ("STATE", u32::from(events::STATE)),
            ("GAUGES", u32::from(events::GAUGES)),
            ("STATE_ATTACHED", events::STATE_ATTACHED),
            ("STATE_PROCESS_GONE", events::STATE_PROCESS_GONE),
            ("STATE_PERMISSION_LOST", events::STATE_PERMISSION_LOST),
            ("STATE_SLOT_LOST", events::STATE_SLOT_LOST),
            ("STATE_LAGGING", events::STATE_LAGGING),
            ("STATE_SELF_CHECK_FAILED", events::STATE_SELF_CHECK_FAILED),
            ("FLAG_INSIDE_STEP", u32::from(events::FLAG_INSIDE_STEP)),
        ] {
            module.add(name, value)?;
        }
        module.add("PHASE_NONE", events::PHASE_NONE)?;
        module.add("PHASE_TORN", events::PHASE_TORN)
    }
}
