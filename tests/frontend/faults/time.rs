//! When an answer comes: delays, holds, order, stalls.

use std::time::Duration;

use super::*;

#[test]
fn a_held_request_waits_for_its_mark_its_rule_or_a_hand() {
    let (bench, mut client) = start(
        "[[fault]]\nname = \"held\"\non = [\"write\"]\nsectors = \"0+1\"\ndo = { hold = { until_mark = \"go\" } }\n\
         [[fault]]\nname = \"by rule\"\non = [\"write\"]\nsectors = \"1+1\"\ndo = { hold = { until_rule = \"other\" } }\n\
         [[fault]]\nname = \"by hand\"\non = [\"write\"]\nsectors = \"2+1\"\ndo = { hold = {} }\n\
         [[fault]]\nname = \"other\"\non = [\"write\"]\nsectors = \"3+1\"\ndo = { delay = { ms = 1 } }\n\
         [[fault]]\nname = \"in time\"\non = [\"write\"]\nsectors = \"4+1\"\ndo = { hold = { at_most_ms = 20 } }\n",
    );
    for sector in 0..3 {
        submit_write(&mut client, sector, sector as usize * 512, 1, sector);
    }
    submit_write(&mut client, 9, 8192, 1, 9);
    assert_eq!(order(&mut client, 1), [9]);
    assert_eq!(bench.device().in_flight().len(), 3);
    bench.device().faults().mark("go");
    assert_eq!(order(&mut client, 1), [0]);
    bench.device().faults().release(Some("by hand")).unwrap();
    assert_eq!(order(&mut client, 1), [2]);
    submit_write(&mut client, 3, 4096, 1, 3);
    let mut last = order(&mut client, 2);
    last.sort_unstable();
    assert_eq!(last, [1, 3]);
    submit_write(&mut client, 4, 4096, 1, 4);
    assert_eq!(order(&mut client, 1), [4]);
    bench.device().faults().release(Some("nobody")).unwrap_err();
    end(bench, client);
}

#[test]
fn what_is_never_answered_is_abandoned() {
    let (bench, mut client) = start("[[fault]]\non = [\"read\"]\ndo = \"never-answer\"\n");
    let at = client.memory.addr() as *mut u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].read_raw(0, at, 512, 1) }.unwrap();
    client.kick(0);
    bench
        .events
        .wait("the decision", |what| matches!(what, What::Decided(_)));
    assert_eq!(client.write(0, &[1; 512]), 0, "others go on");
    drop(client);
    let events = bench.stop();
    let abandoned = events.iter().any(|e| matches!(e.what, What::Abandoned(_)));
    assert!(abandoned);
}

#[test]
fn reordered_requests_come_behind_others() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"write\"]\nsectors = \"0+1\"\ndo = { reorder = { behind = 2, at_most_ms = 60000 } }\n",
    );
    for sector in 0..4 {
        submit_write(&mut client, sector, sector as usize * 512, 1, sector);
    }
    let order = order(&mut client, 4);
    let place = order.iter().position(|c| *c == 0).unwrap();
    assert!(place >= 2, "{order:?}");
    end(bench, client);
}

#[test]
fn delays_and_stalls_take_their_time() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"read\"]\ndo = { delay = { ms = 30, to_ms = 40 } }\n\
         [[fault]]\non = [\"flush\"]\ndo = { stall = { ms = 50 } }\n",
    );
    let begun = legwatch::clock::now();
    client.read(0, 512).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(30));
    let begun = legwatch::clock::now();
    client.queues[0].flush(7).unwrap();
    client.kick(0);
    submit_write(&mut client, 0, 0, 1, 8);
    order(&mut client, 2);
    assert!(begun.elapsed() >= Duration::from_millis(50), "both wait");
    end(bench, client);
}

#[test]
fn a_write_can_wait_between_its_fetch_and_its_store() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"write\"]\nat_most = 1\nstage = \"before-store\"\ndo = { hold = { until_mark = \"go\" } }\n",
    );
    client.memory.bytes()[..2048].fill(7);
    let at = client.memory.addr() as *const u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].write_raw(0, at, 2048, 1) }.unwrap();
    client.kick(0);
    let fetched = |what: &What| matches!(what, What::Fetched(_));
    bench.events.wait("the fetch", fetched);
    client.memory.bytes()[..2048].fill(3);
    assert_eq!(
        client.read(0, 2048).unwrap(),
        [0; 2048],
        "nothing is stored yet"
    );
    submit_write(&mut client, 1, 4096, 9, 2);
    assert_eq!(order(&mut client, 1), [2]);
    bench.device().faults().mark("go");
    assert_eq!(order(&mut client, 1), [1]);
    let read = client.read(0, 2048).unwrap();
    let got: Vec<u8> = read.chunks(512).map(|sector| sector[0]).collect();
    assert_eq!(
        got,
        [7, 9, 7, 7],
        "what was fetched, under what was fetched after it"
    );
    assert_eq!(bench.device().faults().lies(), [0, 0]);
    end(bench, client);
}

/// Every wait at every stage: what the leg holds meanwhile, and in the end, of a write of sevens whose buffer turns to threes while it waits.
#[test]
fn waits_have_stages() {
    for (stage, fetched, meanwhile, released, gone) in [
        ("before-fetch", false, 0, 3, 0),
        ("before-store", true, 0, 7, 0),
        ("before-answer", true, 7, 7, 7),
    ] {
        for wait in [
            "{ hold = {} }",
            "\"never-answer\"",
            "{ delay = { ms = 3600000 } }",
        ] {
            let name = format!("{wait} {stage}");
            let (bench, mut client) = start(&format!(
                "[[fault]]\non = [\"write\"]\nstage = \"{stage}\"\ndo = {wait}\n"
            ));
            submit_write(&mut client, 0, 0, 7, 1);
            let last = |what: &What| match what {
                What::Fetched(_) => fetched,
                What::Decided(_) => !fetched,
                _ => false,
            };
            bench.events.wait("the write to wait", last);
            // Whatever comes after it on the queue: the worker is done with it.
            assert_eq!(client.read(0, 512).unwrap(), [meanwhile; 512], "{name}");
            client.memory.bytes()[..512].fill(3);
            let stays = if wait.contains("hold") {
                bench.device().faults().release(None).unwrap();
                assert_eq!(order(&mut client, 1), [1]);
                released
            } else {
                drop(client);
                client = Client::connect(&bench, "a", 1, ALL);
                gone
            };
            assert_eq!(client.read(0, 512).unwrap(), [stays; 512], "{name}");
            drop(client);
            let events = bench.stop();
            let was = events
                .iter()
                .any(|event| matches!(event.what, What::Fetched(_)));
            assert_eq!(was, fetched || stays == 3, "{name}");
        }
    }
}

#[test]
fn a_write_that_waits_for_its_store_and_is_abandoned_has_not_happened() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"write\"]\nat_most = 1\nstage = \"before-store\"\ndo = \"never-answer\"\n",
    );
    submit_write(&mut client, 0, 0, 7, 1);
    bench
        .events
        .wait("the fetch", |what| matches!(what, What::Fetched(_)));
    drop(client);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    assert_eq!(client.read(0, 512).unwrap(), [0; 512]);
    assert_eq!(client.write(0, &[8; 512]), 0);
    assert_eq!(client.read(0, 512).unwrap(), [8; 512]);
    drop(client);
    let events = bench.stop();
    let applied = events.iter().find_map(|event| match &event.what {
        What::Abandoned(abandoned) => Some(abandoned.applied),
        _ => None,
    });
    assert_eq!(applied, Some(false));
}

#[test]
fn a_stall_of_one_queue_leaves_the_others_alone() {
    let bench =
        bench("[[fault]]\non = [\"flush\"]\ndo = { stall = { ms = 60000, queue = true } }\n");
    let mut client = Client::connect(&bench, "a", 2, ALL);
    client.queues[0].flush(7).unwrap();
    client.kick(0);
    bench
        .events
        .wait("the stall", |what| matches!(what, What::Decided(_)));
    let at = (client.memory.addr() + (1 << 20)) as *mut u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[1].read_raw(0, at, 512, 8) }.unwrap();
    assert_eq!(client.one(1, "a read on the other queue"), 0);
    assert_eq!(bench.device().in_flight().len(), 1, "the flush waits");
    drop(client);
    bench.stop();
}

#[test]
fn a_stall_holds_what_was_on_its_way_already() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"read\"]\ndo = { delay = { ms = 20 } }\n\
         [[fault]]\non = [\"flush\"]\ndo = { stall = { ms = 200 } }\n",
    );
    let begun = legwatch::clock::now();
    let at = (client.memory.addr() + (1 << 20)) as *mut u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].read_raw(0, at, 512, 1) }.unwrap();
    client.queues[0].flush(2).unwrap();
    client.kick(0);
    let mut done = order(&mut client, 2);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    done.sort_unstable();
    assert_eq!(done, [1, 2]);
    end(bench, client);
}
