//! Consoles in the formats of several kernels. The traces are made up.

use super::*;

fn crashes(text: &str) -> Vec<Crash> {
    analyse(text.lines(), 0)
}

fn one(text: &str) -> Crash {
    let mut found = crashes(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn names(crash: &Crash) -> Vec<&str> {
    crash
        .functions
        .iter()
        .map(|function| function.name.as_str())
        .collect()
}

#[test]
fn an_oops_in_raid1_is_a_finding() {
    let crash = one("\
[   12.345678] md/raid1:md0: active with 2 out of 2 mirrors
[   13.000001] BUG: kernel NULL pointer dereference, address: 0000000000000010
[   13.000002] #PF: supervisor write access in kernel mode
[   13.000003] #PF: error_code(0x0002) - not-present page
[   13.000004] Oops: 0002 [#1] PREEMPT SMP NOPTI
[   13.000005] CPU: 1 PID: 412 Comm: md0_raid1 Not tainted 6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2
[   13.000006] RIP: 0010:raid1_end_write_request+0x4f/0x2c0 [raid1]
[   13.000007] Code: 8b 45 18 48 8b 58 08
[   13.000008] Call Trace:
[   13.000009]  <IRQ>
[   13.000010]  ? __die_body.cold+0x1a/0x1f
[   13.000011]  blk_update_request+0x107/0x490
[   13.000012]  virtblk_done+0x4d/0xe0 [virtio_blk]
[   13.000013]  </IRQ>
[   13.000014] RIP: 0033:0x7f0123456789
[   13.000015] ---[ end trace 0000000000000000 ]---
[   13.000016] Kernel panic - not syncing: Fatal exception in interrupt
[   13.000017] Rebooting in 1 seconds..
");
    assert_eq!(crash.kind, Kind::Oops);
    assert_eq!(crash.line_index, 1);
    assert_eq!(
        crash.first_line,
        "BUG: kernel NULL pointer dereference, address: 0000000000000010"
    );
    assert_eq!(
        names(&crash),
        [
            "raid1_end_write_request",
            "blk_update_request",
            "virtblk_done"
        ]
    );
    assert!(crash.panicked);
    assert_eq!(crash.functions[0].module.as_deref(), Some("raid1"));
    assert_eq!(crash.meaning(), Meaning::Finding { proven: true });
}

#[test]
fn the_same_at_boot_is_a_lost_guest() {
    let text = "\
[    1.100000] BUG: unable to handle page fault for address: ffffa0b1c2d3e4f5
[    1.100001] Oops: Oops: 0000 [#1] SMP NOPTI
[    1.100002] RIP: 0010:blk_mq_init_sched+0x1/0x100
[    1.100003] Call Trace:
[    1.100004]  <TASK>
[    1.100005]  elevator_init_mq+0x10/0x20
[    1.100006]  </TASK>
[    1.100007] ---[ end trace 0000000000000000 ]---
[    1.200000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009
";
    let found = analyse(text.lines(), 1000);
    assert_eq!(found.len(), 1);
    assert!(found[0].at_boot && found[0].panicked);
    assert_eq!(
        (found[0].blame, found[0].meaning()),
        (Blame::Storage, Meaning::LostGuest)
    );
    // The same when the system is up, without the panic's end.
    assert_eq!(one(text).meaning(), Meaning::Finding { proven: true });
}

#[test]
fn no_root_is_a_lost_guest_though_the_trace_mounts_block_devices() {
    let found = analyse(
        "\
[    2.000001] VFS: Cannot open root device \"\" or unknown-block(0,0): error -6
[    2.000002] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
[    2.000003] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.12.117
[    2.000004] Call Trace:
[    2.000005]  <TASK>
[    2.000006]  dump_stack_lvl+0x27/0x90
[    2.000007]  panic+0x114/0x322
[    2.000008]  mount_root_generic+0x1ce/0x270
[    2.000009]  </TASK>
"
        .lines(),
        99,
    );
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].kind, found[0].meaning()),
        (Kind::Panic, Meaning::LostGuest)
    );
}

#[test]
fn a_warning_is_suspect_in_storage_and_a_note_elsewhere() {
    let warning = |module: &str| {
        format!(
            "\
[  100.000001][  T412] ------------[ cut here ]------------
[  100.000002][  T412] WARNING: CPU: 0 PID: 412 at drivers/x/y.c:123 some_function+0x1b/0x2a0{module}
[  100.000003][  T412] Modules linked in: raid1 md_mod virtio_blk
[  100.000004][  T412] CPU: 0 UID: 0 PID: 412 Comm: kworker/0:1 Not tainted 6.17.13+deb13-cloud-amd64 #1 PREEMPT(lazy)
[  100.000005][  T412] Workqueue: events some_work{module}
[  100.000006][  T412] RIP: 0010:some_function+0x1b/0x2a0{module}
[  100.000007][  T412] Call Trace:
[  100.000008][  T412]  <TASK>
[  100.000009][  T412]  ? raid1_write_request+0x1/0x2 [raid1]
[  100.000010][  T412]  process_one_work+0x18d/0x340
[  100.000011][  T412]  </TASK>
[  100.000012][  T412] ---[ end trace 0000000000000000 ]---
"
        )
    };
    let storage = one(&warning(" [md_mod 9f3b2c1d0e]"));
    assert_eq!(
        (storage.kind, storage.meaning()),
        (Kind::Warn, Meaning::Finding { proven: false })
    );
    assert_eq!(names(&storage), ["some_function", "process_one_work"]);
    // What the unwinder only guesses at blames nobody.
    assert_eq!(one(&warning("")).meaning(), Meaning::Note);
    assert_eq!(one(&warning(" [xfs]")).meaning(), Meaning::Note);
}

#[test]
fn a_newer_kernels_warning_without_the_processor() {
    let crash = one("\
[   50.000001] WARNING: drivers/md/md-bitmap.c:1444 at bitmap_startwrite+0x1b/0x2a0 [md_mod], CPU#1: md0_raid1/99
[   50.000002] RIP: 0010:bitmap_startwrite+0x1b/0x2a0 [md_mod]
");
    assert_eq!(
        (crash.kind, crash.meaning()),
        (Kind::Warn, Meaning::Finding { proven: false })
    );
}

#[test]
fn kasan_lockdep_and_hung_tasks() {
    let kasan = one("\
[   20.000001] ==================================================================
[   20.000002] BUG: KASAN: slab-use-after-free in free_r1bio+0x5a/0x130 [raid1]
[   20.000003] Read of size 8 at addr ffff88800a2c3d10 by task kworker/u4:2/35
[   20.000004] Call Trace:
[   20.000005]  <TASK>
[   20.000006]  dump_stack_lvl+0x5b/0x90
[   20.000007]  free_r1bio+0x5a/0x130 [raid1]
[   20.000008]  </TASK>
");
    assert_eq!(
        (kasan.kind, kasan.meaning()),
        (Kind::Kasan, Meaning::Finding { proven: true })
    );

    let lockdep = one("\
[   30.000001] ======================================================
[   30.000002] WARNING: possible circular locking dependency detected
[   30.000003] 7.3.4 #1 Not tainted
[   30.000004] the existing dependency chain (in reverse order) is:
[   30.000005]        __mutex_lock+0xb3/0xd80
[   30.000006]        mddev_suspend+0x7c/0x1b0 [md_mod]
");
    assert_eq!(
        (lockdep.kind, lockdep.meaning()),
        (Kind::Lockdep, Meaning::Finding { proven: true })
    );

    let hung = one("\
[  242.000001] INFO: task md0_resync:512 blocked for more than 120 seconds.
[  242.000002]       Not tainted 6.1.0-56-cloud-amd64 #1
[  242.000003] \"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.
[  242.000004] task:md0_resync      state:D stack:0     pid:512   ppid:2      flags:0x00004000
[  242.000005] Call Trace:
[  242.000006]  <TASK>
[  242.000007]  __schedule+0x34d/0x9e0
[  242.000008]  raise_barrier+0x9b/0x1e0 [raid1]
[  242.000009]  </TASK>
");
    assert_eq!(
        (hung.kind, hung.meaning()),
        (Kind::HungTask, Meaning::Finding { proven: true })
    );
}

#[test]
fn two_reports_are_two() {
    let found = crashes(
        "\
[    5.000001] kernel BUG at drivers/md/raid1.c:1234!
[    5.000002] Oops: invalid opcode: 0000 [#1] SMP NOPTI
[    5.000003] RIP: 0010:raid1d.cold+0x1b/0x2a0 [raid1]
[    5.000004] ---[ end trace 0000000000000000 ]---
[    6.000001] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:77]
[    6.000002] RIP: 0010:native_safe_halt+0xb/0x10
",
    );
    assert_eq!(
        found.iter().map(|crash| crash.kind).collect::<Vec<_>>(),
        [Kind::Bug, Kind::SoftLockup]
    );
    assert_eq!(found[0].functions[0].name, "raid1d");
    assert_eq!(
        (found[0].meaning(), found[1].meaning()),
        (Meaning::Finding { proven: true }, Meaning::Note)
    );
}

#[test]
fn what_a_program_prints_is_no_report() {
    assert!(
        crashes(
            "Kernel panic - not syncing: just kidding
BUG: unable to handle this
[x] WARNING: CPU: 0
"
        )
        .is_empty()
    );
    assert!(
        crashes(
            "[    1.0] BUGS: none
[    1.0] random: crng init done
"
        )
        .is_empty()
    );
}

#[test]
fn stamps_and_functions_are_read_in_every_form() {
    for line in [
        "[    1.234567] x",
        "[    1.234567][    T1] x",
        "<4>[    1.234567] x",
        "[12345.000000][ C1] x",
    ] {
        assert_eq!(trace::without_stamp(line), Some("x"), "{line}");
    }
    for line in ["x", "[1] x", "[ab.cd] x", "[", "<4", "[1.2"] {
        assert_eq!(trace::without_stamp(line), None, "{line}");
    }
    let function = |text: &str| {
        trace::function_in(text).map(|function| (function.name, function.module, function.reliable))
    };
    assert_eq!(
        function(" ? dm_table_run.isra.0+0x1/0x2 [dm_mod]"),
        Some(("dm_table_run".into(), Some("dm_mod".into()), false))
    );
    assert_eq!(
        function("RIP: 0010:bio_put+0xb/0x1f0"),
        Some(("bio_put".into(), None, true))
    );
    for other in [
        "RIP: 0033:0x7f0123456789",
        "Code: 48 8b",
        "a+b/c",
        "+0x1/0x2",
        "1+0x1/0x2",
    ] {
        assert_eq!(function(other), None, "{other}");
    }
}
