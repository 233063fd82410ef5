//! Stub: owned by the integrator.
