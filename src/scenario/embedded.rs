[
    ("raid1", include_str!("../../vm/scenarios/raid1.toml")),
    ("write-behind", include_str!("../../vm/scenarios/write-behind.toml")),
]
