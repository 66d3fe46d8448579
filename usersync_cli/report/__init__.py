"""What only reads, and never writes a target: check, verify, status, export."""
