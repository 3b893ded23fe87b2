//! What a power cut takes.

use super::*;

#[test]
fn a_power_cut_loses_what_was_not_flushed_and_nothing_else() {
    let once = |lying: bool| {
        let lie = if lying {
            "[[fault]]\non = [\"flush\"]\ndo = \"flush-lie\"\n"
        } else {
            ""
        };
        let (bench, mut client) = start(&format!(
            "{lie}[[fault]]\non = [\"write\"]\nsectors = \"9999+1\"\ndo = \"power-cut\"\n"
        ));
        bench.device().new_boot(1);
        assert_eq!(client.write(0, &[1; 16_384]), 0);
        client.queues[0].flush(3).unwrap();
        assert_eq!(client.one(0, "the flush"), 0);
        assert_eq!(client.write(16_384, &[2; 16_384]), 0);
        submit_write(&mut client, 9999, 0, 1, 5);
        bench.events.wait(
            "the cut",
            |what| matches!(what, What::Decided(d) if d.action == Action::PowerCut),
        );
        drop(client);
        bench.device().new_boot(2);
        let mut client = Client::connect(&bench, "a", 1, ALL);
        let read = client.read(0, 32_768).unwrap();
        drop(client);
        let events = bench.stop();
        let lost: usize = events
            .iter()
            .map(|event| match &event.what {
                What::Lost { digests, .. } => digests.len(),
                _ => 0,
            })
            .sum();
        (read, lost)
    };
    let (read, lost) = once(false);
    assert_eq!(read[..16_384], [1; 16_384], "flushed");
    let gone = read[16_384..].chunks(512).filter(|s| s[0] == 0).count();
    assert!(gone > 0 && gone < 32, "some of it: {gone}");
    assert_eq!(lost, gone);
    assert_eq!(once(false), (read, lost), "the seed decides");
    let (lied, _) = once(true);
    assert!(lied[..16_384].contains(&0), "the flush was a lie");
}
