//! Physical memory protection (Privileged ISA, "Physical Memory Protection").
