"""What usersync has to reach, measured with the peer or limit beside it in the same run: docs/benchmarks.md."""
