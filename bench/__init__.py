"""Repeatable benchmarks of Fiscus, each beside a yardstick in the same run; see README.md."""
