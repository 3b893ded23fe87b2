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

/// A small state machine: what is held is released by a rule that waits for the hold.
#[test]
fn a_hold_is_released_by_a_rule_that_waits_for_it() {
    let (bench, mut client) = start(
        "[[fault]]\nname = \"held\"\non = [\"write\"]\nnth = 1\ndo = { hold = { until_rule = \"freed\" } }\n\
         [[fault]]\nname = \"freed\"\non = [\"read\"]\nsectors = \"8+1\"\nafter = { rule = \"held\" }\ndo = { fail = \"io-error\" }\n",
    );
    assert_eq!(client.read(8 * 512, 512).unwrap(), [0; 512], "before it");
    submit_write(&mut client, 0, 4096, 1, 1);
    bench
        .events
        .wait("the hold", |what| matches!(what, What::Decided(_)));
    assert_eq!(client.read(9 * 512, 512).unwrap(), [0; 512], "another one");
    assert_eq!(bench.device().in_flight().len(), 1);
    let at = (client.memory.addr() + 8192) as *mut u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].read_raw(8 * 512, at, 512, 2) }.unwrap();
    client.kick(0);
    let mut done = client.collect(0, 2, "the read that fails, and what it frees");
    done.sort_unstable();
    assert_eq!(done, [(1, 0), (2, EIO)]);
    end(bench, client);
}

/// What hits one request together holds together: all that it waits for, its delay as well, and never is never.
#[test]
fn a_request_waits_for_everything_that_rules_hold_it_by() {
    let hold = |name: &str| {
        format!(
            "[[fault]]\nname = \"{name}\"\non = [\"write\"]\nsectors = \"0+1\"\ndo = {{ hold = {{ until_mark = \"{name}\" }} }}\n"
        )
    };
    for (first, second) in [("one", "two"), ("two", "one")] {
        let (bench, mut client) = start(&(hold("one") + &hold("two")));
        submit_write(&mut client, 0, 0, 1, 1);
        bench
            .events
            .wait_count("both holds", 2, |what| matches!(what, What::Decided(_)));
        bench.device().faults().mark(first);
        assert_eq!(client.read(4096, 512).unwrap(), [0; 512]);
        assert_eq!(bench.device().in_flight().len(), 1, "{second} still holds");
        bench.device().faults().mark(second);
        assert_eq!(order(&mut client, 1), [1]);
        end(bench, client);
    }

    let delay = "[[fault]]\non = [\"write\"]\nsectors = \"0+1\"\ndo = { delay = { ms = 150 } }\n";
    let (bench, mut client) = start(&(hold("one") + delay));
    bench.device().faults().mark("one");
    let begun = legwatch::clock::now();
    submit_write(&mut client, 0, 0, 1, 1);
    assert_eq!(order(&mut client, 1), [1]);
    assert!(begun.elapsed() >= Duration::from_millis(150));
    end(bench, client);

    let never = "[[fault]]\non = [\"write\"]\nsectors = \"0+1\"\ndo = \"never-answer\"\n";
    for rules in [
        hold("one") + never,
        format!("{never}{}", hold("one")),
        format!(
            "{never}[[fault]]\non = [\"write\"]\ndo = {{ reorder = {{ behind = 1, at_most_ms = 1 }} }}\n"
        ),
    ] {
        let (bench, mut client) = start(&rules);
        submit_write(&mut client, 0, 0, 1, 1);
        bench
            .events
            .wait_count("both decisions", 2, |what| matches!(what, What::Decided(_)));
        bench.device().faults().mark("one");
        bench.device().faults().release(None).unwrap();
        for sector in [8, 16, 24] {
            assert_eq!(client.read(sector * 512, 512).unwrap(), [0; 512]);
        }
        assert_eq!(bench.device().in_flight().len(), 1, "{rules}");
        drop(client);
        let events = bench.stop();
        let abandoned = |event: &&Event| matches!(event.what, What::Abandoned(_));
        assert_eq!(events.iter().filter(abandoned).count(), 1, "{rules}");
    }
}

#[test]
fn a_read_that_is_never_answered_gets_no_data_and_no_status() {
    let (bench, mut client) = start("[[fault]]\non = [\"read\"]\ndo = \"never-answer\"\n");
    assert_eq!(client.write(0, &[9; 512]), 0);
    client.memory.bytes()[8192..8704].fill(0x55);
    let at = (client.memory.addr() + 8192) as *mut u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].read_raw(0, at, 512, 7) }.unwrap();
    client.kick(0);
    bench
        .events
        .wait("the decision", |what| matches!(what, What::Decided(_)));
    submit_write(&mut client, 1, 4096, 1, 8);
    assert_eq!(order(&mut client, 1), [8], "the one behind it");
    assert_eq!(client.queues[0].completions().count(), 0, "no status");
    assert_eq!(client.memory.bytes()[8192..8704], [0x55; 512]);
    assert_eq!(bench.device().in_flight().len(), 1);
    assert_eq!(end(bench, client), [Action::NeverAnswer]);
}

/// The order of answers is exactly as asked: each behind as many as its rule says.
#[test]
fn answers_come_in_the_order_that_rules_make() {
    let (bench, mut client) = start(
        "[[fault]]\nname = \"three\"\non = [\"write\"]\nsectors = \"0+1\"\ndo = { reorder = { behind = 3, at_most_ms = 60000 } }\n\
         [[fault]]\nname = \"one\"\non = [\"write\"]\nsectors = \"1+1\"\ndo = { reorder = { behind = 1, at_most_ms = 60000 } }\n",
    );
    let mut done = Vec::new();
    submit_write(&mut client, 0, 0, 1, 0);
    submit_write(&mut client, 1, 512, 1, 1);
    bench
        .events
        .wait_count("both decisions", 2, |what| matches!(what, What::Decided(_)));
    for sector in [2, 3] {
        submit_write(&mut client, sector, 4096, 1, sector);
        while !done.contains(&sector) {
            done.extend(order(&mut client, 1));
        }
    }
    while done.len() < 4 {
        done.extend(order(&mut client, 1));
    }
    let place = |context| done.iter().position(|one| *one == context).unwrap();
    assert_eq!(place(2), 0, "nothing is behind it: {done:?}");
    assert!(
        place(1) < place(0),
        "behind one, and behind three: {done:?}"
    );
    assert_eq!(place(0), 3, "{done:?}");
    end(bench, client);
}
