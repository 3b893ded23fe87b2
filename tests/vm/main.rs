//! The outermost ring: the real program, real kernels, real QEMU; one guest at a time.
//!
//! By default what every change must pass. `LEGWATCH_FULL=1` adds every kernel, ten thousand writes instead of two, and guests that hang, which take a
//! minute to be told. Kernels are the pinned ones; what is not in the cache is fetched. The agent is built by `ci/build`.

mod bisect;
mod boot;
mod device;
mod export;
mod faults;
mod harness;
mod lost;
mod matrix;
mod planted;
mod recorded;
mod refused;
mod saved;
mod scenarios;
mod serve;
mod stacks;
mod stopped;
mod suite;
