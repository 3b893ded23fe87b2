//! Errors: at which stage, and what stays of the request.

use super::*;

#[test]
fn fail_answers_with_the_error_and_stores_nothing() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"write\"]\nnth = 2\ndo = { fail = \"io-error\" }\n\
         [[fault]]\non = [\"flush\"]\ndo = { fail = \"unsupported\" }\n\
         [[fault]]\non = [\"read\"]\nsectors = \"100+1\"\ndo = { fail = \"io-error\" }\n",
    );
    assert_eq!(client.write(0, &[1; 512]), 0);
    assert_eq!(client.write(0, &[2; 512]), EIO);
    assert_eq!(client.write(512, &[3; 512]), 0);
    client.queues[0].flush(9).unwrap();
    assert_eq!(client.one(0, "the flush"), ENOTSUP);
    assert_eq!(client.read(0, 1024).unwrap(), [[1; 512], [3; 512]].concat());
    assert_eq!(client.read(100 * 512, 512).unwrap_err(), EIO);
    assert_eq!(client.read(99 * 512, 512).unwrap(), [0; 512]);
    let told = end(bench, client);
    let fail = |status| Action::Fail { status };
    assert_eq!(
        told,
        [
            fail(Status::IoErr),
            fail(Status::Unsupported),
            fail(Status::IoErr)
        ]
    );
}

#[test]
fn fail_has_stages() {
    for (stage, fetched, stored) in [
        ("before-fetch", false, 0),
        ("before-store", true, 0),
        ("before-answer", true, 7),
    ] {
        let rule = format!(
            "[[fault]]\non = [\"write\"]\nstage = \"{stage}\"\ndo = {{ fail = \"io-error\" }}\n"
        );
        let (bench, mut client) = start(&rule);
        assert_eq!(client.write(0, &[7; 512]), EIO, "{stage}");
        assert_eq!(client.read(0, 512).unwrap(), [stored; 512], "{stage}");
        drop(client);
        let events = bench.stop();
        let was = events.iter().any(|e| matches!(e.what, What::Fetched(_)));
        assert_eq!(was, fetched, "{stage}");
    }
}

#[test]
fn read_only_and_dead() {
    let (bench, mut client) = start(
        "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nnth = 2\ndo = \"read-only\"\n\
         [[fault]]\nlegs = [\"b\"]\non = [\"read\"]\nnth = 1\ndo = \"dead\"\n",
    );
    assert_eq!(client.write(0, &[1; 512]), 0);
    assert_eq!(client.write(0, &[2; 512]), EIO);
    assert_eq!(client.write(512, &[2; 512]), EIO);
    assert_eq!(client.read(0, 512).unwrap(), [1; 512]);
    let mut other = Client::connect(&bench, "b", 1, ALL);
    assert_eq!(other.write(0, &[1; 512]), 0);
    assert_eq!(other.read(0, 512).unwrap_err(), EIO);
    assert_eq!(other.write(0, &[1; 512]), EIO);
    other.queues[0].flush(3).unwrap();
    assert_eq!(other.one(0, "a flush"), EIO);
    bench.device().faults().heal(Some("b"), None).unwrap();
    assert_eq!(other.read(0, 512).unwrap(), [1; 512]);
    drop(other);
    end(bench, client);
}

#[test]
fn bad_sectors_fail_until_they_are_written() {
    let (bench, mut client) =
        start("[[fault]]\non = [\"read\"]\nsectors = \"8+1\"\nnth = 1\ndo = \"bad-sectors\"\n");
    assert_eq!(client.write(4096, &[1; 1024]), 0);
    assert_eq!(client.read(4096, 512).unwrap_err(), EIO);
    assert_eq!(client.read(4096, 1024).unwrap_err(), EIO, "it stays bad");
    assert_eq!(
        client.read(4608, 512).unwrap(),
        [1; 512],
        "its neighbour is well"
    );
    assert_eq!(client.write(4096, &[2; 512]), 0);
    assert_eq!(client.read(4096, 512).unwrap(), [2; 512], "remapped");
    end(bench, client);
}

#[test]
fn discards_and_flushes_fail_at_a_stage_too() {
    for (stage, kept) in [
        ("before-fetch", true),
        ("before-store", true),
        ("before-answer", false),
    ] {
        let (bench, mut client) = start(&format!(
            "[[fault]]\non = [\"discard\", \"write-zeroes\"]\nstage = \"{stage}\"\ndo = {{ fail = \"io-error\" }}\n"
        ));
        assert_eq!(client.write(0, &[7; 8192]), 0);
        client.queues[0].discard(0, 4096, 5).unwrap();
        assert_eq!(client.one(0, "the discard"), EIO, "{stage}");
        client.queues[0].write_zeroes(4096, 4096, false, 6).unwrap();
        assert_eq!(client.one(0, "the write of zeroes"), EIO, "{stage}");
        let byte = if kept { 7 } else { 0 };
        assert_eq!(client.read(0, 8192).unwrap(), [byte; 8192], "{stage}");
        end(bench, client);
    }
}

#[test]
fn a_flush_that_fails_before_it_is_done_makes_nothing_durable() {
    for (stage, durable) in [("before-store", false), ("before-answer", true)] {
        let (bench, mut client) = start(&format!(
            "[[fault]]\non = [\"flush\"]\nstage = \"{stage}\"\ndo = {{ fail = \"io-error\" }}\n\
             [[fault]]\non = [\"write\"]\nsectors = \"9999+1\"\ndo = \"power-cut\"\n"
        ));
        bench.device().new_boot(1);
        assert_eq!(client.write(0, &[1; 32_768]), 0);
        client.queues[0].flush(3).unwrap();
        assert_eq!(client.one(0, "the flush"), EIO, "{stage}");
        submit_write(&mut client, 9999, 0, 1, 5);
        bench.events.wait(
            "the cut",
            |what| matches!(what, What::Decided(d) if d.action == Action::PowerCut),
        );
        drop(client);
        bench.device().new_boot(2);
        let mut client = Client::connect(&bench, "a", 1, ALL);
        let lost = client.read(0, 32_768).unwrap().contains(&0);
        assert_eq!(lost, !durable, "{stage}");
        end(bench, client);
    }
}

#[test]
fn what_lasts_ends_where_its_rule_does() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"write\"]\nnth = 2\nto_mark = \"back\"\ndo = \"dead\"\n\
         [[fault]]\non = [\"write\"]\nsectors = \"100+1\"\nto_request = 9\ndo = \"read-only\"\n",
    );
    assert_eq!(client.write(0, &[1; 512]), 0);
    assert_eq!(client.write(0, &[2; 512]), EIO);
    assert_eq!(client.read(0, 512).unwrap_err(), EIO);
    bench.device().faults().mark("back");
    assert_eq!(client.read(0, 512).unwrap(), [1; 512]);
    assert_eq!(client.write(0, &[3; 512]), 0);
    assert_eq!(client.write(100 * 512, &[3; 512]), EIO, "request 6");
    assert_eq!(client.write(0, &[4; 512]), EIO);
    assert_eq!(client.read(0, 512).unwrap(), [3; 512]);
    assert_eq!(client.write(0, &[4; 512]), EIO, "request 9");
    assert_eq!(client.write(0, &[4; 512]), 0, "request 10");
    end(bench, client);
}

/// On a leg that has become read-only everything that changes it fails, and nothing else; the read that made it so is served.
#[test]
fn a_read_only_leg_refuses_changes_alone() {
    let (bench, mut client) =
        start("[[fault]]\non = [\"read\"]\nsectors = \"8+1\"\nnth = 1\ndo = \"read-only\"\n");
    assert_eq!(client.write(8 * 512, &[1; 1024]), 0);
    assert_eq!(client.read(8 * 512, 512).unwrap(), [1; 512], "served");
    assert_eq!(client.write(8 * 512, &[2; 512]), EIO);
    client.queues[0].discard(8 * 512, 512, 5).unwrap();
    assert_eq!(client.one(0, "the discard"), EIO);
    client.queues[0]
        .write_zeroes(8 * 512, 512, false, 6)
        .unwrap();
    assert_eq!(client.one(0, "the write of zeroes"), EIO);
    client.queues[0].flush(7).unwrap();
    assert_eq!(client.one(0, "a flush"), 0);
    assert_eq!(client.read(8 * 512, 1024).unwrap(), [1; 1024]);
    bench.device().faults().heal(None, None).unwrap();
    assert_eq!(client.write(8 * 512, &[2; 512]), 0);
    assert_eq!(end(bench, client), vec![Action::ReadOnly; 4]);
}

#[test]
fn a_write_can_leave_bad_sectors_and_what_zeroes_them_mends_them() {
    let (bench, mut client) = start("[[fault]]\non = [\"write\"]\nnth = 1\ndo = \"bad-sectors\"\n");
    assert_eq!(client.write(4096, &[1; 1024]), 0);
    assert_eq!(client.read(4096, 512).unwrap_err(), EIO);
    assert_eq!(client.read(3584, 2048).unwrap_err(), EIO, "a part of it");
    assert_eq!(client.read(3584, 512).unwrap(), [0; 512]);
    client.queues[0].discard(4096, 512, 5).unwrap();
    assert_eq!(client.one(0, "the discard"), 0);
    assert_eq!(client.read(4096, 512).unwrap(), [0; 512]);
    assert_eq!(client.read(4608, 512).unwrap_err(), EIO, "its neighbour");
    bench.device().faults().heal(None, None).unwrap();
    assert_eq!(client.read(4608, 512).unwrap(), [1; 512]);
    let told = end(bench, client);
    assert_eq!(
        told.iter().filter(|one| **one == Action::Met).count(),
        3,
        "{told:?}"
    );
}
