"""A job, step by step: under one lease, in order, and what a failure stops."""
