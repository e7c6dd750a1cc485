//! What can go wrong, as Python sees it. Every text ends with what to do.

use std::fmt;

use pyo3::exceptions::PyException;
use pyo3::{create_exception, PyErr};

create_exception!(
    latencyprism_native,
    SamplerError,
    PyException,
    "The engine cannot be read; the text says what to do."
);
create_exception!(
    latencyprism_native,
    ProcessGone,
    SamplerError,
    "The process has ended, or its number now belongs to another one."
);
create_exception!(
    latencyprism_native,
    PermissionRefused,
    SamplerError,
    "The kernel does not let this user read the process."
);
create_exception!(
    latencyprism_native,
    UnsupportedPython,
    SamplerError,
    "The process runs no Python, or one whose layout is not known here."
);
create_exception!(
    latencyprism_native,
    AnchorMissing,
    SamplerError,
    "No thread runs a root function of the spec, or no counter path leads to a value."
);

/// Why attaching failed, before it becomes a Python exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Gone(String),
    Refused(String),
    Unsupported(String),
    Anchor(String),
    Other(String),
}

impl Failure {
    pub fn gone(pid: i32) -> Self {
        Failure::Gone(format!(
            "process {pid} is gone: discover the engines again and attach to the new process"
        ))
    }

    pub fn refused(pid: i32) -> Self {
        Failure::Refused(format!(
            "reading process {pid} is refused: run the agent as the same user with at least the \
             engine's capabilities, or give it CAP_SYS_PTRACE; on a host check that \
             /proc/sys/kernel/yama/ptrace_scope is 0 (or keep the capability); in Kubernetes set \
             shareProcessNamespace: true and add SYS_PTRACE to the agent's container"
        ))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Gone(text)
            | Failure::Refused(text)
            | Failure::Unsupported(text)
            | Failure::Anchor(text)
            | Failure::Other(text) => f.write_str(text),
        }
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        match failure {
            Failure::Gone(text) => ProcessGone::new_err(text),
            Failure::Refused(text) => PermissionRefused::new_err(text),
            Failure::Unsupported(text) => UnsupportedPython::new_err(text),
            Failure::Anchor(text) => AnchorMissing::new_err(text),
            Failure::Other(text) => SamplerError::new_err(text),
        }
    }
}
