//! The benchmark's pure parts: a bench target without a harness runs no tests of its own, so they run here.

#[path = "../benches/vhost_user_blk/backend.rs"]
#[allow(dead_code, reason = "the benchmark uses it")]
mod backend;
#[path = "../benches/vhost_user_blk/case.rs"]
#[allow(dead_code, reason = "the benchmark uses it")]
mod case;
#[path = "../benches/vhost_user_blk/failure.rs"]
#[allow(dead_code, reason = "the benchmark uses it")]
mod failure;
#[path = "../benches/vhost_user_blk/lane.rs"]
#[allow(dead_code, reason = "the benchmark uses it")]
mod lane;
#[path = "../benches/vhost_user_blk/process.rs"]
#[allow(dead_code, reason = "the benchmark uses it")]
mod process;
#[path = "../benches/vhost_user_blk/stats.rs"]
#[allow(dead_code, reason = "the benchmark uses it")]
mod stats;
#[path = "../benches/vhost_user_blk/table.rs"]
#[allow(dead_code, reason = "the benchmark uses it")]
mod table;
#[path = "../benches/vhost_user_blk/targets.rs"]
#[allow(dead_code, reason = "the benchmark uses it")]
mod targets;
#[path = "../benches/vhost_user_blk/verify.rs"]
#[allow(dead_code, reason = "the benchmark uses it")]
mod verify;
