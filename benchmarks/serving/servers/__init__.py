"""One file a system under test. Each is a process: python -m benchmarks.serving.servers.NAME PORT."""
