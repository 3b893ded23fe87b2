//! Rings: indices that make no sense, and notification.

use std::sync::Arc;

use super::super::{Head, RingAddresses, RingFault, SplitRing, Used};
use super::{AVAILABLE, Arena, BYTES, GPA, SIZE, USED};

#[test]
fn a_ring_that_makes_no_sense_is_told() {
    let mut arena = Arena::new(false);
    assert_eq!(arena.ring.pop(), Ok(None));
    arena.put(AVAILABLE + 4, &3u16.to_le_bytes());
    arena.put(AVAILABLE + 2, &1u16.to_le_bytes());
    assert_eq!(arena.ring.pop(), Ok(Some(Head::split(3))));
    arena.put(AVAILABLE + 6, &SIZE.to_le_bytes());
    arena.put(AVAILABLE + 2, &2u16.to_le_bytes());
    assert!(matches!(arena.ring.pop(), Err(RingFault::Head { .. })));
    arena.put(AVAILABLE + 2, &(SIZE + 2).to_le_bytes());
    assert!(matches!(arena.ring.kicks_on(), Err(RingFault::Jump { .. })));
    let memory = Arc::clone(arena.ring.memory());
    let at = |descriptors, available, used| {
        let addresses = RingAddresses {
            descriptors,
            available,
            used,
        };
        SplitRing::new(Arc::clone(&memory), addresses, 256, 0, false).unwrap_err()
    };
    assert!(matches!(at(0, GPA, GPA), RingFault::Outside(_)));
    assert!(matches!(at(GPA, GPA + 1, GPA), RingFault::Alignment(_)));
    assert!(matches!(
        at(GPA, GPA, GPA + BYTES - 8),
        RingFault::Outside(_)
    ));
    for size in [0, 3, 65_536] {
        let addresses = RingAddresses {
            descriptors: GPA,
            available: GPA,
            used: GPA,
        };
        assert_eq!(
            SplitRing::new(Arc::clone(&memory), addresses, size, 0, false).unwrap_err(),
            RingFault::Size(size)
        );
    }
}

#[test]
fn notification_follows_the_drivers_wish() {
    // Event index: only when the used index passes the driver's.
    let mut arena = Arena::new(true);
    let event_at = AVAILABLE + 4 + 2 * u64::from(SIZE);
    arena.put(event_at, &1u16.to_le_bytes());
    let used = Used {
        head: Head::split(5),
        bytes: 1,
    };
    arena.ring.push(used);
    assert!(!arena.ring.publish(), "0 is not 1");
    arena.ring.push(used);
    assert!(arena.ring.publish());
    assert_eq!(arena.u16_at(USED + 2), 2);
    assert!(!arena.ring.publish(), "nothing new");
    assert_eq!(arena.ring.kicks_on(), Ok(false));
    // Flags.
    let mut arena = Arena::new(false);
    arena.ring.push(used);
    assert!(arena.ring.publish());
    arena.put(AVAILABLE, &1u16.to_le_bytes());
    arena.ring.push(used);
    assert!(!arena.ring.publish());
    arena.ring.kicks_off();
    assert_eq!(arena.u16_at(USED), 1);
    assert_eq!(arena.ring.kicks_on(), Ok(false));
    assert_eq!(arena.u16_at(USED), 0);
}
