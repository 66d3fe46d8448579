"""What Alembic runs: with the connection that `migrations` hands over, or as SQL for a DBA."""

from alembic import context

connection = context.config.attributes.get("connection")
if connection is None:
    context.configure(dialect_name="postgresql", as_sql=True, version_table_schema="usersync", output_buffer=context.config.output_buffer)
else:
    context.configure(connection=connection, version_table_schema="usersync")

with context.begin_transaction():
    # Before Alembic's own table, which lives in it. IF NOT EXISTS asks for the right to create even where it exists.
    if connection is None or connection.exec_driver_sql("SELECT to_regnamespace('usersync')").scalar() is None:
        context.execute("CREATE SCHEMA usersync")
    context.run_migrations()
