[
    ("raid1", include_str!("../../vm/scenarios/raid1.toml")),
    ("raid1-bitmap", include_str!("../../vm/scenarios/raid1-bitmap.toml")),
    ("raid1-one-queue", include_str!("../../vm/scenarios/raid1-one-queue.toml")),
    ("raid1-quick", include_str!("../../vm/scenarios/raid1-quick.toml")),
    ("raid1-three-legs", include_str!("../../vm/scenarios/raid1-three-legs.toml")),
    ("write-behind", include_str!("../../vm/scenarios/write-behind.toml")),
    ("write-behind-first", include_str!("../../vm/scenarios/write-behind-first.toml")),
    ("fault-lost-write", include_str!("../../vm/scenarios/fault-lost-write.toml")),
    ("fault-failed-write", include_str!("../../vm/scenarios/fault-failed-write.toml")),
    ("fault-read-repaired", include_str!("../../vm/scenarios/fault-read-repaired.toml")),
    ("fault-dead-leg", include_str!("../../vm/scenarios/fault-dead-leg.toml")),
    ("fault-power-cut", include_str!("../../vm/scenarios/fault-power-cut.toml")),
]
