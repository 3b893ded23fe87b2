[
    ("raid1", include_str!("../../vm/scenarios/raid1.toml")),
    ("write-behind", include_str!("../../vm/scenarios/write-behind.toml")),
    ("fault-lost-write", include_str!("../../vm/scenarios/fault-lost-write.toml")),
    ("fault-failed-write", include_str!("../../vm/scenarios/fault-failed-write.toml")),
    ("fault-read-repaired", include_str!("../../vm/scenarios/fault-read-repaired.toml")),
    ("fault-dead-leg", include_str!("../../vm/scenarios/fault-dead-leg.toml")),
    ("fault-power-cut", include_str!("../../vm/scenarios/fault-power-cut.toml")),
]
