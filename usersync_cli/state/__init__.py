"""What usersync remembers in the target database, schema `usersync`: the ledger, leases, the outbox; and the migrations of its tables."""
