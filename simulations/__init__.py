"""Whole federations on one machine: engine, partitions, scenarios, benchmarks."""
