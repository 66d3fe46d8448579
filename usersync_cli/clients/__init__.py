"""What speaks to the outside: PostgreSQL servers in `postgres`, APIs over HTTP in `http`. Neither knows a vendor, a job or a step."""
